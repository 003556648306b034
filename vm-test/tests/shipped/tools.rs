//! The scripts in `tools/` say at once what is wrong with their arguments, and know what they list.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Result, ensure};

fn tool(name: &str, arguments: &[&str]) -> Result<Output> {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools");
    Ok(Command::new(tools.join(name)).args(arguments).output()?)
}

#[test]
fn wrong_arguments_are_named_and_nothing_is_done() -> Result<()> {
    for (name, arguments, named) in [
        ("test", &["--nope"][..], "--nope"),
        ("test", &["--only"], "--only"),
        ("test", &["--only", "nope"], "--only nope"),
        ("soak", &["--minutes", "x"], "--minutes x"),
        ("soak", &["nope"], "nope"),
        ("sanitize", &["nope"], "nope"),
        ("fuzz", &["--seconds", "0"], "--seconds 0"),
        ("demo", &["--keep", "--clean"], "--clean"),
    ] {
        let done = tool(name, arguments)?;
        let said = String::from_utf8(done.stderr)?;
        let expected = format!("error: {named} (argument): ");
        ensure!(said.starts_with(&expected) && said.lines().count() == 1, "tools/{name}: {said}");
        ensure!(done.status.code() == Some(2) && done.stdout.is_empty(), "tools/{name}: {said}");
    }
    Ok(())
}

#[test]
fn every_tool_has_help() -> Result<()> {
    for name in ["test", "demo", "bench", "soak", "sanitize", "fuzz"] {
        let done = tool(name, &["--help"])?;
        let said = String::from_utf8(done.stdout)?;
        let line = format!("  tools/{name} ");
        ensure!(done.status.success() && said.contains(&line), "tools/{name} --help: {said}");
    }
    Ok(())
}

#[test]
fn a_step_that_is_listed_is_known_wherever_it_stands() -> Result<()> {
    let listed = String::from_utf8(tool("test", &["--list"])?.stdout)?;
    let steps: Vec<_> = listed.lines().collect();
    ensure!(steps.len() > 15, "{listed}");
    for step in steps {
        // The wrong one behind it is what is told of, and nothing is done.
        let done = tool("test", &["--only", step, "--only", "nope"])?;
        let said = String::from_utf8(done.stderr)?;
        ensure!(said.starts_with("error: --only nope (argument)"), "{step}: {said}");
    }
    Ok(())
}
