//! A gateway with many established UDP sessions, and the frames that belong to them.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use conntrack::PoolSettings;
use dataplane::forward::Forwards;
use dataplane::interface::InterfaceId;
use dataplane::snapshot::Answers;

use super::Way;
use crate::frame::{Party, udp};
use crate::gateway::{Gateway, INSIDE, OUTSIDE, OWN_MAC, PODS, Setup};

/// Sessions of each pod.
const PER_POD: u32 = 128;
/// Port blocks of an address that are counted on.
const BLOCKS: u32 = 800;
/// Payload that makes an Ethernet frame of 64 bytes, its checksum of 4 bytes included.
const PAYLOAD: [u8; 18] = [7; 18];
/// Don't fragment, as hosts send UDP.
const DF: u16 = 0x4000;

/// Sessions by number.
#[derive(Debug)]
pub struct Sessions {
    /// The gateway that has them.
    pub gateway: Gateway,
    /// How the outside sees the pod of each.
    publics: Vec<(u32, u16)>,
    fragment: u16,
}

fn pod(n: u32) -> Party {
    let addr = (u32::from(PODS) << 24) + 0x10000 + n / PER_POD;
    (Ipv4Addr::from(addr), 20_000 + (n % PER_POD) as u16)
}

fn server(n: u32) -> Party {
    (Ipv4Addr::new(192, 0, 2, 1 + (n % 200) as u8), 4433)
}

impl Sessions {
    /// A gateway with `count` sessions through which packets have passed both ways, and `frames` frames.
    pub fn open(count: u32, frames: usize, dont_fragment: bool) -> Result<Self> {
        let addresses = count.div_ceil(PER_POD).div_ceil(BLOCKS) + 1;
        let gateway = Gateway::new(&Setup {
            workers: 1,
            sessions: count as usize,
            frames,
            addresses: u16::try_from(addresses).context("too many sessions for the addresses")?,
            pool: PoolSettings::default(),
            forwards: Forwards::default(),
            answers: Answers::default(),
            mtu: [1500; 2],
            tunnel: false,
        })?;
        let fragment = if dont_fragment { DF } else { 0 };
        let mut all = Self { gateway, publics: Vec::with_capacity(count as usize), fragment };
        let mut next = 0;
        while next < count {
            let end = count.min(next + frames as u32);
            all.open_some(next..end)?;
            next = end;
        }
        Ok(all)
    }

    fn open_some(&mut self, numbers: std::ops::Range<u32>) -> Result<()> {
        for way in [Way::Out, Way::In] {
            for n in numbers.clone() {
                ensure!(self.inject(way, n), "no free frame");
            }
            let sent = self.gateway.settle();
            ensure!(sent.len() == numbers.len(), "a session was refused: {:?}", self.ends());
            if way == Way::Out {
                self.publics.extend(sent.iter().map(|(_, frame)| public_of(frame)));
            }
        }
        Ok(())
    }

    /// How packets ended, those ends that there are.
    pub fn ends(&self) -> Vec<(&'static str, u64)> {
        self.gateway.ends().into_iter().filter(|end| end.1 > 0).collect()
    }

    /// Lets a packet of session `n` arrive.
    pub fn inject(&mut self, way: Way, n: u32) -> bool {
        let (interface, frame) = self.packet(way, n);
        self.gateway.inject(interface, &frame)
    }

    /// A packet of session `n`, and where it arrives.
    pub fn packet(&self, way: Way, n: u32) -> (InterfaceId, Vec<u8>) {
        let (interface, packet) = match way {
            Way::Out => (INSIDE, udp(pod(n), server(n), &PAYLOAD)),
            Way::In => {
                let (addr, port) = self.publics[n as usize];
                (OUTSIDE, udp(server(n), (addr.into(), port), &PAYLOAD))
            }
        };
        let packet = crate::frame::Ip { fragment: self.fragment, ..packet };
        (interface, packet.frame(OWN_MAC))
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.publics.len() as u32
    }
}

/// Source address and port of a UDP frame without options.
fn public_of(frame: &[u8]) -> (u32, u16) {
    let addr = u32::from_be_bytes([frame[26], frame[27], frame[28], frame[29]]);
    (addr, u16::from_be_bytes([frame[34], frame[35]]))
}
