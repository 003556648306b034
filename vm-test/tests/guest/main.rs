//! The suites once more, with the gateway in a virtual machine: Debian's kernel and virtio-net cards of two queues
//! (topology: `vm_test::rig`; the machine: `vm_test::guest`, which this program's name asks for).
//! `VM_TEST_KERNEL=6.1` takes the older kernel.

#[path = "../bulk.rs"]
mod bulk;
#[path = "../capture.rs"]
mod capture;
#[path = "../cluster.rs"]
mod cluster;
#[path = "../coexistence.rs"]
mod coexistence;
#[path = "../crash.rs"]
mod crash;
#[path = "../discovery.rs"]
mod discovery;
#[path = "../drain/main.rs"]
mod drain;
#[path = "../explain.rs"]
mod explain;
#[path = "../forwards.rs"]
mod forwards;
#[path = "../fragments.rs"]
mod fragments;
#[path = "../hot_restart/main.rs"]
mod hot_restart;
#[path = "../icmp_errors.rs"]
mod icmp_errors;
#[path = "../jumbo.rs"]
mod jumbo;
#[path = "../lifecycle.rs"]
mod lifecycle;
#[path = "../links.rs"]
mod links;
#[path = "../many.rs"]
mod many;
#[path = "../metrics.rs"]
mod metrics;
#[path = "../odd_packets.rs"]
mod odd_packets;
#[path = "../ping.rs"]
mod ping;
#[path = "../pmtu.rs"]
mod pmtu;
#[path = "../pools_and_rules.rs"]
mod pools_and_rules;
#[path = "../programs.rs"]
mod programs;
#[path = "../reload/main.rs"]
mod reload;
#[path = "../restart.rs"]
mod restart;
#[path = "../roads.rs"]
mod roads;
#[path = "../route_change.rs"]
mod route_change;
#[path = "../route_metrics.rs"]
mod route_metrics;
#[path = "../routing.rs"]
mod routing;
#[path = "../several.rs"]
mod several;
#[path = "../tags.rs"]
mod tags;
#[path = "../tcp_script.rs"]
mod tcp_script;
#[path = "../top.rs"]
mod top;
#[path = "../traffic.rs"]
mod traffic;
#[path = "../tuning/main.rs"]
mod tuning;
#[path = "../tunnel_path.rs"]
mod tunnel_path;
#[path = "../twin/main.rs"]
mod twin;
#[path = "../udp.rs"]
mod udp;
#[path = "../view.rs"]
mod view;
#[path = "../who.rs"]
mod who;
