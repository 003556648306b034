//! How does a test put its own packets on a link and see what comes back, past the host's kernel?
//!
//! ```text
//!  injector "inside"  10.244.1.21 on c1's link ── node ── gw ── r ── 192.0.2.20 on s1's link "outside"
//! ```
//! The two addresses belong to no kernel, so no kernel answers for them; their neighbours know them
//! by permanent entries.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::socket::{
    self, AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike,
    setsockopt, sockopt,
};
use nix::sys::time::TimeVal;

use crate::craft::Segment;
use crate::oracle::packet::TCP;
use crate::oracle::{Ipv4, Kind, Packet};
use crate::{Namespace, Rig};

/// How long an injector waits for a packet that must come.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// How long it waits for a packet that must not come, where no later event shows it.
pub const SILENCE: Duration = Duration::from_millis(300);
/// The inside injector's address.
pub const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 21);
/// The outside injector's address.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 20);

/// One end of a link, raw.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
    own: [u8; 6],
    peer: [u8; 6],
}

/// An IPv4 packet that came in.
#[derive(Clone, Debug)]
pub struct Received(Vec<u8>);

impl Received {
    /// Its view.
    pub fn ip(&self) -> Ipv4<'_> {
        Ipv4::parse(&self.0).expect("only whole packets are kept")
    }

    /// The whole packet.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Source and destination.
    pub fn endpoints(&self) -> Result<(SocketAddrV4, SocketAddrV4)> {
        self.ip().endpoints().context("a packet without ports")
    }

    /// Its TCP part.
    pub fn segment(&self) -> Result<Segment> {
        let ip = self.ip();
        ensure!(ip.protocol() == TCP && ip.body.len() >= 20, "{ip} is no TCP segment");
        let word = |at: usize| {
            u32::from_be_bytes([ip.body[at], ip.body[at + 1], ip.body[at + 2], ip.body[at + 3]])
        };
        let start = usize::from(ip.body[12] >> 4) * 4;
        Ok(Segment {
            flags: ip.body[13],
            sequence: word(4),
            acknowledgement: word(8),
            data: ip.body[start..].to_vec(),
        })
    }
}

impl Wire {
    /// Opens `interface` of `namespace`; frames go to `peer`.
    pub fn open(namespace: &Namespace, interface: &str, peer: [u8; 6]) -> Result<Self> {
        let own = namespace.mac(interface)?;
        let name = interface.to_owned();
        let socket = namespace.run(move || packet_socket(&name))??;
        Ok(Self { socket, own, peer })
    }

    /// On c1's link, towards the node.
    pub fn inside(rig: &Rig) -> Result<Self> {
        let mac = hex(rig.pods[0].mac("eth0")?);
        rig.node.ip(&format!("neigh replace {INSIDE} lladdr {mac} dev pods nud permanent"))?;
        Self::open(&rig.pods[0], "eth0", rig.node.mac("pods")?)
    }

    /// On s1's link, towards the router.
    pub fn outside(rig: &Rig) -> Result<Self> {
        let mac = hex(rig.s1.mac("eth0")?);
        rig.r.ip(&format!("neigh replace {OUTSIDE} lladdr {mac} dev s1 nud permanent"))?;
        Self::open(&rig.s1, "eth0", rig.r.mac("s1")?)
    }

    /// On the gateway's internal link, from the node: no kernel looks at what is sent.
    pub fn node(rig: &Rig) -> Result<Self> {
        Self::open(&rig.node, "gw0", rig.gateway_macs()[0])
    }

    /// On the gateway's external link, from the router: no kernel looks at what is sent.
    pub fn router(rig: &Rig) -> Result<Self> {
        Self::open(&rig.r, "down", rig.gateway_macs()[1])
    }

    /// On the off-path host's link, towards the router.
    pub fn off_path(rig: &Rig) -> Result<Self> {
        Self::open(&rig.x, "eth0", rig.r.mac("x")?)
    }

    /// Sends one IPv4 packet.
    pub fn send(&self, packet: &[u8]) -> Result<()> {
        self.send_with_trailer(packet, &[])
    }

    /// Sends one IPv4 packet in a frame that is longer, as cards pad short ones.
    pub fn send_with_trailer(&self, packet: &[u8], trailer: &[u8]) -> Result<()> {
        self.send_as(0x0800, &[packet, trailer].concat())
    }

    /// Sends one frame of an Ethernet type.
    pub fn send_as(&self, kind: u16, contents: &[u8]) -> Result<()> {
        let mut frame = [self.peer, self.own].concat();
        frame.extend(kind.to_be_bytes());
        frame.extend(contents);
        let sent = socket::send(self.socket.as_raw_fd(), &frame, MsgFlags::empty())?;
        ensure!(sent == frame.len(), "a frame was cut");
        Ok(())
    }

    /// The first packet from the link within `limit` that `wanted` accepts; others are passed over.
    pub fn receive(
        &self,
        limit: Duration,
        wanted: impl Fn(&Ipv4<'_>) -> bool,
    ) -> Result<Option<Received>> {
        let start = Instant::now();
        let mut frame = vec![0; 70_000];
        while let Some(left) = limit.checked_sub(start.elapsed()) {
            let patience = TimeVal::new(0, (left.as_micros().clamp(1000, 100_000)) as i64);
            setsockopt(&self.socket, sockopt::ReceiveTimeout, &patience)?;
            let length = match socket::recv(self.socket.as_raw_fd(), &mut frame, MsgFlags::empty())
            {
                Ok(length) => length,
                Err(Errno::EAGAIN | Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let packet = Packet::parse(start.elapsed(), &frame[..length]);
            let Kind::Ipv4(ip) = &packet.kind else { continue };
            if packet.source_mac != self.own && wanted(ip) {
                let length = usize::from(ip.header.total_len());
                return Ok(Some(Received(frame[14..14 + length].to_vec())));
            }
        }
        Ok(None)
    }

    /// A packet that must come.
    pub fn expect(&self, what: &str, wanted: impl Fn(&Ipv4<'_>) -> bool) -> Result<Received> {
        self.receive(PATIENCE, wanted)?.with_context(|| format!("{what} did not come"))
    }

    /// A packet that must not come.
    pub fn expect_none(&self, what: &str, wanted: impl Fn(&Ipv4<'_>) -> bool) -> Result<()> {
        match self.receive(SILENCE, wanted)? {
            Some(packet) => bail!("{what} came: {}", packet.ip()),
            None => Ok(()),
        }
    }

    /// Throws away what waits.
    pub fn drain(&self) -> Result<()> {
        let mut frame = [0; 64];
        loop {
            match socket::recv(self.socket.as_raw_fd(), &mut frame, MsgFlags::MSG_DONTWAIT) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// A packet socket of every protocol, bound to one interface.
fn packet_socket(interface: &str) -> Result<OwnedFd> {
    let socket = socket::socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::EthAll,
    )?;
    let address = link_address(interface)?;
    socket::bind(socket.as_raw_fd(), &address)?;
    // Enough for a bulk transfer's worth of packets that nobody asked for.
    setsockopt(&socket, sockopt::RcvBufForce, &(16 << 20))?;
    Ok(socket)
}

fn link_address(interface: &str) -> Result<LinkAddr> {
    nix::ifaddrs::getifaddrs()?
        .filter(|entry| entry.interface_name == interface)
        .filter_map(|entry| entry.address)
        .find_map(|address| address.as_link_addr().copied())
        .filter(|address| address.len() > 0)
        .with_context(|| format!("{interface} has no link address"))
}

/// An Ethernet address as text.
pub fn hex(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
