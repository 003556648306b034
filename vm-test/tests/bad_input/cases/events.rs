//! The gateway's records: `events`.

use crate::{Case, Input};

#[rustfmt::skip]
pub(super) const CASES: &[Case] = &[
    Case {
        name: "records in clear text",
        input: Input::Edits(&[("    external: [out0]
", r#"    external: [out0]
  events:
    ipfix: {collector: "ipfix.example.net:4739", transport: tcp}
"#)]),
        stderr: "error: insecure transport ($D/natgate.yaml:10:12: spec.events.ipfix): records of who had which address would travel in clear text (RFC 8158 section 7); leave transport out for TLS, or write insecure: true as well
",
    },
    Case {
        name: "clear text that is not meant",
        input: Input::Edits(&[("    external: [out0]
", r#"    external: [out0]
  events:
    ipfix: {collector: "ipfix.example.net:4739", transport: udp, insecure: false}
"#)]),
        stderr: "error: insecure transport ($D/natgate.yaml:10:12: spec.events.ipfix): records of who had which address would travel in clear text (RFC 8158 section 7); leave transport out for TLS, or write insecure: true as well
",
    },
    Case {
        name: "collector without a port",
        input: Input::Edits(&[("    external: [out0]
", "    external: [out0]
  events:
    ipfix: {collector: ipfix.example.net}
")]),
        stderr: r#"error: bad collector ($D/natgate.yaml:10:24: spec.events.ipfix.collector): "ipfix.example.net" is not a host and a port; write for example collector: ipfix.example.net:4740
"#,
    },
    Case {
        name: "collector that is missing",
        input: Input::Edits(&[("    external: [out0]
", "    external: [out0]
  events:
    ipfix: {transport: tls}
")]),
        stderr: r#"error: missing field ($D/natgate.yaml:10:12: spec.events.ipfix.collector): ipfix needs "collector"; write for example collector: ipfix.example.net:4740
"#,
    },
    Case {
        name: "certificate without its key",
        input: Input::Edits(&[("    external: [out0]
", r#"    external: [out0]
  events:
    ipfix: {collector: "ipfix.example.net:4740", certificate: /etc/natgate/cert.pem}
"#)]),
        stderr: "error: contradictory settings ($D/natgate.yaml:10:12: spec.events.ipfix): a certificate needs its key, and a key its certificate; give both, or none
",
    },
    Case {
        name: "authorities by a relative path",
        input: Input::Edits(&[("    external: [out0]
", r#"    external: [out0]
  events:
    ipfix: {collector: "ipfix.example.net:4740", ca: ca.pem}
"#)]),
        stderr: r#"error: bad path ($D/natgate.yaml:10:54: spec.events.ipfix.ca): "ca.pem" is not an absolute path; write a path that begins with /
"#,
    },
    Case {
        name: "unknown transport",
        input: Input::Edits(&[("    external: [out0]
", r#"    external: [out0]
  events:
    ipfix: {collector: "ipfix.example.net:4740", transport: sctp}
"#)]),
        stderr: r#"error: unknown value ($D/natgate.yaml:10:61: spec.events.ipfix.transport): there is no such value as "sctp"; write tls, tcp or udp
"#,
    },
    Case {
        name: "peers without sessions",
        input: Input::Edits(&[("    external: [out0]
", "    external: [out0]
  events: {destinations: true}
")]),
        stderr: "error: contradictory settings ($D/natgate.yaml:9:11: spec.events): peers are recorded with sessions, and those are not; write sessions: true as well, or leave destinations out
",
    },
    Case {
        name: "record file by a relative path",
        input: Input::Edits(&[("    external: [out0]
", "    external: [out0]
  events:
    file: {path: events.json}
")]),
        stderr: r#"error: bad path ($D/natgate.yaml:10:18: spec.events.file.path): "events.json" is not an absolute path; write a path that begins with /
"#,
    },
    Case {
        name: "record file without a path",
        input: Input::Edits(&[("    external: [out0]
", "    external: [out0]
  events:
    file: {keep: 3}
")]),
        stderr: r#"error: missing field ($D/natgate.yaml:10:11: spec.events.file.path): file needs "path"; write for example path: /var/log/natgate/events.json
"#,
    },
    Case {
        name: "record file that is rotated all the time",
        input: Input::Edits(&[("    external: [out0]
", "    external: [out0]
  events:
    file: {path: /var/log/natgate/events.json, maxBytes: 100}
")]),
        stderr: "error: value out of range ($D/natgate.yaml:10:58: spec.events.file.maxBytes): 100 is not from 65536 to 4294967295; write a whole number from 65536 to 4294967295
",
    },
    Case {
        name: "records kept for no day",
        input: Input::Edits(&[("    external: [out0]
", "    external: [out0]
  events:
    attribution: {keepDays: 0}
")]),
        stderr: "error: value out of range ($D/natgate.yaml:10:29: spec.events.attribution.keepDays): 0 is not from 1 to 3650; write a whole number from 1 to 3650
",
    },
    Case {
        name: "records kept yes or no",
        input: Input::Edits(&[("    external: [out0]
", "    external: [out0]
  events:
    attribution: true
")]),
        stderr: "error: wrong type ($D/natgate.yaml:10:18: spec.events.attribution): expected a group of fields, found the truth value true; write a group of fields
",
    },
];
