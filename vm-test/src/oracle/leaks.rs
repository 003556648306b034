//! Oracle (b): is there an internal address outside, anywhere but in payloads?

use std::net::Ipv4Addr;

use super::{Faults, Kind, Scope, Trace};

/// The oracle's name in [`Faults`].
pub const NAME: &str = "b: leaks";

/// Checks every frame of the external link, whoever sent it.
pub fn check(external: &Trace, scope: &Scope, faults: &mut Faults) {
    for packet in external.packets() {
        match &packet.kind {
            Kind::Ipv4(ip) => {
                let quoted = ip.quoted();
                if pair_leaks(ip.source(), ip.destination(), scope)
                    || quoted.is_some_and(|it| pair_leaks(it.source(), it.destination(), scope))
                {
                    faults.add(NAME, || format!("internal address outside: {ip}"));
                }
            }
            Kind::Arp { sender, target } => {
                if scope.is_internal(*sender) || scope.is_internal(*target) {
                    faults.add(NAME, || format!("internal address in ARP: {sender}, {target}"));
                }
            }
            Kind::Malformed | Kind::Other => {}
        }
    }
}

fn pair_leaks(source: Ipv4Addr, destination: Ipv4Addr, scope: &Scope) -> bool {
    let leaks = |one, other| scope.is_internal(one) && !scope.is_exempt(other);
    leaks(source, destination) || leaks(destination, source)
}
