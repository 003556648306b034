//! What is sent that no gateway has seen before?

use anyhow::{Result, ensure};
use clap::ValueEnum;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::interface::Mac;

/// What a flood draws at random. In the order of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// UDP from random ports and addresses of the source prefix to random addresses of the destination prefix.
    Udp,
    /// The same with TCP, SYNs only.
    Syn,
    /// UDP to random ports too: a search for open ports.
    Scan,
}

/// Packets of flows that never were before, mixed evenly with those of the plan.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flood {
    /// What is drawn.
    pub kind: Kind,
    /// Share of all packets: 0 to 1.
    pub share: f64,
    /// Where they come from.
    pub source: Ipv4Net,
    /// Where they go to.
    pub destination: Ipv4Net,
    /// Destination port, except in a scan.
    pub port: u16,
    /// Next hop's Ethernet address, and the one that is sent as source.
    pub mac: (Mac, Mac),
}

impl Flood {
    pub(crate) fn check(&self, size: usize) -> Result<()> {
        let smallest = if self.kind == Kind::Syn { 54 } else { 42 };
        ensure!(
            (0.0..=1.0).contains(&self.share),
            "error: --flood-share ({}): it is not a share; give 0 to 1",
            self.share
        );
        ensure!(
            size >= smallest,
            "error: --size ({size}): this flood's packets have {smallest} bytes; give that or more"
        );
        Ok(())
    }

    /// Of each 65,536 packets.
    pub(crate) fn parts(&self) -> u32 {
        (self.share * 65_536.0).round() as u32
    }

    /// Constants of the program.
    pub(crate) fn words(&self) -> [(&'static str, u32); 7] {
        let kind = match self.kind {
            Kind::Udp => 0,
            Kind::Syn => 1,
            Kind::Scan => 2,
        };
        [
            ("FLOOD", kind),
            ("FLOOD_SHARE", self.parts()),
            ("FLOOD_SOURCE", self.source.network().into()),
            ("FLOOD_SOURCE_RANGE", self.source.hostmask().into()),
            ("FLOOD_DESTINATION", self.destination.network().into()),
            ("FLOOD_DESTINATION_RANGE", self.destination.hostmask().into()),
            ("FLOOD_PORT", u32::from(self.port)),
        ]
    }
}
