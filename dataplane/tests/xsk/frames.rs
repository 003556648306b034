//! Do frames flow through AF_XDP, and does every frame stay accounted for? Needs root.

use std::net::UdpSocket;
use std::process::Child;
use std::time::{Duration, Instant};

use crate::rig::{
    EXTERNAL, GATEWAY_MAC, INTERNAL, OUT, OUT_MAC, POD, POOL, await_line, config, drops, helper,
    in_gateway, in_side, ping, pod_sends, role, send_from, start,
};
use dataplane::io::{BURST, PacketIo, Received};
use dataplane::xsk::{Audit, BindMode, Frame, Mode, OpenConfig, XskError, XskIo, open};
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
        Some(("send", count)) => pod_sends(OUT, count.parse().unwrap()),
        Some(("outside", count)) => {
            let count: u32 = count.parse().unwrap();
            send_from("192.0.2.2:5000", POOL, count);
            send_from("198.51.100.5:5000", POD, count); // exempt
        }
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

fn flow(test: &str, queues: (u32, u32), workers: usize, change: impl FnOnce(&mut OpenConfig)) {
    in_gateway(test, queues.0, queues.1, || {
        let role = role();
        if !role.is_empty() {
            return run_role(&role);
        }
        let mut wanted = config(workers);
        change(&mut wanted);
        let mut gateway = start(&wanted);
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
    flow("frames::frames_flow_through_one_queue", (1, 1), 1, |_| ());
}

#[test]
fn frames_flow_through_four_queues() {
    flow("frames::frames_flow_through_four_queues", (4, 4), 2, |_| ());
}

#[test]
fn a_worker_without_a_queue_transmits_by_another() {
    flow("frames::a_worker_without_a_queue_transmits_by_another", (4, 1), 4, |_| ());
}

// Museum: C41
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

#[test]
fn generic_mode_carries_frames() {
    flow("frames::generic_mode_carries_frames", (1, 1), 1, |config| config.mode = Mode::Generic);
}

#[test]
fn busy_polling_carries_frames() {
    flow("frames::busy_polling_carries_frames", (1, 1), 1, |config| config.busy_poll = true);
}

#[test]
fn zero_copy_is_refused_where_the_driver_cannot() {
    in_gateway("frames::zero_copy_is_refused_where_the_driver_cannot", 1, 1, || {
        let mut config = config(1);
        config.mode = Mode::ZeroCopy;
        let refused = open(&config).unwrap_err();
        assert!(matches!(refused, XskError::NoZeroCopy { queue: 0, .. }), "{refused}");
        let busy = start(&crate::rig::config(1));
        config.mode = Mode::Copy;
        let refused = open(&config).unwrap_err();
        assert!(matches!(refused, XskError::QueueBusy { queue: 0, .. }), "{refused}");
        drop(busy);
    });
}

#[test]
fn from_outside_come_pool_exempt_and_arp_only() {
    let test = "frames::from_outside_come_pool_exempt_and_arp_only";
    in_gateway(test, 1, 1, || {
        let role = role();
        if !role.is_empty() {
            return run_role(&role);
        }
        let mut gateway = start(&config(1));
        let worker = &mut gateway.opened.workers[0];
        in_side("out", "arping -c 1 -w 1 -I out0 192.0.2.100 >/dev/null || true");
        in_side("out", &format!("ip neigh replace 192.0.2.100 lladdr {GATEWAY_MAC} dev out0"));
        in_side("out", "ip addr add 198.51.100.5/32 dev out0");
        let mut sender = helper("out", test, "outside 20");
        assert!(sender.wait().unwrap().success());
        assert!(ping("out", "192.0.2.1"), "the host's own address is the kernel's");
        let (mut arp, mut pool, mut exempt) = (0, 0, 0);
        let mut burst = Vec::new();
        while worker.receive(BURST, &mut burst) > 0 {}
        for Received { frame, interface } in burst {
            assert_eq!(interface, EXTERNAL);
            let bytes = worker.bytes(&frame);
            match (&bytes[12..14], &bytes[26..30], &bytes[30..34]) {
                ([8, 6], ..) => arp += 1,
                (_, [192, 0, 2, 2], [192, 0, 2, 100]) => pool += 1,
                (_, [198, 51, 100, 5], [10, 1, 0, 2]) => exempt += 1,
                other => panic!("{other:?}"),
            }
            worker.release(frame);
        }
        assert_eq!((arp > 0, pool, exempt), (true, 20, 20));
    });
}

// Museum: C41
#[test]
#[expect(clippy::disallowed_methods, reason = "measures a sleep")]
fn a_waker_ends_a_sleep_even_if_it_came_first() {
    in_gateway("frames::a_waker_ends_a_sleep_even_if_it_came_first", 1, 1, || {
        let mut gateway = start(&config(1));
        let worker = &mut gateway.opened.workers[0];
        let waker = worker.waker().clone();
        let start = Instant::now();
        waker.wake();
        worker.wait(Duration::from_secs(20));
        let thread = std::thread::spawn(move || {
            std::thread::sleep(PAUSE); // the worker should sleep by now; it works if it doesn't too
            waker.wake();
        });
        worker.wait(Duration::from_secs(20));
        thread.join().unwrap();
        assert!(start.elapsed() < Duration::from_secs(10));
    });
}
