//! The suites once more, with the pods in an overlay as flannel sets it up: the node's kernel is the other end of the
//! tunnel (topology: `vm_test::rig`, `Overlay::Flannel`, which this program's name asks for).

#[path = "../bulk.rs"]
mod bulk;
#[path = "../forwards.rs"]
mod forwards;
#[path = "../fragments.rs"]
mod fragments;
#[path = "../icmp_errors.rs"]
mod icmp_errors;
#[path = "../many.rs"]
mod many;
#[path = "../ping.rs"]
mod ping;
#[path = "../pmtu.rs"]
mod pmtu;
#[path = "../tags.rs"]
mod tags;
#[path = "../tcp_script.rs"]
mod tcp_script;
#[path = "../udp.rs"]
mod udp;
