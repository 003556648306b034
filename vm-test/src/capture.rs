//! What went over an interface, every packet of it, from start to end?

use std::io::{Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::{Namespace, Process, wait};

/// Kernel buffer of one capture, KiB.
const BUFFER_KIB: u32 = 512 * 1024;

/// A running capture of one interface.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Process,
    file: PathBuf,
}

impl Capture {
    /// Starts a full capture of `interface` and waits until it listens.
    pub fn start(namespace: &Namespace, interface: &str, directory: &Path) -> Result<Self> {
        let name = format!("{}-{interface}", namespace.name());
        let file = directory.join(format!("{name}.pcap"));
        let mut command = namespace.command("tcpdump");
        command
            .args(["-i", interface, "-n", "-U", "-s", "0", "-Z", "root"])
            .args(["-B", &BUFFER_KIB.to_string(), "-w"])
            .arg(&file);
        let mut tcpdump = Process::start(command, &format!("tcpdump-{name}"), directory)?;
        tcpdump.await_stderr("listening on", Duration::from_secs(10))?;
        Ok(Self { tcpdump, file })
    }

    /// Ends it once everything sent so far is in the file; `marker_to` is an address behind the
    /// interface, to which `namespace` sends one last datagram that the file must show.
    pub fn stop(mut self, namespace: &Namespace, marker_to: Ipv4Addr) -> Result<PathBuf> {
        let marker = format!("end of capture {}", self.file.display()).into_bytes();
        let sent = marker.clone();
        // The marker is looked for from here on: packets may follow it.
        let written = std::fs::metadata(&self.file)?.len();
        namespace.run(move || -> Result<()> {
            UdpSocket::bind("0.0.0.0:0")?.send_to(&sent, (marker_to, 9))?;
            Ok(())
        })??;
        wait::until("the end of the capture", Duration::from_secs(30), || {
            let tail = tail(&self.file, written)?;
            Ok(tail.windows(marker.len()).any(|bytes| bytes == marker).then_some(()))
        })?;
        self.tcpdump.end(Signal::SIGINT, Duration::from_secs(10))?;
        let summary = self.tcpdump.stderr();
        let dropped = summary
            .lines()
            .find_map(|line| line.strip_suffix("packets dropped by kernel"))
            .context("no summary from tcpdump")?
            .trim();
        ensure!(dropped == "0", "the capture is incomplete: {dropped} packets are missing");
        Ok(self.file)
    }
}

fn tail(file: &Path, from: u64) -> Result<Vec<u8>> {
    let mut file = std::fs::File::open(file)?;
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}
