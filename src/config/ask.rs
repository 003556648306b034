//! What do the readers ask of a field? Noted on request; the JSON schema is made of it.

/// One thing that a reader asked of a field, or said about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// A group of these fields.
    Group(&'static [&'static str]),
    /// A list; its items are asked at `PATH[0]`.
    List,
    /// A map with free keys of this form; its values are asked at `PATH.KEY`.
    Map(&'static Form),
    /// Text of this form.
    Text(&'static Form),
    /// One of these words.
    Word(Vec<String>),
    /// A whole number from the first to the second.
    Number(i64, i64),
    /// `true` or `false`.
    Truth,
    /// `false`, as a word of its own.
    False,
    /// About a group: it needs this field.
    Needs(String),
    /// About a group: it needs one of these fields.
    NeedsOneOf(&'static [&'static str]),
    /// About a number: only these are right.
    Among(Vec<i64>),
}

/// How a text must look, as far as a regular expression of ECMA-262 tells. What it refuses is wrong; what it lets pass may be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Form {
    /// What it is, for people.
    pub(super) what: &'static str,
    /// The expression; empty for any text.
    pub(super) pattern: &'static str,
}

macro_rules! octet {
    () => {
        "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
    };
}

macro_rules! address {
    () => {
        concat!("(", octet!(), "[.]){3}", octet!())
    };
}

/// Any text.
pub(super) const ANY: Form = Form { what: "text", pattern: "" };
/// See `address::AddressRange`.
pub(super) const ADDRESSES: Form = Form {
    what: "an address (192.0.2.1), a range (192.0.2.1-192.0.2.9) or a prefix (192.0.2.0/28)",
    pattern: concat!(
        "^\\s*",
        address!(),
        "\\s*(-\\s*",
        address!(),
        "\\s*)?$|^",
        address!(),
        "/[0-9]{1,2}$"
    ),
};
/// See `address::prefix`.
pub(super) const PREFIX: Form = Form {
    what: "a prefix such as 10.244.0.0/16",
    pattern: concat!("^", address!(), "/[0-9]{1,2}$"),
};
/// See `Ipv4Addr`.
pub(super) const ADDRESS: Form =
    Form { what: "an IPv4 address", pattern: concat!("^", address!(), "$") };
/// See `address::ports`.
pub(super) const PORTS: Form = Form {
    what: "a port (443) or a range of ports (\"8000-8100\")",
    pattern: "^\\s*[0-9]{1,5}\\s*(-\\s*[0-9]{1,5}\\s*)?$",
};
/// Destination ports that may have timers of their own.
pub(super) const TIMED_PORT: Form = Form {
    what: "a port from 1 to 1023 other than 443",
    pattern: "^(?!443$)([1-9][0-9]{0,2}|10[01][0-9]|102[0-3])$",
};
/// A name of an object.
pub(super) const NAME: Form = Form {
    what: "1 to 63 lower-case letters, digits and inner hyphens",
    pattern: "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
};
/// A name of an interface.
pub(super) const INTERFACE: Form = Form {
    what: "the name of an interface, as `ip link` shows it",
    pattern: "^(?![.]{1,2}$)[^/:\\s]{1,15}$",
};
/// A path from the root.
pub(super) const PATH: Form = Form { what: "an absolute path", pattern: "^/" };
/// Where a collector listens.
pub(super) const COLLECTOR: Form =
    Form { what: "a host and a port, such as ipfix.example.net:4740", pattern: ":[0-9]{1,5}$" };
/// Where to listen.
pub(super) const LISTENING: Form = Form {
    what: "an address and a port, such as 127.0.0.1:9464",
    pattern: "^([0-9.]+|\\[[0-9a-fA-F:.%]+\\]):[0-9]{1,5}$",
};
