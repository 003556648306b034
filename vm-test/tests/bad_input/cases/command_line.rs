//! Command-line flags.

use super::GOOD;
use crate::{Case, Input};

#[rustfmt::skip]
pub(super) const CASES: &[Case] = &[
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
        input: Input::Files { files: &[], args: &["--internal", "in0", "--external", "out0", "--pool", "203.0.113.10", "--from", "10.244.0.0/16", "--metrics", "9464"] },
        stderr: r#"error: bad listening address (--metrics): "9464" is not an address and a port; write for example 127.0.0.1:9464
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
        name: "segment size out of range",
        input: Input::Files { files: &[], args: &["--internal", "in0", "--external", "out0", "--pool", "203.0.113.10", "--from", "10.244.0.0/16", "--mss-clamp", "40"] },
        stderr: "error: value out of range (--mss-clamp): 40 is not from 88 to 65495; write a whole number from 88 to 65495
",
    },
    Case {
        name: "segment size that is no word of ours",
        input: Input::Files { files: &[], args: &["--internal", "in0", "--external", "out0", "--pool", "203.0.113.10", "--from", "10.244.0.0/16", "--mss-clamp", "on"] },
        stderr: "error: unknown value (--mss-clamp): there is no such value as \"on\"; write auto or off
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
        stderr: "error: unknown flag (--wokers): 'natgate check' takes no such flag; did you mean --workers?
",
    },
    Case {
        name: "flag without its value",
        input: Input::Files { files: &[], args: &["--internal", "in0", "--external", "out0", "--pool", "203.0.113.10", "--from", "10.244.0.0/16", "--workers"] },
        stderr: "error: missing value (--workers): it needs one; write --workers N, or see 'natgate check --help'
",
    },
    Case {
        name: "flag given twice",
        input: Input::Files { files: &[], args: &["--internal", "in0", "--external", "out0", "--pool", "203.0.113.10", "--from", "10.244.0.0/16", "--workers", "1", "--workers", "2"] },
        stderr: "error: contradictory flags (--workers): it is given more than once; give it once
",
    },
];
