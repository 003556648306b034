//! What breaks, under a transfer and many idle connections: nothing leaks, nothing goes to somebody else, traffic comes
//! back by itself, and counters balance (topology: `vm_test::rig`; in `guests` the gateway is a virtual machine).
//!
//! ```text
//!  c1 transfer, idle ─┐                                    ┌ s1 echo
//!                     ├─ node ── gw (what breaks) ── r ────┤
//!  c2 datagrams, idle ┘                (capture)           └
//! ```
//! `docs/reliability.md` has the times; `NATGATE_WRITE_RELIABILITY=1` writes those of this run there.

mod cards;
mod cases;
mod fault;
mod load;
mod stuck;

use std::time::Duration;

use fault::{Connections, Fault, Place, TABLE, USUAL};

/// Every fault. One whose traffic stops only as long as its cause lasts has the usual two seconds to recover.
const FAULTS: &[Fault] = &[
    Fault { name: "external_link_down_and_up", inflict: cards::external_down_and_up, ..USUAL },
    Fault { name: "internal_link_down_and_up", inflict: cards::internal_down_and_up, ..USUAL },
    Fault { name: "mtu_lowered_and_raised", inflict: cards::other_mtus, ..USUAL },
    Fault { name: "other_hardware_addresses", inflict: cards::other_addresses, ..USUAL },
    Fault { name: "frozen_for_three_seconds", inflict: cases::frozen, ..USUAL },
    Fault {
        name: "killed_at_random_moments",
        inflict: cases::killed,
        connections: Connections::Reset,
        ..USUAL
    },
    Fault {
        name: "xdp_program_of_another",
        inflict: cases::foreign_program,
        compared: false,
        ..USUAL
    },
    Fault {
        name: "out_of_locked_memory",
        places: &[Place::Namespace],
        inflict: cases::no_locked_memory,
        connections: Connections::Reset,
        ..USUAL
    },
    Fault {
        name: "worker_that_gives_nothing_back",
        places: &[Place::Namespace],
        inflict: cases::stuck_worker,
        queues: 2,
        workers: 2,
        ..USUAL
    },
    Fault {
        name: "queues_added",
        places: &[Place::Namespace],
        prepare: cards::two_queues,
        inflict: cards::more_queues,
        within: Duration::from_secs(5),
        queues: 4,
        workers: 2,
        // veth gives its new queues no program until one is attached again: what arrives there is the kernel's.
        forwards: false,
        ..USUAL
    },
    Fault {
        name: "interface_made_again",
        places: &[Place::Namespace],
        prepare: cards::new_ones_forward_nothing,
        inflict: cards::made_again,
        within: Duration::from_secs(5),
        compared: false,
        ..USUAL
    },
    Fault {
        name: "carrier_lost_and_back",
        places: &[Place::Guest],
        inflict: cards::carrier_lost,
        ..USUAL
    },
    Fault {
        name: "card_unbound_and_bound",
        places: &[Place::Guest],
        prepare: cards::new_ones_forward_nothing,
        inflict: cards::made_again,
        within: Duration::from_secs(5),
        ..USUAL
    },
    Fault {
        name: "queue_count_changed",
        places: &[Place::Guest],
        prepare: cards::three_of_four,
        inflict: cards::other_queue_count,
        within: Duration::from_secs(5),
        patience: Duration::from_secs(90),
        queues: 4,
        workers: 2,
        ..USUAL
    },
    Fault {
        name: "card_that_sends_nothing",
        places: &[Place::Guest],
        prepare: stuck::held_to_account,
        inflict: stuck::sends_nothing,
        send_buffer: Some(stuck::BUFFER),
        ..USUAL
    },
    Fault {
        name: "out_of_huge_pages",
        places: &[Place::Guest],
        inflict: cases::no_huge_pages,
        connections: Connections::Reset,
        ..USUAL
    },
    Fault { name: "clock_step", places: &[Place::Guest], inflict: cases::other_times, ..USUAL },
    Fault {
        name: "machine_paused_for_three_seconds",
        places: &[Place::Guest],
        inflict: cases::paused,
        ..USUAL
    },
    Fault {
        name: "kernel_crash_and_reboot",
        places: &[Place::Guest],
        inflict: cases::crashed,
        connections: Connections::Reset,
        ..USUAL
    },
];

fn run(name: &str, place: Place) {
    let fault = FAULTS.iter().find(|it| it.name == name).expect("no such fault");
    assert!(fault.places.contains(&place), "{name} is not for {place:?}");
    fault.run(place);
}

/// A test for each of these faults.
macro_rules! faults {
    ($place:expr; $($name:ident)+) => {
        use super::{Place, run};
        /// The tests that there are.
        pub(super) const NAMES: &[&str] = &[$(stringify!($name)),+];
        $(#[test]
        fn $name() {
            run(stringify!($name), $place);
        })+
    };
}

mod namespaces {
    faults! { Place::Namespace;
        external_link_down_and_up
        internal_link_down_and_up
        mtu_lowered_and_raised
        other_hardware_addresses
        frozen_for_three_seconds
        killed_at_random_moments
        xdp_program_of_another
        out_of_locked_memory
        worker_that_gives_nothing_back
        queues_added
        interface_made_again
    }
}

mod guests {
    faults! { Place::Guest;
        external_link_down_and_up
        internal_link_down_and_up
        mtu_lowered_and_raised
        other_hardware_addresses
        frozen_for_three_seconds
        killed_at_random_moments
        xdp_program_of_another
        carrier_lost_and_back
        card_unbound_and_bound
        card_that_sends_nothing
        queue_count_changed
        out_of_huge_pages
        clock_step
        machine_paused_for_three_seconds
        kernel_crash_and_reboot
    }
}

#[test]
fn every_fault_has_its_tests_and_its_rows() {
    let rows = TABLE.rows().unwrap();
    for fault in FAULTS {
        let tested = [
            (Place::Namespace, namespaces::NAMES.contains(&fault.name), &["veth"][..]),
            (
                Place::Guest,
                guests::NAMES.contains(&fault.name),
                &["virtio-net, 6.1", "virtio-net, 6.12"],
            ),
        ];
        for (place, tested, labels) in tested {
            let wanted = fault.places.contains(&place);
            assert_eq!(tested, wanted, "{} {place:?}", fault.name);
            let name = fault.name.replace('_', " ");
            for label in labels {
                let noted = rows.iter().any(|row| row[0] == name && row[1] == *label);
                assert_eq!(noted, wanted, "{name} {label} in {}", TABLE.document);
            }
        }
    }
}
