//! What does the kernel know of routes, neighbours and links?
//!
//! A task follows the kernel by netlink and publishes [`MirrorState`]: the [`Roads`] for the workers,
//! the gateway's links and the host's own addresses. Changes are applied one by one and published together, a few
//! milliseconds later; what messages don't tell is read again meanwhile (`docs/decisions/0004-netlink-and-http.md`).

mod atlas;
mod dump;
mod events;
mod fdb;
mod link;
mod neighbours;
mod overlays;
mod path_mtu;
mod rules;
mod served;
mod tables;
mod task;
#[cfg(test)]
mod tests;
mod tunnels;
mod vxlan;

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use dataplane::interface::InterfaceId;
use dataplane::roads::Roads;
use ipnet::Ipv4Net;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

pub(crate) use link::{Link, interfaces_by_name};

/// Requests of workers that may wait for the mirror's task.
const REQUESTS: usize = 4096;

/// Why the kernel's tables cannot be followed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MirrorError {
    /// No netlink socket.
    #[error(
        "cannot {what} (netlink): {source}; see that this kernel and the sandbox allow AF_NETLINK"
    )]
    Socket {
        /// What failed.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The kernel did not answer a question.
    #[error("cannot read the kernel's {what} (netlink): {source}; start again")]
    Dump {
        /// Which table.
        what: &'static str,
        /// Why.
        source: rtnetlink::Error,
    },
    /// There is no such interface.
    #[error(
        "unknown interface ({name}): it does not exist in this network namespace; use one of: {known}"
    )]
    UnknownInterface {
        /// The name asked for.
        name: String,
        /// The names that there are.
        known: String,
    },
    /// A VXLAN device that natgate can't serve was named.
    #[error("cannot serve ({name}): {why}; configure the device differently, or name another one")]
    Unservable {
        /// The device.
        name: String,
        /// Why.
        why: &'static str,
    },
    /// An interface vanished.
    #[error(
        "interface gone (index {0}): it was removed during the start; start again when it is back"
    )]
    LinkGone(u32),
}

/// What the kernel knows, at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct MirrorState {
    /// Routes, rules and neighbours, for the workers.
    pub(crate) roads: Arc<Roads>,
    /// Routing rules that are not followed, and tunnels that are not served, a line for an operator each.
    pub(crate) refused: Vec<String>,
    /// The gateway's links, in the order of their [`InterfaceId`]; a link that is gone is down. VXLAN devices are
    /// added as they appear.
    pub(crate) links: Vec<Link>,
    /// The [overlay](dataplane::interface::Interface::overlay) of each link; beyond the last, and mostly, 0.
    pub(crate) overlays: Vec<u16>,
    /// VXLAN devices bound to one of these, served or not: the kernel's index and the name of each.
    pub(crate) above: Vec<(u32, String)>,
    /// The host's own IPv4 addresses, with prefix lengths.
    pub(crate) host_addresses: Vec<Ipv4Net>,
    /// How often a state was published.
    pub(crate) rebuilds: u64,
    /// When the kernel told of the first change that this state has and the one before had not.
    pub(crate) changed_at: Option<std::time::Instant>,
    /// How often messages were lost and everything was read anew.
    pub(crate) resyncs: u64,
}

/// Follows the kernel for as long as it lives.
#[derive(Debug)]
pub(crate) struct Mirror {
    states: watch::Receiver<Arc<MirrorState>>,
    resolver: Resolver,
    task: JoinHandle<()>,
}

/// Asks the kernel to resolve neighbours. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Resolver(mpsc::Sender<(InterfaceId, Ipv4Addr)>);

impl Resolver {
    /// Has the kernel resolve, or refresh, a neighbour, and keeps it fresh from then on. Never blocks;
    /// repeated requests are joined; under overload a request is dropped, and the next one counts.
    pub(crate) fn resolve(&self, interface: InterfaceId, address: Ipv4Addr) {
        // A full queue means thousands of requests are on their way already.
        let _ = self.0.try_send((interface, address));
    }
}

impl Mirror {
    /// Reads the kernel's tables and begins to follow them. `links` are the gateway's interfaces with
    /// the kernel's index of each; ids are dense from 0. VXLAN devices whose packets arrive by one of `underlays` are
    /// added. Must be called within a tokio runtime.
    pub(crate) async fn start(
        links: &[(InterfaceId, u32)],
        underlays: &[InterfaceId],
    ) -> Result<Self, MirrorError> {
        Self::start_with(links, underlays, events::RECEIVE_BUFFER).await
    }

    /// The same, with room for `buffer` bytes of messages.
    async fn start_with(
        links: &[(InterfaceId, u32)],
        underlays: &[InterfaceId],
        buffer: usize,
    ) -> Result<Self, MirrorError> {
        let (requests, incoming) = mpsc::channel(REQUESTS);
        let served = served::Served::new(links, underlays);
        let (task, states) = task::Task::start(served, incoming, buffer).await?;
        let task = tokio::spawn(task.run());
        Ok(Self { states, resolver: Resolver(requests), task })
    }

    /// What the kernel knows now.
    pub(crate) fn state(&self) -> Arc<MirrorState> {
        Arc::clone(&self.states.borrow())
    }

    /// Waits for a state that this handle has not returned yet. `None` if the mirror has ended. Cancel-safe.
    pub(crate) async fn changed(&mut self) -> Option<Arc<MirrorState>> {
        self.states.changed().await.ok()?;
        Some(Arc::clone(&self.states.borrow_and_update()))
    }

    /// The way to ask for neighbours.
    pub(crate) fn resolver(&self) -> Resolver {
        self.resolver.clone()
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.task.abort();
    }
}
