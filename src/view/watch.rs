//! How does a table stay up to date? It is asked for again and drawn in its place, until somebody ends it.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use super::screen::Screen;
use super::{ViewError, What, show_to};

/// To the upper left corner, and all below it empty.
const AFRESH: &str = "\x1b[H\x1b[J";

/// Shows `what` every `interval`, for ever; a natgate that is not there is said, and asked again.
pub(crate) async fn watch(
    socket: &Path,
    what: &What,
    json: bool,
    interval: Duration,
) -> Result<(), ViewError> {
    let in_place = io::stdout().is_terminal() && !json;
    loop {
        let (screen, height) = (Screen::of_stdout(), height());
        let mut shown = Vec::new();
        let limit = if in_place { height } else { usize::MAX };
        match show_to(&mut shown, screen, socket, &what.at_most(limit), json).await {
            Ok(()) => {}
            Err(ViewError::Output(error)) => return Err(error.into()),
            Err(error) if json => return Err(error),
            Err(error) => writeln!(shown, "{}", screen.paint(31, &error.to_string()))?,
        }
        match draw(&shown, in_place.then_some(height), interval) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            drawn => drawn?,
        }
        tokio::time::sleep(interval).await;
    }
}

/// Rows of the terminal.
fn height() -> usize {
    terminal_size::terminal_size().map_or(24, |(_, height)| height.0.into())
}

fn draw(shown: &[u8], height: Option<usize>, interval: Duration) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let text = String::from_utf8_lossy(shown);
    match height {
        Some(height) => {
            let room = height.saturating_sub(2).max(1);
            let lines: Vec<&str> = text.lines().take(room).collect();
            let seconds = interval.as_secs_f64();
            write!(out, "{AFRESH}every {seconds} s; Ctrl-C ends\n{}", lines.join("\n"))?;
        }
        None => write!(out, "{text}")?,
    }
    out.flush()
}
