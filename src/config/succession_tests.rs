//! One configuration after the other: what becomes of numbers, places and ports.

use std::fmt::Write as _;

use conntrack::{BlockNumber, Endpoint, Holder, Protocol, Standing};
use dataplane::rule::Action;

use super::tests::{GATEWAY, load};
use super::*;

/// Objects of a configuration: pools as `name addresses settings`, rules as `name from pool`, and others as they are.
fn objects(pools: &[(&str, &str, &str)], rules: &[(&str, &str, &str)], others: &[&str]) -> Config {
    let head = "apiVersion: natgate.dev/v1alpha1, kind";
    let mut text = format!("---{GATEWAY}");
    for (name, addresses, settings) in pools {
        let _ = write!(
            text,
            "---\n{{{head}: AddressPool, metadata: {{name: {name}}}, spec: {{addresses: [{addresses}]{settings}}}}}\n"
        );
    }
    for (name, from, pool) in rules {
        let _ = write!(
            text,
            "---\n{{{head}: NatRule, metadata: {{name: {name}}}, spec: {{from: [{from}], pool: {pool}}}}}\n"
        );
    }
    for other in others {
        let _ = write!(text, "---\n{{{head}: {other}}}\n");
    }
    load(&text).unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

const NOW: Timestamp = Timestamp::from_millis(5_000);

fn after(before: &Policy, config: &Config) -> Succession {
    Succession::new(config, before, NOW)
}

fn good(before: &Policy, config: &Config) -> Policy {
    let succession = after(before, config);
    assert_eq!(succession.problems, []);
    Succession::settle(&succession.policy);
    succession.policy
}

fn place_of(policy: &Policy, pool: usize, address: &str) -> (usize, Standing) {
    let addr: Ipv4Addr = address.parse().unwrap();
    let mut addresses = policy.pools[pool].addresses.iter();
    let index = addresses.position(|it| it.addr == addr).expect(address);
    (index, policy.pools[pool].standing(index))
}

fn hold(policy: &Policy, pool: usize, address: &str) -> BlockNumber {
    let (index, _) = place_of(policy, pool, address);
    let holder = Holder { subscriber: Ipv4Addr::new(10, 1, 1, 1), worker: 0, overlay: 0 };
    policy.pools[pool].addresses[index].directory.claim(holder, 7, NOW).unwrap()
}

#[test]
fn names_keep_their_numbers_and_addresses_their_places() {
    let first = objects(
        &[("a", "192.0.2.1-192.0.2.3", ""), ("b", "192.0.2.9", "")],
        &[("x", "10.1.0.0/16", "a"), ("y", "10.2.0.0/16", "b")],
        &[],
    );
    let second = objects(
        &[
            ("b", "192.0.2.9", ""),
            ("c", "198.51.100.1", ""),
            ("a", "192.0.2.0, 192.0.2.3, 192.0.2.2", ""),
        ],
        &[("z", "10.1.0.0/16", "c"), ("y", "10.2.0.0/16", "a")],
        &[],
    );
    let before = good(&Policy::default(), &first);
    hold(&before, 0, "192.0.2.1");
    let policy = good(&before, &second);
    let names: Vec<&str> = policy.pools.iter().map(|pool| pool.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(place_of(&policy, 0, "192.0.2.1"), (0, Standing::Leaving));
    assert_eq!(place_of(&policy, 0, "192.0.2.3"), (2, Standing::Serving));
    assert_eq!(place_of(&policy, 0, "192.0.2.0"), (3, Standing::Serving));
    assert!(Arc::ptr_eq(&before.pools[1].addresses[0], &policy.pools[1].addresses[0]));
    let (_, y) = policy.rules.decide([10, 2, 0, 1].into(), [8, 8, 8, 8].into(), None, 0).unwrap();
    assert_eq!((y.name.as_str(), y.action), ("y", Action::Pool(PoolId(0))));
    let names: Vec<&str> = policy.rules.rules().iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(
        names,
        ["x", "y", "z"],
        "the number of a rule that is gone goes on naming its sessions"
    );
    let decided = policy.rules.decide([10, 1, 0, 1].into(), [8, 8, 8, 8].into(), None, 0).unwrap();
    assert_eq!((decided.0.0, decided.1.name.as_str()), (2, "z"));
    assert!(
        policy.addresses.contains_key(&[192, 0, 2, 1].into()),
        "it is natgate's while it leaves"
    );
    assert_eq!((policy.generation, policy.cuts), (before.generation + 1, before.cuts));
    // Nobody has it any more; then it comes back with what rests there.
    let unused = [Ipv4Addr::new(192, 0, 2, 1)].into();
    let policy = relieved(&policy, &unused, &[], &[]);
    assert!(!policy.addresses.contains_key(&[192, 0, 2, 1].into()));
    let back = good(&policy, &first);
    assert_eq!(place_of(&back, 0, "192.0.2.1"), (0, Standing::Serving));
    assert_eq!(back.pools[0].addresses[0].directory.held(), 1);
}

#[test]
fn a_removal_by_cut_ends_what_is_there() {
    let with = |addresses: &str| {
        objects(&[("a", addresses, ", removal: cut")], &[("x", "10.1.0.0/16", "a")], &[])
    };
    let before = good(&Policy::default(), &with("192.0.2.1-192.0.2.2"));
    let policy = good(&before, &with("192.0.2.2"));
    assert_eq!(place_of(&policy, 0, "192.0.2.1"), (0, Standing::Gone));
    assert!(!policy.addresses.contains_key(&[192, 0, 2, 1].into()));
    assert_eq!(policy.cuts, before.cuts + 1);
    // The whole pool.
    let other = objects(&[("b", "192.0.2.9", "")], &[("x", "10.1.0.0/16", "b")], &[]);
    let policy = good(&policy, &other);
    assert_eq!(place_of(&policy, 0, "192.0.2.2"), (1, Standing::Gone));
    // A place that nobody has is used again.
    let policy = good(&policy, &with("192.0.2.2, 192.0.2.77"));
    assert_eq!(place_of(&policy, 0, "192.0.2.77").0, 0);
}

#[test]
fn what_blocks_depend_on_needs_a_restart_and_is_named() {
    let with = |settings: &str| {
        objects(&[("a", "192.0.2.1", settings)], &[("x", "10.1.0.0/16", "a")], &[])
    };
    let before = good(&Policy::default(), &with(""));
    for (settings, field) in [
        (", blockSize: 128", "spec.blockSize"),
        (", ports: {range: 2048-65535}", "spec.ports.range"),
        (", ports: {low: 512-1023}", "spec.ports.low"),
        (", scatter: {ports: 40960-49151}", "spec.scatter"),
    ] {
        let problems = after(&before, &with(settings)).problems;
        let [problem] = &problems[..] else { panic!("{settings}: {problems:?}") };
        assert_eq!(
            (problem.what.as_str(), problem.place.field.as_str()),
            ("needs a restart", field)
        );
        assert!(problem.place.to_string().contains("AddressPool a"), "{problem}");
    }
    for settings in [
        ", quota: {blocks: 1}, timers: {udp: 200}, spill: false, parity: true, preserve: true",
        ", mapping: endpoint-independent, filtering: endpoint-independent, scatter: false",
        ", scatter: false",
    ] {
        assert_eq!(after(&before, &with(settings)).problems, [], "{settings}");
    }
    let without = good(&before, &with(", scatter: false"));
    let problems = after(&without, &with("")).problems;
    assert!(problems.len() == 1 && problems[0].place.field == "spec.scatter", "{problems:?}");
    assert_eq!(after(&before, &with(", ports: {except: [2000-2500]}")).problems, []);
}

#[test]
fn an_address_in_use_does_not_move_to_another_pool() {
    let rules = &[("x", "10.1.0.0/16", "a")];
    let first = objects(&[("a", "192.0.2.1-192.0.2.2", "")], rules, &[]);
    let second = objects(&[("a", "192.0.2.1", ""), ("b", "192.0.2.2", "")], rules, &[]);
    let before = good(&Policy::default(), &first);
    let problems = after(&before, &second).problems;
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].to_string().contains("192.0.2.2 was in pool a"), "{}", problems[0]);
    // Once it has left, it may.
    let third = objects(&[("a", "192.0.2.1", "")], rules, &[]);
    let unused = [Ipv4Addr::new(192, 0, 2, 2)].into();
    let left = relieved(&good(&before, &third), &unused, &[], &[]);
    assert_eq!(place_of(&good(&left, &second), 1, "192.0.2.2"), (0, Standing::Serving));
}

#[test]
fn sources_of_before_stay_natgates() {
    let with = |from: &str| objects(&[("a", "192.0.2.1", "")], &[("x", from, "a")], &[]);
    let before = good(&Policy::default(), &with("\"10.1.0.0/16\", \"10.2.0.0/16\""));
    let policy = good(&before, &with("10.2.0.0/15"));
    let former = |policy: &Policy| {
        policy.rules.former_sources().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(former(&policy), ["10.1.0.0/16"]);
    let pod = Ipv4Addr::new(10, 1, 0, 1);
    assert!(policy.rules.knows_source(pod));
    assert!(policy.rules.decide(pod, [8, 8, 8, 8].into(), None, 0).is_none());
    let policy = good(&policy, &with("10.3.0.0/16"));
    assert_eq!(former(&policy), ["10.1.0.0/16", "10.2.0.0/15"]);
    let policy = good(&policy, &with("10.0.0.0/8"));
    assert_eq!(former(&policy), Vec::<String>::new());
}

const WEB: &str = "PortForward, metadata: {name: web}, spec: {address: 192.0.2.1, protocol: tcp, ports: 8080, target: {address: 10.1.0.5}}";
const MOVED: &str = "PortForward, metadata: {name: web}, spec: {address: 192.0.2.1, protocol: tcp, ports: 8080, target: {address: 10.1.0.6}}";
const ONE: &str = "StaticNat, metadata: {name: one}, spec: {address: 192.0.2.9, target: 10.1.0.7}";
const ANOTHER: &str =
    "StaticNat, metadata: {name: one}, spec: {address: 192.0.2.9, target: 10.1.0.8}";

#[test]
fn a_new_port_forward_waits_and_its_port_is_not_drawn_meanwhile() {
    let with =
        |others: &[&str]| objects(&[("a", "192.0.2.1", "")], &[("x", "10.1.0.0/16", "a")], others);
    let public = Endpoint::new([192, 0, 2, 1].into(), 8080);
    let before = good(&Policy::default(), &with(&[]));
    let succession = after(&before, &with(&[WEB]));
    let policy = succession.policy;
    assert_eq!((succession.problems.len(), succession.waiting.len()), (0, 1));
    assert!(policy.pools[0].addresses[0].is_reserved(8080));
    assert_eq!(policy.forwards.by_public(Protocol::Tcp, public), None);
    let policy = relieved(&policy, &[].into(), &[], &succession.waiting);
    let target = |policy: &Policy| {
        let fixed = policy.forwards.by_public(Protocol::Tcp, public)?;
        Some(fixed.internal.addr.octets()[3])
    };
    assert_eq!(target(&policy), Some(5));
    // At the start nobody can have a port.
    assert_eq!(target(&good(&Policy::default(), &with(&[WEB]))), Some(5));
    // Another pod: at once, and the sessions of the first end.
    let moved = after(&policy, &with(&[MOVED]));
    assert_eq!((moved.waiting.len(), target(&moved.policy)), (0, Some(6)));
    assert_eq!(moved.policy.cuts, policy.cuts + 1);
    // None: sessions are still to be found, the port is kept.
    let without = good(&policy, &with(&[]));
    assert_eq!((target(&without), without.cuts), (None, policy.cuts));
    assert_eq!(without.forwards.owner(Protocol::Tcp, public).unwrap().internal.addr.octets()[3], 5);
    assert!(without.pools[0].addresses[0].is_reserved(8080));
    let former = without.forwards.former().unwrap().forwards().to_vec();
    let ended = relieved(&without, &[].into(), &former, &[]);
    assert_eq!(ended.forwards.owner(Protocol::Tcp, public), None);
    let free = good(&ended, &with(&[ONE]));
    assert!(!free.pools[0].addresses[0].is_reserved(8080));
}

#[test]
fn one_to_one_addresses_come_and_go() {
    let with =
        |others: &[&str]| objects(&[("a", "192.0.2.1", "")], &[("x", "10.1.0.0/16", "a")], others);
    let address = Ipv4Addr::new(192, 0, 2, 9);
    let public = Endpoint::new(address, 22);
    let before = good(&Policy::default(), &with(&[]));
    let policy = good(&before, &with(&[ONE]));
    assert!(policy.addresses.contains_key(&address));
    let fixed = policy.forwards.by_public(Protocol::Tcp, public).unwrap();
    assert_eq!((fixed.internal.addr.octets()[3], fixed.pool), (7, PoolId(1)));
    let moved = good(&policy, &with(&[ANOTHER]));
    assert_eq!(moved.cuts, policy.cuts + 1);
    let left = good(&policy, &with(&[]));
    assert!(left.addresses.contains_key(&address) && left.forwards.is_static(address));
    assert_eq!(left.forwards.by_public(Protocol::Tcp, public), None);
    assert!(left.forwards.owner(Protocol::Tcp, public).is_some());
    let gone = relieved(&left, &[address].into(), &[], &[]);
    assert!(!gone.addresses.contains_key(&address) && !gone.forwards.is_static(address));
    assert!(good(&gone, &with(&[ONE])).addresses.contains_key(&address));
}

#[test]
fn fixed_settings_of_the_gateway_are_named_and_others_are_not() {
    let gateway = || Gateway { workers: Some(2), ..Gateway::default() };
    let other = Gateway {
        workers: Some(4),
        queues: Some(1),
        socket: "/run/other.sock".into(),
        sessions: 64,
        log: "debug".into(),
        on_exit: OnExit::Pass,
        error_interfaces: Some(vec![]),
        ..gateway()
    };
    let problems = needs_restart(&gateway(), &other);
    let fields: Vec<&str> = problems.iter().map(|problem| problem.place.field.as_str()).collect();
    assert_eq!(fields, ["spec.workers", "spec.queues", "spec.socket", "spec.sessions"]);
    let text = problems[0].to_string();
    assert!(
        text.contains("(Gateway: spec.workers): it is 2 in the running gateway and would be 4"),
        "{text}"
    );
    assert_eq!(needs_restart(&gateway(), &gateway()), []);
}

#[test]
fn what_is_recorded_is_told_as_objects_say_it() {
    let (old, mut new) = (Gateway::default(), Gateway::default());
    new.events.sessions = true;
    assert_eq!(needs_restart(&old, &new), [], "that follows a reload");
    new.events.destinations = true;
    new.events.file = Some(crate::events::FileSettings {
        path: "/var/log/Ports".into(),
        max_bytes: 1 << 20,
        keep: 3,
    });
    new.events.attribution = None;
    let problems = needs_restart(&old, &new);
    let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
    for (field, change) in [
        ("destinations", "it is false in the running gateway and would be true"),
        (
            "file",
            "it is absent in the running gateway and would be {keep: 3, maxBytes: 1048576, path: /var/log/Ports}",
        ),
        ("attribution", "} in the running gateway and would be false"),
    ] {
        let line =
            told.iter().find(|line| line.contains(&format!("(Gateway: spec.events.{field})")));
        assert!(line.is_some_and(|line| line.contains(change)), "{field}: {told:#?}");
    }
    assert_eq!(told.len(), 3, "{told:#?}");
    let moved = Gateway { socket: "/run/Other.sock".into(), ..Gateway::default() };
    let text = needs_restart(&old, &moved)[0].to_string();
    assert!(text.contains("would be /run/Other.sock"), "{text}");
}

#[test]
fn changes_are_told_in_words() {
    let first = objects(&[("a", "192.0.2.1-192.0.2.3", "")], &[("x", "10.1.0.0/16", "a")], &[WEB]);
    let second = objects(
        &[("a", "192.0.2.2-192.0.2.5", ", quota: {blocks: 3}"), ("b", "192.0.2.9", "")],
        &[("x", "10.1.0.0/17", "a"), ("y", "10.2.0.0/16", "b")],
        &[],
    );
    assert_eq!(what_changes(&first, &first), Vec::<String>::new());
    assert_eq!(
        what_changes(&first, &second),
        [
            "pool a: 2 more addresses, 1 address removed, settings changed",
            "pools: 1 added (b)",
            "rules: 1 added (y), 1 changed (x)",
            "port forwards: 1 removed (web)",
        ]
    );
}
