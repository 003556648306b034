//! How do the long lists look? Row by row, as they arrive: memory does not grow with the list.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use serde::de::DeserializeOwned;

use super::columns::{Column, Rows};
use super::human::{bytes, count, millis};
use super::screen::Screen;
use super::{Filter, ViewError, client};
use crate::api::model::{Problem, SessionRow, SubscriberRow};

/// natgate sends something within this time.
const PATIENCE: Duration = Duration::from_secs(30);

/// A list that arrives line by line.
pub(super) struct Lines {
    socket: PathBuf,
    body: Incoming,
    received: Vec<u8>,
    read: usize,
    ended: bool,
}

/// Asks for a list.
pub(super) async fn open(socket: &Path, path: &str, filter: &Filter) -> Result<Lines, ViewError> {
    let limit = filter.limit.map(|limit| limit.to_string());
    let fields = [
        ("address", &filter.address),
        ("pool", &filter.pool),
        ("protocol", &filter.protocol),
        ("state", &filter.state),
        ("limit", &limit),
    ];
    let given: Vec<(&str, &String)> =
        fields.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?))).collect();
    let query = serde_urlencoded::to_string(given)
        .map_err(|error| ViewError::Refused(format!("bad filter: {error}")))?;
    let body = client::get(socket, &format!("{path}?{query}")).await?.into_body();
    Ok(Lines { socket: socket.to_owned(), body, received: Vec::new(), read: 0, ended: false })
}

impl Lines {
    /// The next line, without its end; `None` at the end of the list. A line that says `error` is one.
    async fn next(&mut self) -> Result<Option<&[u8]>, ViewError> {
        let start = loop {
            let rest = &self.received[self.read..];
            if let Some(length) = rest.iter().position(|byte| *byte == b'\n') {
                let start = self.read;
                self.read += length + 1;
                break start;
            }
            if self.ended {
                return Ok(None);
            }
            self.received.drain(..self.read);
            self.read = 0;
            match self.more().await? {
                Some(data) => self.received.extend_from_slice(&data),
                None => self.ended = true,
            }
        };
        let line = &self.received[start..self.read - 1];
        if line.starts_with(b"{\"error\"") {
            let problem: Problem = parse(&self.socket, line)?;
            return Err(ViewError::Refused(problem.error));
        }
        Ok(Some(line))
    }

    async fn more(&mut self) -> Result<Option<Bytes>, ViewError> {
        let broken = |why: String| ViewError::Answer { path: self.socket.clone(), why };
        match tokio::time::timeout(PATIENCE, self.body.frame()).await {
            Ok(None) => Ok(None),
            Ok(Some(Ok(frame))) => Ok(Some(frame.into_data().unwrap_or_default())),
            Ok(Some(Err(error))) => Err(broken(error.to_string())),
            Err(_) => Err(broken("the list stopped".to_owned())),
        }
    }
}

fn parse<T: DeserializeOwned>(socket: &Path, line: &[u8]) -> Result<T, ViewError> {
    serde_json::from_slice(line)
        .map_err(|error| ViewError::Answer { path: socket.to_owned(), why: error.to_string() })
}

/// The first `most` rows of a list.
pub(crate) async fn fetch_rows<T: DeserializeOwned>(
    socket: &Path,
    path: &str,
    most: usize,
) -> Result<Vec<T>, ViewError> {
    let filter = Filter { limit: Some(most as u64), ..Filter::default() };
    let mut lines = open(socket, path, &filter).await?;
    let mut rows = Vec::new();
    while let Some(line) = lines.next().await? {
        rows.push(parse(socket, line)?);
    }
    Ok(rows)
}

/// Prints the lines as they are, or each as a row of `columns`; `none` if there is no row.
async fn print<T: DeserializeOwned>(
    (out, screen): (&mut impl Write, Screen),
    mut lines: Lines,
    json: bool,
    (columns, none): (&[Column], &str),
    row: impl Fn(&T) -> Vec<String>,
) -> Result<(), ViewError> {
    let socket = lines.socket.clone();
    if json {
        while let Some(line) = lines.next().await? {
            out.write_all(line)?;
            out.write_all(b"\n")?;
        }
        return Ok(());
    }
    let mut rows = Rows::new(out, screen, columns);
    while let Some(line) = lines.next().await? {
        rows.push(row(&parse(&socket, line)?))?;
    }
    let any = rows.finish()?;
    if !any {
        writeln!(out, "{none}")?;
    }
    Ok(())
}

const SESSIONS: [Column; 9] = [
    Column::left(""),
    Column::left("INTERNAL"),
    Column::left("PUBLIC"),
    Column::left("REMOTE"),
    Column::left("STATE").cut(),
    Column::right("IDLE").spare(1),
    Column::right("BYTES").spare(2),
    Column::left("RULE").spare(3),
    Column::right("ENDS IN").spare(4),
];

/// An address or endpoint, and the overlay if only there it is its pod's: `10.244.1.7%2`.
fn in_overlay(whose: &str, overlay: u16) -> String {
    if overlay == 0 { whose.to_owned() } else { format!("{whose}%{overlay}") }
}

pub(super) async fn sessions(
    out: &mut impl Write,
    screen: Screen,
    lines: Lines,
    json: bool,
) -> Result<(), ViewError> {
    let row = |row: &SessionRow| {
        vec![
            row.protocol.clone(),
            in_overlay(&row.internal, row.overlay),
            row.public.clone(),
            row.remote.clone(),
            row.state.clone(),
            millis(u64::from(row.idle_ms)),
            bytes(row.bytes_out + row.bytes_in),
            row.rule.clone(),
            millis(u64::from(row.expires_in_ms)),
        ]
    };
    print((out, screen), lines, json, (&SESSIONS, "no sessions"), row).await
}

const SUBSCRIBERS: [Column; 7] = [
    Column::left("SUBSCRIBER"),
    Column::right("SESSIONS"),
    Column::right("CREATED"),
    Column::right("REFUSED"),
    Column::right("BLOCKS"),
    Column::left("PUBLIC ADDRESSES").cut(),
    Column::right("WORKER").spare(1),
];

pub(super) async fn subscribers(
    out: &mut impl Write,
    screen: Screen,
    lines: Lines,
    json: bool,
) -> Result<(), ViewError> {
    let row = |row: &SubscriberRow| {
        let addresses: Vec<&str> = row.holdings.iter().map(|held| held.address.as_str()).collect();
        vec![
            in_overlay(&row.address, row.overlay),
            count(u64::from(row.sessions)),
            count(row.created),
            count(row.refused),
            row.blocks.to_string(),
            addresses.join(" "),
            row.worker.to_string(),
        ]
    };
    print((out, screen), lines, json, (&SUBSCRIBERS, "no subscribers"), row).await
}
