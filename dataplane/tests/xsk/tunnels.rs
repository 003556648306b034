//! Does the program see what is in tunnels, does nothing leak, and do packets leave that begin before they arrived?

use std::net::{SocketAddrV4, UdpSocket};
use std::time::Duration;

use dataplane::interface::{Mac, Roles};
use dataplane::io::{BURST, PacketIo, Received};
use dataplane::xsk::{
    AttachMode, Audit, Frame, InterfaceEntry, Steering, SteeringTables, TunnelEntry,
};

use crate::rig::{
    EXTERNAL, GATEWAY_MAC, OUT, OUT_MAC, await_line, config, drops, helper, ifindex, in_gateway,
    in_side, ping, role, said_in_side, send_from, start, tables,
};

const INSIDE: Roles = Roles { internal: true, external: false };
const DEVICE_MAC: Mac = Mac([2, 0, 0, 0, 9, 1]);
const POD: &str = "10.244.0.2:5000";

/// Devices of VNI 42 at both ends; the pod is 10.244.0.2, and has its way out by them.
fn make_devices() {
    in_side(
        "gw",
        &format!(
            "ip link add vx0 address {DEVICE_MAC} type vxlan id 42 local 10.1.0.1 remote 10.1.0.2 dstport 8472
             ip link set vx0 mtu 2000 up; ip addr add 10.244.0.1/24 dev vx0"
        ),
    );
    in_side(
        "in",
        &format!(
            "ip link add vx0 type vxlan id 42 local 10.1.0.2 remote 10.1.0.1 dstport 8472
             ip link set vx0 mtu 2000 up; ip addr add 10.244.0.2/24 dev vx0
             ip neigh replace 10.244.0.1 lladdr {DEVICE_MAC} dev vx0
             ip route add 192.0.2.2/32 via 10.244.0.1 dev vx0 mtu lock 2000"
        ),
    );
    in_side("out", "ip route add 10.244.0.0/24 via 192.0.2.1");
}

fn tunnel() -> TunnelEntry {
    TunnelEntry { vni: 42, port: 8472, local: [10, 1, 0, 1].into(), mac: DEVICE_MAC }
}

/// The program on `int0`, an underlay without sockets.
fn on_the_underlay() -> Steering {
    let mut steering = Steering::load().unwrap();
    let entry = InterfaceEntry::without_sockets(ifindex("int0"), INSIDE);
    steering.set_interface(InterfaceEntry { underlay: true, ..entry }).unwrap();
    let nets = |list: &[&str]| list.iter().map(|net| net.parse().unwrap()).collect();
    let inner = SteeringTables {
        internal: nets(&["10.244.0.0/24"]),
        kernel_destinations: nets(&["10.244.0.0/24", "10.1.0.0/24", "192.0.2.1/32"]),
        ..tables()
    };
    steering.apply(&inner).unwrap();
    steering.attach(ifindex("int0"), "int0", AttachMode::Native).unwrap();
    steering
}

/// Sends 50 datagrams from the pod; how many the program dropped.
fn dropped(test: &str, steering: &Steering) -> u64 {
    let before = drops(steering, "pod-no-worker");
    assert!(helper("in", test, "send").wait().unwrap().success());
    assert!(ping("in", "10.244.0.1"), "what is for the host passes, in the tunnel too");
    drops(steering, "pod-no-worker") - before
}

#[test]
fn what_is_in_tunnels_is_taken_if_it_would_be_outside_of_them() {
    let test = "tunnels::what_is_in_tunnels_is_taken_if_it_would_be_outside_of_them";
    in_gateway(test, 1, 1, || {
        if role() == "send" {
            return send_from(POD, OUT, 50);
        }
        make_devices();
        assert!(ping("in", "192.0.2.2"), "the kernel forwards before");
        let mut steering = on_the_underlay();
        assert_eq!(dropped(test, &steering), 0, "no tunnel is known yet");
        for other in [
            TunnelEntry { vni: 43, ..tunnel() },
            TunnelEntry { port: 4789, ..tunnel() },
            TunnelEntry { local: [10, 1, 0, 9].into(), ..tunnel() },
            TunnelEntry { mac: Mac([2, 0, 0, 0, 9, 2]), ..tunnel() },
        ] {
            steering.set_tunnels(&[other]).unwrap();
            assert_eq!(dropped(test, &steering), 0, "{other:?}");
        }
        steering.set_tunnels(&[tunnel()]).unwrap();
        assert_eq!(dropped(test, &steering), 50);
        // Closed: what would be natgate's must not pass in a tunnel that nobody knows, whatever is different.
        let entry = InterfaceEntry::without_sockets(ifindex("int0"), INSIDE);
        let underlay = InterfaceEntry { underlay: true, ..entry };
        steering.set_interface(InterfaceEntry { closed: true, ..underlay }).unwrap();
        for (lost, other) in (1..).zip([
            TunnelEntry { vni: 43, ..tunnel() },
            TunnelEntry { port: 4789, ..tunnel() },
            TunnelEntry { local: [10, 1, 0, 9].into(), ..tunnel() },
            TunnelEntry { mac: Mac([2, 0, 0, 0, 9, 2]), ..tunnel() },
        ]) {
            steering.set_tunnels(&[other]).unwrap();
            assert_eq!(dropped(test, &steering), 0, "{other:?}");
            assert_eq!(drops(&steering, "unknown-tunnel"), 50 * lost, "{other:?}");
        }
        steering.set_interface(underlay).unwrap();
        steering.set_tunnels(&[tunnel()]).unwrap();
        // Of an interface that is no underlay the kernel has the tunnels.
        let entry = InterfaceEntry::without_sockets(ifindex("int0"), INSIDE);
        steering.set_interface(entry).unwrap();
        assert_eq!(dropped(test, &steering), 0);
        steering.set_interface(InterfaceEntry { underlay: true, ..entry }).unwrap();
        steering.set_tunnels(&[]).unwrap();
        assert_eq!(dropped(test, &steering), 0);
    });
}

/// Two pings from the pod, too long for the underlay, but not for the link outside.
fn large_ping() -> bool {
    let line = "ping -c 2 -i 0.2 -W 2 -s 1452 192.0.2.2 >/dev/null && echo answered || echo lost";
    said_in_side("in", line).contains("answered")
}

#[test]
fn what_the_kernel_takes_out_of_a_tunnel_is_dropped_on_its_device() {
    let test = "tunnels::what_the_kernel_takes_out_of_a_tunnel_is_dropped_on_its_device";
    in_gateway(test, 1, 1, || {
        if role() == "send" {
            return send_from(POD, OUT, 50);
        }
        make_devices();
        let mut steering = on_the_underlay();
        steering.set_tunnels(&[tunnel()]).unwrap();
        assert!(large_ping(), "outer fragments are the kernel's, and would leak");
        let device = InterfaceEntry::without_sockets(ifindex("vx0"), INSIDE);
        steering.set_interface(device).unwrap();
        steering.attach(ifindex("vx0"), "vx0", AttachMode::Generic).unwrap();
        let before = drops(&steering, "pod-no-worker");
        assert!(!large_ping());
        assert_eq!(drops(&steering, "pod-no-worker") - before, 2);
        // No underlay: all of it comes this way.
        let entry = InterfaceEntry::without_sockets(ifindex("int0"), INSIDE);
        steering.set_interface(entry).unwrap();
        assert_eq!(dropped(test, &steering), 50);
    });
}

/// Outer headers to the device of VNI 7 in `out`, around an inner frame of `len` bytes.
fn headers(len: usize) -> [u8; 50] {
    let mut packet = Vec::new();
    let ethernet = etherparse::PacketBuilder::ethernet2(GATEWAY_MAC.0, OUT_MAC.0);
    let udp = ethernet.ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64).udp(40_000, 8472);
    udp.write(&mut packet, &vec![0; 8 + len]).unwrap();
    packet[40..42].fill(0); // no checksum
    packet[42..50].copy_from_slice(&[8, 0, 0, 0, 0, 0, 7, 0]);
    *packet.first_chunk().unwrap()
}

/// Packets in all, and as many at once as the receive ring holds, however late a busy machine looks at it.
const SENT: u32 = 3000;
const AT_ONCE: u32 = 500;
const BEHIND: SocketAddrV4 = SocketAddrV4::new(std::net::Ipv4Addr::new(10, 9, 0, 2), 9000);

fn receive_all() {
    let socket = UdpSocket::bind(BEHIND).unwrap();
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &(4 << 20))
        .unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    println!("listening");
    for _ in 0..SENT {
        socket.recv(&mut [0; 2048]).unwrap();
    }
    println!("all there");
}

#[test]
fn packets_leave_that_begin_before_they_arrived_and_their_frames_come_home() {
    let test = "tunnels::packets_leave_that_begin_before_they_arrived_and_their_frames_come_home";
    in_gateway(test, 1, 1, || {
        match role().as_str() {
            "send" => return send_from("10.1.0.2:5000", BEHIND, AT_ONCE),
            "receive" => return receive_all(),
            _ => {}
        }
        in_side(
            "out",
            &format!(
                "ip link add vx0 address {DEVICE_MAC} type vxlan id 7 local 192.0.2.2 dstport 8472
                 ip link set vx0 up; ip addr add 10.9.0.2/24 dev vx0
                 sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.vx0.rp_filter=0"
            ),
        );
        let mut gateway = start(&config(1));
        let workers = &mut gateway.opened.workers;
        let mut receiver = helper("out", test, "receive");
        await_line(&mut receiver, "listening");
        let mut burst: Vec<Received<Frame>> = Vec::with_capacity(BURST);
        let (mut sent, mut quiet, mut idle, mut senders) = (0, 0, 0, Vec::new());
        while quiet < 5 {
            let worker = &mut workers[0];
            if worker.receive(BURST, &mut burst) == 0 {
                let begun = senders.len() as u32;
                if begun * AT_ONCE < SENT && sent == begun * AT_ONCE {
                    senders.push(helper("in", test, "send"));
                }
                worker.wait(Duration::from_millis(20));
                quiet = if sent == SENT { quiet + 1 } else { 0 };
                idle += 1;
                assert!(idle < 1_000, "{sent} of {SENT} packets");
            }
            for Received { mut frame, .. } in burst.drain(..) {
                let bytes = worker.bytes_mut(&mut frame);
                bytes[..6].copy_from_slice(&DEVICE_MAC.0);
                let headers = headers(bytes.len());
                // There and back, and there again: the same bytes.
                assert!(worker.prepend(&mut frame, &headers));
                assert!(worker.strip(&mut frame, headers.len()));
                assert!(worker.prepend(&mut frame, &headers));
                sent += u32::from(worker.transmit(EXTERNAL, frame));
            }
            worker.flush();
        }
        assert!(senders.iter_mut().all(|sender| sender.wait().unwrap().success()));
        assert_eq!(sent, SENT);
        assert!(receiver.wait().unwrap().success(), "the kernel's device took all of them");
        workers[0].flush();
        let audit = Audit::of(workers);
        assert!(audit.is_conserved(), "{audit:?}");
        // Every frame is as good as before: allocated, it has all its room again.
        let worker = &mut workers[0];
        let frames: Vec<_> = std::iter::from_fn(|| worker.allocate()).collect();
        assert!(frames.len() > 1000);
        for mut frame in frames {
            assert!(worker.bytes(&frame).is_empty());
            assert!(worker.resize(&mut frame, 1792) && !worker.resize(&mut frame, 1793));
            assert!(worker.prepend(&mut frame, &[0; 256]) && !worker.prepend(&mut frame, &[0]));
            worker.release(frame);
        }
    });
}
