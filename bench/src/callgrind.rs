//! How many instructions does a function execute? As many on a busy machine as on an idle one.

use std::process::Command;
use std::thread;

use anyhow::{Context, Result, ensure};

/// Instructions of what is done once, from runs of this program that do it `short` and `long` times:
/// `arguments(times)` tells it to, and `function` is what it does it in.
pub fn instructions(
    function: &str,
    (short, long): (usize, usize),
    arguments: impl Fn(usize) -> Vec<String>,
) -> Result<f64> {
    ensure!(short < long, "the longer run ({long}) is not longer than the other ({short})");
    let (short_run, long_run) = (arguments(short), arguments(long));
    let counts = thread::scope(|scope| {
        let other = scope.spawn(|| collected(function, &short_run));
        let long = collected(function, &long_run);
        let short = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok::<_, anyhow::Error>((short?, long?))
    })?;
    Ok((counts.1 - counts.0) as f64 / (long - short) as f64)
}

/// Runs this program under callgrind; the instructions within `function`.
fn collected(function: &str, arguments: &[String]) -> Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(format!("--toggle-collect=*{function}*"))
        .arg(std::env::current_exe().context("where is this program?")?)
        .args(arguments)
        .output()
        .context("error: valgrind (PATH): cannot run it; install it (Debian: valgrind)")?;
    let text = String::from_utf8_lossy(&output.stderr);
    let count = text.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    let count = count.filter(|&count: &u64| count > 0 && output.status.success());
    count.with_context(|| format!("error: valgrind ({arguments:?}): no count; it said:\n{text}"))
}
