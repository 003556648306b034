//! Frames of noise and damaged packets.

use proptest::prelude::*;

use super::*;

proptest! {
    // Museum: C40
    #[test]
    fn no_frame_panics_the_pipeline_or_is_lost(
        frames in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..120)), 1..40),
    ) {
        let mut rig = Rig::new(2);
        for (outside, bytes) in frames {
            rig.inject(if outside { OUTSIDE } else { INSIDE }, &bytes);
            rig.run();
        }
    }

    // Museum: C40, C42
    #[test]
    fn no_damaged_packet_panics_the_pipeline_or_is_lost(
        damage in prop::collection::vec((12usize..80, any::<u8>(), 0usize..90), 1..60),
    ) {
        let mut rig = Rig::new(2);
        let good = [
            udp((pod(1), 4000), (SERVER, 53), &[7; 40]),
            tcp((pod(1), 4000), (SERVER, 80), "S", &[7; 40]),
            ping(pod(1), SERVER, 1, &[7; 40]),
        ];
        for (i, (at, value, cut)) in damage.into_iter().enumerate() {
            let mut packet = good[i % 3].clone();
            let at = at.min(packet.len() - 1);
            packet[at] = value;
            packet.truncate(packet.len().saturating_sub(cut / 3));
            // Keep the header checksum right, so that damage gets past the first check.
            if packet.len() >= 34 {
                packet[24..26].fill(0);
                let sum = crate::wire::checksum::fold(crate::wire::checksum::sum(&packet[14..34]));
                packet[24..26].copy_from_slice(&(!sum).to_be_bytes());
            }
            rig.inject(INSIDE, &packet);
            rig.run();
        }
    }
}
