//! NAT rules: sources, actions, services, priorities.

use crate::{Case, Input};

#[rustfmt::skip]
pub(super) const CASES: &[Case] = &[
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
];
