//! What is shipped beside the program: does the unit let it live, what does the service manager hear, do completions
//! complete and manual pages say all?
//!
//! ```text
//!  gw: in0 ── peer: p0
//!  gw: out0 ── peer: q0        (natgate between in0 and out0)
//! ```

mod generated;
mod kubernetes;
mod manager;
mod tools;
mod unit;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use tempfile::TempDir;
use vm_test::Namespace;
use vm_test::binary::natgate_binary;
use vm_test::namespace::{link, sweep};

/// Two namespaces and a directory; all gone when dropped.
struct Bench {
    gateway: Namespace,
    peer: Namespace,
    directory: TempDir,
}

impl Bench {
    fn new() -> Result<Self> {
        sweep()?;
        let (gateway, peer) = (Namespace::new("gw")?, Namespace::new("peer")?);
        link((&gateway, "in0"), (&peer, "p0"), 1)?;
        link((&gateway, "out0"), (&peer, "q0"), 1)?;
        gateway.ip("addr add 198.51.100.1/24 dev in0")?;
        peer.ip("addr add 198.51.100.2/24 dev p0\nroute add default via 198.51.100.1")?;
        Ok(Self { gateway, peer, directory: tempfile::tempdir()? })
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("natgate.sock")
    }

    /// `natgate run`, as the last words of a command that begins with `prefix`, if there is one.
    fn natgate(&self, prefix: &[&str]) -> Result<Command> {
        let natgate = natgate_binary()?;
        let words: Vec<&Path> = prefix.iter().map(Path::new).chain([natgate.as_path()]).collect();
        let mut command = self.gateway.command(words[0]);
        command.args(&words[1..]).args(["run", "--internal", "in0", "--external", "out0"]);
        command.args(["--pool", "203.0.113.5", "--from", "198.51.100.2/32", "--socket"]);
        command.arg(self.socket()).arg("--state-dir").arg(self.directory.path().join("state"));
        command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC").env_remove("WATCHDOG_PID");
        Ok(command)
    }
}
