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
    /// nftables snat, on the core that the generator runs on.
    Nftables,
    /// nftables snat, in a kernel thread on another core.
    NftablesThreaded,
}

impl Contestant {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 4] =
        [Self::Forwarder, Self::Natgate, Self::Nftables, Self::NftablesThreaded];

    /// What the table calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forwarder => "plain AF_XDP forwarder (limit)",
            Self::Natgate => "natgate",
            Self::Nftables => "nftables snat, in line",
            Self::NftablesThreaded => "nftables snat, threaded NAPI",
        }
    }

    /// Where every source must be that the sink sees.
    pub fn sources(self) -> Ipv4Net {
        let (address, length) = match self {
            Self::Forwarder => ([10, 10, 0, 0], 16),
            _ => ([203, 0, 113, 0], 24),
        };
        Ipv4Net::new_assert(address.into(), length)
    }

    /// Starts it in `rig`; programs are in `programs`, logs go to `results`. What is returned is held as
    /// long as it is to run.
    pub fn start(self, rig: &mut Rig, programs: &Path, results: &Path) -> Result<Option<Accept>> {
        let program = |name: &str| -> Result<String> {
            let path = programs.join(name);
            fs::metadata(&path).with_context(|| {
                format!(
                    "error: {name} ({}): it is not there; build it: cargo build --release",
                    path.display()
                )
            })?;
            Ok(path.display().to_string())
        };
        let log = |name: &str| File::create(results.join(format!("{name}.log")));
        match self {
            Self::Forwarder => {
                let path = program("natgate-forwarder")?;
                let macs = ["--sink-mac", rig::SINK, "--generator-mac", rig::GENERATOR];
                let own = [
                    "--internal-mac",
                    rig::GATEWAY_INTERNAL,
                    "--external-mac",
                    rig::GATEWAY_EXTERNAL,
                ];
                let arguments = [&[path.as_str()][..], &macs, &own].concat();
                rig.start(&arguments, log("forwarder")?)?;
                Ok(None)
            }
            Self::Natgate => {
                let socket = results.join("natgate.sock").display().to_string();
                rig.start(
                    &[
                        &program("natgate")?,
                        "run",
                        "--internal",
                        "int0",
                        "--external",
                        "ext0",
                        "--pool",
                        "203.0.113.10-203.0.113.13",
                        "--from",
                        "10.10.0.0/16",
                        "--workers",
                        "1",
                        "--socket",
                        &socket,
                    ],
                    log("natgate")?,
                )?;
                Ok(None)
            }
            Self::Nftables | Self::NftablesThreaded => {
                rig.sh("gw", NFTABLES)?;
                let accept = rig.within("gw", || Accept::attach("int0"))?;
                if self == Self::NftablesThreaded {
                    rig.sh("gw", THREADED)?;
                }
                Ok(Some(accept))
            }
        }
    }
}

const NFTABLES: &str = "nft -f - <<'RULES'
table ip nat {
  chain postrouting {
    type nat hook postrouting priority srcnat
    oifname \"ext0\" snat to 203.0.113.10-203.0.113.13
  }
}
RULES";

/// Reception of the gateway's internal side on core 0; the generator is on the last one.
const THREADED: &str = "echo 1 >/sys/class/net/int0/threaded &&
for thread in $(pgrep '^napi/int0'); do taskset -cp 0 $thread >/dev/null; done";
