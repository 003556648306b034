//! Does any internal address show outside? The kernel's filter looks at every packet; only leaks get to the file.

use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use vm_test::oracle::{Kind, Trace};
use vm_test::rig::{PODS, S1};
use vm_test::{Process, Rig, Wire, craft, wait};

/// Addresses of pods and of the link inside, in headers, in ARP, and in packets that ICMP errors quote (RFC 792: 8 bytes
/// behind the beginning of the error).
const FILTER: &str = "net 10.244.0.0/16 or net 10.0.0.0/24 or \
    ((icmp[0] = 3 or icmp[0] = 11 or icmp[0] = 12) and \
     (icmp[20:4] & 0xffff0000 = 0x0af40000 or icmp[24:4] & 0xffff0000 = 0x0af40000))";

/// A capture of leaks on the external link.
pub(crate) struct Leaks {
    tcpdump: Process,
    file: PathBuf,
}

impl Leaks {
    pub(crate) fn watch(rig: &Rig) -> Result<Self> {
        let file = rig.directory().join("leaks.pcap");
        let mut command = rig.r.command("tcpdump");
        command.args(["-i", "down", "-n", "-U", "-s", "0", "-Z", "root", "-B", "65536", "-w"]);
        command.arg(&file).arg(FILTER);
        let mut tcpdump = Process::start(command, "leaks", rig.directory())?;
        tcpdump.await_stderr("listening on", Duration::from_secs(10))?;
        Ok(Self { tcpdump, file })
    }

    /// Ends it. There was no leak but the one that is made now, which shows that leaks are seen; how many packets that is.
    pub(crate) fn end(mut self, rig: &Rig) -> Result<usize> {
        let wire = Wire::open(&rig.gw.namespace, "ext", rig.r.mac("down")?)?;
        let (from, to) = (SocketAddrV4::new(PODS[0], 9), SocketAddrV4::new(S1[0], 9));
        wire.send(&craft::udp(from, to, b"a leak"))?;
        let trace = wait::until("the leak that was made", Duration::from_secs(10), || {
            Ok(Trace::read(&self.file).ok().filter(|trace| !trace.is_empty()))
        })?;
        self.tcpdump.end(Signal::SIGINT, Duration::from_secs(10))?;
        for packet in trace.packets() {
            let is_ours = matches!(&packet.kind, Kind::Ipv4(ip)
                if ip.endpoints() == Some((from, to)) && ip.body.get(8..) == Some(b"a leak"));
            ensure!(is_ours, "an internal address outside: {:?}", packet.kind);
        }
        let said = self.tcpdump.stderr();
        ensure!(
            said.contains("\n0 packets dropped by kernel"),
            "the capture is incomplete: {said}"
        );
        Ok(trace.len())
    }
}
