//! How does it look in the file? A header that says what it is, and records.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use conntrack::{Pool, PoolId, Records, Timestamp};
use nix::libc;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::fixed::FixedRecords;

/// What the file begins with.
const MAGIC: [u8; 16] = *b"natgate state\0\r\n";
/// Raised by every change of what is written: a natgate reads no format but its own.
const FORMAT: u32 = 3;
/// Magic, format, checksum and length of what follows.
const HEADER: usize = 32;
/// Longest time between the stop and the next start. Later, peers have given up and ports were promised to others.
const MAX_AGE: Duration = Duration::from_secs(60);

/// What sessions of a pool depend on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PoolShape {
    /// Its number in the records.
    pub(crate) id: PoolId,
    /// Its name.
    pub(crate) name: String,
    /// Its ports, blocks, and who may use a public endpoint, in words to be compared.
    pub(crate) shape: String,
}

impl PoolShape {
    /// That of a pool.
    pub(crate) fn of(pool: &Pool) -> Self {
        let it = &pool.settings;
        let blocks = (it.block_size, &it.ports, &it.low_ports, it.scatter_region());
        let classes = (it.mapping, it.filtering_tcp, it.filtering_udp, it.overlap);
        Self { id: pool.id, name: pool.name.clone(), shape: format!("{blocks:?} {classes:?}") }
    }
}

/// A port block that rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BlockRest {
    pub(crate) address: Ipv4Addr,
    /// Its first port.
    pub(crate) first: u16,
    /// For whom, if that is known.
    pub(crate) subscriber: Ipv4Addr,
    /// Until which second, modulo 2^30.
    pub(crate) until: u32,
}

/// What a gateway leaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// Version of natgate that wrote it.
    pub(crate) version: String,
    /// Which boot of the machine it was.
    pub(crate) boot: String,
    /// What the machine's clock showed ([`machine_clock`]).
    pub(crate) saved_at: Duration,
    /// What natgate's clock showed.
    pub(crate) clock: Timestamp,
    /// The secret: the file is nobody else's to read.
    pub(crate) seeds: [u64; 4],
    /// Pools by number.
    pub(crate) pools: Vec<PoolShape>,
    /// Names of the rules by number.
    pub(crate) rules: Vec<String>,
    /// Mappings that configuration has made, now or before.
    pub(crate) fixed: FixedRecords,
    /// Blocks at rest.
    pub(crate) block_rests: Vec<BlockRest>,
    /// What each worker knew.
    pub(crate) workers: Vec<Records>,
}

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    #[error("it is not a file of this user's own that nobody else can write or read")]
    NotOurs,
    #[error("it is not a state of natgate")]
    NotAState,
    #[error("it has format {0}, and this natgate reads {FORMAT}: another version wrote it")]
    Format(u32),
    #[error("it is cut short or has grown: {found} bytes instead of {said}")]
    Length { said: u64, found: u64 },
    #[error("it is damaged: its checksum is wrong")]
    Damaged,
    #[error("it makes no sense: {0}")]
    Senseless(postcard::Error),
    #[error("it is of another boot of this machine")]
    OtherBoot,
    #[error("it is {} s old, and peers wait no longer than {}", .0.as_secs(), MAX_AGE.as_secs())]
    Old(Duration),
}

/// A clock that goes on while no natgate runs, and that nobody sets.
pub(super) fn machine_clock() -> io::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_MONOTONIC)?.into())
}

/// Names this boot of the machine.
pub(in crate::run) fn boot() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

fn encode(state: &State) -> io::Result<Vec<u8>> {
    let bytes = postcard::to_extend(state, vec![0; HEADER]).map_err(io::Error::other)?;
    let mut bytes = bytes;
    let (header, payload) = bytes.split_at_mut(HEADER);
    header[..16].copy_from_slice(&MAGIC);
    header[16..20].copy_from_slice(&FORMAT.to_le_bytes());
    header[20..24].copy_from_slice(&crc32fast::hash(payload).to_le_bytes());
    header[24..].copy_from_slice(&(payload.len() as u64).to_le_bytes());
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> Result<State, Refused> {
    let (header, payload) = bytes.split_at_checked(HEADER).ok_or(Refused::NotAState)?;
    let number = |at: usize| header[at..at + 4].iter().rev().fold(0, |n, b| n << 8 | u32::from(*b));
    if header[..16] != MAGIC {
        return Err(Refused::NotAState);
    }
    if number(16) != FORMAT {
        return Err(Refused::Format(number(16)));
    }
    let said = u64::from(number(28)) << 32 | u64::from(number(24));
    if said != payload.len() as u64 {
        return Err(Refused::Length { said, found: payload.len() as u64 });
    }
    if crc32fast::hash(payload) != number(20) {
        return Err(Refused::Damaged);
    }
    postcard::from_bytes(payload).map_err(Refused::Senseless)
}

/// Writes `state` in place of what is at `path`, for nobody else to read; how many bytes.
pub(super) fn write(state: &State, path: &Path) -> io::Result<u64> {
    let bytes = encode(state)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    let written = (|| {
        // A natgate that was killed while it wrote has left it.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        options.open(&temporary)?.write_all(&bytes)?;
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        // Half of it is of no use.
        let _ = fs::remove_file(&temporary);
    }
    written.map(|()| bytes.len() as u64)
}

/// Reads what is at `path`; what is refused is removed, unless it is somebody else's. `None`: there is nothing.
pub(super) fn read(path: &Path) -> Result<Option<State>, Refused> {
    let mut options = OpenOptions::new();
    // Not to wait for whoever writes into a pipe.
    options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = match options.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let found = file.metadata()?;
    let ours = found.is_file()
        && found.uid() == fs::metadata("/proc/self")?.uid()
        // Nothing for its group, nor for others.
        && found.mode() % 0o100 == 0;
    if !ours {
        return Err(Refused::NotOurs);
    }
    let state = usable(file);
    if state.is_err() {
        fs::remove_file(path)?;
    }
    state.map(Some)
}

fn usable(mut file: fs::File) -> Result<State, Refused> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let state = decode(&bytes)?;
    if state.boot != boot() {
        return Err(Refused::OtherBoot);
    }
    let now = machine_clock()?;
    let age = now.checked_sub(state.saved_at).ok_or(Refused::OtherBoot)?;
    if age > MAX_AGE { Err(Refused::Old(age)) } else { Ok(state) }
}

/// Removes what is at `path`.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
