//! YAML and the files that hold it.

use super::GOOD;
use crate::{Case, Input};

#[rustfmt::skip]
pub(super) const CASES: &[Case] = &[
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
];
