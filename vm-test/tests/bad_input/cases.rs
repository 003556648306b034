//! The wrong configurations and what natgate says about them.

use super::{Case, Input};

/// Two interfaces, one pool, one rule: nothing is wrong with it.
pub(super) const GOOD: &str = "\
apiVersion: natgate.dev/v1alpha1
kind: Gateway
metadata:
  name: gateway
spec:
  interfaces:
    internal: [in0]
    external: [out0]
---
apiVersion: natgate.dev/v1alpha1
kind: AddressPool
metadata:
  name: shop
spec:
  addresses: [203.0.113.10-203.0.113.13]
---
apiVersion: natgate.dev/v1alpha1
kind: NatRule
metadata:
  name: pods
spec:
  from: [10.244.0.0/16]
  pool: shop
";

/// In every text `$D` stands for the directory of the case.
#[rustfmt::skip]
pub(super) const CASES: &[Case] = &[
    Case {
        name: "unknown field with a near name",
        input: Input::Edits(&[("  interfaces:", "  wrokers: 4
  interfaces:")]),
        stderr: r#"error: unknown field ($D/natgate.yaml:6:3: spec.wrokers): Gateway has no field "wrokers"; did you mean "workers"?
"#,
    },
    Case {
        name: "unknown field with no near name",
        input: Input::Edits(&[("  interfaces:", "  color: green
  interfaces:")]),
        stderr: r#"error: unknown field ($D/natgate.yaml:6:3: spec.color): Gateway has no field "color"; remove it; the fields are interfaces, workers, queues, mode, busyPoll, socket, metrics, log, logFormat, onExit, sessions, answerPing
"#,
    },
    Case {
        name: "unknown top-level field",
        input: Input::Edits(&[("kind: Gateway", "kind: Gateway
colour: green")]),
        stderr: r#"error: unknown field ($D/natgate.yaml:3:1: colour): an object has no field "colour"; remove it; the fields are apiVersion, kind, metadata, spec
"#,
    },
    Case {
        name: "duplicate field",
        input: Input::Edits(&[("  name: shop", "  name: shop
  name: shop")]),
        stderr: r#"error: duplicate field ($D/natgate.yaml:14:3: metadata.name): "name" is already given at $D/natgate.yaml:13:3; remove one of them
"#,
    },
    Case {
        name: "number instead of text",
        input: Input::Edits(&[("  name: shop", "  name: 7")]),
        stderr: r#"error: wrong type ($D/natgate.yaml:13:9: metadata.name): expected text, found the number 7; put it in quotes: "7"
"#,
    },
    Case {
        name: "text instead of a number",
        input: Input::Edits(&[("  interfaces:
    internal: [in0]
    external: [out0]
", "  interfaces:
    internal: [in0]
    external: [out0]
  workers: four
")]),
        stderr: r#"error: wrong type ($D/natgate.yaml:9:12: spec.workers): expected a whole number from 1 to 64, found the text "four"; write a whole number from 1 to 64
"#,
    },
    Case {
        name: "text instead of a list",
        input: Input::Edits(&[("[10.244.0.0/16]", "10.244.0.0/16")]),
        stderr: r#"error: wrong type ($D/natgate.yaml:22:9: spec.from): expected a list, found the text "10.244.0.0/16"; write a list
"#,
    },
    Case {
        name: "list instead of a group",
        input: Input::Edits(&[("  interfaces:
    internal: [in0]
    external: [out0]
", "  interfaces: [in0, out0]
")]),
        stderr: "error: wrong type ($D/natgate.yaml:6:15: spec.interfaces): expected a group of fields, found a list; write a group of fields
",
    },
    Case {
        name: "text instead of a truth value",
        input: Input::Edits(&[("  interfaces:
    internal: [in0]
    external: [out0]
", r#"  interfaces:
    internal: [in0]
    external: [out0]
  busyPoll: "yes"
"#)]),
        stderr: r#"error: wrong type ($D/natgate.yaml:9:13: spec.busyPoll): expected true or false, found the text "yes"; write true or false
"#,
    },
    Case {
        name: "null value",
        input: Input::Edits(&[("  interfaces:
    internal: [in0]
    external: [out0]
", "  interfaces:
    internal: [in0]
    external: [out0]
  workers:
")]),
        stderr: "error: wrong type ($D/natgate.yaml:9:10: spec.workers): expected a whole number from 1 to 64, found nothing; write a whole number from 1 to 64
",
    },
    Case {
        name: "fraction",
        input: Input::Edits(&[("  interfaces:
    internal: [in0]
    external: [out0]
", "  interfaces:
    internal: [in0]
    external: [out0]
  queues: 1.5
")]),
        stderr: r#"error: wrong type ($D/natgate.yaml:9:11: spec.queues): expected a whole number from 1 to 64, found the text "1.5"; write a whole number from 1 to 64
"#,
    },
    Case {
        name: "wrong apiVersion",
        input: Input::Edits(&[("natgate.dev/v1alpha1
kind: Gateway", "natgate.dev/v1
kind: Gateway")]),
        stderr: r#"error: unknown version ($D/natgate.yaml:1:13: apiVersion): "natgate.dev/v1" is not a version that natgate knows; write natgate.dev/v1alpha1
"#,
    },
    Case {
        name: "missing apiVersion",
        input: Input::Edits(&[("apiVersion: natgate.dev/v1alpha1
kind: Gateway", "kind: Gateway")]),
        stderr: r#"error: missing field ($D/natgate.yaml:1:1: apiVersion): an object needs "apiVersion"; write apiVersion: natgate.dev/v1alpha1
"#,
    },
    Case {
        name: "mistyped kind",
        input: Input::Edits(&[("kind: AddressPool", "kind: AdressPool")]),
        stderr: r#"error: unknown kind ($D/natgate.yaml:11:7: kind): natgate knows no "AdressPool"; did you mean "AddressPool"?
"#,
    },
    Case {
        name: "kind of a later version",
        input: Input::Edits(&[("kind: NatRule", "kind: PortForward")]),
        stderr: "error: unsupported kind ($D/natgate.yaml:18:7: kind): PortForward is not in this version of natgate; remove the object
",
    },
    Case {
        name: "missing metadata",
        input: Input::Edits(&[("metadata:
  name: shop
", "")]),
        stderr: r#"error: missing field ($D/natgate.yaml:10:1: metadata): an object needs "metadata"; write metadata: {name: NAME}
"#,
    },
    Case {
        name: "missing name",
        input: Input::Edits(&[("  name: shop
", "  labels: {team: shop}
")]),
        stderr: r#"error: missing field ($D/natgate.yaml:13:3: metadata.name): metadata needs "name"; write metadata: {name: NAME}
"#,
    },
    Case {
        name: "bad name",
        input: Input::Edits(&[("name: shop", "name: Shop_1")]),
        stderr: r#"error: bad name ($D/natgate.yaml:13:9: metadata.name): "Shop_1" is not a name; write 1 to 63 lower-case letters, digits and inner hyphens
error: unknown pool ($D/natgate.yaml:23:9: spec.pool): there is no AddressPool "shop"; add an AddressPool of this name
"#,
    },
    Case {
        name: "missing spec",
        input: Input::Edits(&[("spec:
  interfaces:
    internal: [in0]
    external: [out0]
", "")]),
        stderr: r#"error: missing field ($D/natgate.yaml:1:1: spec): an object needs "spec"; write the settings of the object under spec
"#,
    },
    Case {
        name: "second Gateway",
        input: Input::Edits(&[("kind: Gateway
", "kind: Gateway
metadata:
  name: first
spec:
  interfaces: {internal: [in0], external: [out0]}
---
apiVersion: natgate.dev/v1alpha1
kind: Gateway
")]),
        stderr: "error: second Gateway ($D/natgate.yaml:11:9: metadata.name): there is already one at $D/natgate.yaml:4:9; keep one of them
",
    },
    Case {
        name: "two pools of one name",
        input: Input::Edits(&[("---
apiVersion: natgate.dev/v1alpha1
kind: NatRule", "---
apiVersion: natgate.dev/v1alpha1
kind: AddressPool
metadata:
  name: shop
spec:
  addresses: [203.0.113.99]
---
apiVersion: natgate.dev/v1alpha1
kind: NatRule")]),
        stderr: r#"error: duplicate name ($D/natgate.yaml:20:9: metadata.name): "shop" is already the name of the object at $D/natgate.yaml:13:9; give each object a name of its own
"#,
    },
    Case {
        name: "no pool",
        input: Input::Edits(&[("---
apiVersion: natgate.dev/v1alpha1
kind: AddressPool
metadata:
  name: shop
spec:
  addresses: [203.0.113.10-203.0.113.13]
", "")]),
        stderr: r#"error: no pool ($D/natgate.yaml): there is no AddressPool; add an AddressPool
error: unknown pool ($D/natgate.yaml:16:9: spec.pool): there is no AddressPool "shop"; add an AddressPool of this name
"#,
    },
    Case {
        name: "no rule",
        input: Input::Edits(&[("---
apiVersion: natgate.dev/v1alpha1
kind: NatRule
metadata:
  name: pods
spec:
  from: [10.244.0.0/16]
  pool: shop
", "")]),
        stderr: "error: no rule ($D/natgate.yaml): there is no NatRule; add a NatRule
",
    },
    Case {
        name: "unknown pool",
        input: Input::Edits(&[("  pool: shop", "  pool: shpo")]),
        stderr: r#"error: unknown pool ($D/natgate.yaml:23:9: spec.pool): there is no AddressPool "shpo"; did you mean "shop"?
"#,
    },
    Case {
        name: "missing interfaces",
        input: Input::Edits(&[("  interfaces:
    internal: [in0]
    external: [out0]
", "  workers: 2
")]),
        stderr: r#"error: missing field ($D/natgate.yaml:6:3: spec.interfaces): Gateway needs "interfaces"; name them with --internal IF and --external IF, or in spec.interfaces
"#,
    },
    Case {
        name: "external interface missing",
        input: Input::Edits(&[("    external: [out0]
", "")]),
        stderr: r#"error: missing field ($D/natgate.yaml:7:5: spec.interfaces.external): interfaces needs "external"; name one with --external IF, or in spec.interfaces
"#,
    },
    Case {
        name: "interface named twice",
        input: Input::Edits(&[("[in0]", "[in0, in0]")]),
        stderr: r#"error: duplicate interface ($D/natgate.yaml:7:21: spec.interfaces.internal[1]): "in0" is named twice; name it once
"#,
    },
    Case {
        name: "impossible interface name",
        input: Input::Edits(&[("[in0]", r#"["in 0"]"#)]),
        stderr: r#"error: bad interface name ($D/natgate.yaml:7:16: spec.interfaces.internal[0]): "in 0" can't be the name of an interface; write 1 to 15 characters without blank, colon or slash, as `ip link` shows them
"#,
    },
    Case {
        name: "no interface in the list",
        input: Input::Edits(&[("[in0]", "[]")]),
        stderr: "error: empty list ($D/natgate.yaml:7:15: spec.interfaces.internal): it has no items; write at least one item, or remove the field
",
    },
    Case {
        name: "workers out of range",
        input: Input::Edits(&[("  interfaces:
    internal: [in0]
    external: [out0]
", "  interfaces:
    internal: [in0]
    external: [out0]
  workers: 65
")]),
        stderr: "error: value out of range ($D/natgate.yaml:9:12: spec.workers): 65 is not from 1 to 64; write a whole number from 1 to 64
",
    },
    Case {
        name: "negative number of queues",
        input: Input::Edits(&[("  interfaces:
    internal: [in0]
    external: [out0]
", "  interfaces:
    internal: [in0]
    external: [out0]
  queues: -1
")]),
        stderr: "error: value out of range ($D/natgate.yaml:9:11: spec.queues): -1 is not from 1 to 64; write a whole number from 1 to 64
",
    },
    Case {
        name: "unknown mode",
        input: Input::Edits(&[("  interfaces:
    internal: [in0]
    external: [out0]
", "  interfaces:
    internal: [in0]
    external: [out0]
  mode: turbo
")]),
        stderr: r#"error: unknown value ($D/natgate.yaml:9:9: spec.mode): there is no such value as "turbo"; write auto, zerocopy, copy or generic
"#,
    },
    Case {
        name: "relative socket path",
        input: Input::Edits(&[("  interfaces:
    internal: [in0]
    external: [out0]
", "  interfaces:
    internal: [in0]
    external: [out0]
  socket: natgate.sock
")]),
        stderr: r#"error: bad socket path ($D/natgate.yaml:9:11: spec.socket): "natgate.sock" is not an absolute path; write a path such as /run/natgate.sock
"#,
    },
    Case {
        name: "metrics without an address",
        input: Input::Edits(&[("  interfaces:
    internal: [in0]
    external: [out0]
", r#"  interfaces:
    internal: [in0]
    external: [out0]
  metrics: ":9100"
"#)]),
        stderr: r#"error: bad listening address ($D/natgate.yaml:9:12: spec.metrics): ":9100" is not an address and a port; write for example 127.0.0.1:9100
"#,
    },
    Case {
        name: "bad log filter",
        input: Input::Edits(&[("  interfaces:
    internal: [in0]
    external: [out0]
", "  interfaces:
    internal: [in0]
    external: [out0]
  log: natgate=loud
")]),
        stderr: r#"error: bad log filter ($D/natgate.yaml:9:8: spec.log): "natgate=loud" is not a log filter; write a level (error, warn, info, debug, trace) or target=level, separated by commas
"#,
    },
    Case {
        name: "too few sessions",
        input: Input::Edits(&[("  interfaces:
    internal: [in0]
    external: [out0]
", "  interfaces:
    internal: [in0]
    external: [out0]
  sessions: 0
")]),
        stderr: "error: value out of range ($D/natgate.yaml:9:13: spec.sessions): 0 is not from 64 to 100000000; write a whole number from 64 to 100000000
",
    },
    Case {
        name: "pool address that is none",
        input: Input::Edits(&[("203.0.113.10-203.0.113.13", "203.0.113.256")]),
        stderr: r#"error: bad pool address ($D/natgate.yaml:15:15: spec.addresses[0]): "203.0.113.256" is not an IPv4 address, range or prefix; write an address (192.0.2.1), a range (192.0.2.1-192.0.2.9) or a prefix (192.0.2.0/28)
"#,
    },
    Case {
        name: "IPv6 pool address",
        input: Input::Edits(&[("[203.0.113.10-203.0.113.13]", r#"["2001:db8::1"]"#)]),
        stderr: r#"error: bad pool address ($D/natgate.yaml:15:15: spec.addresses[0]): "2001:db8::1" is IPv6, which is not in this version of natgate; write an address (192.0.2.1), a range (192.0.2.1-192.0.2.9) or a prefix (192.0.2.0/28)
"#,
    },
    Case {
        name: "range that ends before it begins",
        input: Input::Edits(&[("203.0.113.10-203.0.113.13", "203.0.113.13-203.0.113.10")]),
        stderr: "error: bad pool address ($D/natgate.yaml:15:15: spec.addresses[0]): the range 203.0.113.13-203.0.113.10 ends before it begins; write 203.0.113.10-203.0.113.13
",
    },
    Case {
        name: "pool prefix with host bits",
        input: Input::Edits(&[("203.0.113.10-203.0.113.13", "203.0.113.10/28")]),
        stderr: "error: bad pool address ($D/natgate.yaml:15:15: spec.addresses[0]): 203.0.113.10/28 has bits set behind its length of 28; write 203.0.113.0/28, or 203.0.113.10/32 for that address alone
",
    },
    Case {
        name: "this-network pool address",
        input: Input::Edits(&[("203.0.113.10-203.0.113.13", "0.0.0.1")]),
        stderr: r#"error: unusable pool address ($D/natgate.yaml:15:15: spec.addresses[0]): 0.0.0.1 touches 0.0.0.0/8, which is "this network"; name public unicast addresses
"#,
    },
    Case {
        name: "loopback pool address",
        input: Input::Edits(&[("203.0.113.10-203.0.113.13", "127.0.0.1")]),
        stderr: "error: unusable pool address ($D/natgate.yaml:15:15: spec.addresses[0]): 127.0.0.1 touches 127.0.0.0/8, which is loopback; name public unicast addresses
",
    },
    Case {
        name: "link-local pool address",
        input: Input::Edits(&[("203.0.113.10-203.0.113.13", "169.254.1.1")]),
        stderr: "error: unusable pool address ($D/natgate.yaml:15:15: spec.addresses[0]): 169.254.1.1 touches 169.254.0.0/16, which is link-local; name public unicast addresses
",
    },
    Case {
        name: "multicast pool address",
        input: Input::Edits(&[("203.0.113.10-203.0.113.13", "224.0.0.1")]),
        stderr: "error: unusable pool address ($D/natgate.yaml:15:15: spec.addresses[0]): 224.0.0.1 touches 224.0.0.0/4, which is multicast; name public unicast addresses
",
    },
    Case {
        name: "broadcast pool address",
        input: Input::Edits(&[("203.0.113.10-203.0.113.13", "255.255.255.255")]),
        stderr: "error: unusable pool address ($D/natgate.yaml:15:15: spec.addresses[0]): 255.255.255.255 touches 240.0.0.0/4, which is reserved or broadcast; name public unicast addresses
",
    },
    Case {
        name: "range that reaches multicast",
        input: Input::Edits(&[("203.0.113.10-203.0.113.13", "223.255.255.0-224.0.0.3")]),
        stderr: "error: unusable pool address ($D/natgate.yaml:15:15: spec.addresses[0]): 223.255.255.0-224.0.0.3 touches 224.0.0.0/4, which is multicast; name public unicast addresses
",
    },
    Case {
        name: "address twice in a pool",
        input: Input::Edits(&[("203.0.113.10-203.0.113.13", "203.0.113.10-203.0.113.13, 203.0.113.12")]),
        stderr: "error: duplicate pool address ($D/natgate.yaml:15:42: spec.addresses[1]): 203.0.113.12 is already in this pool at $D/natgate.yaml:15:15; name each address once
",
    },
    Case {
        name: "overlapping pools",
        input: Input::Edits(&[("---
apiVersion: natgate.dev/v1alpha1
kind: NatRule", "---
apiVersion: natgate.dev/v1alpha1
kind: AddressPool
metadata:
  name: search
spec:
  addresses: [203.0.113.8/29]
---
apiVersion: natgate.dev/v1alpha1
kind: NatRule")]),
        stderr: r#"error: overlapping pools ($D/natgate.yaml:22:15: spec.addresses[0]): 203.0.113.10-203.0.113.13 is already in pool "shop" at $D/natgate.yaml:15:15; name each address once
"#,
    },
    Case {
        name: "pool inside a source prefix",
        input: Input::Edits(&[("203.0.113.10-203.0.113.13", "10.244.7.1")]),
        stderr: r#"error: internal pool address ($D/natgate.yaml:15:15: spec.addresses[0]): 10.244.7.1 lies in the source prefix 10.244.0.0/16 of rule "pods" at $D/natgate.yaml:22:10 (4787-REQ-7); keep pods and pools apart
"#,
    },
    Case {
        name: "pool address of the host",
        input: Input::Edits(&[("203.0.113.10-203.0.113.13", "198.51.100.0/28")]),
        stderr: "error: address of the host ($D/natgate.yaml:15:15: spec.addresses[0]): 198.51.100.1 belongs to this host, which would lose its own traffic; take it from the host or leave it out of the pool
",
    },
    Case {
        name: "pool shared with the host",
        input: Input::Edits(&[("  addresses: [203.0.113.10-203.0.113.13]
", "  addresses: [203.0.113.10-203.0.113.13]
  shared: true
")]),
        stderr: "error: unsupported setting ($D/natgate.yaml:16:11: spec.shared): sharing addresses with the host is not in this version of natgate; remove the field and give the pool addresses of its own
",
    },
    Case {
        name: "too many pool addresses",
        input: Input::Edits(&[("203.0.113.10-203.0.113.13", "20.0.0.0/15")]),
        stderr: "error: too many pool addresses ($D/natgate.yaml:15:15: spec.addresses[0]): the pools have 131072 addresses up to here, 65535 are possible; use smaller pools
",
    },
    Case {
        name: "block size that is no power of two",
        input: Input::Edits(&[("  addresses: [203.0.113.10-203.0.113.13]
", "  addresses: [203.0.113.10-203.0.113.13]
  blockSize: 100
")]),
        stderr: "error: bad block size ($D/natgate.yaml:16:14: spec.blockSize): 100 is not a power of two; write 64 or 128
",
    },
    Case {
        name: "block size out of range",
        input: Input::Edits(&[("  addresses: [203.0.113.10-203.0.113.13]
", "  addresses: [203.0.113.10-203.0.113.13]
  blockSize: 8
")]),
        stderr: "error: value out of range ($D/natgate.yaml:16:14: spec.blockSize): 8 is not from 16 to 4096; write a whole number from 16 to 4096
",
    },
    Case {
        name: "ports without a whole block",
        input: Input::Edits(&[("  addresses: [203.0.113.10-203.0.113.13]
", r#"  addresses: [203.0.113.10-203.0.113.13]
  ports: {range: "1030-1100"}
"#)]),
        stderr: "error: bad port range ($D/natgate.yaml:16:18: spec.ports.range): 1030-1100 holds no whole block of 64 ports; widen the range or lower spec.blockSize (blocks begin at multiples of it)
",
    },
    Case {
        name: "ports below 1024",
        input: Input::Edits(&[("  addresses: [203.0.113.10-203.0.113.13]
", r#"  addresses: [203.0.113.10-203.0.113.13]
  ports: {range: "512-65535"}
"#)]),
        stderr: "error: bad port range ($D/natgate.yaml:16:18: spec.ports.range): 512-65535 reaches below 1024, where services of the system live; begin at 1024 or above
",
    },
    Case {
        name: "reversed ports",
        input: Input::Edits(&[("  addresses: [203.0.113.10-203.0.113.13]
", r#"  addresses: [203.0.113.10-203.0.113.13]
  ports: {range: "2000-1024"}
"#)]),
        stderr: "error: bad port range ($D/natgate.yaml:16:18: spec.ports.range): the range 2000-1024 ends before it begins; write 1024-2000
",
    },
    Case {
        name: "ports that are none",
        input: Input::Edits(&[("  addresses: [203.0.113.10-203.0.113.13]
", "  addresses: [203.0.113.10-203.0.113.13]
  ports: {range: high}
")]),
        stderr: r#"error: bad port range ($D/natgate.yaml:16:18: spec.ports.range): "high" is not a port or a range of ports from 1 to 65535; write a port (443) or a range (8000-8100)
"#,
    },
    Case {
        name: "strict profile",
        input: Input::Edits(&[("  addresses: [203.0.113.10-203.0.113.13]
", "  addresses: [203.0.113.10-203.0.113.13]
  profile: rfc4787
")]),
        stderr: r#"error: unsupported profile ($D/natgate.yaml:16:12: spec.profile): the profile "rfc4787" is not in this version of natgate; write high-density, or remove the field
"#,
    },
    Case {
        name: "unknown profile",
        input: Input::Edits(&[("  addresses: [203.0.113.10-203.0.113.13]
", "  addresses: [203.0.113.10-203.0.113.13]
  profile: dense
")]),
        stderr: r#"error: unknown value ($D/natgate.yaml:16:12: spec.profile): there is no such value as "dense"; write high-density
"#,
    },
    Case {
        name: "pool setting of a later version",
        input: Input::Edits(&[("  addresses: [203.0.113.10-203.0.113.13]
", "  addresses: [203.0.113.10-203.0.113.13]
  mapping: endpoint-independent
")]),
        stderr: r#"error: unsupported field ($D/natgate.yaml:16:3: spec.mapping): AddressPool "mapping" is not in this version of natgate; remove the field
"#,
    },
    Case {
        name: "nested setting of a later version",
        input: Input::Edits(&[("  addresses: [203.0.113.10-203.0.113.13]
", "  addresses: [203.0.113.10-203.0.113.13]
  holdDown: {seconds: 120}
")]),
        stderr: r#"error: unsupported field ($D/natgate.yaml:16:14: spec.holdDown.seconds): holdDown "seconds" is not in this version of natgate; remove the field
"#,
    },
    Case {
        name: "quota of no blocks",
        input: Input::Edits(&[("  addresses: [203.0.113.10-203.0.113.13]
", "  addresses: [203.0.113.10-203.0.113.13]
  quota: {blocks: 0}
")]),
        stderr: "error: value out of range ($D/natgate.yaml:16:19: spec.quota.blocks): 0 is not from 1 to 65536; write a whole number from 1 to 65536
",
    },
    Case {
        name: "timer of more than a day",
        input: Input::Edits(&[("  addresses: [203.0.113.10-203.0.113.13]
", "  addresses: [203.0.113.10-203.0.113.13]
  timers: {tcpEstablished: 86401}
")]),
        stderr: "error: value out of range ($D/natgate.yaml:16:28: spec.timers.tcpEstablished): 86401 is not from 1 to 86400; write a whole number from 1 to 86400
",
    },
    Case {
        name: "mistyped timer",
        input: Input::Edits(&[("  addresses: [203.0.113.10-203.0.113.13]
", "  addresses: [203.0.113.10-203.0.113.13]
  timers: {tcpEstablishd: 7440}
")]),
        stderr: r#"error: unknown field ($D/natgate.yaml:16:12: spec.timers.tcpEstablishd): timers has no field "tcpEstablishd"; did you mean "tcpEstablished"?
"#,
    },
    Case {
        name: "short timer of QUIC",
        input: Input::Edits(&[("  addresses: [203.0.113.10-203.0.113.13]
", "  addresses: [203.0.113.10-203.0.113.13]
  timers: {udpByPort: {443: 10}}
")]),
        stderr: r#"error: bad port ($D/natgate.yaml:16:24: spec.timers.udpByPort.443): "443" is not a port from 1 to 1023 other than 443; use spec.timers.udp for all other ports
"#,
    },
    Case {
        name: "short timer of an unregistered port",
        input: Input::Edits(&[("  addresses: [203.0.113.10-203.0.113.13]
", "  addresses: [203.0.113.10-203.0.113.13]
  timers: {udpByPort: {8053: 10}}
")]),
        stderr: r#"error: bad port ($D/natgate.yaml:16:24: spec.timers.udpByPort.8053): "8053" is not a port from 1 to 1023 other than 443; use spec.timers.udp for all other ports
"#,
    },
    Case {
        name: "source prefix with host bits",
        input: Input::Edits(&[("10.244.0.0/16", "10.244.3.0/16")]),
        stderr: "error: bad prefix ($D/natgate.yaml:22:10: spec.from[0]): 10.244.3.0/16 has bits set behind its length of 16; write 10.244.0.0/16, or 10.244.3.0/32 for that address alone
",
    },
    Case {
        name: "source without prefix length",
        input: Input::Edits(&[("10.244.0.0/16", "10.244.3.7")]),
        stderr: "error: bad prefix ($D/natgate.yaml:22:10: spec.from[0]): 10.244.3.7 has no prefix length; write 10.244.3.7/32
",
    },
    Case {
        name: "IPv6 source",
        input: Input::Edits(&[("[10.244.0.0/16]", r#"["fd00::/8"]"#)]),
        stderr: r#"error: bad prefix ($D/natgate.yaml:22:10: spec.from[0]): "fd00::/8" is IPv6, which is not in this version of natgate; write a prefix such as 10.244.0.0/16
"#,
    },
    Case {
        name: "everything as source",
        input: Input::Edits(&[("10.244.0.0/16", "0.0.0.0/0")]),
        stderr: "error: unusable source prefix ($D/natgate.yaml:22:10: spec.from[0]): 0.0.0.0/0 would take every packet, replies from outside included; name the prefixes of the pods
",
    },
    Case {
        name: "multicast as source",
        input: Input::Edits(&[("10.244.0.0/16", "239.0.0.0/8")]),
        stderr: "error: unusable source prefix ($D/natgate.yaml:22:10: spec.from[0]): 239.0.0.0/8 touches 224.0.0.0/4, which is multicast; name the prefixes of the pods
",
    },
    Case {
        name: "source named twice",
        input: Input::Edits(&[("[10.244.0.0/16]", "[10.244.0.0/16, 10.244.0.0/16]")]),
        stderr: "error: duplicate prefix ($D/natgate.yaml:22:25: spec.from[1]): 10.244.0.0/16 is already in this list; name it once
",
    },
    Case {
        name: "rule without source",
        input: Input::Edits(&[("  from: [10.244.0.0/16]
", "")]),
        stderr: r#"error: missing field ($D/natgate.yaml:22:3: spec.from): NatRule needs "from"; list the pods' prefixes in spec.from
"#,
    },
    Case {
        name: "rule without action",
        input: Input::Edits(&[("  pool: shop
", "  priority: 1
")]),
        stderr: "error: missing action ($D/natgate.yaml:22:3: spec): it says neither which pool to use nor that it is exempt; write either pool: NAME or exempt: true
",
    },
    Case {
        name: "rule with two actions",
        input: Input::Edits(&[("  pool: shop
", "  pool: shop
  exempt: true
")]),
        stderr: "error: contradictory action ($D/natgate.yaml:23:9: spec.pool): it names a pool and is exempt from translation; write either pool: NAME or exempt: true
",
    },
    Case {
        name: "bad exception",
        input: Input::Edits(&[("  pool: shop
", "  pool: shop
  except: [10.0.0.0/33]
")]),
        stderr: r#"error: bad prefix ($D/natgate.yaml:24:12: spec.except[0]): "10.0.0.0/33" is not an IPv4 address, range or prefix; write a prefix such as 10.244.0.0/16
"#,
    },
    Case {
        name: "unknown protocol",
        input: Input::Edits(&[("  pool: shop
", "  pool: shop
  services: [{protocol: sctp}]
")]),
        stderr: r#"error: unknown value ($D/natgate.yaml:24:25: spec.services[0].protocol): there is no such value as "sctp"; write tcp, udp or icmp
"#,
    },
    Case {
        name: "ports of ICMP",
        input: Input::Edits(&[("  pool: shop
", "  pool: shop
  services: [{protocol: icmp, ports: [8]}]
")]),
        stderr: "error: ports of ICMP ($D/natgate.yaml:24:38: spec.services[0].ports): ICMP has no ports; remove the ports
",
    },
    Case {
        name: "port out of range",
        input: Input::Edits(&[("  pool: shop
", "  pool: shop
  services: [{protocol: tcp, ports: [443, 70000]}]
")]),
        stderr: r#"error: bad port ($D/natgate.yaml:24:43: spec.services[0].ports[1]): "70000" is not a port or a range of ports from 1 to 65535; write a port (443) or a range (8000-8100)
"#,
    },
    Case {
        name: "port zero",
        input: Input::Edits(&[("  pool: shop
", "  pool: shop
  services: [{protocol: udp, ports: [0]}]
")]),
        stderr: r#"error: bad port ($D/natgate.yaml:24:38: spec.services[0].ports[0]): "0" is not a port or a range of ports from 1 to 65535; write a port (443) or a range (8000-8100)
"#,
    },
    Case {
        name: "service without protocol",
        input: Input::Edits(&[("  pool: shop
", "  pool: shop
  services: [{ports: [443]}]
")]),
        stderr: r#"error: missing field ($D/natgate.yaml:24:14: spec.services[0].protocol): a service needs "protocol"; write tcp, udp or icmp
"#,
    },
    Case {
        name: "negative priority",
        input: Input::Edits(&[("  pool: shop
", "  pool: shop
  priority: -1
")]),
        stderr: "error: value out of range ($D/natgate.yaml:24:13: spec.priority): -1 is not from 0 to 1000000; write a whole number from 0 to 1000000
",
    },
    Case {
        name: "tied rules",
        input: Input::Edits(&[("  pool: shop
", "  pool: shop
---
apiVersion: natgate.dev/v1alpha1
kind: NatRule
metadata:
  name: more
spec:
  from: [10.245.0.0/16, 10.244.0.0/16]
  exempt: true
")]),
        stderr: r#"error: tied rules ($D/natgate.yaml:28:9: metadata.name): rule "pods" at $D/natgate.yaml:20:9 has the same priority 1000 and the same prefixes, 10.244.0.0/16 to 0.0.0.0/0; give one of them another priority
"#,
    },
    Case {
        name: "tied services",
        input: Input::Edits(&[("  pool: shop
", r#"  pool: shop
  services: [{protocol: tcp, ports: ["1-500"]}]
---
apiVersion: natgate.dev/v1alpha1
kind: NatRule
metadata:
  name: more
spec:
  from: [10.244.0.0/16]
  services: [{protocol: tcp, ports: [443]}]
  exempt: true
"#)]),
        stderr: r#"error: tied rules ($D/natgate.yaml:29:9: metadata.name): rule "pods" at $D/natgate.yaml:20:9 has the same priority 1000 and the same prefixes, 10.244.0.0/16 to 0.0.0.0/0; give one of them another priority
"#,
    },
    Case {
        name: "tab as indentation",
        input: Input::Edits(&[("  name: shop", "	name: shop")]),
        stderr: "error: unreadable YAML ($D/natgate.yaml:13:2): tabs disallowed within this context (block indentation); correct this line
",
    },
    Case {
        name: "unclosed list",
        input: Input::Edits(&[("[10.244.0.0/16]", "[10.244.0.0/16")]),
        stderr: "error: unreadable YAML ($D/natgate.yaml:23:7): illegal placement of ':' indicator; correct this line
",
    },
    Case {
        name: "alias",
        input: Input::Edits(&[("[in0]", "&side [in0]"), ("[out0]", "*side")]),
        stderr: "error: unreadable YAML ($D/natgate.yaml:8:15): aliases are not supported; write the value out
",
    },
    Case {
        name: "tag",
        input: Input::Edits(&[("name: shop", "name: !shop shop")]),
        stderr: "error: unreadable YAML ($D/natgate.yaml:13:9): tags are not supported; remove the tag
",
    },
    Case {
        name: "empty document between others",
        input: Input::Edits(&[("---
apiVersion: natgate.dev/v1alpha1
kind: NatRule", "---
---
apiVersion: natgate.dev/v1alpha1
kind: NatRule")]),
        stderr: "error: empty document ($D/natgate.yaml:17:1): it holds no object; write an object or remove the ---
",
    },
    Case {
        name: "document that is no object",
        input: Input::Edits(&[("---
apiVersion: natgate.dev/v1alpha1
kind: NatRule", "---
- just a list
---
apiVersion: natgate.dev/v1alpha1
kind: NatRule")]),
        stderr: "error: wrong type ($D/natgate.yaml:17:1): expected a group of fields, found a list; write a group of fields
",
    },
    Case {
        name: "many mistakes at once",
        input: Input::Edits(&[("[in0]", "[in0, in0]"), ("  addresses: [203.0.113.10-203.0.113.13]
", "  addresses: [127.0.0.1, 203.0.113.300]
  blockSize: 65
"), ("  pool: shop
", "  pool: shopp
  priority: high
")]),
        stderr: r#"error: duplicate interface ($D/natgate.yaml:7:21: spec.interfaces.internal[1]): "in0" is named twice; name it once
error: unusable pool address ($D/natgate.yaml:15:15: spec.addresses[0]): 127.0.0.1 touches 127.0.0.0/8, which is loopback; name public unicast addresses
error: bad pool address ($D/natgate.yaml:15:26: spec.addresses[1]): "203.0.113.300" is not an IPv4 address, range or prefix; write an address (192.0.2.1), a range (192.0.2.1-192.0.2.9) or a prefix (192.0.2.0/28)
error: bad block size ($D/natgate.yaml:16:14: spec.blockSize): 65 is not a power of two; write 64 or 128
error: unknown pool ($D/natgate.yaml:24:9: spec.pool): there is no AddressPool "shopp"; did you mean "shop"?
error: wrong type ($D/natgate.yaml:25:13: spec.priority): expected a whole number from 0 to 1000000, found the text "high"; write a whole number from 0 to 1000000
"#,
    },
    Case {
        name: "empty file",
        input: Input::Files { files: &[("empty.yaml", "")], args: &["--config", "$D/empty.yaml"] },
        stderr: "error: empty file ($D/empty.yaml): it holds no object; write an object or remove the file
",
    },
    Case {
        name: "file of comments",
        input: Input::Files { files: &[("empty.yaml", "# nothing yet
")], args: &["--config", "$D/empty.yaml"] },
        stderr: "error: empty file ($D/empty.yaml): it holds no object; write an object or remove the file
",
    },
    Case {
        name: "empty directory",
        input: Input::Files { files: &[], args: &["--config", "$D"] },
        stderr: "error: no objects ($D): the directory holds no .yaml, .yml or .json file; name a directory or a file with objects
",
    },
    Case {
        name: "directory without objects",
        input: Input::Files { files: &[("README.txt", "hello")], args: &["--config", "$D"] },
        stderr: "error: no objects ($D): the directory holds no .yaml, .yml or .json file; name a directory or a file with objects
",
    },
    Case {
        name: "no such file",
        input: Input::Files { files: &[], args: &["--config", "$D/missing.yaml"] },
        stderr: "error: unreadable configuration ($D/missing.yaml): no such file or directory; name a file or a directory that exists
",
    },
    Case {
        name: "device instead of a file",
        input: Input::Files { files: &[], args: &["--config", "/dev/null"] },
        stderr: "error: unreadable configuration (/dev/null): it is neither a file nor a directory; name a readable file or directory
",
    },
    Case {
        name: "one name in two files",
        input: Input::Files { files: &[("a.yaml", GOOD), ("b.yaml", "apiVersion: natgate.dev/v1alpha1
kind: AddressPool
metadata:
  name: shop
spec:
  addresses: [192.0.2.77]
")], args: &["--config", "$D"] },
        stderr: r#"error: duplicate name ($D/b.yaml:4:9: metadata.name): "shop" is already the name of the object at $D/a.yaml:13:9; give each object a name of its own
"#,
    },
    Case {
        name: "no flags",
        input: Input::Files { files: &[], args: &[] },
        stderr: "error: missing flag (--internal): no internal interface is named; name it with --internal IF
error: missing flag (--external): no external interface is named; name it with --external IF
error: missing flag (--pool): no public address is given; give one with --pool 192.0.2.1, or objects with --config PATH
error: missing flag (--from): no pods' prefix is given; give one with --from 10.244.0.0/16
",
    },
    Case {
        name: "no source",
        input: Input::Files { files: &[], args: &["--internal", "in0", "--external", "out0", "--pool", "203.0.113.10"] },
        stderr: "error: missing flag (--from): no pods' prefix is given; give one with --from 10.244.0.0/16
",
    },
    Case {
        name: "no pool flag",
        input: Input::Files { files: &[], args: &["--internal", "in0", "--external", "out0", "--from", "10.244.0.0/16"] },
        stderr: "error: missing flag (--pool): no public address is given; give one with --pool 192.0.2.1, or objects with --config PATH
",
    },
    Case {
        name: "no external interface",
        input: Input::Files { files: &[], args: &["--internal", "in0", "--pool", "203.0.113.10", "--from", "10.244.0.0/16"] },
        stderr: "error: missing flag (--external): no external interface is named; name it with --external IF
",
    },
    Case {
        name: "bad pool flag",
        input: Input::Files { files: &[], args: &["--internal", "in0", "--external", "out0", "--pool", "203.0.113.10-20", "--from", "10.244.0.0/16"] },
        stderr: r#"error: bad pool address (--pool): "203.0.113.10-20" is not an IPv4 address, range or prefix; write an address (192.0.2.1), a range (192.0.2.1-192.0.2.9) or a prefix (192.0.2.0/28)
"#,
    },
    Case {
        name: "same address in two pool flags",
        input: Input::Files { files: &[], args: &["--internal", "in0", "--external", "out0", "--pool", "203.0.113.10", "--pool", "203.0.113.8/29", "--from", "10.244.0.0/16"] },
        stderr: "error: duplicate pool address (--pool): 203.0.113.10 is already in this pool at --pool; name each address once
",
    },
    Case {
        name: "bad source and bad exemption",
        input: Input::Files { files: &[], args: &["--internal", "in0", "--external", "out0", "--pool", "203.0.113.10", "--from", "10.244.0.1/16", "--exempt", "10.0.0.0"] },
        stderr: "error: bad prefix (--from): 10.244.0.1/16 has bits set behind its length of 16; write 10.244.0.0/16, or 10.244.0.1/32 for that address alone
error: bad prefix (--exempt): 10.0.0.0 has no prefix length; write 10.0.0.0/32
",
    },
    Case {
        name: "flags beside --config",
        input: Input::Files { files: &[("good.yaml", GOOD)], args: &["--config", "$D/good.yaml", "--pool", "203.0.113.10", "--from", "10.244.0.0/16"] },
        stderr: "error: contradictory flags (--pool): --pool can't be used together with --config; write it as an object, or leave out --config
error: contradictory flags (--from): --from can't be used together with --config; write it as an object, or leave out --config
",
    },
    Case {
        name: "no workers",
        input: Input::Files { files: &[], args: &["--internal", "in0", "--external", "out0", "--pool", "203.0.113.10", "--from", "10.244.0.0/16", "--workers", "0"] },
        stderr: "error: value out of range (--workers): 0 is not from 1 to 64; write a whole number from 1 to 64
",
    },
    Case {
        name: "too many workers",
        input: Input::Files { files: &[], args: &["--internal", "in0", "--external", "out0", "--pool", "203.0.113.10", "--from", "10.244.0.0/16", "--workers", "65"] },
        stderr: "error: value out of range (--workers): 65 is not from 1 to 64; write a whole number from 1 to 64
",
    },
    Case {
        name: "workers in words",
        input: Input::Files { files: &[], args: &["--internal", "in0", "--external", "out0", "--pool", "203.0.113.10", "--from", "10.244.0.0/16", "--workers", "many"] },
        stderr: r#"error: wrong type (--workers): expected a whole number from 1 to 64, found the text "many"; write a whole number from 1 to 64
"#,
    },
    Case {
        name: "no queues",
        input: Input::Files { files: &[], args: &["--internal", "in0", "--external", "out0", "--pool", "203.0.113.10", "--from", "10.244.0.0/16", "--queues", "0"] },
        stderr: "error: value out of range (--queues): 0 is not from 1 to 64; write a whole number from 1 to 64
",
    },
    Case {
        name: "bad mode",
        input: Input::Files { files: &[], args: &["--internal", "in0", "--external", "out0", "--pool", "203.0.113.10", "--from", "10.244.0.0/16", "--mode", "fast"] },
        stderr: r#"error: unknown value (--mode): there is no such value as "fast"; write auto, zerocopy, copy or generic
"#,
    },
    Case {
        name: "bad metrics address",
        input: Input::Files { files: &[], args: &["--internal", "in0", "--external", "out0", "--pool", "203.0.113.10", "--from", "10.244.0.0/16", "--metrics", "9100"] },
        stderr: r#"error: bad listening address (--metrics): "9100" is not an address and a port; write for example 127.0.0.1:9100
"#,
    },
    Case {
        name: "bad log format",
        input: Input::Files { files: &[], args: &["--internal", "in0", "--external", "out0", "--pool", "203.0.113.10", "--from", "10.244.0.0/16", "--log-format", "xml"] },
        stderr: r#"error: unknown value (--log-format): there is no such value as "xml"; write text or json
"#,
    },
    Case {
        name: "bad exit policy",
        input: Input::Files { files: &[], args: &["--internal", "in0", "--external", "out0", "--pool", "203.0.113.10", "--from", "10.244.0.0/16", "--on-exit", "open"] },
        stderr: r#"error: unknown value (--on-exit): there is no such value as "open"; write block or pass
"#,
    },
    Case {
        name: "long socket path",
        input: Input::Files { files: &[], args: &["--internal", "in0", "--external", "out0", "--pool", "203.0.113.10", "--from", "10.244.0.0/16", "--socket", "/sssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssss"] },
        stderr: "error: bad socket path (--socket): the path has 108 bytes, a socket's may have 107; write a path such as /run/natgate.sock
",
    },
    Case {
        name: "sessions out of range",
        input: Input::Files { files: &[], args: &["--internal", "in0", "--external", "out0", "--pool", "203.0.113.10", "--from", "10.244.0.0/16", "--sessions", "1000000000"] },
        stderr: "error: value out of range (--sessions): 1000000000 is not from 64 to 100000000; write a whole number from 64 to 100000000
",
    },
    Case {
        name: "flag overrides the file and is wrong",
        input: Input::Files { files: &[("good.yaml", GOOD)], args: &["--config", "$D/good.yaml", "--workers", "-3"] },
        stderr: "error: value out of range (--workers): -3 is not from 1 to 64; write a whole number from 1 to 64
",
    },
    Case {
        name: "every flag wrong",
        input: Input::Files { files: &[], args: &["--internal", "in0,out0", "--external", "a/b", "--pool", "300.0.0.1", "--from", "0.0.0.0/0", "--workers", "x", "--mode", "y", "--on-exit", "z"] },
        stderr: r#"error: bad interface name (--external): "a/b" can't be the name of an interface; write 1 to 15 characters without blank, colon or slash, as `ip link` shows them
error: wrong type (--workers): expected a whole number from 1 to 64, found the text "x"; write a whole number from 1 to 64
error: unknown value (--mode): there is no such value as "y"; write auto, zerocopy, copy or generic
error: unknown value (--on-exit): there is no such value as "z"; write block or pass
error: bad pool address (--pool): "300.0.0.1" is not an IPv4 address, range or prefix; write an address (192.0.2.1), a range (192.0.2.1-192.0.2.9) or a prefix (192.0.2.0/28)
error: unusable source prefix (--from): 0.0.0.0/0 would take every packet, replies from outside included; name the prefixes of the pods
"#,
    },
    Case {
        name: "mistyped flag",
        input: Input::Files { files: &[], args: &["--internal", "in0", "--external", "out0", "--pool", "203.0.113.10", "--from", "10.244.0.0/16", "--wokers", "2"] },
        stderr: "error: unexpected argument '--wokers' found

  tip: a similar argument exists: '--workers'

Usage: natgate check --internal <IF> --external <IF> --pool <SPEC> --from <CIDR> --workers <N>

For more information, try '--help'.
",
    },
    Case {
        name: "flag without its value",
        input: Input::Files { files: &[], args: &["--internal", "in0", "--external", "out0", "--pool", "203.0.113.10", "--from", "10.244.0.0/16", "--workers"] },
        stderr: "error: a value is required for '--workers <N>' but none was supplied

For more information, try '--help'.
",
    },
    Case {
        name: "flag given twice",
        input: Input::Files { files: &[], args: &["--internal", "in0", "--external", "out0", "--pool", "203.0.113.10", "--from", "10.244.0.0/16", "--workers", "1", "--workers", "2"] },
        stderr: "error: the argument '--workers <N>' cannot be used multiple times

Usage: natgate check [OPTIONS]

For more information, try '--help'.
",
    },
];
