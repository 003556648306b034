//! `natgate top` on a terminal of 80×24, driven by its keys (topology: `vm_test::rig`).
//!
//! ```text
//!  c1, c2 ── node ── gw (tmux: natgate top) ── r ── s1
//! ```

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use vm_test::binary::natgate_binary;
use vm_test::client::{echo_datagram, udp};
use vm_test::namespace::output;
use vm_test::rig::{PODS, S1};
use vm_test::{Options, Rig, server, wait};

const LIMIT: Duration = Duration::from_secs(15);

/// A terminal of its own.
struct Terminal {
    server: PathBuf,
}

impl Terminal {
    fn start(rig: &mut Rig) -> Result<Self> {
        let terminal = Self { server: rig.directory().join("tmux") };
        let socket = rig.directory().join("natgate.sock");
        let program = format!(
            "{} top --interval 0.5 --socket {}; echo ENDED; sleep 60",
            natgate_binary()?.display(),
            socket.display()
        );
        terminal.tmux(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            "80",
            "-y",
            "24",
            &program,
        ])?;
        Ok(terminal)
    }

    fn tmux(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("tmux");
        command.arg("-u").arg("-S").arg(&self.server).args(arguments);
        command.env("LC_ALL", "C.UTF-8").env_remove("TMUX");
        output(&mut command)
    }

    fn keys(&self, keys: &str) -> Result<()> {
        self.tmux(&["send-keys", keys]).map(drop)
    }

    fn screen(&self) -> Result<String> {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Waits until the screen shows this.
    fn shows(&self, text: &str) -> Result<String> {
        let shown =
            wait::until(text, LIMIT, || Ok(Some(self.screen()?).filter(|it| it.contains(text))));
        shown.map_err(|error| error.context(self.screen().unwrap_or_default()))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.tmux(&["kill-server"]);
    }
}

fn traffic(rig: &Rig) -> Result<()> {
    for (pod, count) in rig.pods.iter().zip([3, 9]) {
        pod.run(move || -> Result<()> {
            for _ in 0..count {
                echo_datagram(&udp((S1[0], 7))?, b"top")?;
            }
            // To a place that no rule has: see the options.
            Ok(())
        })??;
    }
    Ok(())
}

fn driven(rig: &mut Rig) -> Result<()> {
    server::udp_echo(&rig.s1, S1[0], 7)?;
    let terminal = Terminal::start(rig)?;
    terminal.shows("none")?;
    traffic(rig)?;
    let screen = terminal.shows(&PODS[1].to_string())?;
    println!("{screen}");
    let place = |screen: &str, text: &str| screen.find(text).unwrap_or(usize::MAX);
    let [first, second] = PODS.map(|pod| place(&screen, &pod.to_string()));
    ensure!(second < first, "the one with more sessions comes first:\n{screen}");
    for expected in ["INTERFACE", "int", "ext", "POOL", "WORKER", "SUBSCRIBER", "DROPS/S", "ready"]
    {
        ensure!(screen.contains(expected), "no {expected} in\n{screen}");
    }
    terminal.keys("h")?;
    terminal.shows("freeze, and go on")?;
    terminal.keys("h")?;
    terminal.keys("s")?;
    terminal.shows("by new sessions")?;
    terminal.keys("/")?;
    terminal.keys(&PODS[0].to_string())?;
    terminal.keys("Enter")?;
    let screen = terminal.shows("[filter:")?;
    ensure!(!screen.contains(&PODS[1].to_string()), "{screen}");
    terminal.keys("Escape")?;
    terminal.shows(&PODS[1].to_string())?;
    terminal.keys("f")?;
    terminal.shows("FROZEN")?;
    terminal.keys("f")?;

    rig.natgate()?.kill9()?;
    terminal.shows("NOT REACHABLE")?;
    rig.start_translator()?;
    wait::until("natgate to be found again", LIMIT, || {
        let screen = terminal.screen()?;
        Ok((screen.contains("ready") && !screen.contains("NOT REACHABLE")).then_some(()))
    })?;
    terminal.keys("q")?;
    terminal.shows("ENDED")?;
    Ok(())
}

#[test]
fn top_is_driven_and_survives_a_restart_of_natgate() {
    let mut rig = Rig::start(Options::natgate()).expect("the rig starts");
    let done = driven(&mut rig);
    rig.must(done);
}
