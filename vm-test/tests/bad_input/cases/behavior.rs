//! Address pools and the gateway: settings that contradict each other or lose a MUST.

use crate::{Case, Input};

#[rustfmt::skip]
pub(super) const CASES: &[Case] = &[
    Case {
        name: "open filter on shared ports",
        input: Input::Edits(&[("  addresses: [203.0.113.10-203.0.113.13]
", "  addresses: [203.0.113.10-203.0.113.13]
  filtering: endpoint-independent
")]),
        stderr: "error: contradictory settings ($D/natgate.yaml:16:14: spec.filtering): endpoint-independent filtering needs public ports that belong to one internal endpoint, as only endpoint-independent mapping gives them; write mapping: endpoint-independent, or filter by address
",
    },
    Case {
        name: "open filter for UDP alone",
        input: Input::Edits(&[("  addresses: [203.0.113.10-203.0.113.13]
", "  addresses: [203.0.113.10-203.0.113.13]
  mapping: address-dependent
  filtering: {tcp: address-dependent, udp: endpoint-independent}
")]),
        stderr: "error: contradictory settings ($D/natgate.yaml:17:14: spec.filtering): endpoint-independent filtering needs public ports that belong to one internal endpoint, as only endpoint-independent mapping gives them; write mapping: endpoint-independent, or filter by address
",
    },
    Case {
        name: "overlap that its filter can't tell apart",
        input: Input::Edits(&[("  addresses: [203.0.113.10-203.0.113.13]
", "  addresses: [203.0.113.10-203.0.113.13]
  filtering: address-dependent
  overlap: endpoint
")]),
        stderr: "error: contradictory settings ($D/natgate.yaml:17:12: spec.overlap): address-dependent filtering can't tell sessions to two ports of one remote apart; write overlap: address, or filtering: address-and-port-dependent
",
    },
    Case {
        name: "scatter with a mapping for all remotes",
        input: Input::Edits(&[("  addresses: [203.0.113.10-203.0.113.13]
", r#"  addresses: [203.0.113.10-203.0.113.13]
  profile: rfc4787
  scatter: {ports: "60000-65535"}
"#)]),
        stderr: "error: contradictory settings ($D/natgate.yaml:17:12: spec.scatter): scatter gives each remote another port, which this mapping forbids; write scatter: false
",
    },
    Case {
        name: "scatter region over all ports",
        input: Input::Edits(&[("  addresses: [203.0.113.10-203.0.113.13]
", r#"  addresses: [203.0.113.10-203.0.113.13]
  scatter: {ports: "1024-65535"}
"#)]),
        stderr: "error: bad scatter region ($D/natgate.yaml:16:20: spec.scatter.ports): the region must lie in spec.ports.range and leave a block of it for other flows; choose another region
",
    },
    Case {
        name: "scatter region without ports",
        input: Input::Edits(&[("  addresses: [203.0.113.10-203.0.113.13]
", "  addresses: [203.0.113.10-203.0.113.13]
  scatter: {seconds: 3}
")]),
        stderr: r#"error: missing field ($D/natgate.yaml:16:12: spec.scatter.ports): scatter needs "ports"; write for example ports: "57344-65535", or scatter: false
"#,
    },
    Case {
        name: "sessions of a mapping that is one session",
        input: Input::Edits(&[("  addresses: [203.0.113.10-203.0.113.13]
", "  addresses: [203.0.113.10-203.0.113.13]
  quota: {sessionsPerMapping: 10}
")]),
        stderr: "error: contradictory settings ($D/natgate.yaml:16:10: spec.quota): with this mapping every session has a mapping of its own; remove quota.sessionsPerMapping
",
    },
    Case {
        name: "soft limit above the hard one",
        input: Input::Edits(&[("  addresses: [203.0.113.10-203.0.113.13]
", "  addresses: [203.0.113.10-203.0.113.13]
  quota: {blocks: 4, blocksSoft: 5}
")]),
        stderr: "error: soft limit too high ($D/natgate.yaml:16:34: spec.quota.blocksSoft): 5 is above the hard limit of 4, which comes first; write a lower number
",
    },
    Case {
        name: "time below a MUST in the strict profile",
        input: Input::Edits(&[("  addresses: [203.0.113.10-203.0.113.13]
", "  addresses: [203.0.113.10-203.0.113.13]
  profile: rfc4787
  timers: {udp: 119}
")]),
        stderr: "error: time too short for rfc4787 ($D/natgate.yaml:17:17: spec.timers.udp): 119 s is below 120 s: requirement 4787-REQ-5 is lost; write 120 or more, or choose profile: high-density
",
    },
    Case {
        name: "low ports that are not low",
        input: Input::Edits(&[("  addresses: [203.0.113.10-203.0.113.13]
", r#"  addresses: [203.0.113.10-203.0.113.13]
  ports: {low: "512-1024"}
"#)]),
        stderr: "error: bad port range ($D/natgate.yaml:16:16: spec.ports.low): 512-1024 reaches above 1023; end at 1023, or write none
",
    },
    Case {
        name: "excepted port that is none",
        input: Input::Edits(&[("  addresses: [203.0.113.10-203.0.113.13]
", "  addresses: [203.0.113.10-203.0.113.13]
  ports: {except: [0]}
")]),
        stderr: r#"error: bad port range ($D/natgate.yaml:16:20: spec.ports.except[0]): "0" is not a port or a range of ports from 1 to 65535; write a port (443) or a range (8000-8100)
"#,
    },
    Case {
        name: "unknown pooling",
        input: Input::Edits(&[("  addresses: [203.0.113.10-203.0.113.13]
", "  addresses: [203.0.113.10-203.0.113.13]
  pooling: {kind: pared}
")]),
        stderr: r#"error: unknown value ($D/natgate.yaml:16:19: spec.pooling.kind): there is no such value as "pared"; write paired or arbitrary
"#,
    },
    Case {
        name: "error interface that is not the gateway's",
        input: Input::Edits(&[("    external: [out0]
", "    external: [out0]
  icmpErrors: {interfaces: [in0, lo]}
")]),
        stderr: r#"error: unknown interface ($D/natgate.yaml:9:28: spec.icmpErrors.interfaces): "lo" is not an interface of the gateway; name interfaces of spec.interfaces, or leave the field out for all
"#,
    },
    Case {
        name: "unknown answer to denied flows",
        input: Input::Edits(&[("    external: [out0]
", "    external: [out0]
  onDeny: drop
")]),
        stderr: r#"error: unknown value ($D/natgate.yaml:9:11: spec.onDeny): there is no such value as "drop"; write icmp, reset or silent
"#,
    },
];
