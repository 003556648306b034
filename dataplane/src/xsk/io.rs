//! Packet I/O of one worker over its AF_XDP sockets.

mod relay;
mod sync {
    pub(super) use crossbeam::queue::ArrayQueue;

    pub(super) use crate::waker::Waker;
}

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use xsk_rs::FrameDesc;

use self::relay::Due;
pub(super) use self::relay::Relays;
use super::frame::{Audit, Frame, Memory, Outgoing, Place};
use super::port::Port;
use crate::interface::InterfaceId;
use crate::io::{BURST, IoStats, PacketIo, Received};
use crate::waker::Waker;

/// How long a worker sleeps while the kernel has not taken all frames that it should send.
const UNSENT_NAP: Duration = Duration::from_millis(1);

/// By which way frames leave through an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// A socket of this worker, by index.
    Own(usize),
    /// The interface has fewer queues than there are workers: another worker sends for this one.
    Relay(usize),
}

/// What all workers share.
pub(super) struct Shared {
    pub(super) memory: Memory,
    pub(super) relays: Relays<(InterfaceId, Outgoing)>,
}

/// One worker's sockets. Made by [`open`](super::open).
pub struct XskIo {
    shared: Arc<Shared>,
    worker: usize,
    ports: Vec<Port>,
    /// By interface.
    ways: Vec<Option<Way>>,
    free: Vec<FrameDesc>,
    /// Free frames beyond which a batch goes to the pool.
    most_free: usize,
    /// Where the next `receive` begins, so that no queue is served last for ever.
    turn: usize,
    /// To be woken with the next flush.
    due: Due,
    /// Tokens given out, less those taken back (other workers' included).
    in_hand: i64,
    transmit_ring_full: u64,
    scratch: [FrameDesc; BURST],
}

impl XskIo {
    pub(super) fn new(
        shared: Arc<Shared>,
        worker: usize,
        ports: Vec<Port>,
        ways: Vec<Option<Way>>,
        free: Vec<FrameDesc>,
        most_free: usize,
    ) -> Self {
        let scratch = [FrameDesc::default(); BURST];
        let mut io = Self {
            shared,
            worker,
            ports,
            ways,
            free,
            most_free,
            turn: 0,
            due: Due::default(),
            in_hand: 0,
            transmit_ring_full: 0,
            scratch,
        };
        io.flush(); // fills the fill rings
        io
    }

    pub(super) fn memory(&self) -> &Memory {
        &self.shared.memory
    }

    /// Adds this worker's frames; returns its balance of tokens.
    pub(super) fn add_to(&self, audit: &mut Audit) -> i64 {
        audit.free += self.free.len();
        audit.receiving += self.ports.iter().map(Port::receiving).sum::<usize>();
        audit.transmitting += self.ports.iter().map(Port::transmitting).sum::<usize>();
        audit.relayed += self.shared.relays.waiting(self.worker);
        self.in_hand
    }

    fn put_back(&mut self, frame: Frame) {
        let desc = self.shared.memory.take_back(frame);
        self.in_hand -= 1;
        self.free.push(desc);
    }

    /// Takes over what other workers want transmitted.
    fn serve_relay(&mut self) {
        let Shared { memory, relays } = &*self.shared;
        while let Some((interface, Outgoing { frame, packet })) = relays.take(self.worker) {
            let way = self.ways.get(interface.index()).copied().flatten();
            if let Some(Way::Own(port)) = way
                && self.ports[port].has_room()
            {
                memory.moved(&frame, Place::Relay, Place::Transmitting);
                self.ports[port].stage(packet);
            } else {
                memory.moved(&frame, Place::Relay, Place::Free);
                self.free.push(frame);
                self.transmit_ring_full += 1;
            }
        }
    }

    fn transmit_own(&mut self, port: usize, frame: Frame) -> bool {
        let memory = &self.shared.memory;
        let port = &mut self.ports[port];
        if !port.has_room() {
            port.collect(memory, &mut self.free);
        }
        if !port.has_room() {
            self.transmit_ring_full += 1;
            self.put_back(frame);
            return false;
        }
        port.stage(memory.give_up(frame, Place::Transmitting).packet);
        self.in_hand -= 1;
        true
    }

    fn transmit_relayed(&mut self, interface: InterfaceId, worker: usize, frame: Frame) -> bool {
        let memory = &self.shared.memory;
        let outgoing = memory.give_up(frame, Place::Relay);
        self.in_hand -= 1;
        let given = self.shared.relays.give(worker, (interface, outgoing), &mut self.due);
        if let Err((_, back)) = given {
            memory.moved(&back.frame, Place::Relay, Place::Free);
            self.free.push(back.frame);
            self.transmit_ring_full += 1;
            return false;
        }
        true
    }
}

impl PacketIo for XskIo {
    type Frame = Frame;

    fn receive(&mut self, room: usize, into: &mut Vec<Received<Frame>>) -> usize {
        let mut total = 0;
        for step in 0..self.ports.len() {
            let index = (self.turn + step) % self.ports.len();
            let port = &mut self.ports[index];
            let count = port.receive(&mut self.scratch[..(room - total).min(BURST)]);
            let interface = port.interface;
            let memory = &self.shared.memory;
            into.extend(
                self.scratch[..count]
                    .iter()
                    .map(|desc| Received { frame: memory.receive(*desc), interface }),
            );
            total += count;
            if total == room {
                break;
            }
        }
        self.turn = (self.turn + 1) % self.ports.len().max(1);
        self.in_hand += i64::try_from(total).unwrap_or(i64::MAX);
        total
    }

    fn bytes<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        self.shared.memory.bytes(frame)
    }

    fn bytes_mut<'a>(&'a mut self, frame: &'a mut Frame) -> &'a mut [u8] {
        self.shared.memory.bytes_mut(frame)
    }

    fn resize(&mut self, frame: &mut Frame, len: usize) -> bool {
        self.shared.memory.resize(frame, len)
    }

    fn prepend<const N: usize>(&mut self, frame: &mut Frame, header: &[u8; N]) -> bool {
        self.shared.memory.prepend(frame, header)
    }

    fn strip(&mut self, frame: &mut Frame, len: usize) -> bool {
        self.shared.memory.strip(frame, len)
    }

    fn allocate(&mut self) -> Option<Frame> {
        self.shared.memory.top_up(&mut self.free, 1);
        let desc = self.free.pop()?;
        self.in_hand += 1;
        Some(self.shared.memory.take(desc))
    }

    fn release(&mut self, frame: Frame) {
        self.put_back(frame);
    }

    fn transmit(&mut self, interface: InterfaceId, frame: Frame) -> bool {
        match self.ways.get(interface.index()).copied().flatten() {
            Some(Way::Own(port)) => self.transmit_own(port, frame),
            Some(Way::Relay(worker)) => self.transmit_relayed(interface, worker, frame),
            None => {
                self.put_back(frame);
                false
            }
        }
    }

    fn flush(&mut self) {
        self.serve_relay();
        let Shared { memory, relays } = &*self.shared;
        for port in &mut self.ports {
            port.collect(memory, &mut self.free);
            port.send();
        }
        for port in &mut self.ports {
            port.refill(memory, &mut self.free);
        }
        memory.give_surplus(&mut self.free, self.most_free);
        relays.wake(&mut self.due);
    }

    fn wait(&mut self, timeout: Duration) {
        let unsent = self.ports.iter().any(|port| port.unsent() > 0);
        let timeout = if unsent { timeout.min(UNSENT_NAP) } else { timeout };
        // In whole milliseconds, rounded up: a shorter sleep than asked for would spin.
        let timeout =
            PollTimeout::try_from(timeout.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX);
        let waker = self.shared.relays.waker(self.worker);
        if !waker.may_sleep() {
            return;
        }
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds: Vec<PollFd<'_>> = self.ports.iter().map(|port| readable(port.fd())).collect();
        fds.push(readable(waker.event()));
        // Interrupted by a signal, or out of memory: the worker just looks around early.
        let _ = poll(&mut fds, timeout);
        // An event that can't be told from none is looked for.
        waker.woke(fds.last().and_then(PollFd::any).unwrap_or(true));
    }

    fn waker(&self) -> &Waker {
        self.shared.relays.waker(self.worker)
    }

    fn stats(&self) -> IoStats {
        let mut stats = IoStats {
            transmit_ring_full: self.transmit_ring_full,
            frames_free: self.free.len() as u64,
            ..IoStats::default()
        };
        for port in &self.ports {
            let kernel = port.statistics();
            stats.transmit_wakeups += port.transmit_wakeups;
            stats.receive_wakeups += port.receive_wakeups;
            stats.receive_ring_full += kernel.rx_ring_full();
            stats.fill_ring_empty += kernel.rx_fill_ring_empty_descs();
            stats.receive_dropped += kernel.rx_dropped();
            stats.invalid_descriptors += kernel.rx_invalid_descs() + kernel.tx_invalid_descs();
            stats.frames_in_kernel += (port.receiving() + port.transmitting()) as u64;
        }
        stats
    }
}

impl fmt::Debug for XskIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XskIo")
            .field("worker", &self.worker)
            .field("sockets", &self.ports.len())
            .field("free", &self.free.len())
            .finish_non_exhaustive()
    }
}
