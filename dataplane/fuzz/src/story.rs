//! What may happen: packets of few hosts with few ports, so that they meet, and time that passes.

use arbitrary::Arbitrary;

/// A story: a gateway, and what happens to it.
#[derive(Arbitrary, Clone, Debug)]
pub struct Story<S> {
    /// How the gateway is set up.
    pub knobs: Knobs,
    /// What happens, in order.
    pub steps: Vec<S>,
}

/// How a gateway is set up.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Knobs {
    /// Two workers instead of one.
    pub two_workers: bool,
    /// The MTU outside is 1,280 bytes instead of 1,500.
    pub narrow: bool,
    /// One public address instead of two.
    pub one_address: bool,
    /// The profile of RFC 4787 instead of the dense one.
    pub rfc4787: bool,
    /// How far mappings and filters (TCP, UDP) depend on the remote; 3: as the profile says.
    pub behaviors: [u8; 3],
    /// Single settings, a bit each.
    pub settings: u8,
    /// A port forward and a 1:1 address.
    pub fixed: bool,
    /// How refusals are answered: of exhaustion, of policy, of unmapped ports.
    pub refusals: [u8; 3],
}

/// Something that happens.
#[derive(Arbitrary, Clone, Debug)]
pub enum Step {
    /// Time passes.
    Wait(Pause),
    /// A packet with addresses and ports of its own.
    Send(Datagram),
    /// So many of them, from one pod and port after the other.
    Crowd(Datagram, u8),
    /// A packet that answers one that the gateway sent.
    Reply(Reply),
    /// An ICMP error about a packet that the gateway sent.
    Error(Report),
    /// A datagram in fragments.
    Pieces(Pieces),
    /// So many of them.
    Flood(Pieces, u8),
    /// A packet that arrived before arrives again, changed.
    Damage(Damage),
    /// A frame of any bytes, from outside or inside.
    Bytes(bool, Vec<u8>),
}

/// Happenings around ICMP errors.
#[derive(Arbitrary, Clone, Debug)]
pub enum QuoteStep {
    /// See [`Step::Wait`].
    Wait(Pause),
    /// See [`Step::Send`].
    Send(Datagram),
    /// See [`Step::Crowd`].
    Crowd(Datagram, u8),
    /// See [`Step::Reply`].
    Reply(Reply),
    /// See [`Step::Error`].
    Error(Report),
    /// Once more, so that it happens more often.
    AnotherError(Report),
    /// See [`Step::Damage`].
    Damage(Damage),
}

/// Happenings around fragments.
#[derive(Arbitrary, Clone, Debug)]
pub enum FragmentStep {
    /// See [`Step::Wait`].
    Wait(Pause),
    /// See [`Step::Send`].
    Send(Datagram),
    /// See [`Step::Error`].
    Error(Report),
    /// See [`Step::Pieces`].
    Pieces(Pieces),
    /// See [`Step::Flood`].
    Flood(Pieces, u8),
}

impl From<QuoteStep> for Step {
    fn from(step: QuoteStep) -> Self {
        match step {
            QuoteStep::Wait(it) => Self::Wait(it),
            QuoteStep::Send(it) => Self::Send(it),
            QuoteStep::Crowd(it, count) => Self::Crowd(it, count),
            QuoteStep::Reply(it) => Self::Reply(it),
            QuoteStep::Error(it) | QuoteStep::AnotherError(it) => Self::Error(it),
            QuoteStep::Damage(it) => Self::Damage(it),
        }
    }
}

impl From<FragmentStep> for Step {
    fn from(step: FragmentStep) -> Self {
        match step {
            FragmentStep::Wait(it) => Self::Wait(it),
            FragmentStep::Send(it) => Self::Send(it),
            FragmentStep::Error(it) => Self::Error(it),
            FragmentStep::Pieces(it) => Self::Pieces(it),
            FragmentStep::Flood(it, count) => Self::Flood(it, count),
        }
    }
}

/// How long nothing happens: around the timers.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Pause {
    /// Ten milliseconds.
    Moment,
    /// So many tenths of a second.
    Tenths(u8),
    /// A minute and a bit.
    Minute,
    /// Five minutes and a bit.
    FiveMinutes,
    /// 124 minutes and a bit.
    TwoHours,
}

/// Who talks to whom.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Way {
    /// A pod to a server.
    Out,
    /// A server to a public endpoint.
    In,
    /// A pod to a public endpoint.
    Hairpin,
    /// A server to a pod, without translation.
    Around,
}

/// A packet; every number is taken modulo a small one.
#[derive(Arbitrary, Clone, Debug)]
pub struct Datagram {
    /// Between whom.
    pub way: Way,
    /// Which pod and which of its ports.
    pub pod: (u8, u8),
    /// Which server and which of its ports; one server is exempt.
    pub server: (u8, u8),
    /// Which public address and port.
    pub public: (u8, u8),
    /// What it is.
    pub body: Body,
    /// How much it carries.
    pub len: u16,
    /// Time to live: now and then close to the end.
    pub ttl: u8,
    /// Don't fragment.
    pub dont_fragment: bool,
    /// IP options, by kind; 0: none.
    pub option: u8,
}

impl Datagram {
    /// The same between the next endpoints.
    pub fn next(&mut self) {
        for (host, port) in [&mut self.pod, &mut self.public] {
            *host = host.wrapping_add(1);
            *port = port.wrapping_add(u8::from(*host % 6 == 0));
        }
    }
}

/// What a packet is.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Body {
    /// UDP, perhaps without checksum.
    Udp(bool),
    /// TCP: flags, steps away from the expected sequence and acknowledgement numbers.
    Tcp(u8, i8, i8),
    /// An ICMP query: a request or reply of echo, timestamp, information or address mask.
    Query(u8),
    /// Another protocol.
    Other(u8),
}

/// A packet that answers one that was sent.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Reply {
    /// Which, from the last one backwards.
    pub to: u8,
    /// Flags, if it is TCP.
    pub flags: u8,
    /// How much it carries.
    pub len: u16,
    /// Don't fragment.
    pub dont_fragment: bool,
}

/// An ICMP error about a packet that was sent.
#[derive(Arbitrary, Clone, Debug)]
pub struct Report {
    /// Which packet, from the last one backwards.
    pub about: u8,
    /// Which type.
    pub kind: u8,
    /// Which code.
    pub code: u8,
    /// Second word of the header, beside lengths: MTU, pointer, gateway.
    pub rest: u32,
    /// Who says so: the packet's destination, or a router.
    pub router: u8,
    /// How much of the packet is quoted, in bytes.
    pub quoted: u16,
    /// With an extension of RFC 4884.
    pub extension: bool,
    /// A byte of the quote that is changed.
    pub changed: Option<(u8, u8)>,
}

/// A datagram in fragments.
#[derive(Arbitrary, Clone, Debug)]
pub struct Pieces {
    /// The datagram: a new one, or an answer.
    pub whole: Whole,
    /// Where it is cut, in units of eight bytes.
    pub cuts: Vec<u8>,
    /// In which order the pieces arrive: each byte takes one of those that are left.
    pub order: Vec<u8>,
    /// A piece that arrives twice.
    pub twice: Option<u8>,
    /// A piece that gets lost.
    pub lost: Option<u8>,
    /// A piece that reaches into the next one.
    pub overlap: Option<u8>,
    /// An identification from a small set, instead of one of its own.
    pub id: Option<u8>,
    /// Time between the pieces.
    pub pause: Option<Pause>,
}

impl Pieces {
    /// The same of the next host.
    pub fn next(&mut self) {
        match &mut self.whole {
            Whole::New(datagram) => datagram.next(),
            Whole::Reply(reply) => reply.to = reply.to.wrapping_add(1),
        }
    }
}

/// What is cut.
#[derive(Arbitrary, Clone, Debug)]
pub enum Whole {
    /// A datagram of its own.
    New(Datagram),
    /// An answer.
    Reply(Reply),
}

/// A change of a frame.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Damage {
    /// Which frame that arrived, from the last one backwards.
    pub of: u8,
    /// Which byte of it.
    pub at: u16,
    /// What it becomes.
    pub value: u8,
    /// How many bytes are cut off.
    pub cut: u8,
    /// Make the header checksum right again.
    pub fix: bool,
    /// Arrive from the other side.
    pub other_side: bool,
}
