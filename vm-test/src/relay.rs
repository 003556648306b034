//! How does the outside reach a socket of natgate's inside a virtual machine, and its files? By a relay on each side:
//!
//! ```text
//!  client ── Unix socket ── TCP ── (a card of its own) ── TCP ── natgate's Unix socket
//! ```

use std::fs;
use std::io::{BufRead, BufReader, Error, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Where a guest's relay to natgate's socket listens.
pub const SOCKET: u16 = 7;
/// Where it takes files.
pub const FILES: u16 = 8;

/// Passes connections to `listener` on to the Unix socket `path`, for ever.
pub fn to_socket(listener: &TcpListener, path: &Path) {
    for stream in listener.incoming().flatten() {
        let path = path.to_owned();
        // Nobody listens: the connection is closed, as the client would have been refused.
        std::thread::spawn(move || {
            UnixStream::connect(path)
                .map(|socket| join(&Stream::Tcp(stream), &Stream::Unix(socket)))
        });
    }
}

/// Passes connections to the Unix socket `listener` on to `address`, for ever.
pub fn to_address(listener: &UnixListener, address: SocketAddr) {
    for socket in listener.incoming().flatten() {
        std::thread::spawn(move || {
            TcpStream::connect(address)
                .map(|stream| join(&Stream::Unix(socket), &Stream::Tcp(stream)))
        });
    }
}

/// Takes files, one a connection, for ever: a line with the path, the contents, and what becomes of it as the answer.
pub fn take_files(listener: &TcpListener) {
    for stream in listener.incoming().flatten() {
        let answer = match take(&stream) {
            Ok(()) => "taken".to_owned(),
            Err(error) => error.to_string(),
        };
        // Who has gone has no use for it.
        let _ = (&stream).write_all(answer.as_bytes());
    }
}

fn take(stream: &TcpStream) -> std::io::Result<()> {
    let (mut reader, mut path, mut contents) = (BufReader::new(stream), String::new(), Vec::new());
    reader.read_line(&mut path)?;
    reader.read_to_end(&mut contents)?;
    replace(Path::new(path.trim_end()), &contents)
}

/// Writes a file that readers find as it was or whole, and its directory.
pub fn replace(path: &Path, contents: &[u8]) -> std::io::Result<()> {
    let directory = path.parent().ok_or_else(|| Error::other("no directory"))?;
    fs::create_dir_all(directory)?;
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    fs::write(&new, contents)?;
    if let Ok(old) = fs::metadata(path) {
        fs::set_permissions(&new, old.permissions())?;
    }
    fs::rename(&new, path)
}

/// Puts a file to where the socket `files` leads.
pub fn put(files: &Path, path: &Path, contents: &[u8]) -> std::io::Result<()> {
    let (mut stream, mut answer) = (UnixStream::connect(files)?, String::new());
    writeln!(stream, "{}", path.display())?;
    stream.write_all(contents)?;
    stream.shutdown(Shutdown::Write)?;
    stream.read_to_string(&mut answer)?;
    if answer == "taken" { Ok(()) } else { Err(Error::other(answer)) }
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn read(&self, bytes: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => (&*stream).read(bytes),
            Self::Unix(stream) => (&*stream).read(bytes),
        }
    }

    fn write_all(&self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Tcp(stream) => (&*stream).write_all(bytes),
            Self::Unix(stream) => (&*stream).write_all(bytes),
        }
    }

    fn shutdown(&self, how: Shutdown) {
        // It may be closed already.
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(how),
            Self::Unix(stream) => stream.shutdown(how),
        };
    }
}

/// Carries bytes both ways until both ends have said that there are no more, or one is gone.
fn join(a: &Stream, b: &Stream) {
    std::thread::scope(|scope| {
        scope.spawn(|| carry(a, b));
        carry(b, a);
    });
}

fn carry(from: &Stream, to: &Stream) {
    let mut bytes = [0; 16_384];
    loop {
        match from.read(&mut bytes) {
            Ok(length @ 1..) if to.write_all(&bytes[..length]).is_ok() => {}
            Ok(0) => return to.shutdown(Shutdown::Write),
            Ok(_) | Err(_) => {
                from.shutdown(Shutdown::Both);
                return to.shutdown(Shutdown::Both);
            }
        }
    }
}
