//! What can be made of the command line? Completions for shells, and manual pages.

use std::fs;
use std::path::Path;

use anyhow::Context;
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::cli::Cli;

/// The script that completes `natgate` in a shell.
pub(crate) fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "natgate", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Writes natgate(1) and a page for each command, such as natgate-run(1), into `directory`.
pub(crate) fn manual(directory: &Path) -> anyhow::Result<()> {
    let failed = |path: &Path| {
        format!(
            "cannot write ({}); see that there is room, and that you may write there",
            path.display()
        )
    };
    fs::create_dir_all(directory).with_context(|| failed(directory))?;
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let commands = command.get_subcommands().filter(|one| !one.is_hide_set());
    for one in commands.chain([&command]) {
        let name = one.get_display_name().unwrap_or_else(|| one.get_name());
        let path = directory.join(format!("{name}.1"));
        fs::write(&path, page(one)?).with_context(|| failed(&path))?;
    }
    Ok(())
}

fn page(command: &Command) -> std::io::Result<Vec<u8>> {
    let man = Man::new(command.clone()).manual("natgate");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    if command.get_arguments().next().is_some() {
        man.render_options_section(&mut page)?;
    }
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    let notes = command.get_after_long_help().or_else(|| command.get_after_help());
    if let Some(notes) = notes {
        page.extend_from_slice(verbatim(&notes.to_string()).as_bytes());
    }
    Ok(page)
}

/// A section that keeps its lines, in the language of roff.
fn verbatim(text: &str) -> String {
    let mut section = ".SH NOTES\n.nf\n".to_owned();
    for line in text.lines() {
        // At the start of a line, a dot or an apostrophe would begin a request.
        let guard = if line.starts_with(['.', '\'']) { "\\&" } else { "" };
        let escaped = line.replace('\\', "\\e").replace('-', "\\-");
        section.extend([guard, &escaped, "\n"]);
    }
    section + ".fi\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn lines_cannot_become_requests() {
        let section = verbatim(".so /etc/passwd\n'br\na\\nb --all\n  .x");
        let expected = "\\&.so /etc/passwd\n\\&'br\na\\enb \\-\\-all\n  .x\n";
        assert_eq!(section, format!(".SH NOTES\n.nf\n{expected}.fi\n"));
    }
}
