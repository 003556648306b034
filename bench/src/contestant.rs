//! Who is measured, and how is each started?

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result};
use clap::ValueEnum;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use tools::sink::Accept;

use crate::rig::{self, Rig};

/// A gateway between generator and sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Contestant {
    /// Plain `AF_XDP` forwarder without NAT: the limit.
    Forwarder,
    /// natgate.
    Natgate,
    /// natgate with busy polling.
    NatgateBusyPoll,
    /// nftables snat, on the core that the generator runs on.
    Nftables,
    /// nftables snat, in a kernel thread on another core.
    NftablesThreaded,
    /// nftables snat, on another core by receive packet steering.
    NftablesRps,
}

/// What a contestant is given.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a> {
    /// Where the release programs are.
    pub programs: &'a Path,
    /// Where logs go.
    pub results: &'a Path,
    /// Public addresses: 203.0.113.10 and those that follow.
    pub addresses: u8,
    /// Flows that are to have room.
    pub flows: u64,
}

impl Given<'_> {
    fn pool(&self) -> String {
        let last = 10 + u32::from(self.addresses) - 1;
        if self.addresses == 1 {
            "203.0.113.10".into()
        } else {
            format!("203.0.113.10-203.0.113.{last}")
        }
    }

    fn program(&self, name: &str) -> Result<String> {
        let path = self.programs.join(name);
        fs::metadata(&path).with_context(|| {
            format!(
                "error: {name} ({}): it is not there; build it: cargo build --release",
                path.display()
            )
        })?;
        Ok(path.display().to_string())
    }

    fn log(&self, name: &str) -> std::io::Result<File> {
        File::create(self.results.join(format!("{name}.log")))
    }
}

/// What must live as long as a contestant is to run.
#[derive(Debug, Default)]
pub struct Held {
    _accept: Option<Accept>,
    _conntrack: Option<ConntrackSize>,
    /// Its process, if it is one.
    pub process: Option<u32>,
}

/// The size of the kernel's connection table, which is one for all network namespaces: put back when dropped.
#[derive(Debug)]
struct ConntrackSize(Vec<(&'static str, String)>);

impl ConntrackSize {
    const LIMITS: [&str; 2] = [
        "/proc/sys/net/netfilter/nf_conntrack_max",
        "/sys/module/nf_conntrack/parameters/hashsize",
    ];

    /// Room for `flows` flows, with a bucket for each.
    fn for_flows(flows: u64) -> Result<Self> {
        let mut before = Self(Vec::new());
        for path in Self::LIMITS {
            let old = fs::read_to_string(path)
                .with_context(|| format!("error: {path}: it can't be read; load nf_conntrack"))?;
            before.0.push((path, old));
            fs::write(path, (2 * flows).max(262_144).to_string())?;
        }
        Ok(before)
    }
}

impl Drop for ConntrackSize {
    fn drop(&mut self) {
        for (path, old) in &self.0 {
            if let Err(error) = fs::write(path, old.trim()) {
                eprintln!("warning: {path}: it can't be set back to {}: {error}", old.trim());
            }
        }
    }
}

impl Contestant {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 6] = [
        Self::Forwarder,
        Self::Natgate,
        Self::NatgateBusyPoll,
        Self::Nftables,
        Self::NftablesThreaded,
        Self::NftablesRps,
    ];

    /// The arrangements of the kernel's NAT.
    pub const KERNELS: [Self; 3] = [Self::Nftables, Self::NftablesThreaded, Self::NftablesRps];

    /// What the table calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forwarder => "plain AF_XDP forwarder (limit)",
            Self::Natgate => "natgate",
            Self::NatgateBusyPoll => "natgate, busy polling",
            Self::Nftables => "nftables snat, in line",
            Self::NftablesThreaded => "nftables snat, threaded NAPI",
            Self::NftablesRps => "nftables snat, RPS",
        }
    }

    /// Is it the kernel's NAT?
    pub const fn is_kernel(self) -> bool {
        matches!(self, Self::Nftables | Self::NftablesThreaded | Self::NftablesRps)
    }

    /// Where every source must be that the sink sees.
    pub fn sources(self) -> Ipv4Net {
        let (address, length) = match self {
            Self::Forwarder => ([10, 0, 0, 0], 8),
            _ => ([203, 0, 113, 0], 24),
        };
        Ipv4Net::new_assert(address.into(), length)
    }

    /// Starts it in `rig`; programs are in `programs`, logs go to `results`. What is returned is held as
    /// long as it is to run.
    pub fn start(self, rig: &mut Rig, given: &Given) -> Result<Held> {
        match self {
            Self::Forwarder => start_forwarder(rig, given),
            Self::Natgate => start_natgate(rig, given, &[]),
            Self::NatgateBusyPoll => start_natgate(rig, given, &["--busy-poll"]),
            Self::Nftables => start_nftables(rig, given, None),
            Self::NftablesThreaded => start_nftables(rig, given, Some(THREADED)),
            Self::NftablesRps => start_nftables(rig, given, Some(RPS)),
        }
    }
}

fn start_forwarder(rig: &mut Rig, given: &Given) -> Result<Held> {
    let path = given.program("natgate-forwarder")?;
    let macs = ["--sink-mac", rig::SINK, "--generator-mac", rig::GENERATOR];
    let own = ["--internal-mac", rig::GATEWAY_INTERNAL, "--external-mac", rig::GATEWAY_EXTERNAL];
    let arguments = [&[path.as_str()][..], &macs, &own].concat();
    let process = rig.start(&arguments, given.log("forwarder")?)?;
    Ok(Held { process: Some(process), ..Held::default() })
}

fn start_natgate(rig: &mut Rig, given: &Given, more: &[&str]) -> Result<Held> {
    let socket = given.results.join("natgate.sock").display().to_string();
    let (path, pool) = (given.program("natgate")?, given.pool());
    let sessions = (2 * given.flows).max(1 << 20).to_string();
    let arguments = [
        &[&path, "run", "--internal", "int0", "--external", "ext0", "--pool", &pool][..],
        &["--from", "10.0.0.0/8", "--workers", "1", "--sessions", &sessions, "--socket", &socket],
        more,
    ];
    let process = rig.start(&arguments.concat(), given.log("natgate")?)?;
    Ok(Held { process: Some(process), ..Held::default() })
}

fn start_nftables(rig: &mut Rig, given: &Given, arrangement: Option<&str>) -> Result<Held> {
    rig.sh("gw", &NFTABLES.replace("POOL", &given.pool()))?;
    let conntrack = ConntrackSize::for_flows(given.flows)?;
    let accept = rig.within("gw", || Accept::attach("int0"))?;
    if let Some(script) = arrangement {
        rig.sh("gw", script)?;
    }
    Ok(Held { _accept: Some(accept), _conntrack: Some(conntrack), process: None })
}

const NFTABLES: &str = "nft -f - <<'RULES'
table ip nat {
  chain postrouting {
    type nat hook postrouting priority srcnat
    oifname \"ext0\" snat to POOL
  }
}
RULES";

/// Reception of the gateway's internal side on core 0; the generator is on the last one.
const THREADED: &str = "echo 1 >/sys/class/net/int0/threaded &&
for thread in $(pgrep '^napi/int0'); do taskset -cp 0 $thread >/dev/null; done";

/// The same by receive packet steering.
const RPS: &str = "echo 1 >/sys/class/net/int0/queues/rx-0/rps_cpus";
