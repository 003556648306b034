//! How does a suite hold flows between the two injectors, and know that a packet was swallowed?
//!
//! Packets that must not come are told from late ones by a *fence*: a datagram sent behind them.
//! One worker takes packets of one queue in order, so what did not come before the fence never comes. A guest's cards have
//! several queues, and the fence may go by another one than what it comes behind: it waits there for a moment.

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use crate::craft::{self, ACK, Ip, SYN, Segment};
use crate::inject::{INSIDE, OUTSIDE, Received, SILENCE};
use crate::oracle::packet::{ECHO_REQUEST, ICMP, TCP, UDP};
use crate::{Rig, Wire};

/// Port of the fences, on both sides.
const FENCE: u16 = 4000;

/// Both injectors.
#[derive(Debug)]
pub struct Lab {
    /// On c1's link.
    pub inside: Wire,
    /// On s1's link.
    pub outside: Wire,
    fence: SocketAddrV4,
    number: Cell<u32>,
    /// How long packets may be under way by other queues.
    settle: Duration,
}

/// A flow that the inside opened.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Protocol number.
    pub protocol: u8,
    /// The inside endpoint.
    pub local: SocketAddrV4,
    /// What stands for it outside.
    pub public: SocketAddrV4,
    /// The outside endpoint; port 0 for ICMP.
    pub remote: SocketAddrV4,
    /// The last packet from inside, as it was sent.
    pub sent: Vec<u8>,
    /// The same packet as it was seen outside.
    pub seen: Vec<u8>,
}

impl Lab {
    /// Opens the wires and the fence's flow.
    pub fn open(rig: &Rig) -> Result<Self> {
        let (inside, outside) = (Wire::inside(rig)?, Wire::outside(rig)?);
        let nowhere = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
        let settle = if rig.gw.guest().is_some() { SILENCE } else { Duration::ZERO };
        let mut lab = Self { inside, outside, fence: nowhere, number: Cell::new(0), settle };
        lab.fence = lab.udp(FENCE, FENCE, b"fence")?.public;
        ensure!(rig.options().pool.holds(*lab.fence.ip()), "{} is not translated", lab.fence);
        Ok(lab)
    }

    /// Opens (or uses) the flow of a datagram from inside port `local` to outside port `remote`.
    pub fn udp(&self, local: u16, remote: u16, payload: &[u8]) -> Result<Flow> {
        let (local, remote) =
            (SocketAddrV4::new(INSIDE, local), SocketAddrV4::new(OUTSIDE, remote));
        self.flow(local, remote, craft::udp(local, remote, payload))
    }

    /// Opens a ping.
    pub fn ping(&self, identifier: u16, data: &[u8]) -> Result<Flow> {
        let local = SocketAddrV4::new(INSIDE, identifier);
        let body = craft::echo_request(identifier, 1, data);
        let packet = Ip::new(INSIDE, OUTSIDE, ICMP).packet(&body);
        self.flow(local, SocketAddrV4::new(OUTSIDE, 0), packet)
    }

    /// Sends one segment from inside and yields the flow that it belongs to.
    pub fn segment(&self, local: u16, remote: u16, segment: &Segment) -> Result<Flow> {
        let (local, remote) =
            (SocketAddrV4::new(INSIDE, local), SocketAddrV4::new(OUTSIDE, remote));
        self.flow(local, remote, craft::tcp(local, remote, segment))
    }

    /// Opens a TCP connection: the inside starts at sequence number 1000, the outside at 5000.
    pub fn connect(&self, local: u16, remote: u16) -> Result<Flow> {
        let syn = Segment { flags: SYN, sequence: 1000, ..Segment::default() };
        let mut flow = self.segment(local, remote, &syn)?;
        let (sequence, acknowledgement) = (5000, 1001);
        let answer = Segment { flags: SYN | ACK, sequence, acknowledgement, data: Vec::new() };
        self.answer(&flow, &answer)?;
        let (sequence, acknowledgement) = (1001, 5001);
        let ack = Segment { flags: ACK, sequence, acknowledgement, data: Vec::new() };
        flow = self.segment(flow.local.port(), flow.remote.port(), &ack)?;
        Ok(flow)
    }

    /// Sends a segment from outside, which must arrive inside as it is.
    pub fn answer(&self, flow: &Flow, segment: &Segment) -> Result<()> {
        self.outside.send(&craft::tcp(flow.remote, flow.public, segment))?;
        let local = flow.local;
        let got = self.inside.expect(&format!("{segment:?}"), |ip| {
            ip.endpoints().is_some_and(|(_, to)| to == local) && ip.protocol() == TCP
        })?;
        ensure!(got.segment()? == *segment, "{:?} came instead of {segment:?}", got.segment()?);
        ensure!(got.endpoints()?.0 == flow.remote, "{} came", got.ip());
        Ok(())
    }

    /// Sends a datagram from outside to the flow's public endpoint, which must arrive inside.
    pub fn datagram_in(&self, flow: &Flow, payload: &[u8]) -> Result<(Vec<u8>, Received)> {
        let sent = craft::udp(flow.remote, flow.public, payload);
        self.outside.send(&sent)?;
        let local = flow.local;
        let got = self.inside.expect("a datagram from outside", |ip| {
            ip.protocol() == UDP && ip.endpoints().is_some_and(|(_, to)| to == local)
        })?;
        ensure!(got.ip().body[8..] == *payload, "another payload came");
        Ok((sent, got))
    }

    fn flow(&self, local: SocketAddrV4, remote: SocketAddrV4, sent: Vec<u8>) -> Result<Flow> {
        let protocol = sent[9];
        // The body of a packet but for port and checksum tells it from others.
        self.inside.send(&sent)?;
        let length = sent.len();
        let got = self.outside.expect("a packet from inside", |ip| {
            let same = ip.protocol() == protocol && usize::from(ip.header.total_len()) == length;
            let to = match protocol {
                ICMP => ip.body.first() == Some(&ECHO_REQUEST),
                _ => ip.word(2) == Some(remote.port()),
            };
            same && to && ip.destination() == *remote.ip()
        })?;
        let (public, _) = got.endpoints()?;
        Ok(Flow { protocol, local, public, remote, sent, seen: got.bytes().to_vec() })
    }

    /// Everything that came inside before a fence that is sent now.
    pub fn came_inside(&self) -> Result<Vec<Received>> {
        let payload = self.next();
        let from = SocketAddrV4::new(OUTSIDE, FENCE);
        self.outside.send(&craft::udp(from, self.fence, &payload))?;
        until(&self.inside, &payload)
    }

    /// Everything that came outside before a fence that is sent now.
    pub fn came_outside(&self) -> Result<Vec<Received>> {
        let payload = self.next();
        let (from, to) = (SocketAddrV4::new(INSIDE, FENCE), SocketAddrV4::new(OUTSIDE, FENCE));
        self.inside.send(&craft::udp(from, to, &payload))?;
        until(&self.outside, &payload)
    }

    /// Nothing came inside.
    pub fn nothing_inside(&self, what: &str) -> Result<()> {
        nothing(&self.came_inside()?, what)
    }

    /// Nothing came outside.
    pub fn nothing_outside(&self, what: &str) -> Result<()> {
        nothing(&self.came_outside()?, what)
    }

    /// Exactly one packet came inside.
    pub fn one_inside(&self, what: &str) -> Result<Received> {
        one(self.came_inside()?, what)
    }

    /// Exactly one packet came outside.
    pub fn one_outside(&self, what: &str) -> Result<Received> {
        one(self.came_outside()?, what)
    }

    fn next(&self) -> Vec<u8> {
        std::thread::sleep(self.settle);
        self.number.set(self.number.get() + 1);
        format!("fence {}", self.number.get()).into_bytes()
    }
}

fn until(wire: &Wire, fence: &[u8]) -> Result<Vec<Received>> {
    let mut before = Vec::new();
    loop {
        let packet = wire.expect("the fence", |_| true)?;
        if packet.ip().protocol() == UDP && packet.ip().body.get(8..) == Some(fence) {
            return Ok(before);
        }
        before.push(packet);
    }
}

fn nothing(came: &[Received], what: &str) -> Result<()> {
    match came.first() {
        Some(packet) => bail!("{what}: {} came", packet.ip()),
        None => Ok(()),
    }
}

fn one(mut came: Vec<Received>, what: &str) -> Result<Received> {
    match came.len() {
        0 => bail!("{what}: nothing came"),
        1 => Ok(came.remove(0)),
        number => bail!("{what}: {number} packets came: {} and {}", came[0].ip(), came[1].ip()),
    }
}
