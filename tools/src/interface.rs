//! What the kernel says about an interface.

use std::fs;

use anyhow::{Context, Result, bail};
use nix::net::if_::if_nametoindex;

/// An Ethernet address, in the order in which it is sent.
pub type Mac = [u8; 6];

/// The kernel's index of the interface `name` in this network namespace.
pub fn index(name: &str) -> Result<u32> {
    if_nametoindex(name).with_context(|| {
        format!(
            "error: the interface ({name}): it does not exist here; `ip link` lists those that do"
        )
    })
}

/// The Ethernet address of the interface `name`.
///
/// Read from sysfs, which shows the network namespace in which it was mounted: under `ip netns exec`
/// that is the one entered.
pub fn mac(name: &str) -> Result<Mac> {
    let path = format!("/sys/class/net/{name}/address");
    let text = fs::read_to_string(&path).with_context(|| {
        format!(
            "error: the interface ({name}): {path} can't be read; `ip link` lists the interfaces"
        )
    })?;
    parse_mac(text.trim())
}

/// Reads an address such as `02:00:00:00:00:01`.
pub fn parse_mac(text: &str) -> Result<Mac> {
    let mut mac = Mac::default();
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().unwrap_or_default();
        *byte = u8::from_str_radix(part, 16).ok().filter(|_| part.len() == 2).with_context(|| {
            format!("error: the Ethernet address ({text}): it is not six pairs of hex digits; write 02:00:00:00:00:01")
        })?;
    }
    if parts.next().is_some() {
        bail!(
            "error: the Ethernet address ({text}): it has more than six bytes; write 02:00:00:00:00:01"
        );
    }
    Ok(mac)
}

#[cfg(test)]
mod tests {
    use super::parse_mac;

    #[test]
    fn addresses_are_six_pairs_of_hex_digits() {
        assert_eq!(parse_mac("02:00:00:00:a0:ff").unwrap(), [2, 0, 0, 0, 0xa0, 0xff]);
        for wrong in
            ["", "02", "02:00:00:00:00", "02:00:00:00:00:01:02", "2:0:0:0:0:1", "0g:0:0:0:0:0"]
        {
            assert!(parse_mac(wrong).is_err(), "{wrong}");
        }
    }
}
