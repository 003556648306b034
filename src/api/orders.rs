//! What can be asked of a running gateway beside a look? Orders wait for the control thread.

use tokio::sync::{mpsc, oneshot};

use super::model::Reloaded;

/// Orders that may wait.
const WAITING: usize = 16;

/// Something to do, and where to tell what came of it.
#[derive(Debug)]
pub(crate) enum Order {
    /// Read the configuration again. Refused with every mistake in it, a line each.
    Reload(oneshot::Sender<Result<Reloaded, Vec<String>>>),
}

/// The way to the control thread.
pub(crate) type Orders = mpsc::Sender<Order>;

/// A way to the control thread, and its end.
pub(crate) fn orders() -> (Orders, mpsc::Receiver<Order>) {
    mpsc::channel(WAITING)
}
