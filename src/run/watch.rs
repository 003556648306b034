//! Have the files of the configuration changed?
//!
//! The kernel tells of changes in their directory; what has really changed is told by the files' times, sizes and
//! numbers, so that neighbours in the directory do not matter, and neither do links (Kubernetes swaps one for all files
//! of a ConfigMap). Changes are awaited for a moment, so that files that are written one after the other count as one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::warn;

use crate::config::{Stamps, stamps};

use super::confine;

/// Quiet for this long: the change is complete.
const QUIET: Duration = Duration::from_millis(300);
/// So often the files are looked at though the kernel has told nothing: of a directory that was replaced, or that a link
/// leads to another one, it does not tell.
const LOOK: Duration = Duration::from_secs(2);
/// No change is awaited for longer.
const LONGEST: Duration = Duration::from_secs(3);

/// Watches a file or directory of objects.
#[derive(Debug)]
pub(super) struct Watch {
    path: PathBuf,
    events: mpsc::Receiver<()>,
    seen: Stamps,
    /// The first and the last event of a change that is not complete.
    unrest: Option<(Instant, Instant)>,
    /// When they are looked at though nothing was told.
    look_at: Instant,
}

impl Watch {
    /// Begins to watch `path`. `None`, and a warning: the kernel does not allow it, so that changes need a signal.
    pub(super) fn start(path: &Path) -> Option<Self> {
        Self::open(path)
            .inspect_err(|error| {
                warn!(
                    "changes of {} are not noticed by themselves: {error}; reload with `natgate reload`",
                    path.display()
                );
            })
            .ok()
    }

    fn open(path: &Path) -> std::io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
        let directory = if path.is_dir() { Some(path) } else { path.parent() };
        let here = Path::new(".");
        let directory = directory.filter(|it| !it.as_os_str().is_empty()).unwrap_or(here);
        let changes = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE;
        inotify.add_watch(directory, changes)?;
        let seen = stamps(path);
        let (told, events) = mpsc::channel(1);
        // The kernel's answer is awaited on a thread of its own, which ends with the process.
        let listen = move || {
            confine::powerless();
            while matches!(inotify.read_events(), Ok(_) | Err(Errno::EINTR)) {
                // One that waits already says the same.
                let _ = told.try_send(());
            }
        };
        std::thread::Builder::new().name("natgate-files".into()).spawn(listen)?;
        Ok(Self {
            path: path.to_owned(),
            events,
            seen,
            unrest: None,
            look_at: Instant::now() + LOOK,
        })
    }

    /// Waits for a change of the files. Cancel-safe: what is not returned is noticed by the next call.
    pub(super) async fn changed(&mut self) {
        loop {
            let Some((first, last)) = self.unrest else {
                // Kept from call to call: whoever waits for other things, too, gives up this one all the time.
                let told = tokio::time::timeout_at(self.look_at, self.event()).await.is_ok();
                if !told {
                    self.look_at = Instant::now() + LOOK;
                }
                if told || stamps(&self.path) != self.seen {
                    let now = Instant::now();
                    self.unrest = Some((now, now));
                }
                continue;
            };
            // Files that never come to rest are read all the same.
            let until = (last + QUIET).min(first + LONGEST);
            if tokio::time::timeout_at(until, self.event()).await.is_ok() {
                self.unrest = Some((first, Instant::now()));
                continue;
            }
            self.unrest = None;
            let now = stamps(&self.path);
            if now != self.seen {
                self.seen = now;
                return;
            }
        }
    }

    /// Waits until something happens in the directory.
    async fn event(&mut self) {
        if self.events.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_leads_to_another_directory_is_noticed_by_who_waits_for_other_things_too() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        for version in ["v1", "v2"] {
            std::fs::create_dir(directory.join(version)).unwrap();
            std::fs::write(directory.join(version).join("a.yaml"), version).unwrap();
        }
        let current = directory.join("current");
        std::os::unix::fs::symlink("v1", &current).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut watch = Watch::open(&current).unwrap();
            std::os::unix::fs::symlink("v2", directory.join("next")).unwrap();
            std::fs::rename(directory.join("next"), &current).unwrap();
            // Given up and begun anew, ten times a second.
            let moment = Duration::from_millis(100);
            let noticed =
                async { while tokio::time::timeout(moment, watch.changed()).await.is_err() {} };
            let noticed = tokio::time::timeout(Duration::from_secs(20), noticed).await;
            assert!(noticed.is_ok(), "it was not noticed");
        });
    }
}
