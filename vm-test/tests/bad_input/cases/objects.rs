//! Objects: fields, kinds, names, and the Gateway.

use crate::{Case, Input};

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
        stderr: r#"error: unknown field ($D/natgate.yaml:6:3: spec.color): Gateway has no field "color"; remove it; the fields are interfaces, workers, queues, mode, busyPoll, tunnels, receiveSteering, socket, stateDir, stateFile, metrics, log, logFormat, onExit, sessions, answerPing, onDeny, onUnmapped, icmpErrors, grace, mssClamp, slowPathBudget, latencySample, drain, events
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
        name: "relative state directory",
        input: Input::Edits(&[("  interfaces:
    internal: [in0]
    external: [out0]
", "  interfaces:
    internal: [in0]
    external: [out0]
  stateDir: state
")]),
        stderr: r#"error: bad state directory ($D/natgate.yaml:9:13: spec.stateDir): "state" is not an absolute path; write a path such as /var/lib/natgate
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
  metrics: ":9464"
"#)]),
        stderr: r#"error: bad listening address ($D/natgate.yaml:9:12: spec.metrics): ":9464" is not an address and a port; write for example 127.0.0.1:9464
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
];
