//! TCP stories, told segment by segment.
//!
//! A line is `> FLAGS SEQ[:ACK] [+LEN] [w=WINDOW] [s=SCALE]` from the pod or `<` from outside, `= STATE`
//! what must be seen then, `@ SECONDS` the time that passes, `gone` or `live` what must be true then.
//! Sequence numbers count from the sender's first one, acknowledgements from the other side's.

use super::*;

/// Near the end of the numbers, so that every story wraps.
const ISN: [u32; 2] = [0xffff_fffa, 0x7fff_fff0];

struct Story {
    nat: Nat,
    flow: FlowKey,
    reply: FlowKey,
    now: Timestamp,
}

impl Story {
    /// A story that begins with the pod's SYN, window 1000 without scale.
    fn new(settings: PoolSettings) -> Self {
        Self::opened_by(settings, "S 0 w=1000")
    }

    fn opened_by(settings: PoolSettings, syn: &str) -> Self {
        let (mut nat, _) = nat_with(settings, 1, 10);
        let flow = key(Protocol::Tcp, (pod(1), 5000), remote(1, 80));
        nat.open(&flow, POOL, Some(&segment(syn, true)), secs(0)).unwrap();
        let reply = reply_to(&nat, &flow);
        Self { nat, flow, reply, now: secs(0) }
    }

    fn tell(&mut self, text: &str) -> &mut Self {
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            self.line(line);
        }
        self
    }

    fn line(&mut self, line: &str) {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match verb {
            ">" => self.pass(&segment(rest, true), true, line),
            "<" => self.pass(&segment(rest, false), false, line),
            "=" => assert_eq!(self.state(), rest, "in {line:?}"),
            "@" => {
                self.now = self.now + Duration::from_secs(rest.parse().unwrap());
                self.nat.expire(self.now, u32::MAX);
            }
            "live" => assert!(self.nat.find(&self.flow).is_some(), "{:?}: gone", self.now),
            "gone" => assert!(self.nat.find(&self.flow).is_none(), "{:?}: live", self.now),
            other => panic!("no verb {other:?}"),
        }
    }

    fn pass(&mut self, segment: &Segment, outbound: bool, line: &str) {
        let key = if outbound { &self.flow } else { &self.reply };
        // RFC 5382 REQ-2: no segment of a live session is refused.
        let slot = self.nat.find(key).unwrap_or_else(|| panic!("no session for {line:?}"));
        self.nat.commit(slot, self.now, 40, Some(segment));
    }

    fn state(&self) -> &'static str {
        all_sessions(&self.nat, self.now).first().map_or("gone", |view| view.state.name())
    }

    fn expires_in(&self) -> u32 {
        all_sessions(&self.nat, self.now)[0].expires_in_ms
    }
}

fn segment(text: &str, outbound: bool) -> Segment {
    let (own, other) = if outbound { (ISN[0], ISN[1]) } else { (ISN[1], ISN[0]) };
    let mut words = text.split_whitespace();
    let flags = words.next().unwrap().chars().map(|flag| match flag {
        'S' => TcpFlags::SYN,
        'A' => TcpFlags::ACK,
        'F' => TcpFlags::FIN,
        'R' => TcpFlags::RST,
        'P' => 0x08,
        'U' => 0x20,
        '-' => 0,
        other => panic!("no flag {other}"),
    });
    let mut segment = Segment { window: 1000, ..Segment::bare(flags.sum()) };
    let number = |text: &str, base: u32| {
        // `!` stands before a number that does not count from anything.
        let relative = text.strip_prefix('!').map(|n| n.parse::<u32>().unwrap());
        relative.unwrap_or_else(|| base.wrapping_add(text.parse::<i64>().unwrap() as u32))
    };
    for word in words {
        if let Some(len) = word.strip_prefix('+') {
            segment.len = len.parse().unwrap();
        } else if let Some(window) = word.strip_prefix("w=") {
            segment.window = window.parse().unwrap();
        } else if let Some(scale) = word.strip_prefix("s=") {
            segment.window_scale = Some(scale.parse().unwrap());
        } else {
            let (seq, ack) = word.split_once(':').unwrap_or((word, "0"));
            (segment.seq, segment.ack) = (number(seq, own), number(ack, other));
        }
    }
    segment
}

fn hd() -> Story {
    Story::new(PoolSettings::high_density())
}

const OPEN: &str = "< SA 0:1
    > A 1:1
    = established";

const CLOSED: &str = "< SA 0:1
    > A 1:1
    > FA 1:1
    < FA 1:2
    > A 2:2
    = time-wait";

// Proves: 5382-REQ-2, 7857-S2
#[test]
fn req_5382_2_the_states_of_a_connection_from_inside() {
    hd().tell("= syn-sent").tell("< SA 0:1").tell("= syn-received").tell("> A 1:1").tell(
        "= established
        < FA 1:1
        = fin-external
        > A 1:2
        = fin-external
        > A 1:2 +500
        < A 2:501
        > FA 501:2
        = closing
        < A 2:502
        = time-wait",
    );
}

// Proves: 5382-REQ-2a
#[test]
fn req_5382_2a_simultaneous_open_in_both_orders() {
    hd().tell(
        "< S 0
        = syn-received
        > SA 0:1
        = syn-received
        < SA 0:1
        = established
        < A 1:1 +100
        > A 1:101",
    );
    hd().tell(
        "< S 0
        < SA 0:1
        = syn-received
        > SA 0:1
        = established",
    );
    // Some stacks answer the crossing SYN by an ACK alone.
    hd().tell(
        "< S 0
        > A 1:1
        = syn-received
        < A 1:1
        = established",
    );
}

// Proves: 5382-REQ-2
// Museum: C7
#[test]
fn museum_7_a_syn_reopens_what_is_over_from_either_side() {
    let mut story = hd();
    let public = story.nat.rewrite(story.nat.find(&story.flow).unwrap()).src;
    story.tell(CLOSED).tell(
        "> S 90000
        = syn-sent
        < SA 70000:90001
        > A 90001:70001
        = established
        > A 90001:70001 +100
        < R 70001:0
        = reset",
    );
    assert_eq!(story.nat.rewrite(story.nat.find(&story.flow).unwrap()).src, public);
    story.tell(
        "< S 100000
        = syn-external
        > SA 120000:100001
        = syn-received
        < A 100001:120001
        = established
        < A 100001:120001 +100
        > R 120001:0
        = reset",
    );
    hd().tell(CLOSED)
        .tell("< S 90000")
        .tell("= syn-external")
        .tell("> RA !0:90001")
        .tell("= reset");
}

// Proves: 5382-REQ-2
#[test]
fn req_5382_2_a_pod_that_has_forgotten_opens_anew() {
    // The server has forgotten as well: it answers by a SYN-ACK.
    hd().tell(OPEN).tell(
        "> S 50000 w=500 s=2
        = established
        < SA 60000:50001 s=3
        = syn-received
        > A 50001:60001
        = established
        < R 1:0
        = established
        < R 60001:0
        = reset",
    );
    // The server has not: challenge ACK, reset, SYN again.
    hd().tell(OPEN).tell(
        "> S 50000
        < A 1:1
        > R 1:0
        = reset
        > S 50000
        = syn-sent
        < SA 60000:50001
        > A 50001:60001
        = established",
    );
}

// Proves: 5382-REQ-2
#[test]
fn req_5382_2_what_real_stacks_do() {
    // Keep-alives, zero-window probes, urgent data, copies of SYN and SYN-ACK.
    hd().tell(
        "> S 0
        < SA 0:1
        < SA 0:1
        = syn-received
        > A 1:1
        > S 0
        < SA 0:1
        = established
        > A 0:1 +1
        < A 1:1
        < A 0:1
        > A 1:1 w=0
        < A 1:1 +1
        > A 1:1 w=0
        < PAU 1:1 +1
        > A 1:2 w=1000
        = established
        < R 2:0
        = reset",
    );
    // Data on the SYN, acknowledged and not (RFC 7413).
    for (ack, next) in [(1, 1), (301, 301)] {
        let mut story = Story::opened_by(PoolSettings::high_density(), "S 0 +300");
        story.tell(&format!("< SA 0:{ack}\n = syn-received\n > A {next}:1\n = established"));
    }
    // A refusal counts the data.
    let mut story = Story::opened_by(PoolSettings::high_density(), "S 0 +300");
    story.tell("< RA !0:301").tell("= reset");
    // A window that shrinks takes back nothing that may be on its way.
    hd().tell(OPEN).tell("> A 1:101 w=10").tell("< R 1001:0").tell("= reset");
}

#[test]
fn scaled_windows_count_only_if_both_sides_offer() {
    let at = |syn: &str, answer: &str, seq: u32| {
        let mut story = Story::opened_by(PoolSettings::high_density(), syn);
        story.tell(&format!("< SA 0:1 {answer}\n> A 1:1 w=1000\n< R {seq}:0"));
        story.state()
    };
    assert_eq!(at("S 0 s=7", "s=2", 1 + 1000 * 128), "reset");
    assert_eq!(at("S 0 s=7", "s=2", 1 + 1000 * 128 + 3), "established");
    assert_eq!(at("S 0 s=7", "", 1 + 1000 + 3), "established");
    assert_eq!(at("S 0", "s=7", 1 + 1000 + 3), "established");
    assert_eq!(at("S 0", "s=7", 1 + 1000), "reset");
}

// Proves: 5382-S9a, 7857-S2.2c
// Museum: C4, C5
#[test]
fn museum_5_what_lies_outside_the_window_changes_nothing() {
    for line in
        ["< R 1004:0", "< R 0:0", "< FA 2000:1", "< S 77777", "< SA 7777:1", "< SA 7777:8888"]
    {
        let mut story = hd();
        story.tell(OPEN).tell("@ 100");
        let before = story.expires_in();
        story.tell(line).tell("= established");
        assert_eq!(story.expires_in(), before, "{line} renews the timer");
    }
    for line in ["< R 1:0", "< RA !0:2", "< RA 5:0", "< SA 0:2", "< SA 0:0", "< A 1:1", "< FA 5:1"]
    {
        hd().tell(line).tell("= syn-sent").tell(OPEN);
    }
    for line in ["< R 1004:0", "< S 9999 w=1", "< SA 9999:77", "< A 1:5000", "< FA 9999:5000"] {
        hd().tell("< SA 0:1")
            .tell(line)
            .tell("= syn-received")
            .tell("> A 1:1")
            .tell("= established");
    }
}

#[test]
fn a_forged_syn_does_not_spoil_a_handshake() {
    hd().tell("< S 5000 w=1").tell(OPEN).tell("< R 5001:0").tell("= established");
    hd().tell("< S 5000").tell("> SA 0:5001").tell(OPEN);
    // A pod that opens anew, and a stranger in between.
    hd().tell(OPEN).tell(
        "> S 50000
        < S 777 w=9
        < SA 60000:50001
        = syn-received
        > A 50001:60001
        < R 60001:0
        = reset",
    );
    let mut story = hd();
    story.tell(CLOSED).tell("@ 59").tell(
        "< S 90000
        < S 12345 w=9
        > SA 50000:90001
        < A 90001:50001
        = established",
    );
}

// Proves: 7857-S2.2a, 7857-S2.2b
#[test]
fn req_7857_2_2b_a_reset_shortens_the_timer_and_what_follows_revives() {
    // Lost between the gateway and the pod, which goes on sending.
    let mut story = hd();
    story.tell(OPEN).tell("< R 1:0").tell("= reset").tell("@ 59").tell("live");
    story.tell("> A 1:1 +100").tell("= established").tell("@ 7439").tell("live");
    // A half-closed connection comes back as half-closed.
    hd().tell(OPEN)
        .tell("> FA 1:1")
        .tell("< R 1:0")
        .tell("= reset")
        .tell("> A 2:1")
        .tell("= fin-internal");
    // Nothing follows.
    hd().tell(OPEN).tell("< R 1:0").tell("@ 59").tell("live").tell("@ 2").tell("gone");
    let strict = || Story::new(PoolSettings::rfc4787());
    strict().tell(OPEN).tell("< R 1:0").tell("@ 239").tell("live").tell("@ 2").tell("gone");
    strict().tell(OPEN).tell("> R 1:0").tell("@ 239").tell("live").tell("@ 2").tell("gone");
    // From outside only who knows the connection revives it.
    hd().tell(OPEN)
        .tell("> R 1:0")
        .tell("< A 9:5000 +1")
        .tell("= reset")
        .tell("< A 1:1 +10")
        .tell("= established");
}

// Museum: C6
#[test]
fn museum_6_a_reset_with_unacknowledged_data_before_it_counts() {
    hd().tell(OPEN)
        .tell("< A 1:1 +400")
        .tell("< R 401:0")
        .tell("= reset")
        .tell("@ 61")
        .tell("gone");
}

// Museum: C8
// Proves: 5382-S5a
#[test]
fn museum_8_a_challenge_ack_is_not_the_last_ack() {
    hd().tell(OPEN).tell(
        "> FA 1:1
        < FA 1:1
        = closing
        < A 2:1
        > A 2:1
        = closing
        > A 2:2
        = closing
        < A 2:2
        = time-wait",
    );
    // The last ACK is lost behind the gateway: the FIN comes again and is answered.
    hd().tell(CLOSED)
        .tell("@ 59")
        .tell("< FA 1:2")
        .tell("> A 2:2")
        .tell("@ 59")
        .tell("live")
        .tell("= time-wait");
}

// Proves: 6888-REQ-8a
// Museum: C9
#[test]
fn museum_9_a_closed_tuple_rests_as_long_as_others_are_free() {
    let settings = PoolSettings { quota: quota(1, 65_536), ..tiny_settings() };
    let mut story = Story::new(settings);
    story.tell(CLOSED).tell("@ 10");
    let taken = story.reply.dst;
    for port in 0..63 {
        let flow = key(Protocol::Tcp, (pod(1), 6000 + port), remote(1, 80));
        let slot = story.nat.open(&flow, POOL, Some(&segment("S 0", true)), story.now);
        if port < 9 {
            assert_ne!(story.nat.rewrite(slot.unwrap()).src, taken, "the server is in TIME_WAIT");
        }
    }
}

// Proves: 5382-REQ-5.1, 5382-REQ-5.2
#[test]
fn req_5382_5_2_established_and_half_closed_live_7440_s() {
    for half in ["= established", "> FA 1:1\n = fin-internal", "< FA 1:1\n = fin-external"] {
        hd().tell(OPEN)
            .tell(half)
            .tell("@ 7439")
            .tell("live")
            .tell("> A 2:1")
            .tell("@ 7439")
            .tell("live");
        hd().tell(OPEN).tell(half).tell("@ 7441").tell("gone");
    }
}

// Proves: 5382-REQ-5.3, 7857-S2.1c
#[test]
fn req_5382_5_3_opening_and_closing_live_240_s() {
    let strict = || Story::new(PoolSettings::rfc4787());
    for opening in ["= syn-sent", "< S 0\n= syn-received", "< SA 0:1\n= syn-received"] {
        strict().tell(opening).tell("@ 239").tell("live");
        strict().tell(opening).tell("@ 241").tell("gone");
    }
    for closing in ["> FA 1:1\n< FA 1:1\n= closing", "< FA 1:1\n> FA 1:2\n= closing"] {
        for settings in [PoolSettings::rfc4787(), PoolSettings::high_density()] {
            Story::new(settings.clone()).tell(OPEN).tell(closing).tell("@ 239").tell("live");
            Story::new(settings).tell(OPEN).tell(closing).tell("@ 241").tell("gone");
        }
    }
    strict().tell(CLOSED).tell("@ 239").tell("live");
    strict().tell(CLOSED).tell("@ 241").tell("gone");
}

// Proves: 7857-S2.1b
#[test]
fn req_7857_2_1b_high_density_opens_in_60_s() {
    hd().tell("@ 59").tell("live");
    hd().tell("@ 61").tell("gone");
}

type Set = fn(&mut crate::Timers, Duration);

// Proves: 5382-REQ-5a, 7857-S2.1a
#[test]
fn req_7857_2_1a_every_timer_is_set_alone() {
    let closing = "< SA 0:1\n> A 1:1\n> FA 1:1\n< FA 1:1\n= closing";
    let stories = ["= syn-sent", OPEN, closing, CLOSED, "< SA 0:1\n> A 1:1\n< R 1:0\n= reset"];
    let set: [Set; 5] = [
        |t, d| t.tcp_opening = d,
        |t, d| t.tcp_established = d,
        |t, d| t.tcp_closing = d,
        |t, d| t.tcp_time_wait = d,
        |t, d| t.tcp_reset = d,
    ];
    for (changed, set) in set.iter().enumerate() {
        for (told, story) in stories.iter().enumerate() {
            let mut settings = PoolSettings::rfc4787();
            set(&mut settings.timers, Duration::from_secs(7));
            let mut it = Story::new(settings);
            it.tell(story).tell("@ 6").tell("live").tell("@ 2");
            it.tell(if changed == told { "gone" } else { "live" });
        }
    }
}

// Proves: 5382-REQ-5a
#[test]
fn a_change_of_a_timer_reaches_live_sessions() {
    let with = |established| {
        let mut settings = PoolSettings::high_density();
        settings.timers.tcp_established = Duration::from_secs(established);
        Arc::new(Pool::new(PoolId(0), "p", settings, [Ipv4Addr::new(203, 0, 113, 10)]))
    };
    let mut story = hd();
    story.tell(OPEN);
    story.nat.adopt(&[with(20_000)]);
    story.tell("@ 19999").tell("live").tell("@ 2").tell("gone");
    // Shorter: at the next expiry check, which is due when the old time is over at the latest.
    let mut story = hd();
    story.tell(OPEN).tell("@ 50");
    story.nat.adopt(&[with(70)]);
    story.tell("@ 11").tell("live").tell("@ 10").tell("gone");
}

// Proves: 7857-S7.1a
#[test]
fn a_reset_from_inside_renews_nothing_twice() {
    let mut story = hd();
    story.tell(OPEN).tell("> R 1:0").tell("@ 40").tell("> R 1:0").tell("@ 21").tell("gone");
    let mut story = hd();
    story
        .tell(OPEN)
        .tell("@ 7000")
        .tell("> R 5000:0")
        .tell("= established")
        .tell("@ 441")
        .tell("gone");
}

// Proves: 5382-S5b
#[test]
fn s_5382_5b_both_ends_are_told_with_the_numbers_that_they_expect() {
    let mut story = hd();
    story
        .tell(OPEN)
        .tell("> A 1:1 +500")
        .tell("< A 1:501 +30")
        .tell("> A 501:31")
        .tell("@ 7441")
        .tell("gone");
    let told = story.nat.take_obituary().expect("an obituary");
    assert_eq!((told.internal.src, told.internal.dst), (story.flow.dst, story.flow.src));
    assert_eq!((told.external.src, told.external.dst), (story.reply.dst, story.flow.dst));
    let (pod_next, remote_next) = (ISN[1].wrapping_add(31), ISN[0].wrapping_add(501));
    assert_eq!((told.internal.seq, told.internal.ack), (pod_next, remote_next));
    assert_eq!((told.external.seq, told.external.ack), (remote_next, pod_next));
    assert_eq!(story.nat.take_obituary(), None);
    for quiet in ["= syn-sent", "< SA 0:1", CLOSED, "< SA 0:1\n> A 1:1\n< R 1:0"] {
        let mut story = hd();
        story.tell(quiet).tell("@ 7441").tell("gone");
        assert_eq!(story.nat.take_obituary(), None, "{quiet}");
    }
    let mut silent = Story::new(PoolSettings::rfc4787());
    silent.tell(OPEN).tell("@ 7441").tell("gone");
    assert_eq!(silent.nat.take_obituary(), None);
}

#[test]
fn obituaries_are_bounded_and_the_rest_is_counted() {
    let (mut nat, _) = nat_with(PoolSettings::high_density(), 1, 3_000);
    for port in 0..1_500 {
        let flow = key(Protocol::Tcp, (pod(1), 1 + port), remote(1, 80));
        let out = nat.open(&flow, POOL, Some(&segment("S 0", true)), secs(0)).unwrap();
        let back = nat.find(&reply_to(&nat, &flow)).unwrap();
        nat.commit(back, secs(0), 40, Some(&segment("SA 0:1", false)));
        nat.commit(out, secs(0), 40, Some(&segment("A 1:1", true)));
    }
    nat.expire(secs(7_442), u32::MAX);
    assert_eq!(std::iter::from_fn(|| nat.take_obituary()).count(), 1_024);
    assert_eq!(nat.stats().unannounced, 1_500 - 1_024);
}
