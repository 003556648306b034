//! Port forwards and 1:1 addresses.

use crate::{Case, Input};

#[rustfmt::skip]
pub(super) const CASES: &[Case] = &[
    Case {
        name: "forward without target",
        input: Input::Edits(&[("  pool: shop
", "  pool: shop
---
{apiVersion: natgate.dev/v1alpha1, kind: PortForward, metadata: {name: web},
 spec: {address: 203.0.113.10, protocol: tcp, ports: 80}}
")]),
        stderr: r#"error: missing field ($D/natgate.yaml:26:8: spec.target): PortForward needs "target"; write target: {address: POD, ports: PORT}
"#,
    },
    Case {
        name: "forward of an address that no pool has",
        input: Input::Edits(&[("  pool: shop
", "  pool: shop
---
{apiVersion: natgate.dev/v1alpha1, kind: PortForward, metadata: {name: web},
 spec: {address: 203.0.113.99, protocol: tcp, ports: 80, target: {address: 10.244.1.1}}}
")]),
        stderr: "error: address of no pool ($D/natgate.yaml:26:18: spec.address): no AddressPool has 203.0.113.99; add it to a pool, or use StaticNat for a whole address
",
    },
    Case {
        name: "forward to an address that no rule knows",
        input: Input::Edits(&[("  pool: shop
", "  pool: shop
---
{apiVersion: natgate.dev/v1alpha1, kind: PortForward, metadata: {name: web},
 spec: {address: 203.0.113.10, protocol: tcp, ports: 80, target: {address: 192.0.2.1}}}
")]),
        stderr: "error: unknown target ($D/natgate.yaml:26:76: spec.target.address): 192.0.2.1 lies in the `from` of no rule; name a pod, or widen the `from` of the rule that is to carry its packets
",
    },
    Case {
        name: "forward into a network that can't be",
        input: Input::Edits(&[("  pool: shop
", "  pool: shop
---
{apiVersion: natgate.dev/v1alpha1, kind: PortForward, metadata: {name: web},
 spec: {address: 203.0.113.10, protocol: tcp, ports: 80, vni: 16777216, target: {address: 10.244.1.1}}}
")]),
        stderr: "error: value out of range ($D/natgate.yaml:26:63: spec.vni): 16777216 is not from 0 to 16777215; write a whole number from 0 to 16777215
",
    },
    Case {
        name: "forwards to one pod, one of them without the network",
        input: Input::Edits(&[("  pool: shop
", "  pool: shop
---
{apiVersion: natgate.dev/v1alpha1, kind: PortForward, metadata: {name: a},
 spec: {address: 203.0.113.10, protocol: tcp, ports: 80, vni: 5, target: {address: 10.244.1.1}}}
---
{apiVersion: natgate.dev/v1alpha1, kind: PortForward, metadata: {name: b},
 spec: {address: 203.0.113.10, protocol: tcp, ports: 81, vni: 6, target: {address: 10.244.1.1, ports: 80}}}
---
{apiVersion: natgate.dev/v1alpha1, kind: PortForward, metadata: {name: c},
 spec: {address: 203.0.113.10, protocol: tcp, ports: 82, target: {address: 10.244.1.1, ports: 80}}}
")]),
        stderr: r#"error: target forwarded twice ($D/natgate.yaml:32:76: spec.target.address): forward "a" at $D/natgate.yaml:26:84 leads to some of these ports of 10.244.1.1 too; lead each port of a pod to one public port; pods in several networks: with a vni each
"#,
    },
    Case {
        name: "forward of ICMP",
        input: Input::Edits(&[("  pool: shop
", "  pool: shop
---
{apiVersion: natgate.dev/v1alpha1, kind: PortForward, metadata: {name: web},
 spec: {address: 203.0.113.10, protocol: icmp, ports: 80, target: {address: 10.244.1.1}}}
")]),
        stderr: r#"error: unknown value ($D/natgate.yaml:26:42: spec.protocol): there is no such value as "icmp"; write tcp or udp
"#,
    },
    Case {
        name: "forward of ranges of different length",
        input: Input::Edits(&[("  pool: shop
", r#"  pool: shop
---
{apiVersion: natgate.dev/v1alpha1, kind: PortForward, metadata: {name: web},
 spec: {address: 203.0.113.10, protocol: udp, ports: "80-90", target: {address: 10.244.1.1, ports: "80-91"}}}
"#)]),
        stderr: "error: ranges of different length ($D/natgate.yaml:26:100: spec.target.ports): 11 public ports can't lead to 12 ports of the pod; write ranges of the same length, or leave target.ports out for the same ports
",
    },
    Case {
        name: "forward of port 0",
        input: Input::Edits(&[("  pool: shop
", "  pool: shop
---
{apiVersion: natgate.dev/v1alpha1, kind: PortForward, metadata: {name: web},
 spec: {address: 203.0.113.10, protocol: udp, ports: 0, target: {address: 10.244.1.1}}}
")]),
        stderr: r#"error: bad port ($D/natgate.yaml:26:54: spec.ports): "0" is not a port or a range of ports from 1 to 65535; write a port (443) or a range (8000-8100)
"#,
    },
    Case {
        name: "two forwards of one port",
        input: Input::Edits(&[("  pool: shop
", r#"  pool: shop
---
{apiVersion: natgate.dev/v1alpha1, kind: PortForward, metadata: {name: a},
 spec: {address: 203.0.113.10, protocol: udp, ports: "80-90", target: {address: 10.244.1.1}}}
---
{apiVersion: natgate.dev/v1alpha1, kind: PortForward, metadata: {name: b},
 spec: {address: 203.0.113.10, protocol: udp, ports: 90, target: {address: 10.244.1.2}}}
"#)]),
        stderr: r#"error: ports forwarded twice ($D/natgate.yaml:29:54: spec.ports): forward "a" at $D/natgate.yaml:26:54 has some of these ports of 203.0.113.10; use other ports
"#,
    },
    Case {
        name: "two forwards to one port of a pod",
        input: Input::Edits(&[("  pool: shop
", "  pool: shop
---
{apiVersion: natgate.dev/v1alpha1, kind: PortForward, metadata: {name: a},
 spec: {address: 203.0.113.10, protocol: udp, ports: 80, target: {address: 10.244.1.1}}}
---
{apiVersion: natgate.dev/v1alpha1, kind: PortForward, metadata: {name: b},
 spec: {address: 203.0.113.11, protocol: udp, ports: 80, target: {address: 10.244.1.1}}}
")]),
        stderr: r#"error: target forwarded twice ($D/natgate.yaml:29:76: spec.target.address): forward "a" at $D/natgate.yaml:26:76 leads to some of these ports of 10.244.1.1 too; lead each port of a pod to one public port; pods in several networks: with a vni each
"#,
    },
    Case {
        name: "1:1 address of a pool",
        input: Input::Edits(&[("  pool: shop
", "  pool: shop
---
{apiVersion: natgate.dev/v1alpha1, kind: StaticNat, metadata: {name: one},
 spec: {address: 203.0.113.10, target: 10.244.1.1}}
")]),
        stderr: r#"error: address of a pool ($D/natgate.yaml:26:18: spec.address): 203.0.113.10 is in pool "shop"; take it out of the pool, or use PortForward for single ports
"#,
    },
    Case {
        name: "1:1 address inside the pods' prefix",
        input: Input::Edits(&[("  pool: shop
", "  pool: shop
---
{apiVersion: natgate.dev/v1alpha1, kind: StaticNat, metadata: {name: one},
 spec: {address: 10.244.9.9, target: 10.244.1.1}}
")]),
        stderr: "error: internal address ($D/natgate.yaml:26:18: spec.address): 10.244.9.9 lies in the source prefix 10.244.0.0/16 at $D/natgate.yaml:22:10 (4787-REQ-7); keep pods and public addresses apart
",
    },
    Case {
        name: "1:1 address mapped twice",
        input: Input::Edits(&[("  pool: shop
", "  pool: shop
---
{apiVersion: natgate.dev/v1alpha1, kind: StaticNat, metadata: {name: a},
 spec: {address: 203.0.113.20, target: 10.244.1.1}}
---
{apiVersion: natgate.dev/v1alpha1, kind: StaticNat, metadata: {name: b},
 spec: {address: 203.0.113.20, target: 10.244.1.2}}
")]),
        stderr: "error: mapped twice ($D/natgate.yaml:29:18: spec.address): 203.0.113.20 is already mapped at $D/natgate.yaml:26:18; map each address once; pods in several networks: with a vni each
",
    },
    Case {
        name: "two 1:1 addresses of a pod",
        input: Input::Edits(&[("  pool: shop
", "  pool: shop
---
{apiVersion: natgate.dev/v1alpha1, kind: StaticNat, metadata: {name: a},
 spec: {address: 203.0.113.20, target: 10.244.1.1}}
---
{apiVersion: natgate.dev/v1alpha1, kind: StaticNat, metadata: {name: b},
 spec: {address: 203.0.113.21, target: 10.244.1.1}}
")]),
        stderr: "error: mapped twice ($D/natgate.yaml:29:40: spec.target): 10.244.1.1 is already mapped at $D/natgate.yaml:26:40; map each address once; pods in several networks: with a vni each
",
    },
    Case {
        name: "1:1 multicast address",
        input: Input::Edits(&[("  pool: shop
", "  pool: shop
---
{apiVersion: natgate.dev/v1alpha1, kind: StaticNat, metadata: {name: one},
 spec: {address: 224.0.0.5, target: 10.244.1.1}}
")]),
        stderr: "error: unusable address ($D/natgate.yaml:26:18: spec.address): 224.0.0.5 lies in 224.0.0.0/4, which is multicast; name a unicast address
",
    },
    Case {
        name: "1:1 address that is none",
        input: Input::Edits(&[("  pool: shop
", "  pool: shop
---
{apiVersion: natgate.dev/v1alpha1, kind: StaticNat, metadata: {name: one},
 spec: {address: 203.0.113, target: 10.244.1.1}}
")]),
        stderr: r#"error: bad address ($D/natgate.yaml:26:18: spec.address): "203.0.113" is not an IPv4 address; write an address such as 192.0.2.1
"#,
    },
    Case {
        name: "1:1 address of the host",
        input: Input::Edits(&[("  pool: shop
", "  pool: shop
---
{apiVersion: natgate.dev/v1alpha1, kind: StaticNat, metadata: {name: one},
 spec: {address: 198.51.100.1, target: 10.244.1.1}}
")]),
        stderr: "error: address of the host ($D/natgate.yaml:26:18: spec.address): 198.51.100.1 belongs to this host, which would lose its own traffic; name another address
",
    },
    Case {
        name: "1:1 without target",
        input: Input::Edits(&[("  pool: shop
", "  pool: shop
---
{apiVersion: natgate.dev/v1alpha1, kind: StaticNat, metadata: {name: one},
 spec: {address: 203.0.113.20}}
")]),
        stderr: r#"error: missing field ($D/natgate.yaml:26:8: spec.target): StaticNat needs "target"; name the address of the pod
"#,
    },
    Case {
        name: "1:1 setting of a later version",
        input: Input::Edits(&[("  pool: shop
", "  pool: shop
---
{apiVersion: natgate.dev/v1alpha1, kind: StaticNat, metadata: {name: one},
 spec: {address: 203.0.113.20, target: 10.244.1.1, timers: {udp: 200}}}
")]),
        stderr: r#"error: unsupported field ($D/natgate.yaml:26:52: spec.timers): StaticNat "timers" is not in this version of natgate; remove the field
"#,
    },
];
