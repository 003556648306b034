//! Did the gateway treat every packet of two captures as it must?
//!
//! Five oracles: (a) [`checksums`], (b) [`leaks`], (c) [`sharing`], (d) [`fidelity`] over the
//! captures of the gateway's two links, taken at the other end; (e) [`balance`] over counters.

pub mod balance;
pub mod checksums;
pub mod fidelity;
pub mod leaks;
pub mod packet;
pub mod reassembly;
pub mod sharing;
#[cfg(test)]
mod tests;
pub mod trace;

use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use ipnet::Ipv4Net;

pub use packet::{Ipv4, Kind, Packet};
pub use trace::Trace;

/// What the oracles must know about the network.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Prefixes that must never be seen outside.
    pub internal: Vec<Ipv4Net>,
    /// Public addresses, as ranges with both ends.
    pub public: Vec<(Ipv4Addr, Ipv4Addr)>,
    /// Destinations that internal addresses may reach untranslated.
    pub exempt: Vec<Ipv4Net>,
    /// The gateway's address on the internal link.
    pub gateway_internal_mac: [u8; 6],
    /// The gateway's address on the external link.
    pub gateway_external_mac: [u8; 6],
}

impl Scope {
    /// Whether `address` is internal.
    pub fn is_internal(&self, address: Ipv4Addr) -> bool {
        self.internal.iter().any(|net| net.contains(&address))
    }

    /// Whether `address` is one of the pools'.
    pub fn is_public(&self, address: Ipv4Addr) -> bool {
        self.public.iter().any(|(first, last)| (*first..=*last).contains(&address))
    }

    /// Whether traffic with `remote` is not translated.
    pub fn is_exempt(&self, remote: Ipv4Addr) -> bool {
        self.exempt.iter().any(|net| net.contains(&remote))
    }
}

/// Two captures and what they must satisfy.
#[derive(Debug)]
pub struct Oracles {
    /// Capture file of the internal link, taken at the node.
    pub internal: PathBuf,
    /// Capture file of the external link, taken at the router.
    pub external: PathBuf,
    /// The network.
    pub scope: Scope,
}

/// How much the oracles looked at; never zero after [`Oracles::check`].
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    /// Packets of both captures.
    pub packets: usize,
    /// Translated packets whose original was found.
    pub matched: usize,
}

impl Oracles {
    /// Applies oracles (a) to (d); an error lists the first faults of each.
    pub fn check(&self) -> Result<Summary> {
        let mut internal = Trace::read(&self.internal)?;
        let mut external = Trace::read(&self.external)?;
        let packets = internal.len() + external.len();
        // One capture ends before the other, and connections may be closing meanwhile.
        let end = internal.end().min(external.end());
        let scope = &self.scope;
        let mut faults = Faults::default();
        checksums::check(&internal, scope.gateway_internal_mac, scope, &mut faults);
        checksums::check(&external, scope.gateway_external_mac, scope, &mut faults);
        leaks::check(&external, scope, &mut faults);
        // Fragment by fragment so far; whole datagrams from here on.
        if internal.reassemble() {
            checksums::check(&internal, scope.gateway_internal_mac, scope, &mut faults);
        }
        if external.reassemble() {
            checksums::check(&external, scope.gateway_external_mac, scope, &mut faults);
        }
        let translated = fidelity::check(&internal, &external, end, scope, &mut faults);
        sharing::check(&translated, &mut faults);
        ensure!(faults.is_empty(), "{faults}");
        ensure!(!translated.is_empty(), "no translated packet in the captures");
        Ok(Summary { packets, matched: translated.len() })
    }
}

/// What the oracles found wrong.
#[derive(Debug, Default)]
pub struct Faults {
    counts: std::collections::BTreeMap<&'static str, (usize, Vec<String>)>,
}

impl Faults {
    /// Notes one fault of `oracle`; the text of the first ten is kept.
    pub fn add(&mut self, oracle: &'static str, text: impl FnOnce() -> String) {
        let (count, texts) = self.counts.entry(oracle).or_default();
        *count += 1;
        if texts.len() < 10 {
            texts.push(text());
        }
    }

    /// Whether nothing was wrong.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// How many faults `oracle` found.
    pub fn count(&self, oracle: &str) -> usize {
        self.counts.get(oracle).map_or(0, |(count, _)| *count)
    }
}

impl std::fmt::Display for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (oracle, (count, texts)) in &self.counts {
            writeln!(f, "oracle {oracle}: {count} faults")?;
            for text in texts {
                writeln!(f, "  {text}")?;
            }
        }
        Ok(())
    }
}
