//! What do new flows take from established ones?

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tools::flood::Kind;
use tools::interface::{index, parse_mac};
use tools::{Flood, Generator};

use crate::contestant::Contestant;
use crate::measure::{Case, Field, Settings};
use crate::rig;

/// Established flows are sent at this share of the gateway's own peak.
const ESTABLISHED: f64 = 0.5;
/// Shares of the flood in all packets: a fifth, and as much as the established flows.
const SHARES: [f64; 2] = [0.2, 0.5];

/// What is sent beside the established flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// UDP from random pods.
    Sources,
    /// UDP from eight pods to random servers.
    Destinations,
    /// SYNs from random pods.
    Syn,
    /// UDP from random strangers to random ports of the public addresses.
    Scan,
}

impl What {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Sources, Self::Destinations, Self::Syn, Self::Scan];

    /// What the table calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sources => "random sources",
            Self::Destinations => "random destinations",
            Self::Syn => "SYN flood",
            Self::Scan => "scan from outside",
        }
    }

    fn flood(self, share: f64) -> Result<Flood> {
        let pods = "10.64.0.0/10";
        let (kind, source, destination) = match self {
            Self::Sources => (Kind::Udp, pods, "198.51.100.2/32"),
            Self::Destinations => (Kind::Scan, "10.64.0.8/29", "198.18.0.0/15"),
            Self::Syn => (Kind::Syn, pods, "198.51.100.2/32"),
            Self::Scan => (Kind::Scan, "198.18.0.0/15", "203.0.113.12/31"),
        };
        let (to, from) = match self {
            Self::Scan => (rig::GATEWAY_EXTERNAL, rig::SINK),
            _ => (rig::GATEWAY_INTERNAL, rig::GENERATOR),
        };
        let mac = (parse_mac(to)?, parse_mac(from)?);
        let (source, destination) = (source.parse()?, destination.parse()?);
        Ok(Flood { kind, share, source, destination, port: 80, mac })
    }

    /// A generator of the flows with this flood in between.
    pub(crate) fn generator(self, field: &Field, share: f64) -> Result<Generator> {
        let flood = self.flood(share)?;
        let mut generator = field.generator(|plan| plan.flood = Some(flood))?;
        if self == Self::Scan {
            // From where the sink is, in by the external interface.
            field.rig.within("sink", || generator.flood_through(index("sink0")?))?;
        }
        Ok(generator)
    }
}

/// Established flows beside one flood.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Beside {
    /// Share of the flood in all packets.
    pub share: f64,
    /// Packets of established flows a second at the sink.
    pub rate: f64,
    /// Packets of established flows a second that were sent.
    pub offered: f64,
    /// Processor microseconds for each of them.
    pub cpu_micros: f64,
}

/// One gateway, measured once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Trial {
    /// Which.
    pub contestant: Contestant,
    /// The flood.
    pub what: What,
    /// Which repetition, from 0.
    pub repetition: usize,
    /// Packets of established flows a second at the sink without a flood.
    pub alone: f64,
    /// With it.
    pub beside: Vec<Beside>,
}

/// Measures `contestant` with `flows` established flows beside each of `floods`.
pub fn trials(
    settings: &Settings,
    contestant: Contestant,
    flows: u64,
    floods: &[What],
    repetition: usize,
) -> Result<Vec<Trial>> {
    let case = Case::new(contestant, flows);
    let mut trials = Vec::new();
    for &what in floods {
        // A fresh gateway: what the flood before left behind is not this one's.
        let mut field = Field::open(settings, case, |watch| watch.drop_all = true)?;
        field.warm_up()?;
        let rate = field.figure(0, settings.length)?.rate * ESTABLISHED;
        let alone = field.figure(rate as u64, settings.length)?.rate;
        let mut beside = Vec::new();
        for share in SHARES {
            let generator = what.generator(&field, share)?;
            let all = (rate / (1.0 - share)) as u64;
            let figure = field.figure_of(&generator, all, settings.length)?;
            let (rate, offered) = (figure.rate, figure.offered);
            beside.push(Beside { share, rate, offered, cpu_micros: figure.cpu_micros });
        }
        match field.check() {
            // The kernel's NAT lets packets out untranslated when it can't make a session for them. That is told, and
            // is its own affair.
            Err(error) if contestant.is_kernel() => eprintln!("beside {}: {error:#}", what.name()),
            checked => checked?,
        }
        trials.push(Trial { contestant, what, repetition, alone, beside });
    }
    Ok(trials)
}
