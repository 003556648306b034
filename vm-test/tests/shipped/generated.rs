//! Do completions complete, and do manual pages say all that `--help` says?

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use vm_test::binary::natgate_binary;
use vm_test::namespace::output;

fn natgate(arguments: &[&str]) -> Result<String> {
    output(Command::new(natgate_binary()?).args(arguments))
}

/// The commands that `natgate --help` lists.
fn commands() -> Result<Vec<String>> {
    let help = natgate(&["--help"])?;
    let (_, rest) = help.split_once("Commands:\n").context(help.clone())?;
    let listed = rest.lines().take_while(|line| !line.trim().is_empty());
    let names = listed.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names: Vec<String> =
        names.filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect();
    ensure!(names.len() > 10, "{names:?}");
    Ok(names.into_iter().filter(|name| name != "help").collect())
}

/// The long flags that the help of a command names.
fn flags(command: &str) -> Result<BTreeSet<String>> {
    let help = natgate(&[command, "--help"])?;
    let words = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    let words = words.flat_map(|line| line.split([' ', ',', '=', ':']));
    Ok(words.filter(|word| word.starts_with("--")).map(ToOwned::to_owned).collect())
}

/// What bash would offer for the last of `words`.
fn offered(words: &[&str]) -> Result<BTreeSet<String>> {
    let (last, before) = (words[words.len() - 1], words[words.len() - 2]);
    let script = format!(
        "source <({} completions bash); COMP_WORDS=({}); COMP_CWORD={}; _natgate natgate '{last}' '{before}'; \
         printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        natgate_binary()?.display(),
        words.join(" "),
        words.len() - 1,
    );
    Ok(output(Command::new("bash").args(["-c", &script]))?.lines().map(ToOwned::to_owned).collect())
}

#[test]
fn bash_completes_commands_and_flags() -> Result<()> {
    for command in commands()? {
        let start = &command[..command.len() - 1];
        ensure!(offered(&["natgate", start])?.contains(&command), "{command}");
        let (offered, flags) = (offered(&["natgate", &command, "--"])?, flags(&command)?);
        ensure!(flags.is_subset(&offered), "{command}: {offered:?} lacks some of {flags:?}");
    }
    Ok(())
}

#[test]
fn bash_completes_the_words_that_flags_know() -> Result<()> {
    for (flag, command, words) in [
        ("--mode", "run", &["auto", "zerocopy", "copy", "generic"][..]),
        ("--receive-steering", "check", &["off", "print", "apply"]),
        ("--log-format", "run", &["text", "json"]),
        ("--log", "run", &["debug", "info", "warn"]),
        ("--on-exit", "run", &["block", "pass"]),
        ("--mss-clamp", "run", &["auto", "off"]),
        ("--seccomp", "run", &["enforce", "log", "off"]),
        ("--protocol", "sessions", &["tcp", "udp", "icmp"]),
        ("--state", "sessions", &["established", "syn-sent", "time-wait"]),
        ("--drops", "capture", &["no-rule", "quota-sessions"]),
    ] {
        let offered = offered(&["natgate", command, flag, ""])?;
        for word in words {
            ensure!(offered.contains(*word), "{command} {flag}: {offered:?} lacks {word}");
        }
    }
    for command in ["get", "set", "reset"] {
        let offered = offered(&["natgate", command, "slow"])?;
        ensure!(offered.contains("slowPathBudget"), "{command}: {offered:?}");
    }
    Ok(())
}

#[test]
fn other_shells_get_a_script_with_every_command() -> Result<()> {
    for shell in ["zsh", "fish"] {
        let script = natgate(&["completions", shell])?;
        for command in commands()? {
            ensure!(script.contains(&command), "{shell}: {command}");
        }
    }
    let refused = Command::new(natgate_binary()?).args(["completions", "abc"]).output()?;
    ensure!(refused.status.code() == Some(2));
    Ok(())
}

#[test]
fn manual_pages_say_what_the_help_says() -> Result<()> {
    let directory = tempfile::tempdir()?;
    natgate(&["manual", &directory.path().display().to_string()])?;
    let shown = |name: &str| -> Result<String> {
        let path = directory.path().join(format!("{name}.1"));
        let mut groff = Command::new("groff");
        groff.args(["-ww", "-man", "-Tascii", "-K", "utf8", "-rLL=200n", "-P-cbou"]).arg(&path);
        let done = groff.output()?;
        let complaints = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success() && complaints.is_empty(), "{name}: {complaints}");
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    };
    let first = shown("natgate")?;
    for command in commands()? {
        ensure!(first.contains(&format!("natgate-{command}(1)")), "{command}");
        let page = shown(&format!("natgate-{command}"))?;
        for flag in flags(&command)? {
            ensure!(page.contains(&flag), "natgate-{command}(1) lacks {flag}");
        }
        ensure!(page.contains(&format!("\n       Example:\n         natgate {command}")), "{page}");
    }
    let pages = fs::read_dir(directory.path())?.count();
    ensure!(pages == commands()?.len() + 1, "{pages} pages");
    Ok(())
}
