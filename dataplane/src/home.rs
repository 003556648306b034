//! Whose packet is it? The worker where its subscriber lives, found by its ends alone.

use conntrack::Realm;

use crate::drop_reason::DropReason;
use crate::io::PacketIo;
use crate::pipeline::Parsed;
use crate::plain::Ends;
use crate::worker::Worker;

impl<I: PacketIo> Worker<I> {
    /// The worker that owns the packet's subscriber: a hash from inside, one array look-up from outside.
    pub(crate) fn home_of(&self, parsed: &Parsed) -> Result<u16, DropReason> {
        let &Parsed { ref packet, realm, .. } = parsed;
        let (secret, workers) = (self.nat.secret(), self.hand_off.workers());
        if realm == Realm::Internal {
            return Ok(secret.home(packet.own_end(realm).addr, workers));
        }
        // A reply to exempt traffic has no state, so any worker will do.
        let Some(address) = self.snapshot.policy.addresses.get(&packet.dst.addr) else {
            return Ok(self.id);
        };
        let key = packet.flow_key(realm)?;
        if let Some(fixed) = self.snapshot.policy.forwards.owner(key.protocol, key.dst) {
            return Ok(secret.home(fixed.internal.addr, workers));
        }
        let home = address.home_of(key.protocol, key.dst.port, key.src, secret, workers);
        home.ok_or_else(|| packet.no_session())
    }

    /// The same for a plain packet of which no more than its ends is known; `None`: [`home_of`](Self::home_of) must tell.
    #[inline]
    pub(crate) fn home_of_ends(&self, ends: &Ends) -> Option<u16> {
        let &Ends { src, dst, protocol, realm } = ends;
        let (secret, workers) = (self.nat.secret(), self.hand_off.workers());
        if realm == Realm::Internal {
            return Some(secret.home(src.addr, workers));
        }
        let policy = &self.snapshot.policy;
        let address = policy.addresses.get(&dst.addr)?;
        // Sessions that are older than the fixed mapping of their port may live elsewhere than it says.
        if policy.forwards.owner(protocol, dst).is_some() {
            return None;
        }
        address.home_of(protocol, dst.port, src, secret, workers)
    }
}
