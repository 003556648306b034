//! What kind of interface is this, and which settings of it get in the way?

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::attach::AttachMode;

const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_GGRO: u32 = 0x2b;
const ETH_FLAG_LRO: u32 = 1 << 15;

fn sysfs(interface: &str) -> PathBuf {
    Path::new("/sys/class/net").join(interface)
}

/// Receive queues of an interface; `None` if there is no such interface.
pub fn receive_queues(interface: &str) -> Option<u32> {
    let entries = std::fs::read_dir(sysfs(interface).join("queues")).ok()?;
    let receive = |name: &std::fs::DirEntry| name.file_name().to_string_lossy().starts_with("rx-");
    Some(entries.filter_map(Result::ok).filter(receive).count() as u32)
}

/// Name of the driver, such as `ixgbe` or `veth`; `?` if it has none.
pub(super) fn driver(interface: &str) -> String {
    let link = std::fs::read_link(sysfs(interface).join("device/driver"));
    let name = link.ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    name.or_else(|| driver_by_ethtool(interface)).unwrap_or_else(|| "?".into())
}

/// Is generic receive offload on?
fn gro(interface: &str) -> bool {
    value(interface, ETHTOOL_GGRO).is_some_and(|on| on != 0)
}

/// Is large receive offload on?
fn lro(interface: &str) -> bool {
    value(interface, ETHTOOL_GFLAGS).is_some_and(|flags| flags & ETH_FLAG_LRO != 0)
}

/// Where packets are merged, or not cut, before natgate sees them: those are too large. As it is now, each with its remedy:
/// operators change this at any time, and drivers when they get a program.
pub fn merging(interface: &str, mode: AttachMode) -> Vec<String> {
    let generic = mode == AttachMode::Generic;
    let mut warnings = Vec::new();
    if generic && driver(interface) == "veth" {
        // In native mode the kernel sees to it.
        warnings.push(format!(
            "{interface}: in generic mode what the veth's other end leaves to its card to cut arrives uncut, datagrams \
             (UDP_SEGMENT) as a single one; `ethtool -K OTHER-END tso off gso off tx-udp-segmentation off`, or \
             another mode"
        ));
    } else if generic && gro(interface) {
        warnings.push(format!(
            "{interface}: GRO merges packets that are then too large; `ethtool -K {interface} gro off`"
        ));
    }
    if lro(interface) {
        warnings.push(format!(
            "{interface}: LRO merges packets that are then too large; `ethtool -K {interface} lro off`"
        ));
    }
    warnings
}

/// Its MTU, if it can be read.
pub(super) fn mtu(interface: &str) -> Option<u32> {
    std::fs::read_to_string(sysfs(interface).join("mtu")).ok()?.trim().parse().ok()
}

/// Are the two settings that let busy polling replace interrupts in place?
pub(super) fn busy_poll_ready(interface: &str) -> bool {
    ["napi_defer_hard_irqs", "gro_flush_timeout"].iter().all(|setting| {
        std::fs::read_to_string(sysfs(interface).join(setting))
            .is_ok_and(|text| text.trim().parse::<u64>().is_ok_and(|value| value > 0))
    })
}

/// `struct ethtool_drvinfo` of the kernel's interface.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

fn driver_by_ethtool(interface: &str) -> Option<String> {
    let mut info = DriverInfo { command: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
    ethtool(interface, (&raw mut info).cast())?;
    debug_assert_eq!(info.rest.len() + 36, size_of::<DriverInfo>());
    let name: Vec<u8> = info.driver.into_iter().take_while(|byte| *byte != 0).collect();
    String::from_utf8(name).ok().filter(|name| !name.is_empty())
}

fn value(interface: &str, command: u32) -> Option<u32> {
    let mut value = Value { command, data: 0 };
    ethtool(interface, (&raw mut value).cast())?;
    Some(value.data)
}

/// Asks the driver. `request` points to the structure of the command that it starts with.
fn ethtool(interface: &str, request: *mut libc::c_char) -> Option<()> {
    let socket =
        socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).ok()?;
    let mut name: [libc::c_char; libc::IFNAMSIZ] = [0; libc::IFNAMSIZ];
    for (to, from) in name.iter_mut().take(libc::IFNAMSIZ - 1).zip(interface.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let mut ask = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: request },
    };
    // SAFETY: `ask` is a valid `ifreq`, whose data points to a structure as large as its command
    // makes the kernel write; both outlive the call.
    let code = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut ask) };
    (code == 0).then_some(())
}
