//! Address pools: addresses, blocks, ports, profiles, quotas and timers.

use crate::{Case, Input};

#[rustfmt::skip]
pub(super) const CASES: &[Case] = &[
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
        name: "unknown profile",
        input: Input::Edits(&[("  addresses: [203.0.113.10-203.0.113.13]
", "  addresses: [203.0.113.10-203.0.113.13]
  profile: dense
")]),
        stderr: r#"error: unknown value ($D/natgate.yaml:16:12: spec.profile): there is no such value as "dense"; write high-density or rfc4787
"#,
    },
    Case {
        name: "pool setting of a later version",
        input: Input::Edits(&[("  addresses: [203.0.113.10-203.0.113.13]
", "  addresses: [203.0.113.10-203.0.113.13]
  trafficClass: gold
")]),
        stderr: r#"error: unsupported field ($D/natgate.yaml:16:3: spec.trafficClass): AddressPool "trafficClass" is not in this version of natgate; remove the field
"#,
    },
    Case {
        name: "nested setting of another kind",
        input: Input::Edits(&[("  addresses: [203.0.113.10-203.0.113.13]
", "  addresses: [203.0.113.10-203.0.113.13]
  scatter: {log: 7, ports: 60000-65535}
")]),
        stderr: "error: wrong type ($D/natgate.yaml:16:18: spec.scatter.log): expected true or false, found the number 7; write true or false
",
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
];
