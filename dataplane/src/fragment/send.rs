//! Sending a packet that is larger than its next link carries.

use super::split::Pieces;
use crate::drop_reason::DropReason;
use crate::io::PacketIo;
use crate::tunnel::Out;
use crate::wire::{Ipv4, Malformed, ethernet};
use crate::worker::Worker;

impl<I: PacketIo> Worker<I> {
    /// Sends a frame that holds more than the way's MTU behind its Ethernet header, addresses written: in
    /// pieces, all of them or none (RFC 4787 REQ-13a, RFC 5508 7.1.1c). Its DF flag is clear, else it would
    /// have been refused before (RFC 5508 7.1.1a, RFC 6864 4.3b).
    #[cold]
    pub(crate) fn send_oversized(
        &mut self,
        mut frame: I::Frame,
        way: Out,
        flow: u64,
    ) -> Result<(), DropReason> {
        let mut whole = std::mem::take(&mut self.datagram);
        whole.clear();
        whole.extend_from_slice(self.io.bytes(&frame));
        let sent = match Ipv4::new_checked(whole.get(ethernet::HEADER..).unwrap_or_default()) {
            // Only its trailer is too long.
            Ok(ip) if ip.total_len() <= way.mtu => {
                let len = ethernet::HEADER + usize::from(ip.total_len());
                let cut = self.io.resize(&mut frame, len);
                debug_assert!(cut, "a frame has room for less than it holds");
                if self.transmit_by(frame, way, flow) {
                    Ok(())
                } else {
                    Err(DropReason::TransmitFull)
                }
            }
            Ok(_) => self.send_pieces(frame, &whole, way, flow),
            Err(Malformed) => {
                self.io.release(frame);
                Err(DropReason::Malformed)
            }
        };
        self.datagram = whole;
        sent
    }

    /// Sends `whole` in pieces, the first of them in `frame`.
    fn send_pieces(
        &mut self,
        frame: I::Frame,
        whole: &[u8],
        way: Out,
        flow: u64,
    ) -> Result<(), DropReason> {
        let (link, packet) = whole.split_at(ethernet::HEADER);
        let fragment = Ipv4::new_checked(packet).map(|ip| ip.fragment());
        let divisible = fragment.is_ok_and(|fragment| !fragment.dont_fragment());
        let (Ok(pieces), true) = (Pieces::of(packet, way.mtu), divisible) else {
            self.io.release(frame);
            return Err(DropReason::TooBig);
        };
        let pieces: Vec<_> = pieces.collect();
        let frames = self.frames_for(frame, pieces.len()).ok_or(DropReason::NoFrame)?;
        let mut sent = true;
        for (piece, mut frame) in pieces.iter().zip(frames) {
            let written = self.io.resize(&mut frame, ethernet::HEADER + piece.len()) && {
                let bytes = self.io.bytes_mut(&mut frame);
                bytes[..ethernet::HEADER].copy_from_slice(link);
                piece.write(&mut bytes[ethernet::HEADER..]).is_ok()
            };
            if sent && written {
                sent = self.transmit_by(frame, way, flow);
            } else {
                sent = false;
                self.io.release(frame);
            }
        }
        if !sent {
            return Err(DropReason::TransmitFull);
        }
        self.counters().fragments_sent.add(pieces.len() as u64);
        Ok(())
    }

    /// `first` and so many free frames that they are `count`; when there are too few, all are released.
    fn frames_for(&mut self, first: I::Frame, count: usize) -> Option<Vec<I::Frame>> {
        let mut frames = vec![first];
        while frames.len() < count {
            let Some(frame) = self.io.allocate() else {
                for frame in frames {
                    self.io.release(frame);
                }
                return None;
            };
            frames.push(frame);
        }
        Some(frames)
    }
}
