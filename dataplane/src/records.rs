//! How does what happens reach whoever keeps records of it? By a ring for each worker, at the end of a turn.

use conntrack::Record;
use rtrb::Producer;

use crate::io::PacketIo;
use crate::worker::Worker;

impl<I: PacketIo> Worker<I> {
    /// From now on, records go to `ring`. Without one they stay where they are, and only the newest are lost.
    pub fn record_to(&mut self, ring: Producer<Record>) {
        self.records = Some(ring);
    }

    /// Passes on what the ring has room for. The rest waits in the NAT, which counts what it has no room for, and says
    /// where it is missing: a slow reader never holds up a packet.
    #[inline]
    pub(crate) fn pass_records_on(&mut self) {
        if self.nat.has_records() {
            self.fill_ring();
        }
    }

    #[cold]
    fn fill_ring(&mut self) {
        let Some(ring) = &mut self.records else { return };
        for _ in 0..ring.slots() {
            let Some(record) = self.nat.take_record() else { return };
            // There is a slot for it.
            let _ = ring.push(record);
        }
    }
}
