//! Prints what the program says about itself: schemas, completions.

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
        SubjectArg::DryRun => Subject::DryRun,
        SubjectArg::Audit => Subject::Audit,
        SubjectArg::Held => Subject::Held,
        SubjectArg::Pending => Subject::Pending,
    });
    format!("{:#}\n", schema_of(subject, kind)).into_bytes()
}

pub(super) fn completions(shell: Shell, mut program: Command) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut program, SOURCE, &mut script);
    script
}
