//! Oracle (c): do two live internal endpoints share a public tuple towards one remote?

use std::collections::HashMap;
use std::net::SocketAddrV4;
use std::time::Duration;

use super::Faults;
use super::fidelity::Translated;

/// The oracle's name in [`Faults`].
pub const NAME: &str = "c: sharing";

/// A tuple that was silent for so long may belong to a new session.
const IDLE: Duration = Duration::from_secs(30);

/// Two endpoints share a tuple if, between two packets of one session of the first, a packet of
/// the second shows on the same (protocol, public endpoint, remote).
pub fn check(translated: &[Translated], faults: &mut Faults) {
    let mut tuples: HashMap<(u8, SocketAddrV4, SocketAddrV4), Vec<&Translated>> = HashMap::new();
    for packet in translated.iter().filter(|packet| packet.internal.is_some()) {
        let tuple = (packet.protocol, packet.public, packet.remote);
        tuples.entry(tuple).or_default().push(packet);
    }
    for ((protocol, public, remote), packets) in tuples {
        // Sessions by endpoint: when each was last seen.
        let mut last: HashMap<SocketAddrV4, Duration> = HashMap::new();
        let mut owner = packets[0].internal;
        for packet in packets {
            let Some(internal) = packet.internal else { continue };
            if owner != packet.internal {
                let before = last.get(&internal);
                let lives = before.is_some_and(|then| packet.time.saturating_sub(*then) < IDLE);
                if lives && !packet.opens {
                    faults.add(NAME, || {
                        format!("{owner:?} and {internal} share {public} to {remote} ({protocol})")
                    });
                }
                owner = packet.internal;
            }
            last.insert(internal, packet.time);
        }
    }
}
