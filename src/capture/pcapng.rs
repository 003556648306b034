//! How does a capture look as a file? pcapng, as far as it is needed: a section, its interfaces, packets with comments.

use std::time::Duration;

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;
/// Options: a comment; the program that wrote; an interface's name and resolution of times; packets that were missed; direction.
const COMMENT: u16 = 1;
const APPLICATION: u16 = 4;
const NAME: u16 = 2;
const RESOLUTION: u16 = 9;
const MISSED: u16 = 5;
const FLAGS: u16 = 2;
/// Ethernet.
const LINK_TYPE: u16 = 1;

/// Which way a packet goes at its interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Way {
    /// It came in.
    In = 1,
    /// It left.
    Out = 2,
}

/// One packet of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet<'a> {
    pub(super) interface: u32,
    /// Since 1970.
    pub(super) at: Duration,
    pub(super) way: Way,
    /// How long it is, of which `bytes` are the first.
    pub(super) len: usize,
    pub(super) bytes: &'a [u8],
    pub(super) comment: &'a str,
}

/// The beginning: the section, and its interfaces by their names.
pub(super) fn begin<'a>(names: impl Iterator<Item = &'a str>, snap: usize) -> Vec<u8> {
    let mut out = Vec::new();
    block(&mut out, SECTION, |body| {
        body.extend(0x1a2b_3c4d_u32.to_le_bytes());
        body.extend([1_u16, 0].map(u16::to_le_bytes).concat());
        body.extend((-1_i64).to_le_bytes());
        let application = concat!("natgate ", env!("CARGO_PKG_VERSION"));
        option(body, APPLICATION, application.as_bytes());
        end_of_options(body);
    });
    for name in names {
        block(&mut out, INTERFACE, |body| {
            body.extend([LINK_TYPE, 0].map(u16::to_le_bytes).concat());
            body.extend((snap as u32).to_le_bytes());
            option(body, NAME, name.as_bytes());
            option(body, RESOLUTION, &[9]);
            end_of_options(body);
        });
    }
    out
}

/// One packet.
pub(super) fn packet(out: &mut Vec<u8>, packet: &Packet<'_>) {
    block(out, PACKET, |body| {
        body.extend(packet.interface.to_le_bytes());
        body.extend(time(packet.at));
        for len in [packet.bytes.len(), packet.len] {
            body.extend((len as u32).to_le_bytes());
        }
        body.extend(packet.bytes);
        pad(body);
        option(body, COMMENT, packet.comment.as_bytes());
        option(body, FLAGS, &(packet.way as u32).to_le_bytes());
        end_of_options(body);
    });
}

/// What a file says at its end if natgate stopped before the capture was over.
const STOPPED: &str = "; natgate stopped";

/// The end: how many packets were missed, and whether natgate stopped.
pub(super) fn end(at: Duration, missed: u64, stopped: bool) -> Vec<u8> {
    let mut out = Vec::new();
    block(&mut out, STATISTICS, |body| {
        body.extend(0_u32.to_le_bytes());
        body.extend(time(at));
        let stopped = if stopped { STOPPED } else { "" };
        let comment = format!("{missed} packets were missed by the capture{stopped}");
        option(body, COMMENT, comment.as_bytes());
        option(body, MISSED, &missed.to_le_bytes());
        end_of_options(body);
    });
    out
}

/// Nanoseconds, the upper half first.
fn time(at: Duration) -> Vec<u8> {
    let nanos = at.as_nanos() as u64;
    [(nanos >> 32) as u32, nanos as u32].map(u32::to_le_bytes).concat()
}

fn block(out: &mut Vec<u8>, kind: u32, write: impl FnOnce(&mut Vec<u8>)) {
    let mut body = Vec::new();
    write(&mut body);
    let len = (body.len() as u32 + 12).to_le_bytes();
    out.extend(kind.to_le_bytes());
    out.extend(len);
    out.extend(body);
    out.extend(len);
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    body.extend(code.to_le_bytes());
    body.extend((value.len() as u16).to_le_bytes());
    body.extend(value);
    pad(body);
}

fn end_of_options(body: &mut Vec<u8>) {
    body.extend([0; 4]);
}

fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}

/// Counts what a file has, from its bytes as they come in pieces.
#[derive(Debug, Default)]
pub(super) struct Counts {
    rest: Vec<u8>,
    /// Packets: in and out count apart.
    pub(super) packets: u64,
    /// Packets that were missed, if the file has its end.
    pub(super) missed: Option<u64>,
    /// natgate stopped before the capture was over.
    pub(super) stopped: bool,
}

impl Counts {
    /// Takes the next bytes.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        self.rest.extend(bytes);
        let word = |bytes: &[u8], at: usize| {
            Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
        };
        while let (Some(kind), Some(len)) = (word(&self.rest, 0), word(&self.rest, 4)) {
            let len = (len as usize).max(12);
            let Some(block) = self.rest.get(..len) else { return };
            match kind {
                PACKET => self.packets += 1,
                STATISTICS => {
                    // The last option, before the end of options and of the block.
                    let value =
                        len.checked_sub(8).and_then(|end| block.get(end.checked_sub(8)?..end));
                    let value = value.and_then(|bytes| bytes.try_into().ok());
                    self.missed = value.map(u64::from_le_bytes);
                    let said = |text: &[u8]| text == STOPPED.as_bytes();
                    self.stopped = block.windows(STOPPED.len()).any(said);
                }
                _ => {}
            }
            self.rest.drain(..len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_counted_however_it_is_cut() {
        [false, true].into_iter().for_each(counted);
    }

    fn counted(stopped: bool) {
        let mut file = begin(["int", "ext"].into_iter(), 64);
        for n in 0..5_usize {
            let bytes = vec![7; n];
            let at = Duration::new(1_700_000_000, 5);
            let (len, comment) = (100, "odd");
            let one = Packet { interface: 1, at, way: Way::In, len, bytes: &bytes, comment };
            packet(&mut file, &one);
        }
        file.extend(end(Duration::ZERO, 42, stopped));
        assert_eq!(file.len() % 4, 0);
        for size in [1, 3, 64, file.len()] {
            let mut counts = Counts::default();
            file.chunks(size).for_each(|piece| counts.take(piece));
            assert_eq!((counts.packets, counts.missed, counts.rest.len()), (5, Some(42), 0));
            assert_eq!(counts.stopped, stopped);
        }
    }
}
