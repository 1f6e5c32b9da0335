//! What is printed of the program itself: schemas, the manual page, completions.

use clap::Command;
use clap_complete::Shell;

use super::args::SubjectArg;
use crate::messages::names::SOURCE;
use crate::schema::{Subject, schema as schema_of};

/// On several lines, for people and for diffs.
pub(super) fn schema(subject: Option<SubjectArg>) -> Vec<u8> {
    let subject = subject.map(|subject| match subject {
        SubjectArg::Command => Subject::Command,
        SubjectArg::Event => Subject::Event,
    });
    format!("{:#}\n", schema_of(subject)).into_bytes()
}

/// One page with all commands, one after the other.
pub(super) fn man(program: &Command) -> Option<Vec<u8>> {
    let mut page = Vec::new();
    clap_mangen::Man::new(program.clone()).render(&mut page).ok()?;
    for command in program.get_subcommands().filter(|command| command.get_name() != "help") {
        let man = clap_mangen::Man::new(command.clone().bin_name(format!("{SOURCE} {command}")));
        page.extend(format!(".SH \"COMMAND {}\"\n", command.get_name().to_uppercase()).bytes());
        man.render_synopsis_section(&mut page).ok()?;
        man.render_description_section(&mut page).ok()?;
        man.render_options_section(&mut page).ok()?;
    }
    Some(page)
}

pub(super) fn completions(shell: Shell, mut program: Command) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut program, SOURCE, &mut script);
    script
}
