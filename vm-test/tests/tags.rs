//! VLAN tags of network 0, which say a priority only: the kernel takes them off without a word, so that what is behind
//! them must not get past natgate (topology: `vm_test::rig`).

use std::time::Duration;

use anyhow::{Result, ensure};
use vm_test::craft::{self, Ip};
use vm_test::oracle::packet::UDP;
use vm_test::rig::{PODS, S1, verified};
use vm_test::{Options, Rig, Wire, wait};

const VLAN: [u8; 2] = [0x81, 0x00];
const SERVICE: [u8; 2] = [0x88, 0xa8];

/// `packet` behind these tags: type, and network with priority.
fn tagged(packet: &[u8], tags: &[([u8; 2], u16)]) -> (u16, Vec<u8>) {
    let mut bytes = Vec::new();
    for (index, (_, network)) in tags.iter().enumerate() {
        bytes.extend(network.to_be_bytes());
        bytes.extend(tags.get(index + 1).map_or([0x08, 0x00], |next| next.0));
    }
    bytes.extend(packet);
    (u16::from_be_bytes(tags[0].0), bytes)
}

fn tags(rig: &mut Rig) -> Result<()> {
    let wire = Wire::node(rig)?;
    let from = std::net::SocketAddrV4::new(PODS[0], 5000);
    let body = craft::datagram(from, std::net::SocketAddrV4::new(S1[0], 7), b"tagged");
    let packet = Ip::new(PODS[0], S1[0], UDP).packet(&body);
    let priority = 5 << 13;
    for tags in [
        &[(VLAN, 0)][..],
        &[(VLAN, priority)],
        &[(SERVICE, 0)],
        &[(VLAN, 0), (VLAN, priority)],
        &[(SERVICE, 0), (VLAN, 0)],
        &[(VLAN, 0), (VLAN, 0), (VLAN, 0)],
    ] {
        let before = rig.natgate()?.dropped("priority-tag")?;
        let (kind, bytes) = tagged(&packet, tags);
        wire.send_as(kind, &bytes)?;
        let natgate = rig.natgate()?;
        wait::until(&format!("the drop of {tags:?}"), Duration::from_secs(5), || {
            Ok((natgate.dropped("priority-tag")? == before + 1).then_some(()))
        })?;
    }
    // What is not a pod's is the kernel's, as ever; without tags the pod is served.
    let before = rig.natgate()?.dropped("priority-tag")?;
    let other = Ip::new([10, 9, 0, 2].into(), S1[0], UDP).packet(&body);
    let (kind, bytes) = tagged(&other, &[(VLAN, 0)]);
    wire.send_as(kind, &bytes)?;
    rig.pods[0].exec(&format!("ping -n -q -c 2 -i 0.2 -W 5 {}", S1[0]))?;
    ensure!(rig.natgate()?.dropped("priority-tag")? == before, "more than pods' packets");
    Ok(())
}

/// The oracles see whether one of them left as it was.
#[test]
fn behind_a_priority_no_pods_packet_passes() {
    verified(Options { gateway_forwards: true, ..Options::natgate() }, tags);
}
