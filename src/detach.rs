//! Removes what a stopped or crashed natgate left on interfaces.

use anyhow::Context;
use dataplane::xsk::{self, Inspection, InterfaceLock};

use crate::cli::DetachArgs;
use crate::usage::WrongUsage;

/// An interface of this host: index and name.
type Interface = (u32, String);

/// Detaches natgate's program from the interfaces named, or from all that carry it. One that fails does
/// not keep the others from being tried.
pub(crate) fn detach(args: &DetachArgs) -> anyhow::Result<()> {
    let known = interfaces()?;
    refuse_unknown(&args.interfaces, &known)?;
    let wanted = known.iter().filter(|(_, name)| args.all || args.interfaces.contains(name));
    let (mut removed, mut failures) = (0, Vec::new());
    for interface in wanted {
        match remove(interface, args.all) {
            Ok(done) => removed += usize::from(done),
            Err(_) if args.all && is_gone(interface) => {}
            Err(error) => failures.push(error),
        }
    }
    if args.all && removed == 0 && failures.is_empty() {
        crate::say("no interface carries a program of natgate\n");
    }
    // The caller reports the last one.
    let last = failures.pop();
    failures.iter().for_each(crate::complain);
    last.map_or(Ok(()), Err)
}

fn interfaces() -> anyhow::Result<Vec<Interface>> {
    let known = nix::net::if_::if_nameindex().context("cannot list the interfaces")?;
    let interface = |known: &nix::net::if_::Interface| {
        (known.index(), known.name().to_string_lossy().into_owned())
    };
    Ok(known.iter().map(interface).collect())
}

fn refuse_unknown(wanted: &[String], known: &[Interface]) -> anyhow::Result<()> {
    let exists = |wanted: &String| known.iter().any(|(_, name)| name == wanted);
    let unknown: Vec<&str> =
        wanted.iter().filter(|name| !exists(name)).map(String::as_str).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    let names = unknown.join(", ");
    let why = "it does not exist here, and nothing was changed; `ip -br link` lists those that do";
    Err(WrongUsage(format!("unknown interface ({names}): {why}")).into())
}

/// Whether a program was removed; with `ours_only`, other programs are passed over in silence.
fn remove((ifindex, name): &Interface, ours_only: bool) -> anyhow::Result<bool> {
    if ours_only && !matches!(xsk::inspect(*ifindex, name)?, Inspection::Ours { .. }) {
        return Ok(false);
    }
    let _lock = InterfaceLock::acquire_surely(*ifindex, name)?;
    // The kernel changes nothing beneath a device that has a program.
    for tunnel in above(name)? {
        remove(&tunnel, true)?;
    }
    let removed = xsk::detach(*ifindex, name)?;
    let what =
        if removed { "removed; the kernel has its traffic now" } else { "nothing to remove" };
    crate::say(&format!("{name}: {what}\n"));
    Ok(removed)
}

/// The devices above an interface, such as those of tunnels.
fn above(name: &str) -> anyhow::Result<Vec<Interface>> {
    let entries = std::fs::read_dir(format!("/sys/class/net/{name}"));
    let names: Vec<String> = (entries.into_iter().flatten().flatten())
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_prefix("upper_")?.to_owned()))
        .collect();
    Ok(interfaces()?.into_iter().filter(|(_, it)| names.contains(it)).collect())
}

/// Whether the interface vanished meanwhile, and its program with it.
fn is_gone((ifindex, _): &Interface) -> bool {
    interfaces().is_ok_and(|known| known.iter().all(|(index, _)| index != ifindex))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_interfaces_are_refused_all_at_once() {
        let known = interfaces().unwrap();
        assert!(refuse_unknown(&[known[0].1.clone()], &known).is_ok());
        let wanted = [known[0].1.clone(), "no:such".to_owned(), "nor:this".to_owned()];
        let error = refuse_unknown(&wanted, &known).unwrap_err().to_string();
        assert!(error.starts_with("unknown interface (no:such, nor:this): "), "{error}");
        let gone = (u32::MAX, "gone".to_owned());
        assert!(is_gone(&gone) && !is_gone(&known[0]));
        let args = DetachArgs { interfaces: wanted.to_vec(), all: false };
        assert!(detach(&args).is_err());
    }
}
