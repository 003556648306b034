//! What is laid over what is written, and how does it come there?

use std::sync::Arc;
use std::time::SystemTime;

use tracing::{error, info, warn};

use crate::api::Tune;
use crate::api::model::{Reloaded, SettingChange, SettingRow};
use crate::cli::GatewayArgs;
use crate::config::{self, Config, ConfigErrors, Tuning, Written, all_values};

/// What the configuration in force was made of.
#[derive(Clone, Debug)]
pub(super) struct Ground {
    written: Arc<Written>,
    /// What is written, with nothing set over it.
    plain: Arc<Config>,
    tuning: Tuning,
}

impl Ground {
    /// Nothing is set over what is `written`, which says `plain`.
    pub(super) fn new(written: Written, plain: Arc<Config>) -> Self {
        Self { written: Arc::new(written), plain, tuning: Tuning::default() }
    }

    /// The same things are written, and something else is set.
    pub(super) fn tuned(mut self, tune: &Tune) -> Result<(Self, Config), ConfigErrors> {
        let at = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
        self.tuning = match &tune.changes {
            Some(changes) => self.tuning.with(changes, (&tune.by, at), &self.plain)?,
            None => Tuning::default(),
        };
        let config = self.written.config(&host()?, &self.tuning)?;
        Ok((self, config))
    }

    /// What is written is read again; what is set stays set, but for pools that are not there any more.
    pub(super) fn read_again(self, args: &GatewayArgs) -> Result<(Self, Config), ConfigErrors> {
        let (written, host) = (Written::read(args), host()?);
        let plain = written.config(&host, &Tuning::default())?;
        let mut tuning = self.tuning;
        for key in tuning.forget_others(&plain) {
            warn!(key, "what was set is forgotten: its pool is not configured any more");
        }
        let config = written.config(&host, &tuning)?;
        Ok((Self { written: Arc::new(written), plain: Arc::new(plain), tuning }, config))
    }

    /// All that can be set, with its value in `config`, which is in force.
    pub(super) fn rows(&self, config: &Config) -> Vec<SettingRow> {
        let row = |tuned: config::Tuned<'_>| SettingRow {
            set: tuned.setting.is_some(),
            by: tuned.setting.map(|setting| setting.by.clone()),
            at: tuned.setting.map(|setting| setting.at),
            key: tuned.key,
            value: tuned.value,
            written: tuned.written,
        };
        self.tuning.list(config, &self.plain).into_iter().map(row).collect()
    }

    /// What is different in `new`.
    pub(super) fn changes(&self, old: &Config, new: &Config) -> Vec<SettingChange> {
        let set = |key: &String| self.tuning.keys().any(|other| other == key);
        differences(old, new)
            .into_iter()
            .map(|(key, old, new)| SettingChange { set: set(&key), key, old, new })
            .collect()
    }
}

fn host() -> Result<Vec<std::net::Ipv4Addr>, ConfigErrors> {
    config::host_addresses().map_err(|error| config::failure(&error.to_string()))
}

/// Keys with their values before and now, where these differ.
fn differences(old: &Config, new: &Config) -> Vec<(String, String, String)> {
    let before = all_values(old);
    let differing = all_values(new).into_iter().filter_map(|(key, new)| {
        let old = before.get(&key)?;
        (*old != new).then(|| (key, old.clone(), new))
    });
    differing.collect()
}

/// One line in the log for each setting that is different now, or that was refused.
pub(super) fn report(
    tune: &Tune,
    before: &Config,
    now: &Config,
    outcome: &Result<Reloaded, Vec<String>>,
) {
    let by = &tune.by;
    match outcome {
        Ok(_) => {
            for (key, old, new) in differences(before, now) {
                info!(key, old, new, by, "a setting was changed at run time");
            }
        }
        Err(lines) => {
            for line in lines {
                error!(by, "refused to set: {line}");
            }
        }
    }
}
