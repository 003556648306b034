//! TCP by the segment, both ends scripted: no kernel answers, resets or forgets anything
//! (topology: `vm_test::rig`).
//!
//! ```text
//!  inside 10.244.1.21 ─┬─ node ── gw ── r ─┬─ 192.0.2.20 outside
//!   (raw)              │                   ├─ s1 (kernel: echo)
//!  c1 (kernel: echo) ──┘                   └─ x (resets, under the outside's address)
//! ```

use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use vm_test::client::{connect, echo, pattern};
use vm_test::craft::{self, ACK, FIN, PSH, RST, SYN, Segment};
use vm_test::oracle::packet::TCP;
use vm_test::rig::{S1, verified};
use vm_test::{Flow, Lab, Options, Rig, Wire, server, wait};

/// URG, and the two flags of RFC 3168.
const URG_ECE_CWR: u8 = 0xe0;
const HTTP: u16 = 80;

/// A conversation between the two injectors.
struct Talk<'a> {
    rig: &'a Rig,
    lab: &'a Lab,
    flow: Flow,
}

fn segment(flags: u8, sequence: u32, acknowledgement: u32, data: &[u8]) -> Segment {
    Segment { flags, sequence, acknowledgement, data: data.to_vec() }
}

impl<'a> Talk<'a> {
    /// Established: inside at 1001, outside at 5001.
    fn established(rig: &'a Rig, lab: &'a Lab, port: u16) -> Result<Self> {
        Ok(Self { rig, lab, flow: lab.connect(port, HTTP)? })
    }

    /// Only a SYN has passed, which has the inside at 1001.
    fn opening(rig: &'a Rig, lab: &'a Lab, port: u16) -> Result<Self> {
        let flow = lab.segment(port, HTTP, &segment(SYN, 1000, 0, b""))?;
        Ok(Self { rig, lab, flow })
    }

    /// A segment from inside arrives outside as it is, under the same public endpoint.
    fn out(&self, flags: u8, sequence: u32, acknowledgement: u32, data: &[u8]) -> Result<()> {
        let sent = segment(flags, sequence, acknowledgement, data);
        let packet = craft::tcp(self.flow.local, self.flow.remote, &sent);
        self.lab.inside.send(&packet)?;
        let got = self.lab.outside.expect(&format!("{sent:?} from inside"), |ip| {
            ip.protocol() == TCP && ip.word(2) == Some(HTTP)
        })?;
        ensure!(got.segment()? == sent, "{:?} came instead of {sent:?}", got.segment()?);
        let (public, _) = got.endpoints()?;
        ensure!(public == self.flow.public, "{sent:?} came from {public}");
        Ok(())
    }

    /// A segment from outside arrives inside as it is.
    fn back(&self, flags: u8, sequence: u32, acknowledgement: u32, data: &[u8]) -> Result<()> {
        self.lab.answer(&self.flow, &segment(flags, sequence, acknowledgement, data))
    }

    /// Data goes both ways.
    fn both_ways(&self) -> Result<()> {
        self.out(ACK | PSH, 1001, 5001, b"from inside")?;
        self.back(ACK | PSH, 5001, 1012, b"from outside")
    }

    /// The state that natgate shows, and the milliseconds that the session has left.
    fn shown(&self) -> Result<Option<(String, u64)>> {
        let Some(natgate) = &self.rig.natgate else { return Ok(None) };
        let rows = natgate.json(&["sessions"])?;
        let local = self.flow.local.to_string();
        let row = rows.iter().find(|row| row["internal"] == *local && row["protocol"] == "tcp");
        let row = row.with_context(|| format!("no session of {local} in {rows:?}"))?;
        let state = row["state"].as_str().context("no state")?.to_owned();
        Ok(Some((state, row["expires_in_ms"].as_u64().context("no time")?)))
    }

    /// natgate shows `state`; Linux is not asked.
    fn is(&self, state: &str) -> Result<()> {
        match self.shown()? {
            Some((shown, _)) if shown != state => bail!("the state is {shown}, not {state}"),
            _ => Ok(()),
        }
    }
}

/// Handshake, half-close, and everything that a sender may do in between.
fn every_segment(rig: &Rig, lab: &Lab) -> Result<()> {
    let talk = Talk::opening(rig, lab, 2000)?;
    talk.is("syn-sent")?;
    talk.out(SYN, 1000, 0, b"").context("a repeated SYN")?;
    talk.back(SYN | ACK, 5000, 1001, b"")?;
    talk.back(SYN | ACK, 5000, 1001, b"").context("a repeated SYN-ACK")?;
    talk.out(ACK, 1001, 5001, b"")?;
    talk.is("established")?;
    talk.back(SYN | ACK, 5000, 1001, b"").context("a late SYN-ACK")?;
    talk.out(ACK, 1001, 5001, b"")?;
    talk.is("established")?;
    talk.both_ways()?;
    talk.out(ACK, 1011, 5013, b"x").context("a keep-alive")?;
    talk.back(ACK, 5012, 1012, b"").context("a keep-alive from outside")?;
    talk.out(ACK | PSH | URG_ECE_CWR, 1012, 5013, b"urgent")?;
    talk.back(ACK | URG_ECE_CWR, 5013, 1018, b"")?;
    talk.is("established")?;
    talk.out(ACK | FIN, 1018, 5013, b"").context("half-close")?;
    talk.is("fin-internal")?;
    talk.back(ACK, 5013, 1019, b"still talking")?;
    talk.out(ACK, 1019, 5026, b"")?;
    if let Some((_, left)) = talk.shown()? {
        ensure!(left > 7_400_000, "half-closed, it has {left} ms left");
    }
    talk.back(ACK | FIN, 5026, 1019, b"")?;
    talk.is("closing")?;
    talk.out(ACK, 1019, 5027, b"")?;
    talk.is("time-wait")?;
    talk.back(ACK | FIN, 5026, 1019, b"").context("a repeated FIN")?;
    talk.out(ACK, 1019, 5027, b"").context("the last acknowledgement again")
}

/// SYN with data and unusual flags; first packets that open nothing.
fn first_packets(rig: &Rig, lab: &Lab) -> Result<()> {
    let flow = lab.segment(2010, HTTP, &segment(SYN, 1000, 0, b"fast open"))?;
    let talk = Talk { rig, lab, flow };
    talk.back(SYN | ACK, 5000, 1010, b"")?;
    let flow = lab.segment(2011, HTTP, &segment(SYN | 0xc0, 1000, 0, b""))?;
    Talk { rig, lab, flow }.back(SYN | ACK | 0x40, 5000, 1001, b"")?;
    if rig.natgate.is_none() {
        return Ok(());
    }
    for flags in [SYN | FIN, SYN | RST, 0, FIN | PSH | 0x20, 0xff, SYN | ACK, RST] {
        let local = SocketAddrV4::new(vm_test::inject::INSIDE, 2012);
        let remote = SocketAddrV4::new(vm_test::inject::OUTSIDE, HTTP);
        lab.inside.send(&craft::tcp(local, remote, &segment(flags, 1, 1, b"")))?;
        lab.nothing_outside(&format!("first packet with flags {flags:#04x}"))?;
    }
    Ok(())
}

/// Crossing SYNs, then crossing SYN-ACKs.
fn simultaneous_open(rig: &Rig, lab: &Lab) -> Result<()> {
    let talk = Talk::opening(rig, lab, 2020)?;
    talk.back(SYN, 5000, 0, b"").context("the crossing SYN")?;
    talk.out(SYN | ACK, 1000, 5001, b"")?;
    talk.back(SYN | ACK, 5000, 1001, b"")?;
    talk.out(ACK, 1001, 5001, b"")?;
    talk.back(ACK, 5001, 1001, b"")?;
    talk.is("established")?;
    talk.both_ways()
}

/// Both ends close at once.
fn simultaneous_close(rig: &Rig, lab: &Lab) -> Result<()> {
    let talk = Talk::established(rig, lab, 2030)?;
    talk.out(ACK | FIN, 1001, 5001, b"")?;
    talk.back(ACK | FIN, 5001, 1001, b"")?;
    talk.is("closing")?;
    talk.out(ACK, 1002, 5002, b"")?;
    talk.back(ACK, 5002, 1002, b"")?;
    talk.is("time-wait")
}

/// The inside opens again what is in TIME_WAIT, and what was reset: same public endpoint.
fn reopen(rig: &Rig, lab: &Lab) -> Result<()> {
    let talk = Talk::established(rig, lab, 2040)?;
    talk.out(ACK | FIN, 1001, 5001, b"")?;
    talk.back(ACK | FIN, 5001, 1002, b"")?;
    talk.out(ACK, 1002, 5002, b"")?;
    talk.is("time-wait")?;
    talk.out(SYN, 900_000, 0, b"").context("a SYN in TIME_WAIT")?;
    talk.back(SYN | ACK, 700_000, 900_001, b"")?;
    talk.out(ACK, 900_001, 700_001, b"")?;
    talk.is("established")?;
    talk.back(RST | ACK, 700_001, 900_001, b"")?;
    talk.is("reset")?;
    talk.out(SYN, 2_000_000, 0, b"").context("a SYN after a reset")?;
    talk.back(SYN | ACK, 1, 2_000_001, b"")?;
    talk.out(ACK, 2_000_001, 2, b"")?;
    talk.is("established")
}

/// Resets: what is in the window counts, what is outside does not, all of it passes.
fn resets(rig: &Rig, lab: &Lab) -> Result<()> {
    let talk = Talk::established(rig, lab, 2050)?;
    talk.both_ways()?;
    // A challenge (RFC 5961) answers a reset that is in the window but not exact, and revives.
    talk.back(RST, 5500, 0, b"").context("a reset inside the window")?;
    talk.is("reset")?;
    talk.out(ACK, 1012, 5013, b"").context("the challenge")?;
    talk.is("established").context("after the challenge")?;
    talk.both_ways()?;
    for sequence in [0xffff_0000, 1_005_013, 0x8000_0000, 1] {
        for flags in [RST, RST | ACK, FIN | ACK, SYN] {
            let what = || format!("flags {flags:#04x} at {sequence}");
            talk.back(flags, sequence, 1012, b"").with_context(what)?;
            talk.is("established").with_context(what)?;
        }
    }
    if let Some((_, left)) = talk.shown()? {
        ensure!(left > 7_400_000, "{left} ms are left");
    }
    talk.back(RST, 5013, 0, b"").context("the exact reset")?;
    talk.is("reset")?;
    talk.out(ACK | PSH, 1012, 5013, b"the reset was lost on the way")?;
    talk.is("established").context("data after a reset")?;
    talk.out(RST, 1041, 0, b"").context("a reset from inside")?;
    talk.is("reset")
}

/// Sequence numbers that wrap, windows that close.
fn wrap(rig: &Rig, lab: &Lab) -> Result<()> {
    let start = u32::MAX - 5;
    let flow = lab.segment(2060, HTTP, &segment(SYN, start, 0, b""))?;
    let talk = Talk { rig, lab, flow };
    talk.back(SYN | ACK, start, start.wrapping_add(1), b"")?;
    talk.out(ACK, start.wrapping_add(1), start.wrapping_add(1), b"")?;
    talk.out(ACK, start.wrapping_add(1), start.wrapping_add(1), b"over the edge")?;
    talk.back(ACK, start.wrapping_add(1), start.wrapping_add(14), b"over the edge")?;
    talk.back(RST, start.wrapping_add(14), 0, b"")?;
    talk.is("reset")
}

/// x knows the tuple and sweeps resets and FINs over the sequence numbers, under the outside's
/// address.
fn sweep(rig: &Rig, lab: &Lab) -> Result<()> {
    let off_path = Wire::off_path(rig)?;
    let talk = Talk::established(rig, lab, 2070)?;
    talk.both_ways()?;
    for step in 1..200_u32 {
        // Never within a megabyte of the window.
        let sequence = 5013_u32.wrapping_add(step * 20_000_000 + 1_000_000);
        let flags = if step % 2 == 0 { RST } else { FIN | ACK };
        let packet =
            craft::tcp(talk.flow.remote, talk.flow.public, &segment(flags, sequence, 1, b""));
        off_path.send(&packet)?;
    }
    // x's road is another: the last of the sweep must have passed before the state is looked at.
    let last = craft::tcp(talk.flow.remote, talk.flow.public, &segment(RST, 0x7777_7777, 1, b""));
    off_path.send(&last)?;
    if rig.natgate.is_some() {
        lab.inside.expect("the last of the sweep", |ip| {
            ip.tcp_flags() == Some(RST) && ip.word(4) == Some(0x7777)
        })?;
    }
    talk.is("established")?;
    talk.both_ways()
}

/// A real transfer survives a sweep of resets.
fn transfer_survives(rig: &Rig) -> Result<()> {
    let peers = server::tcp_echo(&rig.s1, S1[0], HTTP)?;
    let off_path = Wire::off_path(rig)?;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let transfer = rig.pods[0].spawn(move || -> Result<u64> {
        let mut stream = connect((S1[0], HTTP))?;
        let mut rounds = 0;
        while !stopped.load(Ordering::Relaxed) {
            echo(&mut stream, &pattern(rounds, 20_000))?;
            rounds += 1;
        }
        Ok(rounds)
    })?;
    let public = wait::until("the server to see the pod", Duration::from_secs(15), || {
        Ok(peers.all().first().copied())
    })?;
    let SocketAddr::V4(public) = public else { bail!("{public} is not IPv4") };
    let remote = SocketAddrV4::new(S1[0], HTTP);
    for step in 0..3000_u32 {
        let sequence = step.wrapping_mul(0x9e37_79b9);
        let flags = if step % 2 == 0 { RST } else { RST | ACK };
        off_path.send(&craft::tcp(remote, public, &segment(flags, sequence, step, b"")))?;
    }
    stop.store(true, Ordering::Relaxed);
    let rounds = transfer.join().expect("the transfer panicked")?;
    ensure!(rounds > 0, "nothing was transferred");
    Ok(())
}

/// A SYN from outside that nobody asked for: silence.
fn unsolicited(_: &Rig, lab: &Lab) -> Result<()> {
    let flow = lab.connect(2080, HTTP)?;
    let other = SocketAddrV4::new(*flow.public.ip(), flow.public.port() ^ 0x40);
    for (from, to) in
        [(flow.remote, other), (SocketAddrV4::new(*flow.remote.ip(), 81), flow.public)]
    {
        for flags in [SYN, SYN | ACK, ACK, RST, FIN] {
            lab.outside.send(&craft::tcp(from, to, &segment(flags, 1, 1, b"")))?;
        }
    }
    lab.nothing_inside("an unsolicited segment")?;
    lab.nothing_outside("an answer to an unsolicited segment")
}

fn script(play: fn(&Rig, &Lab) -> Result<()>) {
    verified(Options::default(), |rig| play(rig, &Lab::open(rig)?));
}

// Proves: 5382-REQ-2, 5382-REQ-2a, 5382-S5a, 7857-S2
#[test]
fn every_legal_segment_passes() {
    script(every_segment);
}

// Proves: 5382-REQ-2
#[test]
fn first_packets_open_or_not() {
    script(first_packets);
}

// Proves: 5382-REQ-2a
#[test]
fn both_ends_open_at_once() {
    script(simultaneous_open);
}

// Proves: 5382-REQ-2
#[test]
fn both_ends_close_at_once() {
    script(simultaneous_close);
}

// Proves: 5382-REQ-2, 6888-REQ-8a
// Museum: C7
#[test]
fn closed_connections_are_opened_again() {
    script(reopen);
}

// Proves: 7857-S2.2a, 7857-S2.2b, 7857-S2.2c, 5382-S9a
// Museum: C6, C8
#[test]
fn resets_count_in_the_window_only() {
    // Linux does not pass on what is outside the window.
    verified(Options::natgate(), |rig| resets(rig, &Lab::open(rig)?));
}

// Proves: 5382-REQ-2
#[test]
fn sequence_numbers_wrap() {
    script(wrap);
}

// Proves: 7857-S2.2c, 5382-S9a
// Museum: C4, C5
#[test]
fn a_sweep_of_resets_changes_no_state() {
    // Linux gives what is outside the window to its own stack, which resets the server's end.
    verified(Options::natgate(), |rig| sweep(rig, &Lab::open(rig)?));
}

// Proves: 7857-S2.2c
// Museum: C4, C5
#[test]
fn a_transfer_survives_a_sweep_of_resets() {
    // Linux ends the connection at the first reset that is in the window but not exact.
    verified(Options::natgate(), |rig| transfer_survives(rig));
}

// Proves: 5382-REQ-4a
#[test]
fn unsolicited_segments_are_met_with_silence() {
    // Linux resets them: the pool's addresses are its own there.
    verified(Options::natgate(), |rig| unsolicited(rig, &Lab::open(rig)?));
}

/// The negative control.
#[test]
fn nothing_is_opened_without_translation() {
    let rig = Rig::start(Options::untranslated()).unwrap();
    Lab::open(&rig).unwrap_err();
    transfer_survives(&rig).unwrap_err();
}
