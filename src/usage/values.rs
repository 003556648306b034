//! How are values of flags read? A value that is wrong is told with the reason and a remedy.

use std::net::Ipv4Addr;

use clap::builder::{PossibleValue, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Arg, Command, Error};
use conntrack::Protocol;

/// A whole number from 0.
pub(crate) fn whole(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "it is no whole number from 0; give one such as 100".to_owned())
}

/// A number of a network in an overlay.
pub(crate) fn vni(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| *number < 1 << 24);
    number.ok_or_else(|| {
        "it is no number from 0 to 16777215; give one that 'natgate interfaces' shows".to_owned()
    })
}

/// An IPv4 address.
pub(crate) fn address(text: &str) -> Result<Ipv4Addr, String> {
    text.parse().map_err(|_| "it is no IPv4 address; give one such as 10.244.1.7".to_owned())
}

/// Seconds between two looks.
pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.1..=86_400.0).contains(seconds));
    seconds.ok_or_else(|| {
        "it is no number of seconds from 0.1 to 86400; give one such as 2".to_owned()
    })
}

/// The protocols that sessions can be looked for by.
pub(crate) const PROTOCOLS: Words = Words(|| Protocol::ALL.iter().map(|it| it.name()).collect());
/// The states of sessions. Those that share a name are neighbours.
pub(crate) const STATES: Words = Words(|| {
    let mut names: Vec<&str> = conntrack::State::ALL.iter().map(|state| state.name()).collect();
    names.dedup();
    names
});
/// Why workers drop packets; nothing: for whatever reason.
pub(crate) const REASONS: Words =
    Words(|| dataplane::DropReason::ALL.iter().map(|reason| reason.name()).collect());

/// What can be set at run time, but for pools.
pub(crate) const KEYS: Words = Words(crate::config::gateway_keys);

/// Text of which some values are known, to shells that complete them and to people who read help. Others pass: whoever
/// reads them says what is wrong with them, together with everything else.
#[derive(Clone, Copy)]
pub(crate) struct Words(pub(crate) fn() -> Vec<&'static str>);

impl TypedValueParser for Words {
    type Value = String;

    fn parse_ref(
        &self,
        command: &Command,
        _: Option<&Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<String, Error> {
        let text = value.to_str().map(ToOwned::to_owned);
        text.ok_or_else(|| Error::new(ErrorKind::InvalidUtf8).with_cmd(command))
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new((self.0)().into_iter().map(PossibleValue::new)))
    }
}
