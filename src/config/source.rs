//! Which files hold the objects?

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::problem::{Origin, Place, Problems};
use super::tree::Node;
use super::yaml;

/// Names of files that are read from a directory end with one of these.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// Files that change while they are read are read again, so many times and after this pause.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(25);

/// A file, and what is in it.
type Contents = Vec<(PathBuf, io::Result<Vec<u8>>)>;

/// Reads all documents of the file `path`, or of the files of the directory `path` in the order of
/// their names, as they are at one moment: Kubernetes swaps all files of a ConfigMap at once.
pub(super) fn read(path: &Path, problems: &mut Problems) -> Vec<Node> {
    let files = match at_one_moment(path, || {
        let files = files_of(path)?.into_iter();
        Ok(files.map(|file| (file.clone(), fs::read(file))).collect())
    }) {
        Ok(Some(files)) => files,
        Ok(None) => {
            let why = "the files change all the time while they are read";
            let remedy = "replace them as a whole, and reload when that is done";
            problems.error(&whole(path), "unreadable configuration", why, remedy);
            return Vec::new();
        }
        Err(error) => {
            refuse(path, &error, problems);
            return Vec::new();
        }
    };
    if files.is_empty() {
        let why = "the directory holds no .yaml, .yml or .json file";
        problems.error(&whole(path), "no objects", why, "name a directory or a file with objects");
    }
    files.into_iter().flat_map(|(file, bytes)| read_file(&file, bytes, problems)).collect()
}

/// What `read` gives while nothing changes; `None`: something always did.
fn at_one_moment(
    path: &Path,
    mut read: impl FnMut() -> io::Result<Contents>,
) -> io::Result<Option<Contents>> {
    for _ in 0..ATTEMPTS {
        let before = stamps(path);
        let contents = read()?;
        if stamps(path) == before {
            return Ok(Some(contents));
        }
        std::thread::sleep(PAUSE);
    }
    Ok(None)
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

fn read_file(file: &Path, bytes: io::Result<Vec<u8>>, problems: &mut Problems) -> Vec<Node> {
    let bytes = match bytes {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn place(directory: &Path, version: &str) {
        let data = directory.join(version);
        fs::create_dir(&data).unwrap();
        for name in ["a.yaml", "z.yaml"] {
            fs::write(data.join(name), format!("{version}: {name}\n")).unwrap();
        }
    }

    fn swap(directory: &Path, version: &str) {
        let next = directory.join("..next");
        std::os::unix::fs::symlink(version, &next).unwrap();
        fs::rename(next, directory.join("..data")).unwrap();
    }

    #[test]
    fn bug_a_directory_that_was_swapped_while_it_was_read_came_into_force_half() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        place(directory, "old");
        place(directory, "new");
        swap(directory, "old");
        for name in ["a.yaml", "z.yaml"] {
            let target = Path::new("..data").join(name);
            std::os::unix::fs::symlink(target, directory.join(name)).unwrap();
        }
        let mut reads = 0;
        let read = || {
            reads += 1;
            let mut contents = Contents::new();
            for file in files_of(directory)? {
                contents.push((file.clone(), fs::read(file)));
                // After the first file of the first attempt everything is swapped.
                if reads == 1 && contents.len() == 1 {
                    swap(directory, "new");
                }
            }
            Ok(contents)
        };
        let contents = at_one_moment(directory, read).unwrap().unwrap();
        let texts: Vec<_> = contents.into_iter().map(|(_, bytes)| bytes.unwrap()).collect();
        assert_eq!(texts, [&b"new: a.yaml\n"[..], b"new: z.yaml\n"]);
        assert_eq!(reads, 2);
    }

    #[test]
    fn files_that_never_rest_are_not_read_half() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.yaml");
        let mut written = 0;
        let restless = || {
            written += 1;
            fs::write(&file, "x".repeat(written))?;
            Ok(Contents::new())
        };
        assert!(at_one_moment(directory.path(), restless).unwrap().is_none());
    }
}
