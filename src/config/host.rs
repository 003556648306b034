//! Which addresses does this host have itself?

use std::net::Ipv4Addr;

use nix::ifaddrs::getifaddrs;

/// All IPv4 addresses of the host's interfaces.
///
/// # Errors
/// When the kernel doesn't tell.
pub(crate) fn host_addresses() -> std::io::Result<Vec<Ipv4Addr>> {
    let interfaces = getifaddrs()?;
    Ok(interfaces.filter_map(|i| Some(i.address?.as_sockaddr_in()?.ip())).collect())
}
