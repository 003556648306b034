//! A virtual machine that takes the gateway's place in a rig: a stock kernel with the drivers of a network card.
//!
//! QEMU runs in the gateway's namespace. Its cards hang on bridges there, which lead to the veths that were the
//! gateway's; so everything around it stays as it is. Orders to the guest go by a serial port, those to QEMU by its monitor,
//! and clients reach natgate's socket by a last card, which only leads to QEMU's namespace.
//!
//! A guest ends with its rig; if the test hangs, when its life is over; and if the test is killed, with whichever comes
//! first, its life's end or the next rig, which sweeps.

mod card;
mod image;
mod kernel;

use std::io::{ErrorKind, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

pub use card::Card;
pub use image::Image;
pub use kernel::Kernel;

use crate::{Namespace, Process, relay, wait};

/// How long a guest may take to boot, on a machine that emulates it while others compile.
const BOOT: Duration = Duration::from_secs(120);
/// How long an order may take.
const ORDER: Duration = Duration::from_secs(60);
/// How long a guest lives at most: no test has so long.
const LIFE: Duration = Duration::from_secs(900);
/// Addresses of the last card's link: QEMU's namespace, and the guest.
const RELAY: [Ipv4Addr; 2] = [Ipv4Addr::new(169, 254, 77, 1), Ipv4Addr::new(169, 254, 77, 2)];
/// What leads to natgate's socket outside.
const SOCKET: &str = "natgate.sock";
/// What leads to where the guest takes files.
const FILES: &str = "files.sock";
/// Processors of a guest at most: those of a small machine that emulates them.
const PROCESSORS: u16 = 2;

/// What a guest is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Its kernel.
    pub kernel: Kernel,
    /// Its cards.
    pub card: Card,
    /// Queues of each card.
    pub queues: u16,
    /// Bytes that a tap takes before it has passed them on; then the cards complete nothing. Without end if `None`.
    pub send_buffer: Option<u32>,
    /// It ends after this time, whatever happens.
    pub life: Duration,
}

impl Machine {
    /// A machine with the kernel that `VM_TEST_KERNEL` says and virtio-net cards of `queues` queues.
    pub fn with_queues(queues: u16) -> Self {
        let (kernel, card) = (Kernel::from_env(), Card::VirtioNet);
        Self { kernel, card, queues, send_buffer: None, life: LIFE }
    }

    /// A machine with these cards, and the kernel of the version that `VM_TEST_KERNEL` says that has every driver.
    pub fn with_card(card: Card, queues: u16) -> Self {
        let machine = Self::with_queues(queues);
        Self { kernel: machine.kernel.plain(), card, ..machine }
    }

    /// The machine that the program with the suites asks for by its name: `guest` has one, of two queues.
    pub fn of_test() -> Option<Self> {
        let program = std::env::current_exe().ok()?;
        let name = program.file_name()?.to_string_lossy().into_owned();
        name.starts_with("guest-").then(|| Self::with_queues(2))
    }
}

/// A running guest; it ends when dropped.
#[derive(Debug)]
pub struct Guest {
    serial: Mutex<UnixStream>,
    qemu: Process,
    kernel: Kernel,
    directory: PathBuf,
}

impl Guest {
    /// Boots a guest in `namespace`, with a card on each of these taps, of these addresses.
    pub fn boot(
        machine: Machine,
        namespace: &Namespace,
        cards: &[(&str, [u8; 6])],
        directory: &Path,
    ) -> Result<Self> {
        let image = Image::make(machine.kernel, machine.card)?;
        namespace.ip(&format!(
            "tuntap add dev tap-relay mode tap vnet_hdr\naddr add {}/30 dev tap-relay\n\
             link set tap-relay up",
            RELAY[0]
        ))?;
        for (name, port) in [(SOCKET, relay::SOCKET), (FILES, relay::FILES)] {
            let listener = UnixListener::bind(directory.join(name))?;
            namespace.spawn(move || relay::to_address(&listener, (RELAY[1], port).into()))?;
        }
        let by = |accelerator, limit| {
            let qemu = command(accelerator, &image, machine, namespace, cards, directory);
            Self::boot_by(qemu, machine.kernel, limit, directory)
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
        command: Command,
        kernel: Kernel,
        limit: Duration,
        directory: &Path,
    ) -> Result<Self> {
        let socket = directory.join("serial");
        // That of an attempt before answers nobody.
        let _ = std::fs::remove_file(&socket);
        let mut qemu = Process::start(command, "qemu", directory)?;
        let connected = wait::until("QEMU's serial port", Duration::from_secs(20), || {
            if let Some(status) = qemu.ended()? {
                bail!("QEMU ended with {status}: {}", qemu.stderr());
            }
            Ok(UnixStream::connect(&socket).ok())
        });
        let serial = Mutex::new(connected?);
        let guest = Self { serial, qemu, kernel, directory: directory.to_owned() };
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
        self.try_sh_within(line, ORDER)
    }

    /// The same, in another time than most orders have.
    pub fn try_sh_within(&self, line: &str, limit: Duration) -> Result<(i32, String)> {
        self.order(line)?;
        let said = self.listen("@@\n", limit).with_context(|| line.to_owned())?;
        let (said, status) = said.rsplit_once("\n@@").context("no exit status")?;
        Ok((status.parse().with_context(|| format!("exit status {status:?}"))?, said.to_owned()))
    }

    /// Has the guest run a line of shell that ends the kernel, and waits until it has booted again.
    pub fn reboot_by(&self, line: &str) -> Result<()> {
        self.order(line)?;
        self.listen("@@ready@@\n", BOOT).map(drop)
    }

    fn order(&self, line: &str) -> Result<()> {
        ensure!(!line.contains('\n'), "an order is one line: {line:?}");
        let mut serial = self.lock();
        serial.write_all(line.as_bytes())?;
        Ok(serial.write_all(b"\n")?)
    }

    /// Gives QEMU's monitor an order, such as `stop`, `cont` or `set_link n0 off`; what it says. The cards are `n0`, `n1` and so on.
    pub fn monitor(&self, order: &str) -> Result<String> {
        const PROMPT: &[u8] = b"(qemu) ";
        let mut monitor = UnixStream::connect(self.directory.join("monitor"))?;
        monitor.set_read_timeout(Some(Duration::from_secs(10)))?;
        let prompted = |monitor: &mut UnixStream| -> Result<Vec<u8>> {
            let (mut heard, mut byte) = (Vec::new(), [0]);
            while !heard.ends_with(PROMPT) {
                monitor.read_exact(&mut byte).context("QEMU's monitor")?;
                heard.push(byte[0]);
            }
            Ok(heard)
        };
        prompted(&mut monitor)?;
        writeln!(monitor, "{order}")?;
        Ok(String::from_utf8_lossy(&prompted(&mut monitor)?).into_owned())
    }

    /// Puts a file into the guest; readers find it as it was, or whole.
    pub fn put(&self, path: &Path, contents: &[u8]) -> Result<()> {
        let done = relay::put(&self.directory.join(FILES), path, contents);
        done.with_context(|| format!("{} for the guest", path.display()))
    }

    /// Its address on the link that leads to QEMU's namespace only.
    pub fn address(&self) -> Ipv4Addr {
        RELAY[1]
    }

    /// A socket outside that leads to natgate's inside.
    pub fn socket(&self) -> PathBuf {
        self.directory.join(SOCKET)
    }

    /// What its kernel has printed.
    pub fn console(&self) -> String {
        let said = std::fs::read_to_string(self.directory.join("console")).unwrap_or_default();
        if said.trim().is_empty() { "(the kernel has printed nothing)\n".to_owned() } else { said }
    }

    /// Whether QEMU has ended.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.qemu.ended()?.is_some())
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

impl Drop for Guest {
    /// The console of a test that fails outlives it.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let thread = std::thread::current();
        let test = thread.name().unwrap_or("test").replace("::", "-");
        let name = format!("{}-{test}", self.kernel.name());
        let said = format!("{}\n--- QEMU\n{}", self.console(), self.qemu.stderr());
        let kept = image::kept().and_then(|place| {
            let file = place.join("consoles").join(name);
            Ok(relay::replace(&file, said.as_bytes()).map(|()| file)?)
        });
        match kept {
            Ok(file) => eprintln!("the guest's console: {}", file.display()),
            Err(error) => eprintln!("the guest's console is lost: {error:#}"),
        }
    }
}

/// QEMU with everything that it is told. `timeout` ends it when its life is over, and takes it along when it is ended itself.
fn command(
    accelerator: &str,
    image: &Image,
    machine: Machine,
    namespace: &Namespace,
    cards: &[(&str, [u8; 6])],
    directory: &Path,
) -> Command {
    let (queues, processors) = (machine.queues, machine.queues.min(PROCESSORS));
    // Whoever ends the test ends all of it.
    let mut command = namespace.command("setpriv");
    command.args(["--pdeathsig", "KILL", "timeout"]);
    command.args(["--signal", "KILL", &machine.life.as_secs().to_string()]);
    command.args(["setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64"]);
    command.args(["-accel", accelerator, "-cpu", "max", "-m", "1024"]);
    command.args(["-smp", &processors.to_string(), "-nodefaults", "-display", "none"]);
    // Lines of the console are dear: each byte leaves the emulation.
    let kernel_line = "console=ttyS0 loglevel=4 panic=1 net.ifnames=0 mitigations=off";
    command.args(["-append", kernel_line]);
    command.arg("-kernel").arg(&image.kernel).arg("-initrd").arg(&image.initrd);
    let socket = |name: &str| format!("unix:{},server=on,wait=off", directory.join(name).display());
    command.arg("-serial").arg(format!("file:{}", directory.join("console").display()));
    command.arg("-serial").arg(socket("serial"));
    command.arg("-monitor").arg(socket("monitor"));
    for (number, (tap, mac)) in cards.iter().enumerate() {
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        let buffer = machine.send_buffer.map(|it| format!(",sndbuf={it}")).unwrap_or_default();
        command.arg("-netdev").arg(format!(
            "tap,id=n{number},ifname={tap},script=no,downscript=no,queues={queues},vhost=off{buffer}"
        ));
        let device = machine.card.device(queues);
        let place = format!("{device},id=c{number},netdev=n{number},mac={mac},romfile=");
        command.arg("-device").arg(place);
    }
    command.args(["-netdev", "tap,id=relay,ifname=tap-relay,script=no,downscript=no,vhost=off"]);
    // The guest knows it by its address (`image`).
    command.args(["-device", "virtio-net-pci,netdev=relay,mac=02:00:00:00:fe:ff,romfile="]);
    command
}
