//! How does one empty a gateway, and see how far that is?

use std::path::Path;
use std::time::{Duration, Instant};

use hyper::Method;
use hyper::body::Bytes;

use super::{ViewError, client, counted, tables};
use crate::api::model::{Drain, Status};
use crate::say;

const PATH: &str = "/v1/drain";
/// How often the sessions are counted while one waits: seldom enough for workers to tell how many they have.
const LOOK: Duration = Duration::from_millis(500);

/// Has no session opened any more and shows what remains; with `wait`, returns when nothing does, or when so much time
/// is over. Must be called within a tokio runtime.
pub(crate) async fn begin(
    socket: &Path,
    wait: Option<Duration>,
    json: bool,
) -> Result<(), ViewError> {
    let begun = Instant::now();
    print(socket, &client::order(socket, Method::POST, PATH, Bytes::new()).await?, json)?;
    let Some(patience) = wait else { return Ok(()) };
    let mut last = None;
    loop {
        tokio::time::sleep(LOOK).await;
        let status: Status = read(socket, &client::fetch(socket, "/v1/status").await?)?;
        let left = status.sessions;
        if status.drained_since.is_none() {
            let why = "not drained: somebody has ended the draining (natgate undrain); begin again";
            return Err(ViewError::Refused(why.to_owned()));
        }
        if last != Some(left) && !json {
            let remain = if left == 1 { "remains" } else { "remain" };
            say(&format!("{} {remain}\n", counted(left, "session")));
        }
        last = Some(left);
        if left == 0 {
            return Ok(());
        }
        if begun.elapsed() >= patience {
            return Err(ViewError::NotEmpty { left });
        }
    }
}

/// Has sessions opened again.
pub(crate) async fn end(socket: &Path, json: bool) -> Result<(), ViewError> {
    print(socket, &client::order(socket, Method::DELETE, PATH, Bytes::new()).await?, json)
}

fn print(socket: &Path, body: &[u8], json: bool) -> Result<(), ViewError> {
    if json {
        say(&format!("{}\n", String::from_utf8_lossy(body)));
        return Ok(());
    }
    say(&tables::drain(&read::<Drain>(socket, body)?, super::screen::Screen::of_stdout().width));
    Ok(())
}

fn read<T: serde::de::DeserializeOwned>(socket: &Path, body: &[u8]) -> Result<T, ViewError> {
    serde_json::from_slice(body)
        .map_err(|error| ViewError::Answer { path: socket.to_owned(), why: error.to_string() })
}
