//! A virtual machine that takes the gateway's place in a rig: a stock kernel with the drivers of a network card.
//!
//! QEMU runs in the gateway's namespace. Its two cards hang on bridges there, which lead to the veths that were the
//! gateway's; so everything around it stays as it is. Orders go by a serial port.

mod image;

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

pub use image::{Image, Kernel};

use crate::{Namespace, Process, wait};

/// How long a guest may take to boot, on a machine that emulates it while others compile.
const BOOT: Duration = Duration::from_secs(120);
/// How long an order may take.
const ORDER: Duration = Duration::from_secs(60);

/// What a guest is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Its kernel.
    pub kernel: Kernel,
    /// Queues of each card, and processors.
    pub queues: u16,
}

impl Machine {
    /// The machine that the program with the suites asks for by its name: `guest` has one, of two queues.
    pub fn of_test() -> Option<Self> {
        let program = std::env::current_exe().ok()?;
        let name = program.file_name()?.to_string_lossy().into_owned();
        name.starts_with("guest-").then(|| Self { kernel: Kernel::from_env(), queues: 2 })
    }
}

/// A running guest; it ends when dropped.
#[derive(Debug)]
pub struct Guest {
    serial: Mutex<UnixStream>,
    qemu: Process,
    console: std::path::PathBuf,
}

impl Guest {
    /// Boots a guest in `namespace`, with a card on each of these taps, of these addresses.
    pub fn boot(
        machine: Machine,
        namespace: &Namespace,
        cards: [(&str, [u8; 6]); 2],
        directory: &Path,
    ) -> Result<Self> {
        let image = Image::make(machine.kernel, directory)?;
        let by = |accelerator, limit| {
            Self::boot_by(accelerator, limit, &image, machine, namespace, cards, directory)
        };
        // Hardware's help is used where it works; emulation always does.
        if Path::new("/dev/kvm").exists()
            && let Ok(guest) = by("kvm", BOOT / 6)
        {
            return Ok(guest);
        }
        by("tcg,thread=multi", BOOT)
    }

    fn boot_by(
        accelerator: &str,
        limit: Duration,
        image: &Image,
        machine: Machine,
        namespace: &Namespace,
        cards: [(&str, [u8; 6]); 2],
        directory: &Path,
    ) -> Result<Self> {
        let (console, socket) = (directory.join("console"), directory.join("serial"));
        let mut command = namespace.command("qemu-system-x86_64");
        command.args(["-accel", accelerator, "-cpu", "max", "-m", "1024"]);
        command.args(["-smp", &machine.queues.to_string(), "-nodefaults", "-no-reboot"]);
        command.args(["-display", "none", "-append", "console=ttyS0 panic=-1 net.ifnames=0"]);
        command.arg("-kernel").arg(&image.kernel).arg("-initrd").arg(&image.initrd);
        command.arg("-serial").arg(format!("file:{}", console.display()));
        command.arg("-serial").arg(format!("unix:{},server=on,wait=off", socket.display()));
        for (number, (tap, mac)) in cards.iter().enumerate() {
            let queues = machine.queues;
            let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
            command.arg("-netdev").arg(format!(
                "tap,id=n{number},ifname={tap},script=no,downscript=no,queues={queues},vhost=off"
            ));
            command.arg("-device").arg(format!(
                "virtio-net-pci,netdev=n{number},mac={mac},mq=on,vectors={},romfile=",
                2 * queues + 2
            ));
        }
        // That of an attempt before answers nobody.
        let _ = std::fs::remove_file(&socket);
        let mut qemu = Process::start(command, "qemu", directory)?;
        let connected = wait::until("QEMU's serial port", Duration::from_secs(20), || {
            if let Some(status) = qemu.ended()? {
                bail!("QEMU ended with {status}: {}", qemu.stderr());
            }
            Ok(UnixStream::connect(&socket).ok())
        });
        let guest = Self { serial: Mutex::new(connected?), qemu, console };
        guest.listen("@@ready@@\n", limit)?;
        Ok(guest)
    }

    /// Runs a line of shell in the guest; its output. An exit status other than 0 is an error.
    pub fn sh(&self, line: &str) -> Result<String> {
        let (status, said) = self.try_sh(line)?;
        ensure!(status == 0, "in the guest: {line}: {status}: {said}");
        Ok(said)
    }

    /// Runs a line of shell in the guest: exit status, and output.
    pub fn try_sh(&self, line: &str) -> Result<(i32, String)> {
        ensure!(!line.contains('\n'), "an order is one line: {line:?}");
        {
            let mut serial = self.lock();
            serial.write_all(line.as_bytes())?;
            serial.write_all(b"\n")?;
        }
        let said = self.listen("@@\n", ORDER).with_context(|| line.to_owned())?;
        let (said, status) = said.rsplit_once("\n@@").context("no exit status")?;
        Ok((status.parse().with_context(|| format!("exit status {status:?}"))?, said.to_owned()))
    }

    /// Puts a file into the guest.
    pub fn put(&self, path: &Path, contents: &str) -> Result<()> {
        let path = path.display();
        self.sh(&format!("mkdir -p $(dirname {path}) && : > {path}"))?;
        // A line of the serial port must not be too long.
        for piece in contents.as_bytes().chunks(512) {
            let octal: Vec<String> = piece.iter().map(|byte| format!("\\\\0{byte:03o}")).collect();
            let octal = octal.concat();
            self.sh(&format!("printf %b {octal} >> {path}"))?;
        }
        Ok(())
    }

    /// What its kernel has printed.
    pub fn console(&self) -> String {
        std::fs::read_to_string(&self.console).unwrap_or_default()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, UnixStream> {
        self.serial.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Reads until `end` comes; what came before it.
    fn listen(&self, end: &str, limit: Duration) -> Result<String> {
        let mut serial = self.lock();
        let (begin, mut heard) = (Instant::now(), Vec::new());
        serial.set_read_timeout(Some(Duration::from_millis(200)))?;
        let mut buffer = vec![0; 65_536];
        loop {
            if let Some(text) = heard.strip_suffix(end.as_bytes()) {
                return Ok(String::from_utf8_lossy(text).into_owned());
            }
            ensure!(
                begin.elapsed() < limit,
                "the guest says nothing; so far {:?}; console: {}",
                String::from_utf8_lossy(&heard),
                self.console()
            );
            match serial.read(&mut buffer) {
                Ok(count) if count > 0 => heard.extend(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Ok(_) | Err(_) => {
                    bail!("the guest is gone: {} {}", self.qemu.stderr(), self.console())
                }
            }
        }
    }
}
