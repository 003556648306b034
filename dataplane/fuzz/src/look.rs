//! What does a frame say? Read word by word, with nothing of the code under test.

use std::fmt;
use std::net::Ipv4Addr;

/// An IPv4 packet in a frame.
#[derive(Clone, Copy)]
pub struct Look<'a> {
    /// The IP header, options included.
    pub header: &'a [u8],
    /// What follows it; less than the header says if it is a quote.
    pub payload: &'a [u8],
}

/// The word at `at`, 0 behind the end.
fn word(bytes: &[u8], at: usize) -> u16 {
    let byte = |at| bytes.get(at).copied().unwrap_or(0);
    u16::from_be_bytes([byte(at), byte(at + 1)])
}

/// The one's-complement sum, word by word.
fn sum(start: u32, bytes: &[u8]) -> u32 {
    let words = (0..bytes.len()).step_by(2).map(|at| u32::from(word(bytes, at)));
    words.fold(start, |sum, word| {
        let sum = sum + word;
        (sum & 0xffff) + (sum >> 16)
    })
}

impl<'a> Look<'a> {
    /// The packet in `frame`; `None` if it is not IPv4 or its lengths contradict each other.
    pub fn at(frame: &'a [u8]) -> Option<Self> {
        if frame.len() < 14 || word(frame, 12) != 0x0800 {
            return None;
        }
        let look = Self::at_packet(&frame[14..])?;
        let missing = usize::from(word(look.header, 2)) != look.header.len() + look.payload.len();
        (!missing).then_some(look)
    }

    /// The packet that `bytes` begin with; they may end early.
    pub fn at_packet(bytes: &'a [u8]) -> Option<Self> {
        let first = *bytes.first()?;
        let header = usize::from(first & 0xf) * 4;
        if first >> 4 != 4 || header < 20 || bytes.len() < header {
            return None;
        }
        let total = usize::from(word(bytes, 2));
        let end = total.min(bytes.len());
        (total >= header).then(|| Self { header: &bytes[..header], payload: &bytes[header..end] })
    }

    fn addr(&self, at: usize) -> Ipv4Addr {
        Ipv4Addr::new(
            self.header[at],
            self.header[at + 1],
            self.header[at + 2],
            self.header[at + 3],
        )
    }

    /// Source address.
    pub fn src(&self) -> Ipv4Addr {
        self.addr(12)
    }

    /// Destination address.
    pub fn dst(&self) -> Ipv4Addr {
        self.addr(16)
    }

    /// Protocol number.
    pub fn protocol(&self) -> u8 {
        self.header[9]
    }

    /// Identification.
    pub fn id(&self) -> u16 {
        word(self.header, 4)
    }

    /// Whether it is a part of a datagram.
    pub fn is_fragment(&self) -> bool {
        word(self.header, 6) & 0x3fff != 0
    }

    /// Offset of the part in bytes, and whether more follow.
    pub fn part(&self) -> (usize, bool) {
        let field = word(self.header, 6);
        (usize::from(field & 0x1fff) * 8, field & 0x2000 != 0)
    }

    /// Source and destination port, or twice the identifier of an ICMP query.
    pub fn ports(&self) -> (u16, u16) {
        if self.protocol() == 1 {
            (word(self.payload, 4), word(self.payload, 4))
        } else {
            (word(self.payload, 0), word(self.payload, 2))
        }
    }

    /// Whether the header checksum is right.
    pub fn header_is_right(&self) -> bool {
        sum(0, self.header) == 0xffff
    }

    /// Whether the checksum of a whole TCP, UDP or ICMP packet is right, or was not computed; `None` for
    /// other packets.
    pub fn payload_is_right(&self) -> Option<bool> {
        if self.is_fragment() {
            return None;
        }
        self.sum_is_right(self.payload)
    }

    /// The same, for a datagram whose fragments were put together.
    pub fn sum_is_right(&self, payload: &[u8]) -> Option<bool> {
        let pseudo = |bytes: &[u8]| {
            let len = u32::from(self.protocol()) + bytes.len() as u32;
            sum(sum(len, &self.header[12..20]), bytes) == 0xffff
        };
        match self.protocol() {
            1 if payload.len() >= 8 => Some(sum(0, payload) == 0xffff),
            6 if payload.len() >= 20 => Some(pseudo(payload)),
            17 if payload.len() >= 8 && usize::from(word(payload, 4)) == payload.len() => {
                Some(word(payload, 6) == 0 || pseudo(payload))
            }
            _ => None,
        }
    }

    /// What TCP or UDP carries.
    pub fn data(&self) -> Option<&'a [u8]> {
        match self.protocol() {
            6 => self.payload.get(usize::from(*self.payload.get(12)? >> 4) * 4..),
            17 => self.payload.get(8..),
            _ => None,
        }
    }

    /// Whether it is an ICMP error.
    pub fn is_error(&self) -> bool {
        let kind = self.payload.first().copied().unwrap_or(0);
        self.protocol() == 1 && self.part().0 == 0 && matches!(kind, 3 | 4 | 5 | 11 | 12)
    }

    /// The packet that an ICMP error quotes.
    pub fn quote(&self) -> Option<Self> {
        self.is_error().then(|| Self::at_packet(self.payload.get(8..)?)).flatten()
    }
}

impl fmt::Debug for Look<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (offset, more) = self.part();
        let more = if more { "+" } else { "" };
        write!(f, "{} > {} protocol {}", self.src(), self.dst(), self.protocol())?;
        write!(f, " id {} at {offset}{more} {:02x?}", self.id(), self.header)?;
        write!(f, " {:02x?}", &self.payload[..self.payload.len().min(64)])
    }
}
