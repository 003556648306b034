//! How much arrives at an interface, and does it come from where it should?

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::PerCpuArray;
use hdrhistogram::Histogram;
use ipnet::Ipv4Net;
use serde::Serialize;

use crate::{latency, object};

/// What a sink looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch {
    /// The prefix that all sources should be in.
    pub expected: Ipv4Net,
    /// Packets to this port are counted apart.
    pub port: u16,
    /// These packets say when they were due ([`Plan::stamped`](crate::Plan::stamped)).
    pub stamped: bool,
    /// Drop what is not UDP too, instead of leaving it to the kernel.
    pub drop_all: bool,
}

impl Watch {
    /// Counts UDP, with sources in `expected`.
    pub const fn new(expected: Ipv4Net) -> Self {
        Self { expected, port: 9, stamped: false, drop_all: false }
    }
}

/// What a sink has counted since it was attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// UDP packets over IPv4: counted, then dropped.
    pub packets: u64,
    /// Bytes of those, Ethernet headers included.
    pub bytes: u64,
    /// IPv4 packets of any protocol whose source is outside the expected prefix.
    pub unexpected: u64,
    /// Everything that is not UDP over IPv4: left to the kernel, if nobody wants it otherwise.
    pub other: u64,
    /// Of the packets, those to the port that is watched.
    pub watched: u64,
}

/// An XDP program on an interface that counts and drops UDP over IPv4 and leaves the rest to the
/// kernel. It goes when this value is dropped.
#[derive(Debug)]
pub struct Sink {
    object: Ebpf,
}

impl Sink {
    /// Attaches a sink to `interface`.
    pub fn attach(interface: &str, watch: &Watch) -> Result<Self> {
        let mask = u32::from(watch.expected.netmask());
        let network = u32::from(watch.expected.network());
        let words = [
            ("WATCHED_PORT", u32::from(watch.port)),
            ("STAMPED", u32::from(watch.stamped)),
            ("DROP_ALL", u32::from(watch.drop_all)),
        ];
        let mut object = object::load(|loader| {
            loader.override_global("EXPECTED", &network, true);
            loader.override_global("EXPECTED_MASK", &mask, true);
            for (name, value) in &words {
                loader.override_global(name, value, true);
            }
        })?;
        object::attach(&mut object, "sink", interface)?;
        Ok(Self { object })
    }

    /// What arrived so far.
    pub fn totals(&self) -> Result<Totals> {
        let sums = self.sums("COUNTS", 5)?;
        let [packets, bytes, unexpected, other, watched] = sums[..] else {
            anyhow::bail!("error: the sink (BPF): its counters are missing")
        };
        Ok(Totals { packets, bytes, unexpected, other, watched })
    }

    /// How often each bucket of latencies was met so far; the difference of two says what was met between them.
    pub fn latency_counts(&self) -> Result<Vec<u64>> {
        self.sums("LATENCIES", latency::BUCKETS)
    }

    /// Latencies in nanoseconds since [`latency_counts`](Self::latency_counts) was `before`.
    pub fn latencies_since(&self, before: &[u64]) -> Result<Histogram<u64>> {
        let now = self.latency_counts()?;
        let new: Vec<u64> = now.iter().zip(before).map(|(now, before)| now - before).collect();
        latency::histogram(&new)
    }

    /// The first values of an array, all cores together.
    fn sums(&self, name: &str, count: u32) -> Result<Vec<u64>> {
        let map =
            self.object.map(name).context("error: the sink (BPF): its counters are missing")?;
        let counts = PerCpuArray::<_, u64>::try_from(map)?;
        (0..count).map(|index| Ok(counts.get(&index, 0)?.iter().sum())).collect()
    }
}

/// An XDP program on an interface that passes everything: a veth device takes redirected frames only
/// while its receiving end has one. It goes when this value is dropped.
#[derive(Debug)]
pub struct Accept {
    _object: Ebpf,
}

impl Accept {
    /// Attaches it to `interface`.
    pub fn attach(interface: &str) -> Result<Self> {
        let mut object = object::load(|_| ())?;
        object::attach(&mut object, "accept", interface)?;
        Ok(Self { _object: object })
    }
}
