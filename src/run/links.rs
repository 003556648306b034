//! Have the interfaces changed in a way that somebody has to hear of, or that needs other sockets?

use dataplane::interface::Mac;
use dataplane::xsk::{self, InterfaceReport, MAX_QUEUES};

use crate::mirror::MirrorState;

/// natgate has to start again: its sockets are not those that the interfaces need.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartAgain {
    /// An interface was removed and made again.
    #[error(
        "interface replaced ({0}): it was removed and made again; start natgate again to serve it"
    )]
    Replaced(String),
    /// Packets arrive on queues that have no socket.
    #[error("queues added ({name}): {now} instead of {then}; start natgate again to serve all")]
    QueuesAdded {
        /// The interface.
        name: String,
        /// Queues served.
        then: u32,
        /// Queues to be served.
        now: u32,
    },
}

/// Ethernet address and state of every link, as others know them.
#[derive(Debug, Default)]
pub(super) struct Faces {
    last: Vec<(Mac, bool)>,
    due: bool,
    /// A link has changed since somebody asked.
    changed: bool,
}

impl Faces {
    /// The links at the start, of which everybody hears anyway.
    pub(super) fn new(state: &MirrorState) -> Self {
        Self { last: faces(state), ..Self::default() }
    }

    /// Others are to hear of links that came up or have another address: they may know the old one, or a switch another
    /// port.
    pub(super) fn follow(&mut self, state: &MirrorState) {
        let now = faces(state);
        let other = |(last, now): (&(Mac, bool), &(Mac, bool))| now.1 && last != now;
        self.due |= self.last.iter().zip(&now).any(other);
        self.changed |= self.last != now;
        self.last = now;
    }

    /// Whether a link has changed since the last call; one that is gone is down.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Has the pool addresses announced if that is due; `announce` says whether it could be.
    pub(super) fn show(&mut self, announce: impl FnOnce() -> bool) {
        if self.due {
            self.due = !announce();
        }
    }
}

fn faces(state: &MirrorState) -> Vec<(Mac, bool)> {
    state.links.iter().map(|link| (link.mac, link.up)).collect()
}

/// Whether the interface has got queues, of at most `limit`, that are not served. More than natgate can serve are no reason
/// to serve none.
pub(super) fn queues_added(report: &InterfaceReport, limit: Option<u32>) -> Option<StartAgain> {
    let has = xsk::receive_queues(&report.name)?;
    let now = has.min(limit.unwrap_or(has));
    let added = now > report.queues && now <= MAX_QUEUES;
    let (name, then) = (report.name.clone(), report.queues);
    added.then_some(StartAgain::QueuesAdded { name, then, now })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::Link;

    fn state(links: &[(u8, bool)]) -> MirrorState {
        let link = |(mac, up): &(u8, bool)| {
            let mut link = Link::default();
            (link.mac, link.up) = (Mac([*mac; 6]), *up);
            link
        };
        MirrorState { links: links.iter().map(link).collect(), ..MirrorState::default() }
    }

    /// How often something was announced after these changes, one after the other.
    fn announced(changes: &[&[(u8, bool)]]) -> usize {
        let mut faces = Faces::new(&state(changes[0]));
        let mut count = 0;
        for links in changes {
            faces.follow(&state(links));
            faces.show(|| {
                count += 1;
                true
            });
        }
        count
    }

    #[test]
    fn links_that_come_up_or_have_another_address_are_announced() {
        assert_eq!(announced(&[&[(1, true)], &[(1, true)]]), 0);
        assert_eq!(announced(&[&[(1, true)], &[(1, false)], &[(1, true)]]), 1);
        assert_eq!(announced(&[&[(1, true), (2, true)], &[(1, true), (3, true)]]), 1);
        assert_eq!(announced(&[&[(1, false)], &[(2, false)]]), 0, "nobody would hear");
        assert_eq!(
            announced(&[&[(1, true)], &[(1, true), (2, true)]]),
            0,
            "a new tunnel has no pool addresses"
        );
    }

    #[test]
    fn every_change_is_told_once() {
        let mut faces = Faces::new(&state(&[(1, true)]));
        assert!(!faces.take_changed());
        faces.follow(&state(&[(1, false)]));
        assert_eq!((faces.take_changed(), faces.take_changed()), (true, false));
        faces.follow(&state(&[(1, false)]));
        assert!(!faces.take_changed());
    }

    #[test]
    fn what_could_not_be_announced_stays_due() {
        let mut faces = Faces::new(&state(&[(1, true)]));
        faces.follow(&state(&[(2, true)]));
        let mut tries = 0;
        for could in [false, true, true] {
            faces.show(|| {
                tries += 1;
                could
            });
        }
        assert_eq!(tries, 2);
    }
}
