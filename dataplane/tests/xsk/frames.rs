//! Do frames flow through AF_XDP, and does every frame stay accounted for? Needs root.

use std::net::UdpSocket;
use std::process::Child;
use std::time::Duration;

use crate::rig::{
    EXTERNAL, GATEWAY_MAC, INTERNAL, OUT, OUT_MAC, await_line, config, drops, helper, in_gateway,
    ping, role, send, start,
};
use dataplane::io::{BURST, PacketIo, Received};
use dataplane::xsk::{Audit, BindMode, Frame, XskIo};
use nix::sys::socket::sockopt::RcvBufForce;

const PAUSE: Duration = Duration::from_millis(20);

/// Receives with `from` and transmits with `to`, to `out0`; returns how many.
fn forward(workers: &mut [XskIo], from: usize, to: usize) -> u32 {
    let mut burst: Vec<Received<Frame>> = Vec::with_capacity(BURST);
    workers[from].receive(BURST, &mut burst);
    let mut sent = 0;
    for Received { mut frame, interface } in burst {
        assert_eq!(interface, INTERNAL);
        let bytes = workers[to].bytes_mut(&mut frame);
        bytes[..6].copy_from_slice(&OUT_MAC.0);
        bytes[6..12].copy_from_slice(&GATEWAY_MAC.0);
        sent += u32::from(workers[to].transmit(EXTERNAL, frame));
    }
    workers.iter_mut().for_each(PacketIo::flush);
    sent
}

/// Forwards until the sender is done and nothing came for a while.
fn forward_all(workers: &mut [XskIo], sender: &mut Child, swap: bool) -> u32 {
    let (mut total, mut quiet) = (0, 0);
    while quiet < 5 {
        let mut now = 0;
        for from in 0..workers.len() {
            let to = if swap { workers.len() - 1 - from } else { from };
            now += forward(workers, from, to);
        }
        total += now;
        if now == 0 && sender.try_wait().unwrap().is_some() {
            workers[0].wait(PAUSE);
            quiet += 1;
        } else {
            quiet = 0;
        }
    }
    total
}

fn run_role(role: &str) {
    match role.split_once(' ') {
        Some(("send", count)) => send(OUT, count.parse().unwrap(), 100),
        Some(("receive", count)) => {
            let socket = UdpSocket::bind(OUT).unwrap();
            // The helper may be scheduled late: room for all that is sent meanwhile.
            nix::sys::socket::setsockopt(&socket, RcvBufForce, &(4 << 20)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            println!("listening");
            for _ in 0..count.parse().unwrap() {
                socket.recv(&mut [0; 2048]).unwrap();
            }
            println!("all there");
        }
        _ => panic!("unknown role {role}"),
    }
}

fn flow(test: &str, internal_queues: u32, external_queues: u32, workers: usize) {
    in_gateway(test, internal_queues, external_queues, || {
        let role = role();
        if !role.is_empty() {
            return run_role(&role);
        }
        let mut gateway = start(&config(workers));
        for report in &gateway.opened.reports {
            assert_eq!((report.driver.as_str(), report.bind), ("veth", BindMode::Copy));
        }
        let mut receiver = helper("out", test, "receive 500");
        await_line(&mut receiver, "listening");
        let mut sender = helper("in", test, "send 500");
        let sent = forward_all(&mut gateway.opened.workers, &mut sender, false);
        assert_eq!(sent, 500);
        await_line(&mut receiver, "all there");
        assert!(receiver.wait().unwrap().success());
        assert!(ping("in", "10.1.0.1"), "the host's own address is the kernel's");
        assert!(ping("out", "192.0.2.1"), "so is its outer one");
        assert_eq!(drops(&gateway.steering, "pod-no-worker"), 0);
        let audit = Audit::of(&gateway.opened.workers);
        assert!(audit.is_conserved() && audit.in_hand == 0, "{audit:?}");
    });
}

#[test]
fn frames_flow_through_one_queue() {
    flow("frames::frames_flow_through_one_queue", 1, 1, 1);
}

#[test]
fn frames_flow_through_four_queues() {
    flow("frames::frames_flow_through_four_queues", 4, 4, 2);
}

#[test]
fn a_worker_without_a_queue_transmits_by_another() {
    flow("frames::a_worker_without_a_queue_transmits_by_another", 4, 1, 4);
}

#[test]
fn one_sided_load_starves_no_ring() {
    let test = "frames::one_sided_load_starves_no_ring";
    in_gateway(test, 4, 4, || {
        let role = role();
        if !role.is_empty() {
            return run_role(&role);
        }
        let mut gateway = start(&config(2));
        let workers = &mut gateway.opened.workers;
        // One flow, so one queue: what one worker receives, the other transmits.
        let mut sender = helper("in", test, "send 300000");
        let first = forward_all(workers, &mut sender, true);
        let audit = Audit::of(workers);
        assert!(audit.is_conserved() && audit.in_hand == 0, "{audit:?}");
        assert!(first > 100_000, "{first}");
        let stats = workers.iter().map(PacketIo::stats).collect::<Vec<_>>();
        assert_eq!(stats.iter().map(|stats| stats.fill_ring_empty).sum::<u64>(), 0, "{stats:?}");
        // After all that, nothing of a gentle load is lost.
        let mut sender = helper("in", test, "send 1000");
        assert_eq!(forward_all(workers, &mut sender, true), 1000);
        let audit = Audit::of(workers);
        assert!(audit.is_conserved() && audit.in_hand == 0, "{audit:?}");
    });
}
