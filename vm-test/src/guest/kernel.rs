//! Which kernels boot, and which of their modules does a driver need? Debian's packages say both.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::card::{Card, DEVICES};
use crate::namespace::output;

/// One of Debian's kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    name: &'static str,
    /// The one that depends on the newest of its kind.
    package: &'static str,
}

/// 6.1 is Debian 12's own, 6.12 from the backports of its successor; for virtual machines in clouds, and for any machine.
const KERNELS: [Kernel; 4] = [
    Kernel { name: "6.1", package: "linux-image-cloud-amd64" },
    Kernel { name: "6.1-plain", package: "linux-image-amd64" },
    Kernel { name: "6.12", package: "linux-image-6.12-cloud-amd64" },
    Kernel { name: "6.12-plain", package: "linux-image-6.12-amd64" },
];

impl Kernel {
    /// What `VM_TEST_KERNEL` says; 6.12 by default.
    pub fn from_env() -> Self {
        let name = std::env::var("VM_TEST_KERNEL");
        Self::named(name.as_deref().unwrap_or("6.12")).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// The kernel of this name.
    ///
    /// # Errors
    /// If there is none.
    pub fn named(name: &str) -> Result<Self> {
        let kernel = KERNELS.into_iter().find(|kernel| kernel.name == name);
        let names = KERNELS.map(|kernel| kernel.name).join(", ");
        kernel.with_context(|| {
            format!("VM_TEST_KERNEL={name}: no such kernel is known; give one of {names}")
        })
    }

    /// Its name, as `VM_TEST_KERNEL` says it.
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// The kernel of the same version for any machine, which has every driver.
    #[must_use]
    pub fn plain(self) -> Self {
        let version = self.name.trim_end_matches("-plain");
        let plain = |kernel: &Kernel| kernel.name.strip_suffix("-plain") == Some(version);
        KERNELS.into_iter().find(plain).unwrap_or(self)
    }

    /// The package with its files.
    fn newest(self) -> Result<String> {
        let depends = output(Command::new("apt-cache").args(["depends", self.package]))?;
        let mut packages = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        let package = packages.find(|package| package.starts_with("linux-image-"));
        Ok(package.with_context(|| format!("{}: {depends}", self.package))?.to_owned())
    }
}

/// What is kept of a kernel's package: the kernel, and the modules of every driver that a guest may have.
#[derive(Debug)]
pub(super) struct Unpacked {
    place: PathBuf,
    package: String,
}

impl Unpacked {
    /// What there is of it in `kept`; it is fetched first if there is nothing.
    pub(super) fn find(kernel: Kernel, kept: &Path) -> Result<Self> {
        let package = kernel.newest()?;
        let cards = Card::ALL.map(Card::name).join("+");
        let place = kept.join(format!("{package}-{cards}-{}", DEVICES.join("+")));
        let unpacked = Self { place, package };
        if !unpacked.place.exists() {
            let download = tempfile::tempdir_in(kept)?;
            unpacked.fetch(download.path())?;
        }
        Ok(unpacked)
    }

    pub(super) fn kernel(&self) -> PathBuf {
        self.place.join("vmlinuz")
    }

    /// The modules of the cards' driver and of other devices, in the order in which they need each other.
    pub(super) fn modules(&self, card: Card) -> Result<Vec<PathBuf>> {
        let place = self.place.join(card.name());
        let mut modules = Vec::new();
        for entry in fs::read_dir(&place)
            .with_context(|| format!("{} has no driver for {}", self.package, card.name()))?
        {
            modules.push(entry?.path());
        }
        modules.sort();
        Ok(modules)
    }

    fn fetch(&self, download: &Path) -> Result<()> {
        let package = &self.package;
        let fetch = format!(
            "apt-get -q download {package} && dpkg-deb -x {package}_*.deb contents && mkdir new"
        );
        output(Command::new("sh").args(["-c", &fetch]).current_dir(download))?;
        let (contents, new) = (download.join("contents"), download.join("new"));
        fs::rename(only(&contents.join("boot"), "vmlinuz-")?, new.join("vmlinuz"))?;
        let modules = Modules::of(&only(&contents.join("lib/modules"), "")?)?;
        for card in Card::ALL {
            let Some(needed) = modules.needed(&[card.modules(), &DEVICES[..]].concat())? else {
                continue;
            };
            let place = new.join(card.name());
            fs::create_dir(&place)?;
            for (number, (name, contents)) in needed.iter().enumerate() {
                fs::write(place.join(format!("{number:02}-{name}.ko")), contents)?;
            }
        }
        // Another test may have been faster.
        let renamed = fs::rename(&new, &self.place);
        ensure!(renamed.is_ok() || self.place.exists(), "{package}: {renamed:?}");
        Ok(())
    }
}

/// The only file in `directory` whose name begins with `prefix`.
fn only(directory: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(directory)?;
    let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let starts = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
    };
    paths.find(starts).with_context(|| format!("no {prefix}… in {}", directory.display()))
}

/// A module: its name, and its file's contents, unpacked.
type Module = (String, Vec<u8>);

/// All modules of a kernel. Debian's packages have lists of names; what needs what stands in the modules themselves, and
/// `depmod` looks there, too, when a package is installed.
struct Modules {
    directory: PathBuf,
    /// By name, from `directory`.
    paths: HashMap<String, String>,
    built_in: Vec<String>,
}

impl Modules {
    fn of(directory: &Path) -> Result<Self> {
        let list = |name: &str| {
            let path = directory.join(name);
            fs::read_to_string(&path).with_context(|| path.display().to_string())
        };
        let named = |line: &str| (name_of(line), line.to_owned());
        let paths = list("modules.order")?.lines().map(named).collect();
        let built_in = list("modules.builtin")?.lines().map(name_of).collect();
        Ok(Self { directory: directory.to_owned(), paths, built_in })
    }

    /// These modules and all that they need, each after what it needs. `None` if this kernel has not all of them.
    fn needed(&self, names: &[&str]) -> Result<Option<Vec<Module>>> {
        let mut needed = Vec::new();
        for name in names {
            if !self.built_in.iter().chain(self.paths.keys()).any(|it| it == name) {
                return Ok(None);
            }
            self.add(name, &mut needed)?;
        }
        Ok(Some(needed))
    }

    fn add(&self, name: &str, needed: &mut Vec<Module>) -> Result<()> {
        if self.built_in.iter().any(|it| it == name) || needed.iter().any(|(it, _)| it == name) {
            return Ok(());
        }
        let path = self.paths.get(name).with_context(|| format!("there is no module {name}"))?;
        let contents = read(&self.directory.join(path))?;
        for other in needs(&contents).with_context(|| format!("{path} does not say its needs"))? {
            self.add(&other, needed)?;
        }
        needed.push((name.to_owned(), contents));
        Ok(())
    }
}

/// The name of the module in this file.
fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

/// A file of a module: Debian packs those of newer kernels.
fn read(path: &Path) -> Result<Vec<u8>> {
    if path.exists() {
        return Ok(fs::read(path)?);
    }
    let packed = path.with_extension("ko.xz");
    let done = Command::new("xz").args(["--decompress", "--stdout"]).arg(&packed).output()?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{}: {said}", packed.display());
    Ok(done.stdout)
}

/// The modules that this one names as needed.
fn needs(contents: &[u8]) -> Option<Vec<String>> {
    const FIELD: &[u8] = b"\0depends=";
    let at = contents.windows(FIELD.len()).position(|window| window == FIELD)? + FIELD.len();
    let text = contents[at..].split(|byte| *byte == 0).next()?;
    let names = String::from_utf8_lossy(text);
    Some(names.split(',').filter(|name| !name.is_empty()).map(name_of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_go_by_their_names_and_others_are_refused() {
        for kernel in KERNELS {
            assert_eq!(Kernel::named(kernel.name).unwrap(), kernel);
        }
        assert_eq!(Kernel::named("6.1").unwrap().plain().name(), "6.1-plain");
        assert_eq!(Kernel::named("6.12-plain").unwrap().plain().name(), "6.12-plain");
        let error = Kernel::named("6.2").unwrap_err().to_string();
        let said = "VM_TEST_KERNEL=6.2: no such kernel is known; give one of 6.1, 6.1-plain, 6.12, 6.12-plain";
        assert_eq!(error, said);
    }

    #[test]
    fn modules_come_after_what_they_need() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        write("modules.order", "net/card.ko\nnet/bus-of-it.ko\nlib/sums.ko\nlib/none.ko\n");
        write("modules.builtin", "kernel/clock.ko\n");
        for name in ["net", "lib"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        write("net/card.ko", "\x7fELF\0license=GPL\0depends=bus_of_it,sums,clock\0name=card\0");
        write("net/bus-of-it.ko", "\x7fELF\0depends=sums\0name=bus_of_it\0");
        write("lib/sums.ko", "\x7fELF\0depends=\0name=sums\0");
        let modules = Modules::of(directory.path()).unwrap();
        let names = |wanted: &[&str]| -> Option<Vec<String>> {
            Some(modules.needed(wanted).unwrap()?.into_iter().map(|(name, _)| name).collect())
        };
        let all = ["sums", "bus_of_it", "card"].map(str::to_owned).to_vec();
        assert_eq!(names(&["card"]), Some(all.clone()));
        assert_eq!(names(&["sums", "clock", "card"]), Some(all));
        assert_eq!(names(&["card", "other_card"]), None);
        assert!(modules.needed(&["none"]).is_err(), "a module that is named and not there");
    }
}
