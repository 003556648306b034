//! Which `natgate` is tested?

use std::env;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

/// The program under test: `$NATGATE_BIN`, or the `natgate` that was built into the same target
/// directory as the running test.
///
/// # Errors
/// There is none.
pub fn natgate_binary() -> Result<PathBuf> {
    let binary = env::var_os("NATGATE_BIN").map_or_else(beside_the_test, |path| Ok(path.into()))?;
    ensure!(binary.is_file(), "{} is not a file", binary.display());
    Ok(binary)
}

fn beside_the_test() -> Result<PathBuf> {
    program("natgate").context("build it with `cargo build -p natgate`, or set NATGATE_BIN")
}

/// A program of the project that was built into the same target directory as the running test.
///
/// # Errors
/// There is none.
pub fn program(name: &str) -> Result<PathBuf> {
    // target/debug/deps/suite-0123456789abcdef
    let test = env::current_exe().context("where is this test?")?;
    let mut beside = test.ancestors().skip(1).take(2).map(|dir| dir.join(name));
    beside.find(|path| path.is_file()).with_context(|| {
        format!("no {name} beside the tests; build it with `cargo build --workspace --bins`")
    })
}
