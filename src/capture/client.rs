//! `natgate capture`: the file that natgate writes, put where it is wanted.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use http_body_util::BodyExt;

use super::pcapng::Counts;
use crate::view::{self, ViewError};

/// Where the file goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Standard output.
    Output,
    /// A file.
    File(PathBuf),
}

impl Target {
    /// `-`, or a file.
    pub(crate) fn new(path: &Path) -> Self {
        if path == Path::new("-") { Self::Output } else { Self::File(path.to_owned()) }
    }
}

/// Captures until it is over, or until Ctrl-C; tells what there is on standard error. Must be called within a tokio runtime.
pub(crate) async fn capture(
    socket: &Path,
    query: &[(&str, String)],
    target: &Target,
) -> Result<(), ViewError> {
    let query = serde_urlencoded::to_string(query)
        .map_err(|error| ViewError::Refused(format!("bad query: {error}")))?;
    // Before the file is made: what is refused leaves none.
    let mut body = view::get(socket, &format!("/v1/capture?{query}")).await?.into_body();
    let mut out: Box<dyn Write> = match target {
        Target::Output => Box::new(io::stdout().lock()),
        Target::File(path) => {
            let failed =
                |error: io::Error| ViewError::File { path: path.clone(), why: error.to_string() };
            Box::new(nobody_elses(path).map_err(failed)?)
        }
    };
    let (begin, mut counts) = (Instant::now(), Counts::default());
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            _ = &mut interrupted => break,
        };
        let Some(frame) = frame else { break };
        let gone = |_| ViewError::Gone { path: socket.to_owned() };
        let data = frame.map_err(gone)?.into_data().unwrap_or_default();
        counts.take(&data);
        match out.write_all(&data).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            written => written?,
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    let missed = match counts.missed {
        Some(0) => "none was missed".to_owned(),
        Some(1) => "1 packet was missed: ask for fewer, or raise --rate".to_owned(),
        Some(missed) => format!("{missed} packets were missed: ask for fewer, or raise --rate"),
        None => "interrupted".to_owned(),
    };
    let stopped = if counts.stopped { "; natgate stopped" } else { "" };
    let _ = writeln!(
        io::stderr().lock(),
        "{} packet{}, before and after counted apart, in {seconds:.1} s; {missed}{stopped}",
        counts.packets,
        if counts.packets == 1 { "" } else { "s" },
    );
    Ok(())
}

/// What pods send is nobody else's to read.
fn nobody_elses(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}
