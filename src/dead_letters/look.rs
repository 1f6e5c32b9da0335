//! The actions that only look: list, show, export.

use std::io::{self, Write};

use super::lines::{Lines, json_line};
use super::selection::Selection;
use super::session::{Result, Session};
use super::{ActionResult, DeadLettersError, ExportFile, Limit, print};
use crate::table::OutputFormat;

impl Session {
    pub(super) async fn list(
        &self,
        selection: &Selection,
        form: OutputFormat,
    ) -> Result<ActionResult> {
        let (groups, done) = self.survey(selection).await?;
        let groups = groups.all();
        let mut out = io::stdout().lock();
        let written = match form {
            OutputFormat::Json => groups.iter().try_for_each(|group| json_line(&mut out, group)),
            OutputFormat::Text if groups.is_empty() => writeln!(out, "no dead letters"),
            OutputFormat::Text => print::groups(&mut out, &groups, self.began),
        };
        written.map_err(DeadLettersError::Output)?;
        Ok(done)
    }

    pub(super) async fn show(
        &self,
        selection: &Selection,
        form: OutputFormat,
        limit: Limit,
    ) -> Result<ActionResult> {
        self.each(selection, limit, |dead_letter| {
            let mut out = io::stdout().lock();
            let written = match form {
                OutputFormat::Json => json_line(&mut out, &print::exported(dead_letter)),
                OutputFormat::Text => print::dead_letter(&mut out, dead_letter, self.began),
            };
            written.map_err(DeadLettersError::Output)
        })
        .await
    }

    pub(super) async fn export(
        &self,
        selection: &Selection,
        file: Option<&ExportFile>,
        limit: Limit,
    ) -> Result<ActionResult> {
        let Some(file) = file else { return self.show(selection, OutputFormat::Json, limit).await };
        let mut lines = Lines::of_export(file)?;
        let done = self
            .each(selection, limit, |dead_letter| lines.write(&print::exported(dead_letter)))
            .await?;
        lines.sync()?;
        Ok(done)
    }
}
