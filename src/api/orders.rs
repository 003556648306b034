//! What can be asked of a running gateway beside a look? Orders wait for the control thread.

use tokio::sync::{mpsc, oneshot};

use super::model::{Reloaded, SettingChange};

/// Orders that may wait.
const WAITING: usize = 16;

/// Something to do, and where to tell what came of it.
#[derive(Debug)]
pub(crate) enum Order {
    /// Read the configuration again. Refused with every mistake in it, a line each.
    Reload(oneshot::Sender<Result<Reloaded, Vec<String>>>),
    /// Set something over what is written. Refused with everything that is wrong with it, a line each.
    Tune(Tune, oneshot::Sender<Result<Vec<SettingChange>, Vec<String>>>),
    /// Open no session any more (`true`), or open them again.
    Drain(bool, oneshot::Sender<Result<(), Vec<String>>>),
}

/// What is to be set, and by whom.
#[derive(Clone, Debug)]
pub(crate) struct Tune {
    /// Keys with their new values; `None`: as it is written. No list: everything as it is written.
    pub(crate) changes: Option<Vec<(String, Option<String>)>>,
    /// Who wants it.
    pub(crate) by: String,
}

/// The way to the control thread.
pub(crate) type Orders = mpsc::Sender<Order>;

/// A way to the control thread, and its end.
pub(crate) fn orders() -> (Orders, mpsc::Receiver<Order>) {
    mpsc::channel(WAITING)
}
