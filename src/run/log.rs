//! Where does the log go, and how much is said?

use std::fmt;
use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// The running log, whose filter can change.
pub(super) struct Log(Box<dyn Fn(EnvFilter) -> bool + Send + Sync>);

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Log")
    }
}

impl Log {
    /// Starts to log to standard error what `filter` lets through.
    pub(super) fn start(filter: &str, format: LogFormat) -> Self {
        let log = tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            // A reader of the log that goes away must not end the gateway.
            .log_internal_errors(false)
            .with_target(false);
        let filter = EnvFilter::new(filter);
        match format {
            LogFormat::Text => {
                let log = log.with_env_filter(filter).with_filter_reloading();
                let handle = log.reload_handle();
                log.init();
                Self(Box::new(move |filter| handle.reload(filter).is_ok()))
            }
            LogFormat::Json => {
                let log = log.json().with_env_filter(filter).with_filter_reloading();
                let handle = log.reload_handle();
                log.init();
                Self(Box::new(move |filter| handle.reload(filter).is_ok()))
            }
        }
    }

    /// Logs what `filter` lets through from now on; whether that was possible.
    pub(super) fn change(&self, filter: &str) -> bool {
        EnvFilter::builder().parse(filter).is_ok_and(&self.0)
    }
}
