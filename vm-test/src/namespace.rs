//! What is a network namespace to a test: a name, commands run in it, and threads that live in it.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};
use tempfile::TempDir;

/// Every namespace of a rig is called `ngr<pid>-<number>-<role>`.
const PREFIX: &str = "ngr";
/// Every directory of one `vm-test-<pid>-<random>`.
const DIRECTORY: &str = "vm-test-";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A network namespace that this process made; removed when dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one, with loopback up, IPv6 off (quiet captures) and no reverse-path filter.
    pub fn new(role: &str) -> Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}-{role}", std::process::id());
        output(Command::new("ip").args(["netns", "add", &name]))?;
        let namespace = Self { name };
        namespace.ip("link set lo up")?;
        for (key, value) in [
            ("net.ipv6.conf.all.disable_ipv6", 1),
            ("net.ipv6.conf.default.disable_ipv6", 1),
            ("net.ipv4.conf.all.rp_filter", 0),
            ("net.ipv4.conf.default.rp_filter", 0),
        ] {
            namespace.sysctl(key, value)?;
        }
        Ok(namespace)
    }

    /// Its name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that runs in it (`ip netns exec`, so that `/sys` shows this namespace too).
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs a command line (split at spaces) in it and yields its standard output.
    pub fn exec(&self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let program = words.next().context("an empty command line")?;
        output(self.command(program).args(words))
    }

    /// Runs `ip` commands, one a line, in it.
    pub fn ip(&self, lines: &str) -> Result<()> {
        let mut child = Command::new("ip")
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        child.stdin.take().context("no standard input")?.write_all(lines.as_bytes())?;
        let done = child.wait_with_output()?;
        ensure!(
            done.status.success(),
            "ip in {}: {lines}: {}",
            self.name,
            String::from_utf8_lossy(&done.stderr)
        );
        Ok(())
    }

    /// Sets a kernel setting of this namespace.
    pub fn sysctl(&self, key: &str, value: u32) -> Result<()> {
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        self.run(move || std::fs::write(&path, value.to_string()).with_context(|| path.clone()))?
    }

    /// The hardware address of one of its interfaces.
    pub fn mac(&self, interface: &str) -> Result<[u8; 6]> {
        let listed = output(
            Command::new("ip").args(["-n", &self.name, "-json", "link", "show", interface]),
        )?;
        let listed: serde_json::Value = serde_json::from_str(&listed)?;
        let text = listed[0]["address"].as_str().context("no address")?;
        parse_mac(text)
    }

    /// Starts a thread that lives in this namespace: its sockets belong to it.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<T>> {
        let handle = File::open(Path::new("/run/netns").join(&self.name))?;
        let thread = std::thread::Builder::new().name(self.name.clone()).spawn(move || {
            setns(&handle, CloneFlags::CLONE_NEWNET).expect("enter the namespace (root?)");
            work()
        })?;
        Ok(thread)
    }

    /// Runs `work` in this namespace and yields its result.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        match self.spawn(work)?.join() {
            Ok(value) => Ok(value),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // A namespace that is gone already is what was wanted.
        let _ = output(Command::new("ip").args(["netns", "del", &self.name]));
    }
}

/// Joins two namespaces with a veth pair of `queues` receive and transmit queues on both ends.
pub fn link(a: (&Namespace, &str), b: (&Namespace, &str), queues: u16) -> Result<()> {
    let many = format!("numrxqueues {queues} numtxqueues {queues}");
    let line = format!(
        "link add {} {many} netns {} type veth peer name {} {many} netns {}",
        a.1,
        a.0.name(),
        b.1,
        b.0.name()
    );
    output(Command::new("ip").args(line.split_whitespace()))?;
    a.0.ip(&format!("link set dev {} up", a.1))?;
    b.0.ip(&format!("link set dev {} up", b.1))
}

/// Removes namespaces, and ends the programs in them, that a rig of a dead process left behind.
pub fn sweep() -> Result<()> {
    sweep_directories()?;
    let listed = output(Command::new("ip").args(["netns", "list"]))?;
    for name in listed.lines().filter_map(|line| line.split_whitespace().next()) {
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        let Some(owner) = owner.and_then(|pid| pid.parse::<u32>().ok()) else { continue };
        if Path::new(&format!("/proc/{owner}")).exists() {
            continue;
        }
        let left = output(Command::new("ip").args(["netns", "pids", name])).unwrap_or_default();
        for pid in left.lines() {
            // It may have ended meanwhile, and another sweeper may be at work.
            let _ = output(Command::new("kill").args(["-9", pid]));
        }
        let _ = output(Command::new("ip").args(["netns", "del", name]));
    }
    Ok(())
}

/// A new directory of this process, for a rig's files; removed when dropped.
pub fn directory() -> Result<TempDir> {
    let prefix = format!("{DIRECTORY}{}-", std::process::id());
    Ok(tempfile::Builder::new().prefix(&prefix).tempdir()?)
}

fn sweep_directories() -> Result<()> {
    for entry in std::fs::read_dir(std::env::temp_dir())?.filter_map(Result::ok) {
        let name = entry.file_name();
        let rest = name.to_str().and_then(|name| name.strip_prefix(DIRECTORY));
        let owner = rest.and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            // Another sweeper may be at work.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

/// Runs a command; an error carries what it wrote.
pub fn output(command: &mut Command) -> Result<String> {
    let done = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    if !done.status.success() {
        bail!(
            "{command:?}: {}: {}{}",
            done.status,
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

pub(crate) fn parse_mac(text: &str) -> Result<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next().context("a short address")?, 16)?;
    }
    Ok(mac)
}
