//! Which files hold the objects?

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::problem::{Origin, Place, Problems};
use super::tree::Node;
use super::yaml;

/// Names of files that are read from a directory end with one of these.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// Reads all documents of the file `path`, or of the files of the directory `path` in the order of
/// their names.
pub(super) fn read(path: &Path, problems: &mut Problems) -> Vec<Node> {
    let files = match files_of(path) {
        Ok(files) => files,
        Err(error) => {
            refuse(path, &error, problems);
            return Vec::new();
        }
    };
    if files.is_empty() {
        let why = "the directory holds no .yaml, .yml or .json file";
        problems.error(&whole(path), "no objects", why, "name a directory or a file with objects");
    }
    files.iter().flat_map(|file| read_file(file, problems)).collect()
}

/// By what a change of files shows: for each its name, number, size and time of change.
pub(crate) type Stamps = Vec<(PathBuf, Option<(u64, u64, i64, i64)>)>;

/// The stamps of the files that [`read`] would read now.
pub(crate) fn stamps(path: &Path) -> Stamps {
    let stamp = |file: PathBuf| {
        let found = fs::metadata(&file).ok();
        let known = found.map(|it| (it.ino(), it.len(), it.mtime(), it.mtime_nsec()));
        (file, known)
    };
    files_of(path).unwrap_or_default().into_iter().map(stamp).collect()
}

fn files_of(path: &Path) -> io::Result<Vec<PathBuf>> {
    let metadata = fs::metadata(path)?;
    if metadata.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    if !metadata.is_dir() {
        return Err(io::Error::other("it is neither a file nor a directory"));
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let file = entry?.path();
        let extension = file.extension().and_then(|extension| extension.to_str());
        if extension.is_some_and(|extension| EXTENSIONS.contains(&extension)) && file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn read_file(file: &Path, problems: &mut Problems) -> Vec<Node> {
    let bytes = match fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) => {
            refuse(file, &error, problems);
            return Vec::new();
        }
    };
    match String::from_utf8(bytes) {
        Ok(text) => yaml::read(&Arc::from(file.display().to_string()), &text, problems),
        Err(error) => {
            let why = format!("byte {} is not UTF-8", error.utf8_error().valid_up_to());
            problems.error(&whole(file), "unreadable file", why, "save the file as UTF-8");
            Vec::new()
        }
    }
}

fn refuse(path: &Path, error: &io::Error, problems: &mut Problems) {
    let (why, remedy) = match error.kind() {
        io::ErrorKind::NotFound => {
            ("no such file or directory".to_owned(), "name a file or a directory that exists")
        }
        io::ErrorKind::PermissionDenied => {
            ("permission denied".to_owned(), "allow this user to read it")
        }
        _ => (error.to_string(), "name a readable file or directory"),
    };
    problems.error(&whole(path), "unreadable configuration", why, remedy);
}

fn whole(path: &Path) -> Place {
    Place::of(Origin::Path(Arc::from(path.display().to_string())))
}
