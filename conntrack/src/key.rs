//! How is a flow key stored, compared and hashed?

use std::net::Ipv4Addr;

use ahash::RandomState;

use crate::endpoint::{Endpoint, FlowKey, Protocol, Realm};
use crate::session::Slot;

/// A [`FlowKey`] in 16 bytes: two words to compare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub(crate) struct PackedKey {
    addresses: u64,
    rest: u64,
}

/// The side that packets come from, and the overlay there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Side(u32);

impl Side {
    /// Of a [`FlowKey`] with these.
    pub const fn new(realm: Realm, overlay: u16) -> Self {
        Self((overlay as u32) << 16 | realm as u32)
    }
}

impl From<&FlowKey> for PackedKey {
    fn from(key: &FlowKey) -> Self {
        let addresses =
            u64::from(u32::from(key.src.addr)) << 32 | u64::from(u32::from(key.dst.addr));
        let ports = u32::from(key.src.port) << 16 | u32::from(key.dst.port);
        Self::from_words(addresses, ports, key.protocol, Side::new(key.realm, key.overlay))
    }
}

impl PackedKey {
    #[inline]
    fn from_words(addresses: u64, ports: u32, protocol: Protocol, Side(side): Side) -> Self {
        let rest = u64::from(ports) << 32 | u64::from(protocol.number()) << 8 | u64::from(side);
        Self { addresses, rest }
    }

    pub(crate) fn src(self) -> Endpoint {
        Endpoint::new(Ipv4Addr::from((self.addresses >> 32) as u32), (self.rest >> 48) as u16)
    }

    pub(crate) fn dst(self) -> Endpoint {
        Endpoint::new(Ipv4Addr::from(self.addresses as u32), (self.rest >> 32) as u16)
    }

    pub(crate) fn overlay(self) -> u16 {
        (self.rest >> 16) as u16
    }

    pub(crate) fn is_from_inside(self) -> bool {
        self.rest as u8 == Realm::Internal as u8
    }

    pub(crate) fn protocol(self) -> Protocol {
        Protocol::from_number((self.rest >> 8) as u8)
    }

    pub(crate) fn unpack(self) -> FlowKey {
        let realm = if self.is_from_inside() { Realm::Internal } else { Realm::External };
        let (src, dst, protocol) = (self.src(), self.dst(), self.protocol());
        FlowKey { src, dst, protocol, realm, overlay: self.overlay() }
    }
}

/// A flow key and its hash: computed once for all the stages that a packet goes through. All workers
/// share the secret, so it stays good when the packet is handed over.
#[derive(Clone, Copy, Debug, Default)]
pub struct HashedKey {
    pub(crate) key: PackedKey,
    pub(crate) hash: u64,
    /// The slot that it probably has, once somebody has looked; a number that no slot has before. In between, its
    /// index line.
    pub(crate) probable: u32,
}

impl HashedKey {
    /// Whether somebody has looked for its session and found what is probably it.
    #[inline]
    pub fn is_probable(&self) -> bool {
        self.probable != u32::MAX
    }

    /// Whether a packet with it may open a session from inside: nobody has found one that is probably its own.
    #[inline]
    pub fn may_open(&self) -> bool {
        !self.is_probable() && self.key.is_from_inside() && self.key != PackedKey::default()
    }

    /// The same, where its session is known.
    #[must_use]
    pub fn with_slot(self, slot: Slot) -> Self {
        Self { probable: slot.0, ..self }
    }

    /// The overlay that its packets come from ([`FlowKey::overlay`]).
    pub fn overlay(&self) -> u16 {
        self.key.overlay()
    }

    /// The subscriber's own port, and what tells its flow from those that have other ends but for that.
    #[inline]
    pub fn split_own_port(&self) -> (u16, [u64; 2]) {
        let PackedKey { addresses, rest } = self.key;
        let shift = if self.key.is_from_inside() { 48 } else { 32 };
        ((rest >> shift) as u16, [addresses, rest & !(0xffff << shift)])
    }

    /// A number that is the same for all packets of the flow, and that nobody else can foresee.
    pub fn flow(&self) -> u64 {
        self.hash
    }
}

/// The secret of this start: whoever does not know it can't choose keys that collide, nor guess ports.
#[derive(Clone, Debug)]
pub struct Secret(RandomState);

impl Secret {
    /// A fresh random secret.
    pub fn random() -> Self {
        Self::from_seeds(Self::random_seeds())
    }

    /// What a fresh secret is made of: whoever has them has the secret.
    pub fn random_seeds() -> [u64; 4] {
        std::array::from_fn(|n| RandomState::new().hash_one(n))
    }

    /// The secret that these make: the same as that of the process that has them as well.
    pub fn from_seeds([a, b, c, d]: [u64; 4]) -> Self {
        Self(RandomState::with_seeds(a, b, c, d))
    }

    /// A secret made from `seed`, for tests that must repeat.
    pub fn from_seed(seed: u64) -> Self {
        Self(RandomState::with_seeds(seed, !seed, seed.rotate_left(32), 0x9e37_79b9_7f4a_7c15))
    }

    /// Packs and hashes a flow key.
    #[inline]
    pub fn hash_key(&self, key: &FlowKey) -> HashedKey {
        let key = PackedKey::from(key);
        HashedKey { key, hash: self.hash(key), probable: u32::MAX }
    }

    /// The same, from the words of a header: source and destination address, source and destination port, each
    /// pair read as one number in network order; and the side and overlay that it came from.
    #[inline]
    pub fn hash_words(
        &self,
        addresses: u64,
        ports: u32,
        protocol: Protocol,
        side: Side,
    ) -> HashedKey {
        let key = PackedKey::from_words(addresses, ports, protocol, side);
        HashedKey { key, hash: self.hash(key), probable: u32::MAX }
    }

    #[inline]
    pub(crate) fn hash(&self, key: PackedKey) -> u64 {
        self.0.hash_one((key.addresses, key.rest))
    }

    /// A number for a flow key and what else is said that only the holder of the secret can foresee.
    pub(crate) fn scramble_key(&self, key: &FlowKey, also: (u64, u64)) -> u64 {
        let PackedKey { addresses, rest } = PackedKey::from(key);
        self.0.hash_one((addresses, rest, also))
    }

    /// A number that only the holder of the secret can foresee.
    pub fn scramble(&self, value: impl std::hash::Hash) -> u64 {
        self.0.hash_one(value)
    }

    /// The worker where the subscriber with this internal address lives, in any overlay.
    #[inline]
    pub fn home(&self, subscriber: Ipv4Addr, workers: u16) -> u16 {
        self.worker_for(u32::from(subscriber), workers)
    }

    /// One of `workers`, always the same for equal values; nobody else can foresee which.
    pub fn worker_for(&self, value: impl std::hash::Hash, workers: u16) -> u16 {
        // Multiply-shift maps the hash to 0..workers without a division.
        let hash = self.scramble(value) >> 32;
        ((hash * u64::from(workers)) >> 32) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_keeps_everything() {
        let key = FlowKey {
            src: Endpoint::new(Ipv4Addr::new(10, 1, 2, 3), 65_535),
            dst: Endpoint::new(Ipv4Addr::new(192, 0, 2, 1), 443),
            protocol: Protocol::Tcp,
            realm: Realm::External,
            overlay: 0,
        };
        let packed = PackedKey::from(&key);
        assert_eq!(packed.src(), key.src);
        assert_eq!(packed.dst(), key.dst);
        assert_eq!(packed.unpack(), key);
        let mirrored = FlowKey { realm: Realm::Internal, ..key };
        assert_ne!(packed, PackedKey::from(&mirrored));
        let elsewhere = PackedKey::from(&FlowKey { overlay: 0xabcd, ..key });
        assert_ne!(packed, elsewhere);
        assert_eq!((packed.overlay(), elsewhere.overlay()), (0, 0xabcd));
        assert_eq!((elsewhere.protocol(), elsewhere.dst()), (key.protocol, key.dst));
    }

    #[test]
    fn flows_of_a_subscriber_to_one_end_differ_in_its_port_only() {
        let secret = Secret::from_seed(7);
        let pod = |port| Endpoint::new(Ipv4Addr::new(10, 1, 2, 3), port);
        let server = |port| Endpoint::new(Ipv4Addr::new(192, 0, 2, 1), port);
        let words = |src, dst, realm| {
            let key = FlowKey { src, dst, protocol: Protocol::Udp, realm, overlay: 1 };
            secret.hash_key(&key).split_own_port()
        };
        let (there, back) = (Realm::Internal, Realm::External);
        let (port, rest) = words(pod(1), server(53), there);
        assert_eq!((port, words(pod(2), server(53), there)), (1, (2, rest)));
        assert_ne!(words(pod(1), server(54), there).1, rest);
        let (port, rest) = words(server(53), pod(1), back);
        assert_eq!((port, words(server(53), pod(2), back)), (1, (2, rest)));
        assert_ne!(words(server(54), pod(1), back).1, rest);
        assert_ne!(words(pod(1), pod(1), there).1, words(pod(1), pod(1), back).1);
    }

    #[test]
    fn homes_are_spread_evenly() {
        let secret = Secret::from_seed(7);
        let mut counts = [0u32; 6];
        for i in 0..60_000u32 {
            counts[secret.home(Ipv4Addr::from(0x0af4_0000 + i), 6) as usize] += 1;
        }
        assert!(counts.iter().all(|&n| (9_500..10_500).contains(&n)), "{counts:?}");
    }
}
