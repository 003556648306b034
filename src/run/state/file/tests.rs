//! Files that are good, and all the others.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use conntrack::{
    Endpoint, HoldingRecord, Origin, Protocol, Realm, RestRecord, SessionRecord, SubscriberRecord,
    TcpRecord,
};

use super::super::fixed::{ForwardRecord, StaticRecord};
use super::*;

struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("ngs-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("natgate.state")
    }

    /// Puts these bytes there, as natgate would.
    fn put(&self, bytes: &[u8]) {
        let _ = fs::remove_file(self.file());
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(self.file());
        file.unwrap().write_all(bytes).unwrap();
    }

    fn refused(&self, bytes: &[u8]) -> String {
        self.put(bytes);
        let refused = read(&self.file()).expect_err("it was taken").to_string();
        assert!(!self.file().exists(), "it stays to be refused again");
        refused
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn end(n: u8) -> Endpoint {
    Endpoint::new(Ipv4Addr::new(192, 0, 2, n), 1000 + u16::from(n))
}

fn session() -> SessionRecord {
    SessionRecord {
        protocol: Protocol::Tcp,
        internal: end(1),
        public: end(2),
        remote: end(3),
        overlay: 4,
        pool: PoolId(5),
        rule: 6,
        origin: Origin::Mapping { made_for: end(7).addr, rule: 8 },
        opened_by: Realm::External,
        addressed: true,
        state: conntrack::State::Established,
        idle_ms: [9, 10],
        age_s: 31,
        counts: [(11, 12), (13, 14)],
        tcp: Some(TcpRecord {
            sides: [(15, 16, 7, 0x33), (17, 18, 2, 0x32)],
            first: [19, 20],
            fin: [Some(21), None],
        }),
    }
}

fn fixed() -> FixedRecords {
    FixedRecords {
        forwards: vec![ForwardRecord {
            name: "f".to_owned(),
            address: end(2).addr,
            protocol: Protocol::Udp,
            ports: (31, 32),
            target: end(1).addr,
            target_port: 33,
            vni: Some(34),
            pool: PoolId(5),
        }],
        statics: vec![StaticRecord {
            name: "s".to_owned(),
            address: end(8).addr,
            target: end(1).addr,
            vni: None,
        }],
    }
}

/// One of everything.
fn state() -> State {
    let holding = HoldingRecord {
        pool: PoolId(5),
        anchor: Some(end(2).addr),
        idle_since: Timestamp::from_millis(22),
        blocks: vec![(end(2).addr, 1024)],
    };
    let subscriber = SubscriberRecord {
        addr: end(1).addr,
        overlay: 4,
        created: 23,
        refused: 24,
        idle_since: Timestamp::from_millis(25),
        holdings: vec![holding],
    };
    let rest = RestRecord {
        addr: end(1).addr,
        overlay: 0,
        pool: PoolId(5),
        protocol: Protocol::Other(47),
        public: end(2),
        until: Timestamp::from_millis(26),
    };
    State {
        version: "0".to_owned(),
        boot: boot(),
        saved_at: machine_clock().unwrap(),
        clock: Timestamp::from_millis(27),
        seeds: [1, 2, 3, u64::MAX],
        pools: vec![PoolShape { id: PoolId(5), name: "p".to_owned(), shape: "s".to_owned() }],
        rules: vec!["r".to_owned()],
        fixed: fixed(),
        block_rests: vec![BlockRest {
            address: end(2).addr,
            first: 2048,
            subscriber: end(1).addr,
            until: 28,
        }],
        workers: vec![Records {
            subscribers: vec![subscriber],
            sessions: vec![session()],
            rests: vec![rest],
            tuples: vec![(29, Timestamp::from_millis(30))],
        }],
    }
}

#[test]
fn a_state_is_read_as_it_was_written_and_only_once() {
    let directory = Directory::new();
    let state = state();
    // A natgate was killed while it wrote.
    fs::write(directory.0.join("natgate.state.new"), "half").unwrap();
    write(&state, &directory.file()).unwrap();
    let mode = fs::metadata(directory.file()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "the secret is in there");
    assert_eq!(read(&directory.file()).unwrap(), Some(state));
    // A start that fails leaves it to the next one; what is in force is used by nobody else.
    assert!(read(&directory.file()).unwrap().is_some());
    remove(&directory.file()).unwrap();
    assert_eq!(read(&directory.file()).unwrap(), None);
    remove(&directory.file()).unwrap();
    assert_eq!(fs::read_dir(&directory.0).unwrap().count(), 0, "something is left");
}

/// Whoever changes what is written must raise [`FORMAT`]: an older natgate would read nonsense.
#[test]
fn the_format_has_a_number_of_its_own() {
    let state = State { boot: "b".to_owned(), saved_at: Duration::from_nanos(5), ..state() };
    let bytes = encode(&state).unwrap();
    assert_eq!((FORMAT, bytes.len(), crc32fast::hash(&bytes[HEADER..])), GOLDEN);
}

/// Format, length and checksum of the state above.
const GOLDEN: (u32, usize, u32) = (3, 200, 296_900_655);

#[test]
fn what_is_cut_short_or_damaged_anywhere_is_refused_whole() {
    let directory = Directory::new();
    let bytes = encode(&state()).unwrap();
    for length in 0..bytes.len() {
        directory.refused(&bytes[..length]);
    }
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        directory.refused(&damaged);
    }
    let longer = [&bytes[..], b"x"].concat();
    assert!(directory.refused(&longer).contains("cut short or has grown"));
    assert!(directory.refused(&[0xff; 4096]).contains("not a state of natgate"));
    // A checksum that is right says nothing of what is in there.
    let mut senseless = bytes[..HEADER].to_vec();
    senseless.extend([0xff; 100]);
    let sum = crc32fast::hash(&senseless[HEADER..]);
    senseless[20..24].copy_from_slice(&sum.to_le_bytes());
    senseless[24..32].copy_from_slice(&100_u64.to_le_bytes());
    assert!(directory.refused(&senseless).contains("makes no sense"));
}

#[test]
fn what_is_of_another_version_boot_or_time_is_refused_by_name() {
    let directory = Directory::new();
    let mut newer = encode(&state()).unwrap();
    newer[16] += 1;
    let said = directory.refused(&newer);
    assert!(said.contains("format 4, and this natgate reads 3"), "{said}");
    let elsewhere = State { boot: "another".to_owned(), ..state() };
    assert!(directory.refused(&encode(&elsewhere).unwrap()).contains("another boot"));
    let later = State { saved_at: Duration::from_secs(1 << 40), ..state() };
    assert!(directory.refused(&encode(&later).unwrap()).contains("another boot"));
    let now = machine_clock().unwrap();
    let aged = |age: Duration| State { saved_at: now.saturating_sub(age), ..state() };
    let old = aged(MAX_AGE + Duration::from_secs(1));
    assert!(directory.refused(&encode(&old).unwrap()).contains("s old"));
    directory.put(&encode(&aged(MAX_AGE / 2)).unwrap());
    assert!(read(&directory.file()).unwrap().is_some());
}

#[test]
fn what_somebody_else_could_have_put_there_is_refused() {
    let directory = Directory::new();
    let bytes = encode(&state()).unwrap();
    for mode in [0o644, 0o660, 0o602] {
        directory.put(&bytes);
        fs::set_permissions(directory.file(), fs::Permissions::from_mode(mode)).unwrap();
        assert!(matches!(read(&directory.file()), Err(Refused::NotOurs)), "{mode:o}");
    }
    let target = directory.0.join("target");
    fs::rename(directory.file(), &target).unwrap();
    fs::set_permissions(&target, fs::Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::symlink(&target, directory.file()).unwrap();
    assert!(matches!(read(&directory.file()), Err(Refused::Unreadable(_))), "a symbolic link");
    fs::remove_file(directory.file()).unwrap();
    fs::create_dir(directory.file()).unwrap();
    assert!(matches!(read(&directory.file()), Err(Refused::NotOurs)), "a directory");
}
