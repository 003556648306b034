//! Removes what a stopped or crashed natgate left on interfaces.

use anyhow::Context;
use dataplane::xsk::{self, Inspection, InterfaceLock};

use crate::cli::DetachArgs;

/// Detaches natgate's program from the interfaces named, or from all that carry it.
pub(crate) fn detach(args: &DetachArgs) -> anyhow::Result<()> {
    let known = nix::net::if_::if_nameindex().context("cannot list the interfaces")?;
    let known: Vec<(u32, String)> = known
        .iter()
        .map(|interface| (interface.index(), interface.name().to_string_lossy().into_owned()))
        .collect();
    let mut removed = 0;
    for (ifindex, name) in &known {
        if !args.all && !args.interfaces.contains(name) {
            continue;
        }
        if args.all && !matches!(xsk::inspect(*ifindex, name)?, Inspection::Ours { .. }) {
            continue;
        }
        let _lock = InterfaceLock::acquire(*ifindex, name)?;
        if xsk::detach(*ifindex, name)? {
            crate::say(&format!("{name}: removed; the kernel has its traffic now\n"));
            removed += 1;
        } else {
            crate::say(&format!("{name}: nothing to remove\n"));
        }
    }
    if let Some(name) = args.interfaces.iter().find(|name| known.iter().all(|(_, k)| k != *name)) {
        anyhow::bail!(
            "unknown interface ({name}): it does not exist here; `ip -br link` lists those that do"
        );
    }
    if args.all && removed == 0 {
        crate::say("no interface carries a program of natgate\n");
    }
    Ok(())
}
