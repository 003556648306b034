//! The system's clock is set a day forward and back. Only what natgate sees of it: the machine's is nobody's to set here.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use vm_test::client::{connect, echo};
use vm_test::namespace::output;
use vm_test::rig::{PODS, S1};
use vm_test::{Gateway, Options, Rig, wait};

use super::{LIMIT, PORT, Traffic, objects, rows};

const DAY_MS: i64 = 86_400_000;
/// A jump is told this exactly, however slow the machine is.
const BLUR_MS: i64 = 60_000;

/// The library that stands between natgate and the clock (Debian: `faketime`).
fn library() -> Result<PathBuf> {
    let found = std::fs::read_dir("/usr/lib")?.filter_map(|entry| {
        let path = entry.ok()?.path().join("faketime/libfaketime.so.1");
        path.exists().then_some(path)
    });
    found.into_iter().next().context("libfaketime is not here: install faketime")
}

/// What natgate takes for the time of day.
struct Clock {
    directory: tempfile::TempDir,
}

impl Clock {
    fn new() -> Result<Self> {
        let clock = Self { directory: tempfile::tempdir()? };
        clock.write("+0")?;
        Ok(clock)
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("offset")
    }

    fn events(&self) -> PathBuf {
        self.directory.path().join("log/events.json")
    }

    fn write(&self, offset: &str) -> Result<()> {
        let new = self.file().with_extension("new");
        std::fs::write(&new, format!("{offset}\n"))?;
        Ok(std::fs::rename(&new, self.file())?)
    }

    /// By how many milliseconds it was set so far, as the entries say.
    fn jumps(&self) -> Result<Vec<i64>> {
        let rows = rows(&self.events())?;
        let sets = rows.iter().filter(|row| row["kind"] == "clock-set");
        sets.map(|row| Ok(unix_ms(row["time"].as_str())? - unix_ms(row["before"].as_str())?))
            .collect()
    }

    /// Sets it, and waits until natgate has noticed.
    fn set(&self, offset: &str) -> Result<()> {
        let before = self.jumps()?.len();
        self.write(offset)?;
        wait::until("the setting to be noticed", LIMIT, || {
            Ok((self.jumps()?.len() > before).then_some(()))
        })
    }
}

fn unix_ms(text: Option<&str>) -> Result<i64> {
    let text = text.context("no time")?;
    Ok(output(Command::new("date").args(["-u", "+%s%3N", "-d", text]))?.trim().parse()?)
}

fn start(rig: &mut Rig, clock: &Clock) -> Result<()> {
    let (library, file) = (library()?, clock.file());
    let text = |path: &Path| path.to_str().map(str::to_owned).context("a path");
    let (library, file) = (text(&library)?, text(&file)?);
    let environment = [
        ("LD_PRELOAD", library.as_str()),
        ("FAKETIME_TIMESTAMP_FILE", file.as_str()),
        ("FAKETIME_NO_CACHE", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    let arguments = rig.natgate_arguments()?;
    let mut natgate =
        Gateway::launch_in(&environment, &rig.gw.namespace, rig.directory(), &arguments)?;
    natgate.await_ready(LIMIT)?;
    rig.natgate = Some(natgate);
    Ok(())
}

/// Somebody had an endpoint at a time that the clock showed before it was set.
fn is_known(rig: &mut Rig, endpoint: &str, at: &str) -> Result<()> {
    let answer = rig.natgate()?.json(&["who", endpoint, "--at", at])?;
    let holders = answer[0]["holders"].as_array().context("no holders")?;
    let pod = PODS[0].to_string();
    ensure!(holders.iter().any(|holder| holder["subscriber"] == pod), "{answer:?}");
    Ok(())
}

fn jump(rig: &mut Rig, clock: &Clock, traffic: &Traffic) -> Result<()> {
    traffic.goes_on()?;
    let endpoint = format!("{}/udp", rig.seen_by_server(4_000)?[0]);
    let now = rig.natgate()?.json(&["who", &endpoint])?;
    let at = now[0]["at"].as_str().context("no time")?.to_owned();
    let settings = [("+1d", DAY_MS), ("+0", -DAY_MS), ("-1d", -DAY_MS), ("+0", DAY_MS)];
    for (offset, _) in settings {
        clock.set(offset)?;
        traffic.goes_on()?;
        let status = rig.natgate()?.json(&["status"])?;
        ensure!(
            status[0]["ready"] == true && status[0]["uptime_s"].as_u64() < Some(600),
            "{status:?}"
        );
        // Asked for as it was then, unless that is still to come.
        if offset != "-1d" {
            is_known(rig, &endpoint, &at)?;
        }
    }
    let jumps = clock.jumps()?;
    let right = |(told, (_, set)): (&i64, &(&str, i64))| (told - set).abs() < BLUR_MS;
    ensure!(jumps.len() == 4 && jumps.iter().zip(&settings).all(right), "{jumps:?}");
    let log = rig.natgate()?.log();
    ensure!(!log.contains("ERROR"), "{log}");
    Ok(())
}

/// Sessions live through a restart while the clock is set.
fn restart(rig: &mut Rig, clock: &Clock) -> Result<()> {
    let mut stream = rig.pods[0].run(|| connect((S1[0], PORT)))??;
    echo(&mut stream, b"before")?;
    let ended = rig.natgate()?.terminate()?;
    ensure!(ended.success(), "{ended}");
    clock.write("-1d")?;
    start(rig, clock)?;
    let status = rig.natgate()?.json(&["status"])?;
    let restored = status[0]["restored"].as_str().unwrap_or("nothing");
    ensure!(restored.ends_with("sessions of the natgate before live on"), "{restored}");
    ensure!(!restored.starts_with('0'), "{restored}");
    echo(&mut stream, b"after")
}

fn run() -> Result<()> {
    let clock = Clock::new()?;
    let config = Some(objects(clock.directory.path()));
    // A worker's own filter would refuse what the library asks.
    let flags = vec!["--seccomp".to_owned(), "off".to_owned()];
    let mut rig = Rig::without_translator(Options { config, flags, ..Options::natgate() })?;
    start(&mut rig, &clock)?;
    let traffic = Traffic::begin(&rig)?;
    let done = jump(&mut rig, &clock, &traffic);
    rig.must(done);
    let done = traffic.end();
    rig.must(done);
    let done = restart(&mut rig, &clock);
    rig.must(done);
    Ok(())
}

#[test]
fn a_clock_that_jumps_by_a_day_ends_no_session_and_is_said() {
    run().unwrap();
}
