//! How is a capture file read?

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pcap_file::pcap::PcapReader;

use super::reassembly::Reassembly;
use super::{Kind, Packet};

/// All frames of a capture.
#[derive(Debug, Default)]
pub struct Trace {
    bytes: Vec<u8>,
    frames: Vec<(Duration, std::ops::Range<usize>)>,
}

impl Trace {
    /// Reads a pcap file; a truncated frame is an error.
    pub fn read(file: &Path) -> Result<Self> {
        let open = File::open(file).with_context(|| file.display().to_string())?;
        let mut trace = Self::default();
        let mut reader = PcapReader::new(BufReader::with_capacity(1 << 20, open))?;
        while let Some(frame) = reader.next_packet() {
            let frame = frame?;
            ensure!(frame.orig_len as usize == frame.data.len(), "a truncated frame");
            trace.push(frame.timestamp, &frame.data);
        }
        Ok(trace)
    }

    /// Adds a frame.
    pub fn push(&mut self, time: Duration, frame: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(frame);
        self.frames.push((time, start..self.bytes.len()));
    }

    /// The packets in order of time.
    pub fn packets(&self) -> impl Iterator<Item = Packet<'_>> {
        self.frames.iter().map(|(time, range)| Packet::parse(*time, &self.bytes[range.clone()]))
    }

    /// Puts fragments together: a datagram takes the place of the fragment that completes it, and
    /// fragments of incomplete ones go. Whether there were any.
    pub fn reassemble(&mut self) -> bool {
        // Each sender's own: what enters the gateway is not what leaves it.
        let mut senders = HashMap::<[u8; 6], Reassembly>::new();
        let frames = std::mem::take(&mut self.frames);
        let all = frames.len();
        for (time, range) in frames {
            let packet = Packet::parse(time, &self.bytes[range.clone()]);
            match &packet.kind {
                Kind::Ipv4(ip) if ip.is_fragment() => {
                    let whole = senders.entry(packet.source_mac).or_default().push(ip);
                    if let Some(whole) = whole {
                        let ethernet = self.bytes[range.start..range.start + 14].to_vec();
                        self.push(time, &[ethernet, whole].concat());
                    }
                }
                _ => self.frames.push((time, range)),
            }
        }
        all != self.frames.len()
    }

    /// When its last frame was captured.
    pub fn end(&self) -> Duration {
        self.frames.last().map_or(Duration::ZERO, |(time, _)| *time)
    }

    /// How many frames it has.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether it has no frame.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }
}
