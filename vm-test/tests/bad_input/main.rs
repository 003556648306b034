//! What does natgate say to wrong configurations and flags? Exactly this, and nothing changes.
//!
//! Black box, as root, in a network namespace of its own with two interfaces:
//! ```text
//! in0 (198.51.100.1/24) ── out0
//! ```
//! Every case runs through `check` and through `run`: exit status 2, the exact text on standard
//! error, nothing on standard output; links, addresses and routes of the namespace stay as they
//! were and no stats socket appears. Control: the configuration that the cases spoil is valid.

mod cases;
mod schema;
mod usage;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use vm_test::binary::natgate_binary;

/// One mistake.
struct Case {
    name: &'static str,
    input: Input,
    stderr: &'static str,
}

enum Input {
    /// `natgate.yaml`: the good configuration with these texts replaced, each where it is first.
    Edits(&'static [(&'static str, &'static str)]),
    /// These files and these arguments.
    Files { files: &'static [(&'static str, &'static str)], args: &'static [&'static str] },
}

/// A namespace and a directory, both gone when dropped.
struct Bench {
    netns: String,
    dir: PathBuf,
}

impl Bench {
    fn new(purpose: &str) -> Result<Self> {
        let netns = format!("ngc-{purpose}-{}", std::process::id());
        let bench = Self { dir: std::env::temp_dir().join(&netns), netns };
        let netns = &bench.netns;
        ip(&["netns", "add", netns])?;
        ip(&["-n", netns, "link", "add", "in0", "type", "veth", "peer", "name", "out0"])?;
        ip(&["-n", netns, "addr", "add", "198.51.100.1/24", "dev", "in0"])?;
        // Addresses that come by themselves would look like a change made by natgate.
        for name in ["in0", "out0"] {
            ip(&["-n", netns, "link", "set", name, "addrgenmode", "none", "up"])?;
        }
        Ok(bench)
    }

    fn natgate(&self, args: &[String]) -> Result<Output> {
        let mut command = Command::new("ip");
        // A configuration that is taken for right would run for ever.
        command.args(["netns", "exec", &self.netns, "timeout", "--kill-after=5", "20"]);
        command.arg(natgate_binary()?).args(args);
        command.env_remove("NATGATE_SOCKET").env_remove("RUST_LOG");
        command.output().context("running natgate")
    }

    /// Everything that natgate could have changed.
    fn state(&self) -> Result<String> {
        let socket = self.dir.join("natgate.sock").exists();
        let mut state = format!("socket: {socket}\n");
        for what in [&["-o", "link"][..], &["-o", "addr"], &["route", "show", "table", "all"]] {
            state += &ip(&[&["-n", self.netns.as_str()], what].concat())?;
        }
        Ok(state)
    }

    /// Writes the files of a case; returns its arguments.
    fn prepare(&self, input: &Input) -> Result<Vec<String>> {
        if self.dir.exists() {
            fs::remove_dir_all(&self.dir)?;
        }
        fs::create_dir_all(&self.dir)?;
        let dir = self.dir.display().to_string();
        match input {
            Input::Edits(edits) => {
                let mut text = cases::GOOD.to_owned();
                for (old, new) in *edits {
                    ensure!(text.contains(old), "nothing to replace: {old:?}");
                    text = text.replacen(old, new, 1);
                }
                let file = self.dir.join("natgate.yaml");
                fs::write(&file, text)?;
                Ok(vec!["--config".to_owned(), file.display().to_string()])
            }
            Input::Files { files, args } => {
                for (name, text) in *files {
                    fs::write(self.dir.join(name), text)?;
                }
                Ok(args.iter().map(|arg| arg.replace("$D", &dir)).collect())
            }
        }
    }

    /// Runs one command on prepared arguments; says how it differs from what was expected.
    fn difference(&self, command: &str, args: &[String], expected: &str) -> Result<Option<String>> {
        let before = self.state()?;
        let mut all = vec![command.to_owned()];
        all.extend_from_slice(args);
        let output = self.natgate(&all)?;
        let after = self.state()?;
        let stderr = String::from_utf8(output.stderr)?
            .replace(&self.dir.display().to_string(), "$D")
            .replace("natgate run", "natgate check");
        let difference = if output.status.code() != Some(2) {
            format!("{} instead of exit status 2", output.status)
        } else if stderr != expected {
            format!("expected:\n{expected}but it said:\n{stderr}")
        } else if !output.stdout.is_empty() {
            format!("standard output: {}", String::from_utf8_lossy(&output.stdout))
        } else if before != after {
            format!("before:\n{before}after:\n{after}")
        } else {
            return Ok(None);
        };
        Ok(Some(difference))
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // Nothing can be done here about what can't be removed.
        let _ = ip(&["netns", "del", &self.netns]);
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn ip(args: &[&str]) -> Result<String> {
    let output = Command::new("ip").args(args).output().context("running ip")?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {}: {error}", args.join(" "));
    Ok(String::from_utf8(output.stdout)?)
}

// Museum: C34
// Proves: 8158-S7a, 8158-S7b
#[test]
fn every_mistake_is_named_exactly_and_changes_nothing() -> Result<()> {
    let bench = Bench::new("bad")?;
    let mut failures = Vec::new();
    for Case { name, input, stderr } in cases::all() {
        let args = bench.prepare(input).with_context(|| format!("case {name:?}"))?;
        for command in ["check", "run"] {
            if let Some(difference) = bench.difference(command, &args, stderr)? {
                failures.push(format!("{name:?} ({command}): {difference}"));
            }
        }
    }
    let count = cases::all().count();
    assert!(count >= 45, "{count} cases");
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    Ok(())
}

#[test]
fn file_that_is_not_utf8() -> Result<()> {
    let bench = Bench::new("utf8")?;
    let args = bench.prepare(&Input::Files { files: &[], args: &["--config", "$D"] })?;
    fs::write(bench.dir.join("latin1.yaml"), b"kind: caf\xe9")?;
    let expected =
        "error: unreadable file ($D/latin1.yaml): byte 9 is not UTF-8; save the file as UTF-8\n";
    assert_eq!(bench.difference("check", &args, expected)?, None);
    Ok(())
}

/// Control: what the cases spoil is right; and the examples that are shipped are.
#[test]
fn good_configurations_are_valid() -> Result<()> {
    let bench = Bench::new("good")?;
    let good = bench.prepare(&Input::Edits(&[]))?;
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples");
    let mut files = vec![good[1].clone()];
    for entry in fs::read_dir(examples)? {
        files.push(entry?.path().display().to_string());
    }
    assert!(files.len() > 1, "no examples");
    for file in files {
        for format in [&[][..], &["--json".to_owned()]] {
            let args =
                [&["check".to_owned(), "--config".to_owned(), file.clone()], format].concat();
            let output = bench.natgate(&args)?;
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!((output.status.code(), stderr.as_str()), (Some(0), ""), "{file}");
            assert!(!output.stdout.is_empty(), "{file}");
        }
    }
    Ok(())
}
