//! Fragments: all orders, duplicates, both directions, floods (topology: `vm_test::rig`).
//!
//! ```text
//!  inside 10.244.1.21 ─┐ (raw)                              ┌─ 192.0.2.20 outside (raw)
//!  inside 10.244.1.22 ─┼─ node ── gw ── r ──────────────────┤
//!  c1 (kernel) ────────┘                                    └─ s1 (kernel: UDP echo, ping)
//! ```

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context, Result, ensure};
use vm_test::client::{echo_datagram, pattern, ping, udp};
use vm_test::craft::{self, Ip, Segment};
use vm_test::inject::{INSIDE, OUTSIDE, Received, hex};
use vm_test::oracle::packet::{TCP, UDP};
use vm_test::oracle::reassembly::Reassembly;
use vm_test::oracle::{Ipv4, checksums};
use vm_test::rig::{S1, verified};
use vm_test::{Flow, Lab, Options, Rig, server};

/// A second address of the inside injector.
const SECOND: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 22);
/// Bytes of a datagram of three fragments.
const LENGTH: usize = 3000;
const CUTS: [usize; 2] = [1000, 2008];
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

/// The datagrams that complete in `packets`.
fn whole(packets: &[Received]) -> Vec<Vec<u8>> {
    let mut reassembly = Reassembly::default();
    packets.iter().filter_map(|packet| reassembly.push(&packet.ip())).collect()
}

/// The one datagram that must complete in `packets`.
fn one(packets: &[Received], what: &str) -> Result<Vec<u8>> {
    let mut whole = whole(packets);
    ensure!(whole.len() == 1, "{what}: {} datagrams in {} packets", whole.len(), packets.len());
    let datagram = whole.remove(0);
    let ip = Ipv4::parse(&datagram).context("no packet")?;
    ensure!(checksums::fault(&ip).is_none(), "{what}: {:?} of {ip}", checksums::fault(&ip));
    Ok(datagram)
}

/// A flow, and a datagram's body of `LENGTH` bytes out and back.
type Bodies = (Flow, Vec<u8>, Vec<u8>);

/// One of each protocol.
fn bodies(lab: &Lab) -> Result<Vec<Bodies>> {
    let data = |seed, header| pattern(seed, LENGTH - header);
    let udp = lab.udp(3000, 7, b"open")?;
    let out = craft::datagram(udp.local, udp.remote, &data(1, 8));
    let back = craft::datagram(udp.remote, udp.public, &data(2, 8));
    let mut flows = vec![(udp, out, back)];
    let ping = lab.ping(3002, b"open")?;
    let out = craft::echo_request(3002, 2, &data(3, 8));
    let [a, b] = ping.public.port().to_be_bytes();
    let back = craft::icmp(0, 0, [a, b, 0, 2], &data(4, 8));
    flows.push((ping, out, back));
    let tcp = lab.connect(3001, 80)?;
    let segment = |sequence, acknowledgement, data| Segment {
        flags: craft::ACK,
        sequence,
        acknowledgement,
        data,
    };
    let out = craft::tcp(tcp.local, tcp.remote, &segment(1001, 5001, data(5, 20)))[20..].to_vec();
    let back = craft::tcp(tcp.remote, tcp.public, &segment(5001, 1001, data(6, 20)))[20..].to_vec();
    flows.push((tcp, out, back));
    Ok(flows)
}

/// What a body is but for the pod's port (or identifier) and the checksum.
fn payload(protocol: u8, body: &[u8]) -> &[u8] {
    match protocol {
        TCP => &body[20..],
        _ => &body[8..],
    }
}

/// Three fragments in every order, to and fro, of every protocol.
fn every_order(rig: &Rig) -> Result<()> {
    let lab = Lab::open(rig)?;
    let mut id = 100;
    for (flow, out, back) in bodies(&lab)? {
        for order in ORDERS {
            id += 1;
            let what = format!("protocol {} in order {order:?}", flow.protocol);
            let ip = Ip { id, ..Ip::new(INSIDE, OUTSIDE, flow.protocol) };
            let parts = ip.fragments(&out, &CUTS);
            order.iter().try_for_each(|part| lab.inside.send(&parts[*part]))?;
            let got = one(&lab.came_outside()?, &format!("{what}, out"))?;
            let seen = Ipv4::parse(&got).context("no packet")?;
            ensure!(
                payload(flow.protocol, seen.body) == payload(flow.protocol, &out),
                "{what}, out"
            );
            ensure!(seen.source() == *flow.public.ip(), "{what}: {seen}");
            let public = seen.endpoints().map(|(source, _)| source);
            ensure!(public == Some(flow.public), "{what}: {public:?} is not {}", flow.public);

            let ip = Ip { id, ..Ip::new(OUTSIDE, *flow.public.ip(), flow.protocol) };
            let parts = ip.fragments(&back, &CUTS);
            order.iter().try_for_each(|part| lab.outside.send(&parts[*part]))?;
            let got = one(&lab.came_inside()?, &format!("{what}, back"))?;
            let seen = Ipv4::parse(&got).context("no packet")?;
            ensure!(
                payload(flow.protocol, seen.body) == payload(flow.protocol, &back),
                "{what}, back"
            );
            ensure!(seen.destination() == INSIDE, "{what}: {seen}");
        }
    }
    Ok(())
}

/// Every fragment twice, and the whole datagram twice.
fn duplicates(rig: &Rig) -> Result<()> {
    let lab = Lab::open(rig)?;
    let (flow, out, back) = bodies(&lab)?.remove(0);
    for (id, order) in [(1, [0, 0, 1, 1, 2, 2]), (2, [2, 2, 1, 0, 1, 0]), (3, [0, 1, 2, 0, 1, 2])] {
        for (source, destination, body) in
            [(INSIDE, OUTSIDE, &out), (OUTSIDE, *flow.public.ip(), &back)]
        {
            let parts = Ip { id, ..Ip::new(source, destination, UDP) }.fragments(body, &CUTS);
            let from_inside = source == INSIDE;
            let wire = if from_inside { &lab.inside } else { &lab.outside };
            order.iter().try_for_each(|part| wire.send(&parts[*part]))?;
            let came = if from_inside { lab.came_outside()? } else { lab.came_inside()? };
            let got = whole(&came);
            ensure!(!got.is_empty() && got.len() <= 2, "{order:?}: {} datagrams", got.len());
            for got in got {
                let seen = Ipv4::parse(&got).context("no packet")?;
                ensure!(
                    checksums::fault(&seen).is_none(),
                    "{order:?}: {:?}",
                    checksums::fault(&seen)
                );
                ensure!(seen.body[8..] == body[8..], "{order:?}: other data");
            }
        }
    }
    Ok(())
}

/// Two pods send fragmented datagrams with one identification to one server, interleaved.
fn equal_identifications(rig: &Rig) -> Result<()> {
    let lab = Lab::open(rig)?;
    let mac = hex(rig.pods[0].mac("eth0")?);
    rig.node.ip(&format!("neigh replace {SECOND} lladdr {mac} dev pods nud permanent"))?;
    let to = SocketAddrV4::new(OUTSIDE, 7);
    let mut parts = Vec::new();
    for (source, seed) in [(INSIDE, 1), (SECOND, 2)] {
        let from = SocketAddrV4::new(source, 3000);
        let body = craft::datagram(from, to, &pattern(seed, LENGTH));
        let ip = Ip { id: 7777, ..Ip::new(source, OUTSIDE, UDP) };
        parts.push(ip.fragments(&body, &CUTS));
    }
    for round in 0..3 {
        let cut = [(0, 0), (1, 2), (0, 1), (1, 0), (0, 2), (1, 1)];
        cut.iter()
            .try_for_each(|(pod, part): &(usize, usize)| lab.inside.send(&parts[*pod][*part]))?;
        let mut got = whole(&lab.came_outside()?);
        got.sort_by_key(|datagram| datagram[28..].to_vec());
        let mut expected = [pattern(1, LENGTH), pattern(2, LENGTH)];
        expected.sort();
        ensure!(got.len() == 2, "round {round}: {} datagrams", got.len());
        for (got, expected) in got.iter().zip(&expected) {
            ensure!(got[28..] == *expected, "round {round}: data of two pods were mixed");
        }
    }
    Ok(())
}

/// 6864: identifications of DF-clear datagrams of two pods are unique; atomic ones stay.
fn fresh_identifications(rig: &Rig) -> Result<()> {
    let lab = Lab::open(rig)?;
    let mac = hex(rig.pods[0].mac("eth0")?);
    rig.node.ip(&format!("neigh replace {SECOND} lladdr {mac} dev pods nud permanent"))?;
    let to = SocketAddrV4::new(OUTSIDE, 7);
    let mut ids = std::collections::HashSet::new();
    for round in 0..50 {
        for source in [INSIDE, SECOND] {
            let from = SocketAddrV4::new(source, 3000);
            let ip = Ip { id: 5, dont_fragment: false, ..Ip::new(source, OUTSIDE, UDP) };
            lab.inside.send(&ip.packet(&craft::datagram(from, to, &[round])))?;
        }
    }
    for packet in lab.came_outside()? {
        let ip = packet.ip();
        ensure!(!ip.header.dont_fragment(), "DF was set");
        ensure!(ids.insert((ip.source(), ip.header.identification())), "repeated: {ip}");
    }
    ensure!(ids.len() == 100, "{} datagrams came", ids.len());
    for id in [0, 0, 9] {
        let from = SocketAddrV4::new(INSIDE, 3000);
        let ip = Ip { id, ..Ip::new(INSIDE, OUTSIDE, UDP) };
        lab.inside.send(&ip.packet(&craft::datagram(from, to, b"atomic")))?;
        let got = lab.one_outside("an atomic datagram")?;
        ensure!(got.ip().header.identification() == id && got.ip().header.dont_fragment());
    }
    Ok(())
}

/// 6864-S4.3b, S4.3c: fragments that say "don't fragment" pass as they are.
fn fragments_with_df(rig: &Rig) -> Result<()> {
    let lab = Lab::open(rig)?;
    let (flow, out, _) = bodies(&lab)?.remove(0);
    let cut = |part: &[u8], offset, more| {
        Ip { offset, more, id: 9, ..Ip::new(INSIDE, OUTSIDE, UDP) }.packet(part)
    };
    lab.inside.send(&cut(&out[..1000], 0, true))?;
    lab.inside.send(&cut(&out[1000..2008], 1000, true))?;
    lab.inside.send(&cut(&out[2008..], 2008, false))?;
    let came = lab.came_outside()?;
    ensure!(came.iter().all(|packet| packet.ip().header.dont_fragment()), "DF was cleared");
    let got = one(&came, "fragments with DF")?;
    ensure!(
        got[28..] == out[8..]
            && Ipv4::parse(&got).is_some_and(|ip| ip.source() == *flow.public.ip())
    );
    Ok(())
}

/// Kernels on both sides: large datagrams and pings that their own stacks fragment.
fn large_datagrams(rig: &Rig) -> Result<()> {
    server::udp_echo(&rig.s1, S1[0], 7)?;
    for pod in &rig.pods {
        pod.run(|| -> Result<()> {
            let socket = udp((S1[0], 7))?;
            for size in [1472, 1473, 2000, 4096, 9000, 20_000] {
                echo_datagram(&socket, &pattern(size as u64, size))?;
            }
            Ok(())
        })??;
        pod.run(|| ping(S1[0], 77, 5, 4096, 1))??;
    }
    Ok(())
}

/// Orphans from both sides by the thousand, beside whole pings and fragmented ones.
fn flood(rig: &Rig) -> Result<()> {
    let lab = Lab::open(rig)?;
    let flow = lab.udp(3000, 7, b"open")?;
    let whole = rig.pods[1].spawn(|| ping(S1[0], 77, 60, 56, 1))?;
    let large = rig.pods[1].spawn(|| ping(S1[0], 78, 60, 2000, 2))?;
    let mut id = 0;
    while !(whole.is_finished() && large.is_finished()) {
        for offset in [0, 1480, 2960] {
            let part = |ip: Ip| Ip { id, offset, more: true, dont_fragment: false, ..ip };
            let body = if offset == 0 {
                craft::datagram(flow.local, flow.remote, &[0; 64])
            } else {
                vec![0; 72]
            };
            let parts: [Ip; 2] =
                [Ip::new(INSIDE, OUTSIDE, UDP), Ip::new(OUTSIDE, *flow.public.ip(), UDP)];
            lab.inside.send(&part(parts[0].clone()).packet(&body))?;
            lab.outside.send(&part(parts[1].clone()).packet(&body))?;
        }
        id = id.wrapping_add(1);
        // Some thousands a second: what a worker of a debug build takes beside the pings.
        std::thread::sleep(std::time::Duration::from_micros(500) * rig.gw.slower());
    }
    let beside = || format!("beside {id} floods of orphans");
    whole.join().expect("the ping panicked").with_context(beside)?;
    let large = large.join().expect("the ping panicked").with_context(beside);
    // Linux gives way here: its memory for fragments is full.
    if rig.natgate.is_some() { large } else { Ok(()) }
}

// Proves: 4787-REQ-14, 5508-REQ-1, 5382-REQ-2
// Museum: C28, C29
#[test]
fn fragments_pass_in_every_order() {
    verified(Options::default(), |rig| every_order(rig));
}

// Proves: 4787-REQ-14
#[test]
fn duplicated_fragments_do_no_harm() {
    // A repeated datagram may leave once or twice, so there is no original for each.
    let rig = Rig::start(Options::default()).unwrap();
    rig.must(duplicates(&rig));
}

// Proves: 6864-S5.3.1, 7857-S10, 4787-REQ-14
#[test]
fn equal_identifications_are_not_mixed() {
    verified(Options::default(), |rig| equal_identifications(rig));
}

// Proves: 6864-S4.2, 6864-S4.3a, 6864-S5.3.1, 6864-S4.1b, 6864-S4.1c, 6864-S4.3c
#[test]
fn identifications_outside_are_fresh() {
    verified(Options::natgate(), |rig| fresh_identifications(rig));
}

// Proves: 6864-S4.3c
#[test]
fn fragments_keep_df() {
    // Linux puts them together and clears it.
    verified(Options::natgate(), |rig| fragments_with_df(rig));
}

// Proves: 4787-REQ-14, 5508-REQ-1
// Museum: C28
#[test]
fn large_datagrams_and_pings_are_echoed() {
    verified(Options::default(), |rig| large_datagrams(rig));
}

// Proves: 4787-REQ-14
#[test]
fn four_workers_carry_large_datagrams() {
    let mut rig = Rig::start(Options::four()).unwrap();
    rig.must(large_datagrams(&rig));
    let verified = rig.verify();
    rig.must(verified);
}

// Proves: 4787-REQ-14
#[test]
fn large_datagrams_with_whole_checksums() {
    let options = Options { sender_checksum_offload: false, ..Options::default() };
    verified(options, |rig| large_datagrams(rig));
}

// Proves: 4787-REQ-14a
#[test]
fn orphans_do_not_harm_pings() {
    let rig = Rig::start(Options::default()).unwrap();
    rig.must(flood(&rig));
}

/// The negative control.
#[test]
fn no_fragment_arrives_without_translation() {
    let rig = Rig::start(Options::untranslated()).unwrap();
    every_order(&rig).unwrap_err();
    large_datagrams(&rig).unwrap_err();
}
