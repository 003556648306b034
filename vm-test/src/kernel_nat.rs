//! How does Linux's own NAT do natgate's job, so that a suite can be shown to be fair?

use std::net::Ipv4Addr;

use anyhow::Result;

use crate::Namespace;

/// Translates `from` to the addresses `first` to `last` with nftables in the gateway.
pub fn start(
    gateway: &Namespace,
    external: &str,
    from: &str,
    (first, last): (Ipv4Addr, Ipv4Addr),
    exempt: &[String],
) -> Result<()> {
    for address in u32::from(first)..=u32::from(last) {
        gateway.ip(&format!("addr add {}/32 dev {external}", Ipv4Addr::from(address)))?;
    }
    gateway.sysctl("net.ipv4.ip_forward", 1)?;
    gateway.exec("nft add table ip natgate")?;
    gateway.exec("nft add chain ip natgate out { type nat hook postrouting priority srcnat ; }")?;
    for destination in exempt {
        gateway.exec(&format!("nft add rule ip natgate out ip daddr {destination} accept"))?;
    }
    gateway.exec(&format!(
        "nft add rule ip natgate out ip saddr {from} oifname {external} snat to {first}-{last} \
         persistent"
    ))?;
    Ok(())
}
