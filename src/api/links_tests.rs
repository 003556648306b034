//! What is said of links that are down?

use std::sync::atomic::Ordering;

use crate::mirror::{Link, MirrorState};

use super::model::Status;
use super::tests::Fake;

fn state(up: bool, gone: bool) -> MirrorState {
    let mut link = Link::default();
    (link.name, link.mtu, link.up, link.gone) = ("eth0".to_owned(), 1500, up, gone);
    MirrorState { links: vec![link], ..MirrorState::default() }
}

#[test]
fn a_link_that_is_down_is_named_with_what_to_do_and_natgate_stays_ready() {
    let fake = Fake::new(0);
    fake.shared.ready.store(true, Ordering::Release);
    fake.run(async || {
        for (up, gone, warned) in [
            (true, false, None),
            (false, false, Some("the link of eth0 is down: ")),
            (true, false, None),
            (false, true, Some("eth0 is gone: ")),
        ] {
            fake.shared.follow_kernel(&state(up, gone));
            let (_, text) = fake.get("/v1/status").await;
            let status: Status = serde_json::from_str(&text).unwrap();
            let lines: Vec<&String> =
                status.warnings.iter().filter(|line| line.contains("eth0 is")).collect();
            assert_eq!(lines.len(), usize::from(warned.is_some()), "{lines:?}");
            if let Some(warned) = warned {
                assert!(lines[0].starts_with(warned), "{lines:?}");
            }
            assert_eq!((status.ready, status.gone.is_empty()), (true, !gone));
            let (_, metrics) = fake.get("/metrics").await;
            let sample = format!("natgate_interface_up{{interface=\"eth0\"}} {}\n", u8::from(up));
            assert!(metrics.contains(&sample), "{metrics}");
            assert_eq!(
                fake.shared.without_link(|roles| roles.internal || roles.external).len(),
                usize::from(!up)
            );
        }
    });
}
