//! IPFIX to a collector: NAT events of RFC 8158, over TCP with TLS unless plain transport was asked for.

mod encode;
mod export;
#[cfg(test)]
mod forms_tests;
mod link;
#[cfg(test)]
mod tests;

pub(super) use export::Exporter;
pub(crate) use export::{Collector, Transport};
