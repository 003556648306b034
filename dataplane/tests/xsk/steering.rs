//! Does the program drop what is natgate's when there is no natgate, and change hands without a gap?

use std::net::UdpSocket;
use std::process::{Child, Command};
use std::time::Duration;

use dataplane::interface::Roles;
use dataplane::xsk::{
    AttachMode, Inspection, InterfaceEntry, InterfaceLock, Steering, XskError, detach, inspect,
    open,
};

use crate::rig::{
    OUT, await_line, await_parent, config, drops, helper, ifindex, in_gateway, in_side, ping,
    pod_sends, role, send_from, start, tables,
};

const INSIDE: Roles = Roles { internal: true, external: false };

/// The program on `int0`, without sockets.
fn steering_only() -> Steering {
    let mut steering = loaded();
    steering.attach(ifindex("int0"), "int0", AttachMode::Native).unwrap();
    steering
}

fn loaded() -> Steering {
    let mut steering = Steering::load().unwrap();
    let ifindex = ifindex("int0");
    let entry = InterfaceEntry {
        queues: 1,
        room: 1792,
        ..InterfaceEntry::without_sockets(ifindex, INSIDE)
    };
    steering.set_interface(entry).unwrap();
    steering.apply(&tables()).unwrap();
    steering
}

/// `body` in the gateway; helpers send, or are a natgate until their input ends.
fn in_rig(test: &str, body: impl FnOnce()) {
    in_gateway(test, 1, 1, || match role().as_str() {
        "" => body(),
        "natgate" => {
            let gateway = start(&config(1));
            println!("attached, took over: {}", gateway.took_over);
            await_parent();
        }
        "refused" => println!("refused: {}", refusal()),
        "send" => pod_sends(OUT, 50),
        "tell" => provoke_errors(),
        role => panic!("unknown role {role}"),
    });
}

fn finish(mut child: Child) {
    assert!(child.wait().unwrap().success());
}

fn inspect_int0() -> Inspection {
    inspect(ifindex("int0"), "int0").unwrap()
}

/// Several seconds at most: the last packet is counted when `ping` after it was answered.
fn sent_and_dropped(test: &str, steering: &Steering) -> u64 {
    let before = drops(steering, "pod-no-worker");
    finish(helper("in", test, "send"));
    assert!(ping("in", "10.1.0.1"), "other traffic passes");
    drops(steering, "pod-no-worker") - before
}

#[test]
fn without_a_socket_ours_is_dropped_and_the_rest_passes() {
    let test = "steering::without_a_socket_ours_is_dropped_and_the_rest_passes";
    in_rig(test, || {
        assert!(ping("in", "192.0.2.2"), "the kernel forwards before");
        let mut steering = steering_only();
        assert_eq!(sent_and_dropped(test, &steering), 50);
        assert!(!ping("in", "192.0.2.2"), "nothing leaves untranslated");
        assert!(ping("in", "192.0.2.1"), "the host's other address is the kernel's");

        // Away with the prefix: the pod's packets are no longer natgate's.
        let mut without = tables();
        without.internal.clear();
        steering.apply(&without).unwrap();
        assert_eq!(sent_and_dropped(test, &steering), 0);
        steering.apply(&tables()).unwrap();
        assert_eq!(sent_and_dropped(test, &steering), 50);

        assert!(detach(ifindex("int0"), "int0").unwrap());
        assert_eq!(inspect_int0(), Inspection::None);
        assert!(!detach(ifindex("int0"), "int0").unwrap(), "nothing is left to detach");
        assert!(ping("in", "192.0.2.2"), "the kernel forwards again");
    });
}

/// From outside to pods that the router inside does not reach. (Twice: its kernel sends five such errors in
/// five seconds.)
fn provoke_errors() {
    send_from("192.0.2.2:5000", "10.1.5.9:9".parse().unwrap(), 1);
    let socket = UdpSocket::bind("192.0.2.2:5001").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket.connect("10.1.6.9:9").unwrap();
    socket.send(b"?").unwrap();
    let told = socket.recv(&mut [0; 8]).unwrap_err();
    assert_eq!(told.kind(), std::io::ErrorKind::HostUnreachable, "about others the kernel tells");
}

// Proves: 5508-REQ-5c.2
#[test]
fn errors_of_routers_inside_are_taken_when_they_quote_a_packet_to_a_pod() {
    let test = "steering::errors_of_routers_inside_are_taken_when_they_quote_a_packet_to_a_pod";
    in_rig(test, || {
        // The router is 10.1.0.2, and no source that natgate knows.
        in_side("gw", "ip route add 10.1.4.0/22 via 10.1.0.2");
        in_side("out", "ip route add 10.1.4.0/22 via 192.0.2.1");
        in_side("in", "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.icmp_ratelimit=0");
        in_side("in", "ip route add prohibit 10.1.5.0/24; ip route add prohibit 10.1.6.0/24");
        let mut steering = steering_only();
        let mut tables = tables();
        tables.internal = vec!["10.1.5.0/24".parse().unwrap()];
        steering.apply(&tables).unwrap();
        finish(helper("out", test, "tell"));
        assert_eq!(drops(&steering, "pod-no-worker"), 1);
        // To the host itself they stay the kernel's, whatever they are about.
        tables.kernel_destinations.push("192.0.2.2/32".parse().unwrap());
        steering.apply(&tables).unwrap();
        finish(helper("out", test, "tell"));
        assert_eq!(drops(&steering, "pod-no-worker"), 1);
    });
}

#[test]
fn a_killed_natgate_leaves_the_door_shut_and_the_next_takes_over() {
    let test = "steering::a_killed_natgate_leaves_the_door_shut_and_the_next_takes_over";
    in_rig(test, || {
        let mut child = helper("gw", test, "natgate");
        await_line(&mut child, "took over: false");
        let Inspection::Ours { id: first, mode, process } = inspect_int0() else {
            panic!("{:?}", inspect_int0())
        };
        assert_eq!((mode, process), (AttachMode::Native, Some(child.id().cast_signed())));
        let refused = InterfaceLock::acquire(ifindex("int0"), "int0").unwrap_err();
        assert!(refused.to_string().contains(&format!("process id {}", child.id())), "{refused}");

        child.kill().unwrap();
        child.wait().unwrap();
        let left = Inspection::Ours { id: first, mode, process: None };
        assert_eq!(inspect_int0(), left);
        finish(helper("in", test, "send"));
        assert!(ping("in", "10.1.0.1"), "other traffic passes");
        assert!(!ping("in", "192.0.2.2"), "the dead natgate's program drops");

        let gateway = start(&config(1));
        assert!(gateway.took_over);
        let Inspection::Ours { id, .. } = inspect_int0() else { panic!("{:?}", inspect_int0()) };
        assert_ne!(id, first);
        let carried = drops(&gateway.steering, "pod-no-worker");
        assert_eq!(carried, 52, "50 datagrams and 2 pings before the take-over");
    });
}

#[test]
fn another_mode_is_refused_instead_of_leaving_a_gap() {
    in_rig("steering::another_mode_is_refused_instead_of_leaving_a_gap", || {
        let _first = steering_only();
        let refused = loaded().attach(ifindex("int0"), "int0", AttachMode::Generic).unwrap_err();
        assert!(matches!(refused, XskError::ModeDiffers { attached: "native", .. }), "{refused}");
        assert!(matches!(inspect_int0(), Inspection::Ours { mode: AttachMode::Native, .. }));
    });
}

#[test]
fn generic_mode_drops_as_well() {
    let test = "steering::generic_mode_drops_as_well";
    in_rig(test, || {
        let mut steering = loaded();
        steering.attach(ifindex("int0"), "int0", AttachMode::Generic).unwrap();
        assert!(matches!(inspect_int0(), Inspection::Ours { mode: AttachMode::Generic, .. }));
        assert_eq!(sent_and_dropped(test, &steering), 50);
    });
}

#[test]
fn a_foreign_program_is_refused_and_left_alone() {
    in_rig("steering::a_foreign_program_is_refused_and_left_alone", || {
        let base = std::env::temp_dir().join(format!("ngx-{}", std::process::id()));
        let (source, object) = (base.with_extension("c"), base.with_extension("o"));
        let program = "__attribute__((section(\"xdp\"), used)) int somebody(void *c) { return 2; }";
        std::fs::write(&source, program).unwrap();
        let mut clang = Command::new("clang");
        clang.args(["-O2", "-g", "-target", "bpf", "-c"]).arg(&source).arg("-o").arg(&object);
        assert!(clang.status().unwrap().success());
        let mut ip = Command::new("ip");
        ip.args(["link", "set", "dev", "int0", "xdp", "obj"]).arg(&object).args(["sec", "xdp"]);
        let attached = ip.status().unwrap().success();
        std::fs::remove_file(source).unwrap();
        std::fs::remove_file(object).unwrap();
        assert!(attached);

        let foreign = inspect_int0();
        let Inspection::Foreign { name, .. } = &foreign else { panic!("{foreign:?}") };
        assert_eq!(name, "somebody");
        for refused in [
            loaded().attach(ifindex("int0"), "int0", AttachMode::Native).unwrap_err(),
            detach(ifindex("int0"), "int0").unwrap_err(),
        ] {
            assert!(refused.to_string().contains("`somebody`"), "{refused}");
            assert!(refused.to_string().contains("xdp off"), "{refused}");
        }
        assert_eq!(inspect_int0(), foreign);
    });
}

/// What a start says that should fail.
fn refusal() -> String {
    let loaded = || Steering::load().map(drop);
    open(&config(1)).map(drop).and_then(|()| loaded()).unwrap_err().to_string()
}

#[test]
fn missing_rights_are_named() {
    let test = "steering::missing_rights_are_named";
    in_rig(test, || {
        for (wrapper, needle) in [
            ("setpriv --bounding-set -net_raw", "CAP_NET_RAW is missing"),
            ("setpriv --bounding-set -net_admin", "CAP_NET_ADMIN is missing"),
            ("setpriv --bounding-set -bpf,-sys_admin", "CAP_BPF is missing"),
            ("prlimit --memlock=65536 setpriv --bounding-set -ipc_lock", "LimitMEMLOCK=infinity"),
        ] {
            let mut words = wrapper.split(' ');
            let mut command = Command::new(words.next().unwrap());
            command.args(words).arg(std::env::current_exe().unwrap());
            command.args(["--exact", test, "--nocapture"]).env("NGX_ROLE", "refused");
            let output = String::from_utf8(command.output().unwrap().stdout).unwrap();
            let line = output.lines().find(|line| line.contains("refused: ")).unwrap();
            assert!(line.contains(needle), "{line}");
            assert!(line.contains("): ") && line.contains("; "), "{line}");
            println!("{line}");
        }
    });
}
