//! Why does the steering program drop packets, and what does one do about it?

use dataplane::DropReason;

/// A reason of the steering program's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SteeringDrop {
    /// Its name.
    pub(crate) name: &'static str,
    /// What happened.
    pub(crate) meaning: &'static str,
    /// What to do.
    pub(crate) remedy: &'static str,
}

const UNSERVED: &str =
    "dropped before any worker: see that natgate runs and serves all queues of the interface";

/// Those that no worker has.
pub(crate) const STEERING_DROPS: [SteeringDrop; 6] = [
    SteeringDrop {
        name: "pod-no-worker",
        meaning: "From a pod, and no worker serves the queue.",
        remedy: UNSERVED,
    },
    SteeringDrop {
        name: "pool-no-worker",
        meaning: "To a public address, and no worker serves the queue.",
        remedy: UNSERVED,
    },
    SteeringDrop {
        name: "arp-no-worker",
        meaning: "ARP for a public address, and no worker serves the queue.",
        remedy: UNSERVED,
    },
    SteeringDrop {
        name: "priority-tag",
        meaning: "From a pod, behind a VLAN tag of network 0.",
        remedy: "let the sender, or the switch before natgate, send these packets without a VLAN tag",
    },
    SteeringDrop {
        name: "unknown-tunnel",
        meaning: "A pod's packet for the outside, in a VXLAN packet to this host of which natgate serves no device.",
        remedy: "natgate serves no VXLAN device of this number, port, address (`local`) and MAC: look at \
                 `natgate interfaces` and the warnings of `natgate status`",
    },
    SteeringDrop {
        name: "pool-source",
        meaning: "From inside, with a public address of natgate's as its source.",
        remedy: "look for a sender inside that uses a public address as its own",
    },
];

/// What to do about a drop of the steering program; some of its reasons are workers' too.
pub(super) fn remedy(name: &str) -> &'static str {
    let own = STEERING_DROPS.iter().find(|it| it.name == name).map(|it| it.remedy);
    let workers = || DropReason::ALL.iter().find(|reason| reason.name() == name);
    own.or_else(|| workers().map(|reason| reason.remedy())).unwrap_or(UNSERVED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_drop_of_the_steering_program_is_explained() {
        let of_workers = |name: &str| DropReason::ALL.iter().any(|reason| reason.name() == name);
        for name in dataplane::xsk::DROP_NAMES {
            let own = STEERING_DROPS.iter().any(|it| it.name == name);
            assert!(own != of_workers(name), "{name}: said not at all, or twice");
        }
        let unknown = |it: &&SteeringDrop| !dataplane::xsk::DROP_NAMES.contains(&it.name);
        assert_eq!(STEERING_DROPS.iter().find(unknown), None);
    }
}
