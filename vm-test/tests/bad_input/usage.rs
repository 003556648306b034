//! What is typed wrong ends with status 2 and one line that says where, why and what to do; what fails with 1. All that
//! is shown without a terminal fits 80 columns.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use vm_test::binary::natgate_binary;

/// Where nobody listens.
const NOBODY: &str = "/nonexistent/natgate.sock";

fn natgate(line: &str) -> Result<Output> {
    let mut command = Command::new(natgate_binary()?);
    command.args(line.split_whitespace()).env("NATGATE_SOCKET", NOBODY);
    // What a terminal says of itself must not count.
    command.env("COLUMNS", "200").env_remove("RUST_LOG");
    command.output().with_context(|| format!("natgate {line}"))
}

/// `error: <what> (<where>): <why>; <what to do>`, with something in each place.
fn is_in_form(line: &str) -> bool {
    let parts = || {
        let (what, rest) = line.strip_prefix("error: ")?.split_once(" (")?;
        let (place, rest) = rest.split_once("): ")?;
        let (why, remedy) = rest.split_once("; ")?;
        Some([what, place, why, remedy])
    };
    parts().is_some_and(|parts| parts.iter().all(|part| !part.is_empty()))
}

/// The command ends with `status`, says nothing on standard output, and every line on standard error is in form.
fn refused(line: &str, status: i32) -> Result<String> {
    let done = natgate(line)?;
    let said = String::from_utf8(done.stderr)?;
    ensure!(done.status.code() == Some(status), "natgate {line}: {}: {said}", done.status);
    ensure!(done.stdout.is_empty(), "natgate {line}: {}", String::from_utf8_lossy(&done.stdout));
    ensure!(!said.is_empty() && said.lines().all(is_in_form), "natgate {line}: {said}");
    Ok(said)
}

#[test]
fn wrong_usage_ends_with_2_and_failures_with_1() -> Result<()> {
    for line in [
        "sesions",
        "status now",
        "status --wach",
        "status --watch 0",
        "sessions --limit many",
        "sessions --address 10.0.0.300",
        "subscribers --address ::1",
        "events --last abc",
        "events --since -1",
        "events --since 3 --last 4",
        "explain",
        "explain --from 10.244.1.7 --to 192.0.2.1:443 --vni 99999999",
        "who",
        "set",
        "set log",
        "set log info answerPing",
        "reset",
        "drain --timeout 5",
        "drain --wait --timeout soon",
        "detach",
        "detach no:such",
        "detach --all eth0",
        "capture",
        "capture -w - --count few",
        "completions abc",
        "manual",
        "run --seccomp maybe",
        "top --interval 0",
    ] {
        refused(line, 2)?;
    }
    let socket = "error: cannot reach natgate (/nonexistent/natgate.sock): no such file; ";
    for line in [
        "status",
        "pools",
        "events --follow",
        "who 203.0.113.7:40123",
        "explain --from 10.244.1.7 --to 192.0.2.1:443",
        "capture -w -",
        "set log info",
        "get",
        "reset --all",
        "drain",
        "undrain",
        "reload",
    ] {
        let said = refused(line, 1)?;
        ensure!(said.starts_with(socket), "natgate {line}: {said}");
    }
    let none = natgate("")?;
    ensure!(none.status.code() == Some(2), "{}", none.status);
    Ok(())
}

fn narrow(what: &str, text: &[u8]) -> Result<()> {
    let text = String::from_utf8_lossy(text);
    ensure!(!text.is_empty(), "{what} shows nothing");
    for line in text.lines() {
        let (width, bare) = (line.chars().count(), line.trim_end());
        ensure!(width <= 80, "{what}: {width} columns:\n{line}");
        // Of nothing but blanks are lines between the words that a flag knows.
        ensure!(line == bare || bare.is_empty(), "{what}: blanks at the end of {line:?}");
    }
    Ok(())
}

#[test]
fn helps_and_checks_fit_80_columns() -> Result<()> {
    let help = String::from_utf8(natgate("--help")?.stdout)?;
    let (_, commands) = help.split_once("Commands:\n").context(help.clone())?;
    let names = commands.lines().take_while(|line| !line.trim().is_empty());
    let names = names.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names: Vec<&str> = names.filter_map(|line| line.split_whitespace().next()).collect();
    ensure!(names.len() > 20, "{names:?}");
    // `natgate help` takes the name of a command, and has no help of its own.
    for name in names.into_iter().filter(|name| *name != "help").chain(["", "manual"]) {
        for flag in ["-h", "--help"] {
            let line = format!("{name} {flag}");
            narrow(&format!("natgate {line}"), &natgate(&line)?.stdout)?;
        }
    }
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples");
    for example in fs::read_dir(examples)? {
        let line = format!("check --config {}", example?.path().display());
        let done = natgate(&line)?;
        ensure!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
        narrow(&format!("natgate {line}"), &done.stdout)?;
    }
    Ok(())
}
