//! Which pod had this public endpoint, now or then? A log of who got which ports and gave them back, and a search in it.
//!
//! The log is a directory of segments of fixed records ([`record`]), written by a sink ([`write`]) and read by whoever
//! asks ([`search`]). Each segment begins with what is held then, so that old ones can go; a record that was torn by the
//! end of the process is left out by its checksum.

mod record;
mod search;
mod write;

pub(crate) use search::{Answer, Holding, Question, SessionNow, now, then};
pub(crate) use write::Attribution;

/// Where segments are, below the state directory.
pub(crate) const DIRECTORY: &str = "attribution";

/// The names of segments, by number.
fn segment_name(number: u64) -> String {
    format!("{number:010}.log")
}

/// The segments in a directory, oldest first.
fn segments(directory: &std::path::Path) -> std::io::Result<Vec<(u64, std::path::PathBuf)>> {
    let mut found = Vec::new();
    for file in std::fs::read_dir(directory)? {
        let path = file?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(number) = name.strip_suffix(".log").and_then(|number| number.parse().ok()) {
            found.push((number, path));
        }
    }
    found.sort_unstable();
    Ok(found)
}
