//! How does one set something at run time, and see what is set?

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::{self, IsTerminal};
use std::path::Path;

use hyper::Method;
use hyper::body::Bytes;
use serde::de::DeserializeOwned;

use super::{ViewError, client, tables, terminal_width};
use crate::api::model::{SettingChange, SettingRow};
use crate::say;

const PATH: &str = "/v1/settings";

/// Sets keys to values; `None`: to what is written. Prints what is different then. Must be called within a tokio
/// runtime.
pub(crate) async fn change(
    socket: &Path,
    changes: &BTreeMap<String, Option<String>>,
    json: bool,
) -> Result<(), ViewError> {
    let body = serde_json::to_vec(changes).map_err(|error| unreadable(socket, &error))?;
    report(socket, &client::order(socket, Method::PATCH, PATH, body.into()).await?, json)
}

/// Takes back everything that was set.
pub(crate) async fn reset(socket: &Path, json: bool) -> Result<(), ViewError> {
    report(socket, &client::order(socket, Method::DELETE, PATH, Bytes::new()).await?, json)
}

/// Prints all settings, the one named `key`, or those whose names begin with it.
pub(crate) async fn show(socket: &Path, key: Option<&str>, json: bool) -> Result<(), ViewError> {
    let body = client::fetch(socket, PATH).await?;
    let mut rows: Vec<SettingRow> = read(socket, &body)?;
    if let Some(key) = key {
        let whole = rows.iter().any(|row| row.key == key);
        let below =
            |row: &SettingRow| row.key.starts_with(&format!("{}.", key.trim_end_matches('.')));
        rows.retain(|row| if whole { row.key == key } else { below(row) });
        if rows.is_empty() {
            let why = "there is no setting of this name that can change at run time";
            let remedy = "`natgate get` lists all";
            return Err(ViewError::Invalid(format!("unknown key ({key}): {why}; {remedy}")));
        }
    }
    if json {
        let text = serde_json::to_string(&rows).map_err(|error| unreadable(socket, &error))?;
        say(&format!("{text}\n"));
    } else {
        // Programs read lines: without a terminal each setting has one.
        let width = if io::stdout().is_terminal() { terminal_width() } else { usize::MAX };
        say(&format!("{}\n", tables::settings(&rows, width)));
    }
    Ok(())
}

fn report(socket: &Path, body: &[u8], json: bool) -> Result<(), ViewError> {
    if json {
        say(&format!("{}\n", String::from_utf8_lossy(body)));
        return Ok(());
    }
    let changes: Vec<SettingChange> = read(socket, body)?;
    let mut text = String::new();
    for SettingChange { key, old, new, set } in &changes {
        let until = if *set { ", until it is reset or natgate ends" } else { ", as it is written" };
        let _ = writeln!(text, "{key}: {old} -> {new}{until}");
    }
    if changes.is_empty() {
        text.push_str("nothing is different in effect\n");
    }
    say(&text);
    Ok(())
}

fn read<T: DeserializeOwned>(socket: &Path, body: &[u8]) -> Result<T, ViewError> {
    serde_json::from_slice(body).map_err(|error| unreadable(socket, &error))
}

fn unreadable(socket: &Path, error: &serde_json::Error) -> ViewError {
    ViewError::Answer { path: socket.to_owned(), why: error.to_string() }
}
