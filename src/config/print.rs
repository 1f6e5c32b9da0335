//! What is printed of the program itself: schemas, the manual page, completions.

use clap::Command;
use clap_complete::Shell;

use super::args::SubjectArg;
use crate::kind::Kind;
use crate::messages::names::SOURCE;
use crate::schema::{Subject, schema as schema_of};

/// On several lines, for people and for diffs.
pub(super) fn schema(subject: Option<SubjectArg>, kind: Kind) -> Vec<u8> {
    let subject = subject.map(|subject| match subject {
        SubjectArg::Command => Subject::Command,
        SubjectArg::Event => Subject::Event,
        SubjectArg::Audit => Subject::Audit,
    });
    format!("{:#}\n", schema_of(subject, kind)).into_bytes()
}

/// One page with all commands, one after the other, and those of `dead` behind it.
pub(super) fn man(program: &Command) -> Option<Vec<u8>> {
    let mut page = Vec::new();
    clap_mangen::Man::new(program.clone()).render(&mut page).ok()?;
    commands(&mut page, program, SOURCE)?;
    Some(page)
}

fn commands(page: &mut Vec<u8>, program: &Command, name: &str) -> Option<()> {
    for command in program.get_subcommands().filter(|command| command.get_name() != "help") {
        let name = format!("{name} {command}");
        let man = clap_mangen::Man::new(command.clone().bin_name(&name));
        let short = name.strip_prefix(SOURCE).unwrap_or(&name).trim_start();
        page.extend(format!(".SH \"COMMAND {}\"\n", short.to_uppercase()).bytes());
        man.render_synopsis_section(page).ok()?;
        man.render_description_section(page).ok()?;
        man.render_options_section(page).ok()?;
        man.render_extra_section(page).ok()?;
        commands(page, command, &name)?;
    }
    Some(())
}

pub(super) fn completions(shell: Shell, mut program: Command) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut program, SOURCE, &mut script);
    script
}
