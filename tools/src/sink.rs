//! How much arrives at an interface, and does it come from where it should?

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::PerCpuArray;
use ipnet::Ipv4Net;
use serde::Serialize;

use crate::object;

/// What a sink has counted since it was attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// UDP packets over IPv4: counted, then dropped.
    pub packets: u64,
    /// Bytes of those, Ethernet headers included.
    pub bytes: u64,
    /// IPv4 packets of any protocol whose source is outside the expected prefix.
    pub unexpected: u64,
    /// Everything that is not UDP over IPv4: left to the kernel.
    pub other: u64,
}

/// An XDP program on an interface that counts and drops UDP over IPv4 and leaves the rest to the
/// kernel. It goes when this value is dropped.
#[derive(Debug)]
pub struct Sink {
    object: Ebpf,
}

impl Sink {
    /// Attaches a sink to `interface`; `expected` is the prefix that all sources should be in.
    pub fn attach(interface: &str, expected: Ipv4Net) -> Result<Self> {
        let mask = u32::from(expected.netmask());
        let network = u32::from(expected.network());
        let mut object = object::load(|loader| {
            loader.override_global("EXPECTED", &network, true);
            loader.override_global("EXPECTED_MASK", &mask, true);
        })?;
        object::attach(&mut object, "sink", interface)?;
        Ok(Self { object })
    }

    /// What arrived so far.
    pub fn totals(&self) -> Result<Totals> {
        let map =
            self.object.map("COUNTS").context("error: the sink (BPF): its counters are missing")?;
        let counts = PerCpuArray::<_, u64>::try_from(map)?;
        let sum = |index| -> Result<u64> { Ok(counts.get(&index, 0)?.iter().sum()) };
        Ok(Totals { packets: sum(0)?, bytes: sum(1)?, unexpected: sum(2)?, other: sum(3)? })
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
