//! Links of different MTU with tunnels among them: no black hole, whatever the sizes are.

use super::icmp::{change, icmp, seal};
use super::overlays::*;
use super::pieces::{Receiver, pieces, with_id};
use super::*;
use crate::snapshot::{MssClamp, Policy};

/// MTUs: of the underlay, of the device, of the link outside.
type Mtus = (u16, u16, u16);

fn set_mtus(rig: &Rig, (underlay, device, outside): Mtus) {
    change(rig, |snapshot| {
        snapshot.interfaces[0].mtu = underlay;
        snapshot.interfaces[2].mtu = device;
        snapshot.interfaces[1].mtu = outside;
        snapshot.interfaces[1].address = Some([203, 0, 113, 2].into());
    });
}

/// A datagram to or from the server, `len` bytes of IP, and one back from there.
fn datagram(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16), len: u16, df: bool) -> Vec<u8> {
    let payload: Vec<u8> = (0..len - 28).map(|i| (i % 251) as u8).collect();
    with_id(&udp(src, dst, &payload), 99, df)
}

/// The next-hop MTU of an ICMP 3/4, and to whom it is.
fn too_big(frame: &[u8]) -> (u16, [u8; 4]) {
    assert_eq!((frame[23], &frame[34..36]), (1, &[3, 4][..]), "an ICMP 3/4");
    seen(frame); // its checksums are right
    (u16::from_be_bytes([frame[40], frame[41]]), [frame[30], frame[31], frame[32], frame[33]])
}

const SIZES: [u16; 4] = [1280, 1450, 1500, 1900];

#[test]
fn every_mix_of_mtus_is_passed_told_or_cut_into_the_tunnel() {
    for underlay in [1280, 1450, 1500, 2000] {
        for device in [1230, 1280, 1450, 1950] {
            // A device whose MTU does not fit its underlay has the underlay's in fact.
            let fits = device.min(underlay - 50);
            let mut rig = overlays(1);
            set_mtus(&rig, (underlay, device, 2000));
            let question = udp((pod(1), 4000), (SERVER, 4433), b"q");
            let public = seen(&out(&mut rig, 1, &question).unwrap()).src;
            for len in SIZES.into_iter().chain([fits, fits + 1]) {
                // With DF: whole, or told how long it may be.
                rig.advance(Duration::from_secs(2));
                let packet = datagram((SERVER, 4433), public, len, true);
                let (interface, sent) = rig.one(OUTSIDE, &packet).expect("never a black hole");
                if len <= fits {
                    let (outer, frame) = Outer::of(&sent);
                    assert_eq!((interface, outer.vni), (INSIDE, 1));
                    assert_eq!(frame.len(), 14 + usize::from(len));
                    assert!(sent.len() <= 14 + usize::from(underlay), "fits the underlay");
                } else {
                    assert_eq!(interface, OUTSIDE);
                    assert_eq!(too_big(&sent), (fits, SERVER.octets()), "{underlay} {device}");
                }
                // Without: in pieces, each of which fits.
                let packet = datagram((SERVER, 4433), public, len, false);
                rig.inject(OUTSIDE, &packet);
                let frames: Vec<_> = rig
                    .run()
                    .into_iter()
                    .map(|(interface, sent)| {
                        assert_eq!(interface, INSIDE);
                        assert!(sent.len() <= 14 + usize::from(underlay));
                        let (_, frame) = Outer::of(&sent);
                        assert!(frame.len() <= 14 + usize::from(fits));
                        frame
                    })
                    .collect();
                let count = if len <= fits { 1 } else { 2 };
                assert_eq!(frames.len(), count, "{underlay} {device} {len}");
                let whole = Receiver::default().take_all(&frames);
                assert_eq!(seen(&whole[0]).payload, seen(&packet).payload);
            }
        }
    }
}

#[test]
fn every_mix_of_mtus_is_passed_told_or_cut_out_of_the_tunnel() {
    for outside in [1280, 1450, 1500] {
        let mut rig = overlays(1);
        set_mtus(&rig, (2000, 1950, outside));
        for len in SIZES {
            rig.advance(Duration::from_secs(2));
            let packet = datagram((pod(1), 4000), (SERVER, 4433), len, true);
            let (interface, sent) = rig.one(INSIDE, &arriving(1, &packet)).expect("no black hole");
            if len <= outside {
                assert_eq!((interface, sent.len()), (OUTSIDE, 14 + usize::from(len)));
            } else {
                let (outer, frame) = Outer::of(&sent);
                assert_eq!((interface, outer.vni), (INSIDE, 1), "back into the tunnel");
                assert_eq!(too_big(&frame), (outside, pod(1).octets()));
            }
            let packet = datagram((pod(1), 4000), (SERVER, 4433), len, false);
            rig.inject(INSIDE, &arriving(1, &packet));
            let frames: Vec<_> = rig.run().into_iter().map(|(_, frame)| frame).collect();
            assert!(frames.iter().all(|frame| frame.len() <= 14 + usize::from(outside)));
            let whole = Receiver::default().take_all(&frames);
            assert_eq!(seen(&whole[0]).payload, seen(&packet).payload);
        }
    }
}

#[test]
fn what_path_mtu_discovery_found_on_the_underlay_counts() {
    let mut rig = overlays(1);
    set_mtus(&rig, (1500, 1450, 1500));
    let question = udp((pod(1), 4000), (SERVER, 4433), b"q");
    let public = seen(&out(&mut rig, 1, &question).unwrap()).src;
    let packet = datagram((SERVER, 4433), public, 1450, true);
    assert_eq!(rig.one(OUTSIDE, &packet).unwrap().0, INSIDE);
    set_way(&rig, |way| way.tunnel.as_mut().unwrap().path_mtu = Some(1400));
    let (interface, error) = rig.one(OUTSIDE, &packet).unwrap();
    assert_eq!((interface, too_big(&error).0), (OUTSIDE, 1350));
    set_way(&rig, |way| way.tunnel.as_mut().unwrap().path_mtu = Some(9000));
    assert_eq!(rig.one(OUTSIDE, &packet).unwrap().0, INSIDE, "never more than the link");
}

#[test]
fn an_error_from_outside_about_a_pod_in_a_tunnel_is_translated_into_it() {
    let mut rig = overlays(2);
    let packet = datagram((pod(1), 4000), (SERVER, 4433), 1400, true);
    let sent = out(&mut rig, 1, &packet).unwrap();
    // A router on the way carries 1300 bytes.
    let router = Ipv4Addr::new(198, 51, 100, 1);
    let public = seen(&sent).src.0;
    let error = icmp((router, public), (3, 4), [0, 0, 5, 20], &sent[14..14 + 548]);
    let (outer, frame) = back(&mut rig, &error).unwrap();
    assert_eq!((outer.vni, outer.dst), (1, NODE));
    assert_eq!(too_big(&frame), (1300, pod(1).octets()));
    assert_eq!(&frame[26..30], &router.octets());
    assert_eq!(&frame[42 + 12..42 + 16], &pod(1).octets(), "what it quotes is the pod's");
}

#[test]
fn pieces_that_come_out_of_a_tunnel_are_put_together_by_the_server_alone() {
    let mut rig = overlays(2);
    let packet = datagram((pod(1), 4000), (SERVER, 4433), 3000, false);
    let frames: Vec<_> =
        pieces(&packet, 4, 1400).iter().map(|piece| out(&mut rig, 1, piece).unwrap()).collect();
    let whole = Receiver::default().take_all(&frames);
    assert_eq!(seen(&whole[0]).payload, seen(&packet).payload);
}

/// A SYN or SYN-ACK with these options.
fn opening(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16), ack: bool, options: &[u8]) -> Vec<u8> {
    let mut header = etherparse::TcpHeader::new(src.1, dst.1, 1000, 65_000);
    (header.syn, header.ack) = (true, ack);
    header.acknowledgment_number = if ack { 1001 } else { 0 };
    header.set_options_raw(options).unwrap();
    header.checksum = header.calc_checksum_ipv4_raw(src.0.octets(), dst.0.octets(), &[]).unwrap();
    let mut segment = Vec::new();
    header.write(&mut segment).unwrap();
    let mut packet = Vec::new();
    super::packets::ether(src.0, dst.0, 64).write(&mut packet, 6.into(), &segment).unwrap();
    packet
}

/// The maximum segment size that a frame announces; its checksum is right.
fn mss(frame: &[u8]) -> Option<u16> {
    seen(frame);
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("not TCP") };
    tcp.options_iterator().find_map(|option| match option {
        Ok(etherparse::TcpOptionElement::MaximumSegmentSize(mss)) => Some(mss),
        _ => None,
    })
}

/// What a connection announces on both sides, after it passed the gateway: 9,000-byte hosts at both ends.
fn handshake(rig: &mut Rig, by_tunnel: bool, port: u16, announced: u16) -> [Option<u16>; 2] {
    let [high, low] = announced.to_be_bytes();
    // With an odd number of bytes before it as well.
    let options: &[u8] =
        if port.is_multiple_of(2) { &[2, 4, high, low] } else { &[1, 2, 4, high, low, 1, 1, 0] };
    let syn = opening((pod(1), port), (SERVER, 80), false, options);
    let syn = if by_tunnel { arriving(1, &syn) } else { syn };
    let (_, there) = rig.one(INSIDE, &syn).unwrap();
    let reply = opening((SERVER, 80), seen(&there).src, true, options);
    let (_, frame) = back(rig, &reply).unwrap();
    [mss(&there), mss(&frame)]
}

fn set_clamp(rig: &Rig, clamp: MssClamp) {
    change(rig, |snapshot| {
        let policy = Policy { mss_clamp: clamp, ..Policy::clone(&snapshot.policy) };
        snapshot.policy = Arc::new(policy);
    });
}

#[test]
fn both_sides_announce_no_more_than_both_ways_carry() {
    for (mtus, want) in [
        ((1500, 1450, 1500), 1410),
        ((1500, 1500, 1500), 1410),
        ((9000, 8950, 1500), 1460),
        ((9000, 8950, 1280), 1240),
        ((1280, 1450, 9000), 1190),
    ] {
        for by_tunnel in [true, false] {
            let mut rig = overlays(1);
            set_mtus(&rig, mtus);
            for port in [4000, 4001] {
                let told = handshake(&mut rig, by_tunnel, port, 8960);
                // What comes by the plain underlay is answered through the tunnel.
                assert_eq!(told, [Some(want); 2], "{mtus:?}, by tunnel: {by_tunnel}");
            }
            assert_eq!(handshake(&mut rig, by_tunnel, 5000, 536), [Some(536); 2], "never raised");
        }
    }
}

#[test]
fn the_clamp_can_be_turned_off_and_fixed() {
    let mut rig = overlays(1);
    set_clamp(&rig, MssClamp::Off);
    assert_eq!(handshake(&mut rig, true, 4000, 8960), [Some(8960); 2]);
    set_clamp(&rig, MssClamp::Bytes(1200));
    assert_eq!(handshake(&mut rig, true, 4001, 8960), [Some(1200); 2]);
    assert_eq!(handshake(&mut rig, true, 4002, 1100), [Some(1100); 2]);
}

#[test]
fn a_syn_without_the_option_or_with_broken_ones_stays_as_it_is() {
    let mut rig = overlays(1);
    for (port, options) in [
        (4000, &[][..]),
        (4001, &[3, 3, 7, 0][..]),
        (4002, &[2, 3, 9, 0][..]),
        (4003, &[0, 2, 4, 9][..]),
        (4004, &[8, 20, 2, 4][..]),
    ] {
        let mut syn = opening((pod(1), port), (SERVER, 80), false, &[]);
        // Raw: etherparse refuses to write some of them.
        syn.splice(54..54, options.iter().copied());
        syn[46] = ((20 + options.len()) / 4 * 16) as u8;
        let total = (syn.len() - 14) as u16;
        syn[16..18].copy_from_slice(&total.to_be_bytes());
        seal(&mut syn[14..]);
        let there = out(&mut rig, 1, &syn).unwrap();
        assert_eq!(&there[54..], options, "{options:?}");
    }
}

#[test]
fn without_tunnels_the_smaller_link_counts() {
    for (inside, outside, want) in [(1500, 1500, 1460), (1500, 1400, 1360), (1400, 1500, 1360)] {
        let mut rig = Rig::new(1);
        change(&rig, |snapshot| {
            (snapshot.interfaces[0].mtu, snapshot.interfaces[1].mtu) = (inside, outside);
        });
        let syn = opening((pod(1), 4000), (SERVER, 80), false, &[2, 4, 0x23, 0x00]);
        let (_, there) = rig.one(INSIDE, &syn).unwrap();
        let reply = opening((SERVER, 80), seen(&there).src, true, &[2, 4, 0x23, 0x00]);
        let (_, back) = rig.one(OUTSIDE, &reply).unwrap();
        assert_eq!([mss(&there), mss(&back)], [Some(want); 2]);
    }
}
