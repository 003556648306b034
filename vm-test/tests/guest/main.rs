//! The suites once more, with the gateway in a virtual machine: Debian's kernel and virtio-net cards of two queues
//! (topology: `vm_test::rig`; the machine: `vm_test::guest`, which this program's name asks for).
//! `VM_TEST_KERNEL=6.1` takes the older kernel.

#[path = "../bulk.rs"]
mod bulk;
#[path = "../forwards.rs"]
mod forwards;
#[path = "../icmp_errors.rs"]
mod icmp_errors;
#[path = "../ping.rs"]
mod ping;
#[path = "../tcp_script.rs"]
mod tcp_script;
#[path = "../udp.rs"]
mod udp;
