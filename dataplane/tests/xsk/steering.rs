//! Does the program drop what is natgate's when there is no natgate, and change hands without a gap?

use std::process::{Child, Command};

use dataplane::interface::Roles;
use dataplane::xsk::{
    AttachMode, Inspection, InterfaceEntry, InterfaceLock, Steering, XskError, detach, inspect,
};

use crate::rig::{
    OUT, await_line, await_parent, config, drops, helper, ifindex, in_gateway, ping, pod_sends,
    role, start, tables,
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
    let entry = InterfaceEntry { ifindex, roles: INSIDE, base: 0, queues: 1, room: 1792 };
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
        "send" => pod_sends(OUT, 50),
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
