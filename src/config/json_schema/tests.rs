//! Is the schema complete, shipped as it is, and no stricter than the readers?

use jsonschema::Validator;
use serde_json::Value as Json;

use super::explore::{Asked, field, header, spec};
use super::*;
use crate::config::field::Field;
use crate::config::problem::{Origin, Problems};
use crate::config::tree::{Node, Value};
use crate::config::{forward, gateway, nat_rule, pool, yaml};

#[test]
fn the_shipped_schema_is_the_printed_one() {
    let shipped = include_str!("../../../deploy/natgate.schema.json");
    let printed = format!("{:#}\n", json_schema());
    assert!(shipped == printed, "write it anew: natgate schema > deploy/natgate.schema.json");
}

/// Path, name and path of the group, of every field of every group.
fn fields(asked: &Asked) -> Vec<(String, &'static str, &str)> {
    let of_group = |(path, names): (_, &'static [&'static str])| {
        names.iter().map(move |name| (field(path, name), *name, path))
    };
    asked.groups().flat_map(of_group).collect()
}

#[test]
fn every_field_of_every_group_is_asked_for_something() {
    let mut count = 0;
    for asked in KINDS.map(|(_, kind)| spec(kind)) {
        for (path, ..) in fields(&asked) {
            assert!(!asked.at(&path).is_empty(), "no reader asks for {path}");
            count += 1;
        }
    }
    assert!(count > 85, "{count} fields");
    let asked = header();
    let silent: Vec<_> = fields(&asked).into_iter().filter(|f| asked.at(&f.0).is_empty()).collect();
    assert_eq!(silent, [("spec".to_owned(), "spec", "")]);
}

/// A field has a meaning of its own, or a group around it has, or it is a group whose fields have.
#[test]
fn every_field_has_a_meaning() {
    for (kind, asked) in KINDS.map(|(name, kind)| (name, spec(kind))) {
        for (path, name, _) in fields(&asked) {
            let inner = fields(&asked).into_iter().filter(|(_, _, group)| *group == path);
            let outer = path.match_indices(['.', '[']).map(|(at, _)| path[..at].to_owned());
            let has = outer.chain([path.clone()]).chain(inner.map(|(path, ..)| path));
            let is_told = has.filter_map(|path| document::meaning(kind, &path)).count() > 0;
            // These three are told in prose and in a table of their own.
            assert!(is_told || ["addresses", "profile", "shared"].contains(&name), "{kind} {path}");
        }
    }
    let meaning = |kind, path| document::meaning(kind, path).unwrap_or_default();
    assert_eq!(
        meaning("Gateway", "spec.busyPoll"),
        "poll the driver from the workers. Default: false"
    );
    assert_eq!(
        meaning("AddressPool", "spec.timers.tcpOpening"),
        "handshake not complete. Default with high-density: 60; with rfc4787: 240. \
         Minimum: 240 (should) (7857-S2.1c)"
    );
    assert!(meaning("AddressPool", "spec.quota.udp").starts_with("public ports of the protocol"));
    assert_eq!(document::meaning("AddressPool", "spec.quota.zz"), None);
}

fn validator() -> Validator {
    jsonschema::draft7::new(&json_schema()).unwrap()
}

fn json(node: &Node) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::Bool(value) => (*value).into(),
        Value::Int(number) => (*number).into(),
        Value::Text(text) => text.as_str().into(),
        Value::List(items) => items.iter().map(json).collect(),
        Value::Map(entries) => {
            entries.iter().map(|entry| (entry.key.clone(), json(&entry.value))).collect()
        }
    }
}

fn tree(text: &str) -> Node {
    let mut problems = Problems::default();
    let mut documents = yaml::read(&"t".into(), text, &mut problems);
    assert!(problems.is_clean(), "{text}");
    documents.remove(0)
}

/// Values of every sort, right somewhere or nowhere.
const VALUES: &str = r#"[null, true, false, -1, 0, 1, 2, 16, 17, 63, 64, 65, 128, 443, 1000, 1023, 1024, 4096, 8192,
    65535, 65536, 86400, 86401, 1000000, 1000001, 16777216, 16777217, 4294967295, 4294967296, "",
    " ", "none", "a", "eth0", "a b", "a/b", "..", "...", "sixteen-letters-", "/run/x", "run/x",
    "UPPER", "-a", "a-", "a-b", "443", "0", "65536", "8000-8100", " 80 - 90 ", "1024-65535", "512-1023", "57344-65535", "9-8", "1-x",
    "10.0.0.1", "10.0.0.01", "256.1.1.1", "1.2.3", "10.0.0.1-10.0.0.9", "10.0.0.1 - 10.0.0.9", " 192.0.2.1 ",
    "10.0.0.0/8", "10.0.0.1/8", "10.0.0.0/33", "0.0.0.0/0", "10.0.0.0/08", "224.0.0.1", "2001:db8::1", "2001:db8::/32",
    "127.0.0.1:9464", "[::1]:9464", "[fe80::1%2]:9464", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536", "localhost:9464",
    "info", "natgate=debug,warn", "=", "auto", "zerocopy", "copy", "generic", "block", "pass", "text", "json", "icmp",
    "icmp-admin", "reset", "silent", "high-density", "rfc4787", "endpoint-independent", "address-dependent",
    "address-and-port-dependent", "endpoint", "address", "paired", "arbitrary", "peers", "drop", "delayed",
    "best-effort", "strict", "tcp", "udp", "ipv6", {}, [], [null], ["a"], [1], {a: 1}, {53: 10}, {443: 10},
    {1023: {idle: 3}}, {1024: 3}, {53: {answered: 3}}, {53: {idle: 10, answered: 2}}, {idle: 1}, {tcp: address-dependent},
    {kind: paired, linger: 3}, {kind: 1}, {ports: "57344-65535", seconds: 2}, {seconds: 2}, ["10.0.0.0/8"], ["10.0.0.1"],
    [{protocol: tcp}], [{ports: [80]}], [{protocol: udp, ports: [80, "90-99"]}], [{protocol: icmp}], [["a"]]]"#;

/// A `spec` that is right, for each kind.
const RIGHT: [&str; 5] = [
    "{interfaces: {internal: [a], external: [b]}}",
    "{addresses: [192.0.2.1]}",
    "{from: [10.0.0.0/8], pool: p}",
    "{address: 192.0.2.1, protocol: tcp, ports: 80, target: {address: 10.0.0.1}}",
    "{address: 192.0.2.1, target: 10.0.0.1}",
];

/// Whether the reader finds nothing wrong with the `spec`.
fn is_read(kind: Kind, node: &Node) -> bool {
    let mut problems = Problems::default();
    let (spec, problems_of) = (Field::new(node, "spec"), &mut problems);
    match kind {
        Kind::Gateway => drop(gateway::read(&spec, false, problems_of)),
        Kind::AddressPool => drop(pool::read(&spec, problems_of)),
        Kind::NatRule => drop(nat_rule::read(&spec, problems_of)),
        Kind::PortForward => drop(forward::read_forward(&spec, problems_of)),
        Kind::StaticNat => drop(forward::read_static(&spec, problems_of)),
    }
    problems.is_clean()
}

/// Every field with every value, alone and as the only item of a list: what the reader takes, the schema takes; most
/// of what it refuses, the schema refuses.
#[test]
fn schema_takes_what_the_readers_take() {
    let validator = validator();
    let Value::List(values) = tree(VALUES).value else { panic!("a list") };
    let lists =
        values.iter().map(|one| Node { value: Value::List(vec![one.clone()]), ..one.clone() });
    let values: Vec<Node> = values.iter().cloned().chain(lists).collect();
    let (mut taken, mut refused, mut let_pass) = (0, 0, 0);
    for ((name, kind), right) in KINDS.into_iter().zip(RIGHT) {
        let asked = spec(kind);
        for (path, ..) in fields(&asked).into_iter().filter(|(path, ..)| !path.contains("[0]")) {
            let steps: Vec<&str> = path.split('.').skip(1).filter(|step| *step != "53").collect();
            for value in &values {
                let mut node = tree(right);
                node.set(&steps, Node { origin: Origin::Flag(""), ..value.clone() });
                let object = serde_json::json!({
                    "apiVersion": "natgate.dev/v1alpha1", "kind": name, "metadata": {"name": "a"}, "spec": json(&node),
                });
                let is_valid = validator.is_valid(&object);
                match (is_read(kind, &node), is_valid) {
                    (true, true) => taken += 1,
                    (false, false) => refused += 1,
                    (false, true) => let_pass += 1,
                    (true, false) => panic!("the reader takes it, the schema does not: {object:#}"),
                }
            }
        }
    }
    assert!(taken > 1_000 && refused > 20_000, "{taken} taken, {refused} refused");
    assert!(let_pass < 300, "the schema lets {let_pass} pass that the reader refuses");
}
