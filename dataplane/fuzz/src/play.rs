//! Lets a story happen, packet by packet, and has every one judged.

use dataplane::interface::InterfaceId;
use std::time::Duration;

use crate::frame::Ip;
use crate::gateway::{Gateway, INSIDE, OUTSIDE, OWN_MAC, Setup};
use crate::oracle::Oracle;
use crate::story::{Damage, Datagram, Pause, Pieces, Step, Story, Whole};

/// Steps of a story that happen at most: long ones teach little more, and slowly.
const STEPS: usize = 64;
/// Members of a crowd, at most.
const CROWD: u8 = 64;
/// Frames that are remembered.
const MEMORY: usize = 32;

/// Plays a story to its end.
pub fn play<S: Into<Step>>(story: Story<S>) {
    let setup = story.knobs.setup();
    let Ok(gateway) = Gateway::new(&setup) else { return };
    let mut stage = Stage {
        gateway,
        setup,
        oracle: Oracle::new(),
        arrived: Vec::new(),
        sent: Vec::new(),
        datagrams: 0,
    };
    for step in story.steps.into_iter().take(STEPS) {
        stage.step(step.into());
    }
    stage.end();
}

/// A gateway, and what has happened to it.
struct Stage {
    gateway: Gateway,
    setup: Setup,
    oracle: Oracle,
    arrived: Vec<(InterfaceId, Vec<u8>)>,
    sent: Vec<(InterfaceId, Vec<u8>)>,
    /// Identifications given out.
    datagrams: u16,
}

/// The frame that is `back` frames before the last one.
fn recent(frames: &[(InterfaceId, Vec<u8>)], back: u8) -> Option<(InterfaceId, Vec<u8>)> {
    let back = usize::from(back) % frames.len().max(1);
    frames.iter().rev().nth(back).cloned()
}

fn remember(frames: &mut Vec<(InterfaceId, Vec<u8>)>, frame: (InterfaceId, Vec<u8>)) {
    if frames.len() == MEMORY {
        frames.remove(0);
    }
    frames.push(frame);
}

impl Stage {
    fn step(&mut self, step: Step) {
        match step {
            Step::Wait(pause) => self.wait(pause),
            Step::Send(datagram) => self.datagram(&datagram),
            Step::Crowd(mut datagram, count) => {
                for _ in 0..count % CROWD {
                    self.datagram(&datagram);
                    datagram.next();
                }
            }
            Step::Reply(reply) => {
                let Some((by, frame)) = recent(&self.sent, reply.to) else { return };
                if let Some(packet) = reply.packet(&frame) {
                    self.send(by, packet);
                }
            }
            Step::Error(report) => {
                let Some((by, frame)) = recent(&self.sent, report.about) else { return };
                if report.changed.is_some() {
                    self.oracle.dirty();
                }
                if let Some(packet) = report.packet(&frame) {
                    self.send(by, packet);
                }
            }
            Step::Pieces(pieces) => self.pieces(&pieces),
            Step::Flood(mut pieces, count) => {
                for _ in 0..count % CROWD {
                    self.pieces(&pieces);
                    pieces.next();
                }
            }
            Step::Damage(damage) => self.damage(damage),
            Step::Bytes(outside, bytes) => {
                self.oracle.dirty();
                self.arrive(if outside { OUTSIDE } else { INSIDE }, &bytes);
            }
        }
    }

    fn wait(&mut self, pause: Pause) {
        let millis = match pause {
            Pause::Moment => 10,
            Pause::Tenths(tenths) => u64::from(tenths) * 100,
            Pause::Minute => 61_000,
            Pause::FiveMinutes => 301_000,
            Pause::TwoHours => 7_441_000,
        };
        self.gateway.now = self.gateway.now + Duration::from_millis(millis);
        self.run(&[]);
    }

    fn datagram(&mut self, datagram: &Datagram) {
        let from = if datagram.is_from_inside() { INSIDE } else { OUTSIDE };
        self.send(from, datagram.packet());
    }

    /// A packet arrives; in fragments, if it is too long for the link.
    fn send(&mut self, from: InterfaceId, mut packet: Ip) {
        self.datagrams = self.datagrams.wrapping_add(1);
        packet.id = self.datagrams;
        let room = (usize::from(self.setup.mtu[from.index()]) - 20 - packet.options.len()) & !7;
        if packet.payload.len() <= room {
            return self.arrive(from, &packet.frame(OWN_MAC));
        }
        for first in (0..packet.payload.len()).step_by(room) {
            self.arrive(from, &packet.part(first, room).frame(OWN_MAC));
        }
    }

    fn pieces(&mut self, pieces: &Pieces) {
        let (from, mut packet) = match &pieces.whole {
            Whole::New(datagram) => {
                (if datagram.is_from_inside() { INSIDE } else { OUTSIDE }, datagram.packet())
            }
            Whole::Reply(reply) => {
                let Some((by, frame)) = recent(&self.sent, reply.to) else { return };
                let Some(packet) = reply.packet(&frame) else { return };
                (by, packet)
            }
        };
        self.datagrams = self.datagrams.wrapping_add(1);
        packet.id = pieces.id.map_or(self.datagrams, |id| 0xff00 | u16::from(id % 4));
        if pieces.id.is_some() || pieces.overlap.is_some() {
            // Different datagrams may mix now, as they do in every receiver.
            self.oracle.dirty();
        }
        let mut parts = cut(&packet, pieces);
        let mut order = pieces.order.iter().copied().chain(std::iter::repeat(0));
        while !parts.is_empty() {
            let next = usize::from(order.next().unwrap_or(0)) % parts.len();
            let frame = parts.remove(next).frame(OWN_MAC);
            if frame.len() <= 14 + usize::from(self.setup.mtu[from.index()]) {
                self.arrive(from, &frame);
            }
            if let Some(pause) = pieces.pause {
                self.wait(pause);
            }
        }
    }

    fn damage(&mut self, damage: Damage) {
        let Some((mut by, mut frame)) = recent(&self.arrived, damage.of) else { return };
        self.oracle.dirty();
        if let Some(byte) = frame.get_mut(usize::from(damage.at) % 600) {
            *byte = damage.value;
        }
        frame.truncate(frame.len() - usize::from(damage.cut).min(frame.len()));
        if damage.fix {
            fix_header(&mut frame);
        }
        if damage.other_side {
            by = if by == INSIDE { OUTSIDE } else { INSIDE };
        }
        self.arrive(by, &frame);
    }

    fn arrive(&mut self, from: InterfaceId, frame: &[u8]) {
        if self.gateway.inject(from, frame) {
            remember(&mut self.arrived, (from, frame.to_vec()));
            self.run(frame);
        }
    }

    fn run(&mut self, arrived: &[u8]) {
        for (by, frame) in self.gateway.settle() {
            self.oracle.judge(&self.setup, by, &frame, arrived);
            remember(&mut self.sent, (by, frame));
        }
    }

    /// Waits until nothing waits any more: then every packet is counted and every frame is free.
    fn end(mut self) {
        for _ in 0..4 {
            self.wait(Pause::Minute);
        }
        if let Err(why) = self.gateway.balance() {
            panic!("{why}");
        }
    }
}

/// The fragments of a packet, in order.
fn cut(packet: &Ip, pieces: &Pieces) -> Vec<Ip> {
    let mut cuts: Vec<usize> =
        pieces.cuts.iter().take(6).map(|&cut| usize::from(cut) * 8).collect();
    cuts.extend([0, packet.payload.len()]);
    cuts.retain(|&cut| cut <= packet.payload.len());
    cuts.sort_unstable();
    cuts.dedup();
    let reaches = |n: usize| pieces.overlap.is_some_and(|piece| usize::from(piece) % 7 == n);
    let parts = cuts
        .windows(2)
        .enumerate()
        .map(|(n, ends)| packet.part(ends[0], ends[1] - ends[0] + if reaches(n) { 8 } else { 0 }));
    let mut parts: Vec<Ip> = parts.collect();
    if let Some(twice) = pieces.twice.filter(|_| !parts.is_empty()) {
        parts.push(parts[usize::from(twice) % parts.len()].clone());
    }
    if let Some(lost) = pieces.lost.filter(|_| !parts.is_empty()) {
        parts.remove(usize::from(lost) % parts.len());
    }
    parts
}

/// Makes the checksum of an IPv4 header right, so that damage gets past the first check.
pub fn fix_header(frame: &mut [u8]) {
    let Some(packet) = frame.get_mut(14..) else { return };
    let len = usize::from(packet.first().copied().unwrap_or(0) & 0xf) * 4;
    let Some(header) = packet.get_mut(..len).filter(|header| header.len() >= 20) else { return };
    header[10..12].fill(0);
    let sum = !dataplane::wire::checksum::fold(dataplane::wire::checksum::sum(header));
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}
