//! Which port of a block is free? A bitmap for each protocol, and a draw by rank.

use crate::address::PortClass;
use crate::directory::BlockNumber;
use crate::endpoint::Protocol;
use crate::time::Timestamp;

/// Which ports a draw may give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parity {
    /// Any.
    Any,
    /// Even ones.
    Even,
    /// Odd ones.
    Odd,
}

impl Parity {
    /// The parity of `port`.
    pub(crate) const fn of(port: u16) -> Self {
        if port & 1 == 0 { Self::Even } else { Self::Odd }
    }

    /// Whether `port` is one that the draw may give.
    pub(crate) const fn admits(self, port: u16) -> bool {
        self.mask() >> (port & 1) & 1 == 1
    }

    /// Blocks are aligned, so that a number in a bitmap is as odd as its port.
    const fn mask(self) -> u64 {
        match self {
            Self::Any => u64::MAX,
            Self::Even => 0x5555_5555_5555_5555,
            Self::Odd => 0xaaaa_aaaa_aaaa_aaaa,
        }
    }
}

/// One bit for each of some numbers; without a detour for blocks of the usual size.
#[derive(Clone, Debug)]
enum Bits {
    One(u64),
    Many(Box<[u64]>),
}

impl Bits {
    /// Bits 0 to `len - 1`, all `set` or none.
    fn new(len: u16, set: bool) -> Self {
        let full = if set { u64::MAX } else { 0 };
        let rest = u32::from(len) % 64;
        let last = if rest == 0 { full } else { full & ((1 << rest) - 1) };
        match usize::from(len).div_ceil(64) {
            0 | 1 => Self::One(last),
            words => {
                let mut words = vec![full; words].into_boxed_slice();
                words[usize::from(len - 1) / 64] = last;
                Self::Many(words)
            }
        }
    }

    fn words(&self) -> &[u64] {
        match self {
            Self::One(word) => std::slice::from_ref(word),
            Self::Many(words) => words,
        }
    }

    fn has(&self, number: u16) -> bool {
        self.words()[usize::from(number) / 64] >> (number % 64) & 1 == 1
    }

    fn set(&mut self, number: u16, value: bool) {
        let words = match self {
            Self::One(word) => std::slice::from_mut(word),
            Self::Many(words) => words,
        };
        let word = &mut words[usize::from(number) / 64];
        *word = *word & !(1 << (number % 64)) | u64::from(value) << (number % 64);
    }

    /// Bytes beside the value itself.
    fn bytes(&self) -> usize {
        match self {
            Self::One(_) => 0,
            Self::Many(words) => size_of_val(&**words),
        }
    }
}

/// Numbers 0 to `len - 1`, each free or taken.
#[derive(Clone, Debug)]
struct Bitmap {
    /// Bit set: the number is free.
    bits: Bits,
    /// How many even and odd numbers are free.
    free: [u16; 2],
}

impl Bitmap {
    fn new(len: u16) -> Self {
        Self { bits: Bits::new(len, true), free: [len.div_ceil(2), len / 2] }
    }

    fn count(&self, parity: Parity) -> u16 {
        match parity {
            Parity::Any => self.free[0] + self.free[1],
            Parity::Even => self.free[0],
            Parity::Odd => self.free[1],
        }
    }

    /// A free number, each with the same chance however few there are: the one of random rank.
    ///
    /// RFC 6056 section 5: a random start and a search from there on would favour what comes after taken
    /// or excluded numbers.
    fn draw(&self, parity: Parity, random: u64) -> Option<u16> {
        let free = self.count(parity);
        // Multiply-shift maps the number to 0..free without a division.
        let mut rank = ((u128::from(random) * u128::from(free)) >> 64) as u32;
        for (word, &bits) in self.bits.words().iter().enumerate() {
            let bits = bits & parity.mask();
            let count = bits.count_ones();
            if rank < count {
                return Some((word as u32 * 64 + nth_one(bits, rank)) as u16);
            }
            rank -= count;
        }
        None
    }

    fn is_free(&self, number: u16) -> bool {
        self.bits.has(number)
    }

    fn take(&mut self, number: u16) {
        if self.is_free(number) {
            self.bits.set(number, false);
            self.free[usize::from(number & 1)] -= 1;
        }
    }

    fn give_back(&mut self, number: u16) {
        if !self.is_free(number) {
            self.bits.set(number, true);
            self.free[usize::from(number & 1)] += 1;
        }
    }
}

/// The place of the set bit that `rank` others come before; `rank` is less than their number.
fn nth_one(bits: u64, rank: u32) -> u32 {
    /// The lowest, and the highest bit of every byte.
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = LOW << 7;
    let pairs = bits - (bits >> 1 & 0x5555_5555_5555_5555);
    let fours = (pairs & 0x3333_3333_3333_3333) + (pairs >> 2 & 0x3333_3333_3333_3333);
    // In each byte the ones up to its end, and then whether these are too few: so many bytes come before.
    let ones = ((fours + (fours >> 4)) & 0x0f0f_0f0f_0f0f_0f0f).wrapping_mul(LOW);
    let before = (((u64::from(rank) * LOW) | HIGH) - ones) & HIGH;
    let place = (before >> 7).wrapping_mul(LOW) >> 56 << 3;
    let mut byte = bits >> place;
    for _ in (ones << 8) >> place & 0xff..u64::from(rank) {
        byte &= byte - 1;
    }
    place as u32 + byte.trailing_zeros()
}

/// What became of a port when a session ended on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Returned {
    /// Other sessions use it, or it is not the block's to give.
    InUse,
    /// It may be drawn again at once.
    Free,
    /// It rests until then.
    Rests(Timestamp),
}

/// Sessions on ports beyond the first one of each: most ports have one session, some have as many as a table has.
#[derive(Clone, Debug)]
enum Shared {
    Few(Vec<(u16, u32)>),
    All(Box<[u32]>),
}

/// Ports that several sessions use, before they are counted for all ports.
const FEW: usize = 8;

impl Shared {
    /// The count of `number`, if it was ever more than nothing.
    fn get(&mut self, number: u16) -> Option<&mut u32> {
        match self {
            Self::All(all) => all.get_mut(usize::from(number)),
            Self::Few(few) => few.iter_mut().find(|(at, _)| *at == number).map(|(_, count)| count),
        }
    }

    fn add(&mut self, number: u16, len: u16) {
        if let Some(count) = self.get(number) {
            *count += 1;
            return;
        }
        if let Self::Few(few) = self {
            if let Some(over) = few.iter_mut().find(|(_, count)| *count == 0) {
                *over = (number, 1);
            } else if few.len() < FEW {
                few.push((number, 1));
            } else {
                let mut all = vec![0; usize::from(len)].into_boxed_slice();
                for &(at, count) in few.iter() {
                    all[usize::from(at)] = count;
                }
                all[usize::from(number)] = 1;
                *self = Self::All(all);
            }
        }
    }
}

/// The ports of a block in one protocol.
#[derive(Clone, Debug)]
struct Ports {
    /// Those that may be drawn.
    unused: Bitmap,
    /// Those on which there is a session.
    used: Bits,
    shared: Option<Box<Shared>>,
    /// Until which second a port rests once nobody uses it; empty where ports don't rest.
    rest_until: Box<[u32]>,
    len: u16,
}

impl Ports {
    fn new(len: u16, rests: bool, never: Option<&Bits>) -> Self {
        let mut unused = Bitmap::new(len);
        if let Some(never) = never {
            (0..len).filter(|&number| never.has(number)).for_each(|number| unused.take(number));
        }
        let rest_until = vec![0; if rests { len.into() } else { 0 }].into_boxed_slice();
        Self { unused, used: Bits::new(len, false), shared: None, rest_until, len }
    }

    /// Counts one more session on `number`; true if it is the first one.
    fn use_one(&mut self, number: u16) -> bool {
        let first = !self.used.has(number);
        if first {
            self.used.set(number, true);
            self.unused.take(number);
        } else {
            let shared = self.shared.get_or_insert_with(|| Box::new(Shared::Few(Vec::new())));
            shared.add(number, self.len);
        }
        first
    }

    /// Counts one session less on `number`; true if it was the last one.
    fn leave_one(&mut self, number: u16) -> bool {
        debug_assert!(self.used.has(number), "a port was returned twice");
        match self.shared.as_mut().and_then(|shared| shared.get(number)) {
            Some(more) if *more > 0 => {
                *more -= 1;
                false
            }
            _ => {
                self.used.set(number, false);
                true
            }
        }
    }

    /// Bytes on the heap, without what the allocator adds.
    fn bytes(&self) -> usize {
        let shared = self.shared.as_ref().map_or(0, |shared| {
            size_of::<Shared>()
                + match &**shared {
                    Shared::Few(few) => few.capacity() * size_of::<(u16, u32)>(),
                    Shared::All(all) => size_of_val(&**all),
                }
        });
        let bits = self.unused.bits.bytes() + self.used.bytes();
        size_of::<Self>() + bits + shared + size_of_val(&*self.rest_until)
    }
}

/// A block of ports that one subscriber holds, and how many sessions use each port.
///
/// Protocols are counted apart (RFC 7857 section 5): one port serves TCP, UDP and ICMP sessions at once. A
/// port may serve several sessions of its subscriber towards different remotes.
#[derive(Clone, Debug)]
pub(crate) struct PortBlock {
    /// Index of the public address in the pool.
    pub(crate) address: u16,
    /// The block on that address.
    pub(crate) number: BlockNumber,
    /// The class of its ports.
    pub(crate) class: PortClass,
    rests: bool,
    first_port: u16,
    len: u16,
    sessions: u32,
    resting: u32,
    /// Ports that are never given out, if there are any.
    never: Option<Box<Bits>>,
    /// By protocol, from the first session on.
    ports: [Option<Box<Ports>>; 3],
}

impl PortBlock {
    /// A block of the `len` ports from `first_port` on, without those that `never` names. `rests`: freed
    /// ports may rest.
    pub(crate) fn new(
        (address, number, class): (u16, BlockNumber, PortClass),
        (first_port, len): (u16, u16),
        rests: bool,
        never: impl Fn(u16) -> bool,
    ) -> Self {
        let mut closed = None;
        for number in (0..len).filter(|number| never(first_port + number)) {
            closed.get_or_insert_with(|| Box::new(Bits::new(len, false))).set(number, true);
        }
        Self {
            address,
            number,
            class,
            rests,
            first_port,
            len,
            sessions: 0,
            resting: 0,
            never: closed,
            ports: [None, None, None],
        }
    }

    /// Never gives `port`, which must be in the block, out from now on. Sessions that have it keep it.
    pub(crate) fn reserve(&mut self, port: u16) {
        let (number, len) = (port - self.first_port, self.len);
        if self.is_closed(number) {
            return;
        }
        self.never.get_or_insert_with(|| Box::new(Bits::new(len, false))).set(number, true);
        for ports in self.ports.iter_mut().flatten() {
            // A rest that nobody waits for is over.
            self.resting -= u32::from(!ports.used.has(number) && !ports.unused.is_free(number));
            ports.unused.take(number);
        }
    }

    /// Whether a port is never given out.
    fn is_closed(&self, number: u16) -> bool {
        self.never.as_ref().is_some_and(|never| never.has(number))
    }

    fn of(&self, protocol: Protocol) -> Option<&Ports> {
        self.ports[protocol.index()?].as_deref()
    }

    /// A port that no session of `protocol` uses, drawn by `random`.
    pub(crate) fn unused_port(
        &self,
        protocol: Protocol,
        parity: Parity,
        random: u64,
    ) -> Option<u16> {
        let number = match &self.ports[protocol.index()?] {
            Some(ports) => ports.unused.draw(parity, random),
            None => Ports::new(self.len, false, self.never.as_deref()).unused.draw(parity, random),
        };
        number.map(|number| self.first_port + number)
    }

    /// Whether no session of `protocol` uses `port`, and it may be given out now.
    pub(crate) fn is_unused(&self, protocol: Protocol, port: u16) -> bool {
        if !self.holds(port) || protocol.index().is_none() {
            return false;
        }
        let number = port - self.first_port;
        match self.of(protocol) {
            Some(ports) => ports.unused.is_free(number),
            None => !self.is_closed(number),
        }
    }

    /// Whether a session of `protocol` uses `port`, which must be in the block.
    pub(crate) fn is_used(&self, protocol: Protocol, port: u16) -> bool {
        self.of(protocol).is_some_and(|ports| ports.used.has(port - self.first_port))
    }

    fn is_used_number(&self, protocol: usize, number: u16) -> bool {
        self.ports[protocol].as_ref().is_some_and(|ports| ports.used.has(number))
    }

    /// All ports, from a place that `start` chooses onwards.
    pub(crate) fn ports(&self, start: u64) -> impl Iterator<Item = u16> + use<> {
        let (first, len) = (self.first_port, u64::from(self.len));
        (0..len).map(move |i| first + ((start % len + i) % len) as u16)
    }

    /// Its first port.
    pub(crate) fn first_port(&self) -> u16 {
        self.first_port
    }

    /// Lets `port`, which must be in the block, rest until the second `until`; whether it does: nobody uses it, and ports
    /// of the block rest.
    pub(crate) fn rest_port(&mut self, protocol: Protocol, port: u16, until: Timestamp) -> bool {
        let Some(protocol) = protocol.index().filter(|_| self.rests) else { return false };
        let number = port - self.first_port;
        let (len, never) = (self.len, self.never.as_deref());
        let ports =
            self.ports[protocol].get_or_insert_with(|| Box::new(Ports::new(len, true, never)));
        if !ports.unused.is_free(number) {
            return false;
        }
        ports.unused.take(number);
        ports.rest_until[usize::from(number)] = until.as_secs() as u32;
        self.resting += 1;
        true
    }

    pub(crate) fn holds(&self, port: u16) -> bool {
        port.checked_sub(self.first_port).is_some_and(|number| number < self.len)
    }

    /// Counts one more session on `port`, which must be in the block. True if it is the first one there.
    pub(crate) fn use_port(&mut self, protocol: Protocol, port: u16) -> bool {
        let Some(protocol) = protocol.index() else { return false };
        let number = port - self.first_port;
        self.sessions += 1;
        // What was given out before it was closed may have one more session of its mapping.
        if self.is_closed(number) && !self.is_used_number(protocol, number) {
            return false;
        }
        let (len, rests, never) = (self.len, self.rests, self.never.as_deref());
        let ports =
            self.ports[protocol].get_or_insert_with(|| Box::new(Ports::new(len, rests, never)));
        self.resting -= u32::from(!ports.used.has(number) && !ports.unused.is_free(number));
        ports.use_one(number)
    }

    /// Counts one session less on `port`. Nobody gets the port before `rest_until` if nobody else uses it.
    pub(crate) fn return_port(
        &mut self,
        protocol: Protocol,
        port: u16,
        rest_until: Timestamp,
        now: Timestamp,
    ) -> Returned {
        let Some(protocol) = protocol.index() else { return Returned::InUse };
        let number = port - self.first_port;
        self.sessions = self.sessions.saturating_sub(1);
        let closed = self.is_closed(number);
        let used = self.is_used_number(protocol, number);
        let Some(ports) = self.ports[protocol].as_mut().filter(|_| used) else {
            return Returned::InUse;
        };
        let last = ports.leave_one(number);
        let mut rests = Timestamp::default();
        if let Some(kept) = ports.rest_until.get_mut(usize::from(number)) {
            // Rounded up, so that a rest is never shorter than asked. An earlier session may ask for more.
            if rest_until > now {
                *kept = (*kept).max(rest_until.as_millis().div_ceil(1000) as u32);
            }
            rests = Timestamp::from_millis(u64::from(*kept) * 1000);
        }
        if !last {
            Returned::InUse
        } else if rests > now && !closed {
            self.resting += 1;
            Returned::Rests(rests)
        } else {
            if !closed {
                ports.unused.give_back(number);
            }
            Returned::Free
        }
    }

    /// Ends the rest of `port` that was to last until `until`, unless it was taken meanwhile. True if it
    /// did rest.
    pub(crate) fn wake_port(&mut self, protocol: Protocol, port: u16, until: Timestamp) -> bool {
        let number = port - self.first_port;
        let ports = protocol.index().and_then(|protocol| self.ports[protocol].as_mut());
        let Some(ports) = ports else { return false };
        let Some(kept) = ports.rest_until.get_mut(usize::from(number)) else { return false };
        let same = u64::from(*kept) == until.as_secs();
        if !same
            || self.never.as_ref().is_some_and(|never| never.has(number))
            || ports.used.has(number)
            || ports.unused.is_free(number)
        {
            return false;
        }
        *kept = 0;
        ports.unused.give_back(number);
        self.resting -= 1;
        true
    }

    /// Reads the state of its ports, so that it is near when it is needed.
    pub(crate) fn touch(&self) -> u16 {
        let free = |ports: &Ports| ports.unused.count(Parity::Any);
        self.ports.iter().flatten().map(|ports| free(ports)).sum()
    }

    /// Whether no session uses the block, and none of its ports rests.
    pub(crate) fn is_empty(&self) -> bool {
        self.sessions == 0 && self.resting == 0
    }

    /// Bytes on the heap, without what the allocator adds.
    pub(crate) fn bytes(&self) -> usize {
        let never = self.never.as_ref().map_or(0, |never| size_of::<Bits>() + never.bytes());
        never + self.ports.iter().flatten().map(|ports| ports.bytes()).sum::<usize>()
    }
}

#[cfg(test)]
mod tests;
