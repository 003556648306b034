//! How long may a packet to a tunnel's other end be? What the kernel has learned by path MTU discovery (RFC 1191).
//!
//! The kernel hears the routers' errors about outer packets that natgate has sent: they are addressed to the host, and
//! quote packets of its own VXLAN device. It keeps what it learns for ten minutes (`net.ipv4.route.mtu_expires`), tells
//! nobody of it, and answers who asks for the route.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use ahash::RandomState;
use futures_util::{StreamExt, stream};
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteMetric};

use super::dump::Kernel;

/// Largest number of unanswered questions.
const AT_ONCE: usize = 64;

/// No way is believed to be smaller, in bytes: whoever can send to the host can forge such errors, and a pod that sends
/// the 1,200 bytes of QUIC (RFC 9000) must not lose them for it. IPv6 asks as much of every link (RFC 8200 section 5).
const SMALLEST: u16 = 1280;

/// A tunnel: this host's address, and the other end's.
pub(super) type Ends = (Ipv4Addr, Ipv4Addr);
/// Longest packet, in bytes, by the other end's address.
pub(super) type PathMtus = HashMap<Ipv4Addr, u16, RandomState>;

impl Kernel {
    /// What the kernel has learned on the way to each of `ends`; nothing of those where it has not.
    pub(super) async fn path_mtus(&self, ends: Vec<Ends>) -> PathMtus {
        let answers = stream::iter(ends).map(|ends| async move {
            let route = self.route(ends).await?;
            Some((ends.1, learned(&route)?))
        });
        answers.buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await
    }

    /// By which route the host itself would send.
    async fn route(&self, (local, remote): Ends) -> Option<RouteMessage> {
        let question = RouteMessageBuilder::<Ipv4Addr>::new()
            .source_prefix(local, 32)
            .destination_prefix(remote, 32)
            .build();
        let mut answers = Box::pin(self.handle.route().get(question).execute());
        answers.next().await?.ok()
    }
}

/// The MTU of a route that was learned: those that somebody has set don't expire, and are known from the tables.
fn learned(route: &RouteMessage) -> Option<u16> {
    let expires = route
        .attributes
        .iter()
        .any(|attribute| matches!(attribute, RouteAttribute::CacheInfo(info) if info.expires != 0));
    let metrics = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Metrics(metrics) if expires => Some(metrics),
        _ => None,
    })?;
    metrics.iter().find_map(|metric| match metric {
        RouteMetric::Mtu(mtu) => believed(*mtu),
        _ => None,
    })
}

fn believed(mtu: u32) -> Option<u16> {
    Some(u16::try_from(mtu).ok()?.max(SMALLEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_forged_error_makes_a_tunnel_useless() {
        assert_eq!(believed(1400), Some(1400));
        assert_eq!(believed(552), Some(1280));
        assert_eq!(believed(70_000), None);
    }
}
