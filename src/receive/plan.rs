//! What would spare hand-overs on these interfaces, and what of it can they do?

use std::net::Ipv4Addr;

use conntrack::Pool;

use super::ethtool;
use super::{State, Step, Task};

/// Filters for more addresses than this fit few NICs.
const MOST_ADDRESSES: usize = 256;

/// An interface that has queues.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Side {
    /// Name.
    pub(crate) interface: String,
    /// Driver, or kind of a virtual interface.
    pub(crate) driver: String,
    /// Pods' packets arrive on it.
    pub(crate) internal: bool,
    /// Replies arrive on it.
    pub(crate) external: bool,
    /// Pods' packets arrive in tunnels: the ports outside tell flows apart.
    pub(crate) tunnels: bool,
    /// Queues served.
    pub(crate) queues: u32,
}

/// Which worker's pods prefer which public address.
#[derive(Clone, Debug, Default)]
pub(crate) struct Addresses {
    homes: Vec<(Ipv4Addr, u16)>,
    /// Why some are not among them.
    without: Vec<String>,
}

impl Addresses {
    /// Those of `pools` that belong to `workers` one by one.
    pub(crate) fn of<'a>(pools: impl IntoIterator<Item = &'a Pool>, workers: u16) -> Self {
        let mut addresses = Self::default();
        for pool in pools {
            let serving = pool.with_standing(conntrack::Standing::Serving);
            let blocks: Vec<_> = serving.filter(|it| it.directory.blocks() > 0).collect();
            if blocks.is_empty() {
                continue;
            }
            if pool.leans_to_all(workers) {
                addresses.homes.extend(blocks.iter().map(|it| (it.addr, it.leaning(workers))));
            } else {
                addresses.without.push(format!(
                    "{workers} workers share the {} of pool {:?}; give it {workers} in a row or more",
                    if blocks.len() == 1 { "address".to_owned() } else { format!("{} addresses", blocks.len()) },
                    pool.name
                ));
            }
        }
        if addresses.homes.len() > MOST_ADDRESSES {
            let count = addresses.homes.len();
            addresses
                .without
                .push(format!("{count} public addresses are more than {MOST_ADDRESSES}"));
            addresses.homes.clear();
        }
        addresses
    }
}

/// What is to be done, in this order.
pub(super) async fn steps(sides: &[Side], workers: u16, addresses: &Addresses) -> Vec<Step> {
    let mut steps = Vec::new();
    for side in sides {
        if side.queues < u32::from(workers) {
            let plural = if side.queues == 1 { "" } else { "s" };
            steps.push(impossible(
                side,
                format!("it has {} queue{plural} for {workers} workers", side.queues),
            ));
            continue;
        }
        if side.internal {
            by_source(side, &mut steps).await;
        }
        if side.external {
            by_address(side, addresses, &mut steps).await;
        }
    }
    steps
}

fn impossible(side: &Side, said: String) -> Step {
    step(side, Task::Nothing, State::Impossible, said)
}

fn step(side: &Side, task: Task, state: State, said: String) -> Step {
    Step { interface: side.interface.clone(), task, state, said }
}

/// Spreads what pods send by its source address. Packets of tunnels come from few hosts: by their ports.
async fn by_source(side: &Side, steps: &mut Vec<Step>) {
    let of_udp = if side.tunnels { "sdfn" } else { "s" };
    for (flow, fields) in [("tcp4", "s"), ("udp4", of_udp)] {
        match ethtool::hash_fields(&side.interface, flow).await {
            Ok(before) => {
                let state = if before == fields { State::InPlace } else { State::Wanted };
                steps.push(step(side, Task::Hash { flow, fields, before }, state, String::new()));
            }
            Err(why) => {
                let driver = &side.driver;
                let said = format!("{driver} does not say how it spreads packets: {why}");
                return steps.push(impossible(side, said));
            }
        }
    }
}

/// Brings replies to the worker whose pods prefer the public address.
async fn by_address(side: &Side, addresses: &Addresses, steps: &mut Vec<Step>) {
    let driver = &side.driver;
    let allowed = match ethtool::filters_allowed(&side.interface).await {
        Ok(Some(allowed)) => allowed,
        Ok(None) => {
            let said = format!("{driver} has no filters (ntuple-filters: off [fixed])");
            return steps.push(impossible(side, said));
        }
        Err(why) => {
            let said = format!("{driver} does not say whether it has filters: {why}");
            return steps.push(impossible(side, said));
        }
    };
    steps.extend(addresses.without.iter().map(|why| impossible(side, why.clone())));
    if addresses.homes.is_empty() {
        return;
    }
    let state = if allowed { State::InPlace } else { State::Wanted };
    steps.push(step(side, Task::Filters, state, String::new()));
    let there = if allowed { ethtool::filters(&side.interface).await } else { Vec::new() };
    for &(address, worker) in &addresses.homes {
        for flow in ["tcp4", "udp4"] {
            // Worker w serves queue w, and others.
            let queue = u32::from(worker);
            let is_there = there.contains(&(flow, address, queue));
            let state = if is_there { State::InPlace } else { State::Wanted };
            steps.push(step(side, Task::Filter { flow, address, queue }, state, String::new()));
        }
    }
}

/// Whether every packet of a pod arrives at the same worker, for TCP at least.
pub(super) fn is_by_source(steps: &[Step], sides: &[Side]) -> bool {
    let is_so = |side: &Side| {
        steps.iter().any(|step| {
            step.interface == side.interface
                && step.is_in_force()
                && matches!(step.task, Task::Hash { flow: "tcp4", fields: "s", .. })
        })
    };
    let mut internal = sides.iter().filter(|side| side.internal).peekable();
    internal.peek().is_some() && internal.all(is_so)
}
