//! Does `deploy/natgate.service` allow what natgate needs, and nothing that it does not?

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use vm_test::binary::natgate_binary;
use vm_test::namespace::output;
use vm_test::{Process, wait};

use crate::Bench;

/// `systemd-analyze security` calls 10 exposed and 0 safe; a bare service of root has 9.6.
const EXPOSURE: f64 = 3.0;

/// Those to files of other users: DAC_OVERRIDE, DAC_READ_SEARCH.
const FILES: u64 = 1 << 1 | 1 << 2;

/// Capabilities that the control thread may keep, as in `capabilities(7)`: DAC_OVERRIDE, DAC_READ_SEARCH, NET_ADMIN, NET_RAW,
/// IPC_LOCK, SYS_ADMIN, BPF.
const KEPT: u64 = 1 << 1 | 1 << 2 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 21 | 1 << 39;

fn unit() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/natgate.service")
}

/// The values of a setting, in the order of the file.
pub(crate) fn settings(name: &str) -> Result<Vec<String>> {
    let text = fs::read_to_string(unit())?;
    let values: Vec<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix('='))
        .map(ToOwned::to_owned)
        .collect();
    ensure!(!values.is_empty(), "the unit says nothing about {name}");
    Ok(values)
}

#[test]
fn systemd_reads_the_unit_without_complaint() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let natgate = natgate_binary()?.display().to_string();
    let text = fs::read_to_string(unit())?;
    // The program and its pages are not installed here.
    ensure!(text.contains("ExecStart=/usr/bin/natgate run"));
    let lines = text.lines().filter(|line| !line.starts_with("Documentation="));
    let text = lines.collect::<Vec<_>>().join("\n").replace("/usr/bin/natgate", &natgate);
    let copy = directory.path().join("natgate.service");
    fs::write(&copy, text)?;
    let done = Command::new("systemd-analyze").arg("verify").arg(&copy).output()?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success() && !said.contains("natgate.service"), "{said}");
    // Control: a mistake is seen.
    fs::write(&copy, fs::read_to_string(&copy)?.replace("ProtectHome=yes", "ProtectHose=yes"))?;
    let done = Command::new("systemd-analyze").arg("verify").arg(&copy).output()?;
    ensure!(String::from_utf8_lossy(&done.stderr).contains("ProtectHose"));
    Ok(())
}

#[test]
fn exposure_of_the_unit_is_low() -> Result<()> {
    let mut command = Command::new("systemd-analyze");
    command.args(["security", "--offline=true", "--no-pager"]).arg(unit());
    let said = output(&mut command)?;
    let level = said.split("Overall exposure level for natgate.service: ").nth(1);
    let level: f64 =
        level.and_then(|rest| rest.split_whitespace().next()).context(said.clone())?.parse()?;
    println!("exposure level: {level}, at most {EXPOSURE}");
    ensure!(level <= EXPOSURE, "{said}");
    Ok(())
}

/// Runs natgate with these capabilities, in small caps as `setpriv` writes them, until it is ready or ends.
fn is_ready_with(bench: &Bench, capabilities: &BTreeSet<String>) -> Result<bool> {
    let names: Vec<String> = capabilities.iter().map(|name| format!("+{name}")).collect();
    let bounding = format!("--bounding-set=-all,{}", names.join(","));
    // Packet memory must not count as little as a shell's limit.
    let prefix = [
        "prlimit",
        "--memlock=65536",
        "setpriv",
        &bounding,
        "--inh-caps=-all",
        "--ambient-caps=-all",
    ];
    let mut natgate = Process::start(bench.natgate(&prefix)?, "natgate", bench.directory.path())?;
    let ready = wait::until("ready, or the end", Duration::from_secs(10), || {
        let ended = natgate.ended()?.map(|_| false);
        Ok(if natgate.stderr().contains("ready pid=") { Some(true) } else { ended })
    })?;
    if ready {
        // It looks at its hooks for the first time after that; it must live on.
        std::thread::sleep(Duration::from_millis(300));
        let lives = natgate.ended()?.is_none();
        if lives {
            ensure!(natgate.end(Signal::SIGTERM, Duration::from_secs(10))?.success());
        }
        return Ok(lives);
    }
    Ok(false)
}

#[test]
fn every_capability_of_the_unit_is_needed_and_no_other() -> Result<()> {
    let bench = Bench::new()?;
    let line = settings("CapabilityBoundingSet")?.remove(0);
    let all: BTreeSet<String> = line
        .split_whitespace()
        .map(|name| name.trim_start_matches("CAP_").to_lowercase())
        .collect();
    ensure!(all.len() >= 3, "{all:?}");
    // The second start finds the program of the first one.
    for start in ["first", "second"] {
        ensure!(is_ready_with(&bench, &all)?, "{start} start with {all:?}");
    }
    for one in &all {
        let without: BTreeSet<String> = all.iter().filter(|name| *name != one).cloned().collect();
        ensure!(!is_ready_with(&bench, &without)?, "{one} is not needed");
    }
    Ok(())
}

/// The system calls of a name in `SystemCallFilter`.
fn expand(name: &str) -> Result<BTreeSet<String>> {
    if !name.starts_with('@') {
        return Ok(BTreeSet::from([name.to_owned()]));
    }
    let listed = output(Command::new("systemd-analyze").args(["syscall-filter", name]))?;
    let mut calls = BTreeSet::new();
    let lines = listed.lines().skip(1).map(str::trim);
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
        calls.extend(expand(line)?);
    }
    Ok(calls)
}

fn allowed() -> Result<BTreeSet<String>> {
    let mut allowed = BTreeSet::new();
    for value in settings("SystemCallFilter")? {
        let (names, takes) =
            value.strip_prefix('~').map_or((&value[..], true), |names| (names, false));
        for name in names.split_whitespace() {
            for call in expand(name)? {
                if takes {
                    allowed.insert(call)
                } else {
                    allowed.remove(&call)
                };
            }
        }
    }
    Ok(allowed)
}

/// A life: start, pods' packets, questions, an interface that goes and comes, the end.
fn live(bench: &Bench, natgate: &mut Process) -> Result<()> {
    natgate.await_stderr("ready pid=", Duration::from_secs(30))?;
    // A pool address answers; the outside has no route.
    bench.peer.exec("ping -n -c 2 -i 0.2 -W 5 203.0.113.5")?;
    let _ = bench.peer.exec("ping -n -c 1 -W 1 192.0.2.1");
    let socket = bench.socket();
    for what in ["status", "pools", "subscribers", "sessions", "drops", "workers", "interfaces"] {
        output(Command::new(natgate_binary()?).arg(what).arg("--socket").arg(&socket))?;
    }
    bench.gateway.ip("addr add 192.0.2.1/24 dev out0\nlink set out0 down\nlink set out0 up")?;
    natgate.signal(Signal::SIGHUP)?;
    natgate.await_stderr("SIGHUP", Duration::from_secs(10))?;
    let status = natgate.end(Signal::SIGTERM, Duration::from_secs(30))?;
    ensure!(status.success(), "{status}: {}", natgate.stderr());
    Ok(())
}

/// The system calls that the process, or only its workers, may make by themselves: see `--seccomp`.
fn filtered(workers: bool) -> Result<BTreeSet<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference.md");
    let text = fs::read_to_string(path)?;
    let section = text.split("\n## System calls\n").nth(1).context("no section")?;
    let tables = section.split("\n| why | calls |\n").skip(1).take(if workers { 1 } else { 2 });
    let calls = tables.flat_map(str::lines).filter_map(|line| line.split('|').nth(2));
    let names = calls.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    Ok(names.map(ToOwned::to_owned).collect())
}

/// Whether a traced life would make no call that natgate's own filters refuse; they would refuse it without a word.
fn keeps_to_its_own_filters(trace: &str, made: impl Fn(&str) -> Option<String>) -> Result<()> {
    let of = |thread: &str| -> BTreeSet<String> {
        trace
            .lines()
            .filter(|line| line.split(' ').next() == Some(thread))
            .filter_map(&made)
            .collect()
    };
    // A worker confines itself with its last seccomp(2), and so does the process.
    let confined = trace.lines().filter(|line| line.contains(" seccomp(SECCOMP_SET_MODE_FILTER"));
    let threads: Vec<&str> = confined.filter_map(|line| line.split(' ').next()).collect();
    let [process, workers @ ..] = &threads[..] else { bail!("nobody is confined: {threads:?}") };
    ensure!(!workers.is_empty(), "no worker is confined");
    let all: BTreeSet<String> = trace.lines().filter_map(&made).collect();
    let (may, workers_may) = (filtered(false)?, filtered(true)?);
    let refused: Vec<&String> = all.difference(&may).collect();
    ensure!(refused.is_empty(), "process {process} would be refused {refused:?}");
    // What a thread does before it is a worker: the start, and its core.
    let before = ["sched_getaffinity", "sched_setaffinity", "prctl", "seccomp", "capget", "capset"];
    for worker in workers {
        let calls = of(worker);
        ensure!(calls.contains("poll") || calls.contains("ppoll"), "worker {worker} never slept");
        let refused: Vec<&String> = calls
            .difference(&workers_may)
            .filter(|call| !before.contains(&call.as_str()))
            .collect();
        ensure!(refused.is_empty(), "worker {worker} would be refused {refused:?}");
    }
    Ok(())
}

#[test]
fn unit_allows_every_system_call_and_socket_of_a_life() -> Result<()> {
    let bench = Bench::new()?;
    let trace = bench.directory.path().join("trace");
    let path = trace.display().to_string();
    let prefix = ["strace", "-D", "-f", "-qq", "-o", &path];
    let mut natgate = Process::start(bench.natgate(&prefix)?, "natgate", bench.directory.path())?;
    live(&bench, &mut natgate)?;
    let trace = wait::until("the end of the trace", Duration::from_secs(10), || {
        let text = fs::read_to_string(&trace)?;
        Ok(text.contains("exit_group(").then_some(text))
    })?;
    let made = |line: &str| {
        let call = line.split_once(' ')?.1.trim_start().split_once('(')?.0;
        call.chars()
            .all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit())
            .then(|| call.to_owned())
    };
    let calls: BTreeSet<String> = trace.lines().filter_map(made).collect();
    keeps_to_its_own_filters(&trace, made)?;
    for expected in ["bpf", "sendto", "sched_setaffinity", "rename"] {
        ensure!(calls.contains(expected), "the life lacks {expected}: {calls:?}");
    }
    let allowed = allowed()?;
    let refused: Vec<&String> = calls.difference(&allowed).collect();
    ensure!(refused.is_empty(), "not in SystemCallFilter: {refused:?}");
    for never in ["ptrace", "mount", "init_module", "setuid", "reboot"] {
        ensure!(!allowed.contains(never), "SystemCallFilter allows {never}");
    }
    let families = settings("RestrictAddressFamilies")?.remove(0);
    for family in trace.split(" socket(").skip(1).filter_map(|rest| rest.split(',').next()) {
        if !families.split_whitespace().any(|one| one == family) {
            bail!("not in RestrictAddressFamilies: {family}");
        }
    }
    ensure!(trace.contains(" socket(AF_XDP"));
    Ok(())
}

/// A line of a thread's `/proc/…/status`.
fn fact(status: &str, name: &str) -> Result<String> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(line.with_context(|| format!("no {name} in {status}"))?.trim().to_owned())
}

/// Runs natgate with `more`, and returns the status of each of its threads by name while it serves.
fn threads(bench: &Bench, more: &[&str]) -> Result<BTreeMap<String, String>> {
    let mut command = bench.natgate(&[])?;
    command.args(more);
    let mut natgate = Process::start(command, "natgate", bench.directory.path())?;
    natgate.await_stderr("ready pid=", Duration::from_secs(30))?;
    // With their fences its workers do their work.
    bench.peer.exec("ping -n -c 2 -i 0.2 -W 5 203.0.113.5")?;
    let mut threads = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{}/task", natgate.id()))? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        threads.insert(fact(&status, "Name")?, status);
    }
    ensure!(natgate.end(Signal::SIGTERM, Duration::from_secs(10))?.success());
    Ok(threads)
}

#[test]
fn workers_have_no_capabilities_and_a_filter_of_their_own() -> Result<()> {
    let bench = Bench::new()?;
    for (more, filters) in [
        (&[][..], (1, 2)),
        (&["--seccomp", "log"][..], (1, 2)),
        (&["--seccomp", "off"][..], (0, 0)),
    ] {
        let threads = threads(&bench, more)?;
        let count = |name: &str| -> Result<u32> {
            Ok(fact(threads.get(name).context("the thread")?, "Seccomp_filters")?.parse()?)
        };
        // Filters that this test runs under count, too.
        let here: u32 =
            fact(&fs::read_to_string("/proc/self/status")?, "Seccomp_filters")?.parse()?;
        let seen = (count("natgate")? - here, count("natgate-w0")? - here);
        ensure!(seen == filters, "{more:?}: {seen:?} filters");
        for (name, status) in &threads {
            let effective = u64::from_str_radix(&fact(status, "CapEff")?, 16)?;
            let may = match name.as_str() {
                "natgate" => KEPT,
                name if name.starts_with("tokio") => KEPT,
                "natgate-who" => FILES,
                _ => 0,
            };
            ensure!(effective & !may == 0, "{more:?} {name}: {effective:x}");
        }
        for name in ["natgate-w0", "natgate-notices"] {
            ensure!(threads.contains_key(name), "no thread {name}: {:?}", threads.keys());
        }
    }
    Ok(())
}
