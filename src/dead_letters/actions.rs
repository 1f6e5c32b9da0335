//! The actions themselves. Each dead letter is published or written first, and removed when that is certain.

use std::io::{self, Write};
use std::path::Path;

use jiff::Timestamp;
use lapin::uri::AMQPUri;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::lines::{Lines, json_line, read_lines};
use super::pace::{Pace, progress_bar};
use super::queue::{DeadLetterQueue, Disposition, Pass};
use super::selection::{Groups, Selection};
use super::{Bulk, Consent, DeadJob, DeadLettersError, Done, Limit, OutputFormat, print};
use crate::kind::Kind;
use crate::messages::audit::{Audit, Phase};
use crate::messages::{DeadLetter, names, time};
use crate::rabbitmq::dead_letters::DeadLetterDelivery;
use crate::rabbitmq::tls::TlsFiles;

type Result<T> = std::result::Result<T, DeadLettersError>;

/// Does what is asked for. `stop` ends it after the dead letter that it is busy with.
///
/// # Errors
/// [`DeadLettersError`]: what was not done is as it was.
pub async fn run(
    kind: Kind,
    job: DeadJob,
    uri: &AMQPUri,
    tls: &TlsFiles,
    stop: CancellationToken,
) -> Result<Done> {
    let lines = match &job {
        DeadJob::Import(file, ..) => read_lines(file.as_deref())?,
        _ => Vec::new(),
    };
    let session = Session {
        queue: DeadLetterQueue::open(kind, uri, tls).await?,
        stop,
        began: Timestamp::now(),
    };
    let done = match job {
        DeadJob::List(selection, form) => session.list(&selection, form).await,
        DeadJob::Show(selection, form, limit) => session.show(&selection, form, limit).await,
        DeadJob::Export(selection, file, limit) => {
            session.export(&selection, file.as_deref(), limit).await
        }
        DeadJob::Import(_, bulk) => session.import(&lines, &bulk).await,
        DeadJob::Replay(selection, bulk) => session.replay(&selection, &bulk).await,
        DeadJob::Discard(selection, bulk, file, why) => {
            session.discard(&selection, &bulk, &file, &why).await
        }
    };
    session.queue.close().await;
    done
}

struct Session {
    queue: DeadLetterQueue,
    stop: CancellationToken,
    began: Timestamp,
}

impl Session {
    async fn list(&self, selection: &Selection, form: OutputFormat) -> Result<Done> {
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

    async fn survey(&self, selection: &Selection) -> Result<(Groups, Done)> {
        let mut groups = Groups::default();
        let look = async |held: DeadLetterDelivery| {
            if selection.takes(&held.dead_letter, self.began) {
                groups.add(&held.dead_letter);
            }
            Ok(Disposition::Stays(held))
        };
        let pass = self.queue.go_through(&self.stop, look).await?;
        Ok((groups, done(pass)))
    }

    async fn show(&self, selection: &Selection, form: OutputFormat, limit: Limit) -> Result<Done> {
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

    async fn export(
        &self,
        selection: &Selection,
        file: Option<&Path>,
        limit: Limit,
    ) -> Result<Done> {
        let Some(path) = file else { return self.show(selection, OutputFormat::Json, limit).await };
        let mut lines = Lines::append_to(path)?;
        let done = self
            .each(selection, limit, |dead_letter| lines.write(&print::exported(dead_letter)))
            .await?;
        lines.sync()?;
        Ok(done)
    }

    /// Shows the dead letters that are selected to `use_it`; all stay.
    async fn each(
        &self,
        selection: &Selection,
        limit: Limit,
        mut use_it: impl FnMut(&DeadLetter) -> Result<()>,
    ) -> Result<Done> {
        let mut left = limit.unwrap_or(usize::MAX);
        let look = async |held: DeadLetterDelivery| {
            if selection.takes(&held.dead_letter, self.began) {
                use_it(&held.dead_letter)?;
                left -= 1;
            }
            Ok(if left == 0 { Disposition::Enough(held) } else { Disposition::Stays(held) })
        };
        Ok(done(self.queue.go_through(&self.stop, look).await?))
    }

    async fn replay(&self, selection: &Selection, bulk: &Bulk) -> Result<Done> {
        let Some(letters) = self.agreed("replay", selection, bulk).await? else {
            return Ok(Done::Interrupted);
        };
        let trail = self.trail(names::REPLAYED_EVENT, selection, bulk, None);
        self.audit_started(&trail).await?;
        let publish = async |dead_letter: &DeadLetter| {
            self.queue.publish(&dead_letter.replay(&bulk.by, Timestamp::now())).await
        };
        let (number, done) = self.remove_after(selection, bulk, letters, publish).await;
        self.audit_finished(&trail, number, done).await
    }

    async fn discard(
        &self,
        selection: &Selection,
        bulk: &Bulk,
        file: &Path,
        why: &str,
    ) -> Result<Done> {
        let mut lines = Lines::append_to(file)?;
        let Some(letters) = self.agreed("discard", selection, bulk).await? else {
            return Ok(Done::Interrupted);
        };
        let trail = self.trail(names::DISCARDED_EVENT, selection, bulk, Some(why));
        self.audit_started(&trail).await?;
        let write = async |dead_letter: &DeadLetter| {
            let discarded = json!({"at": time::text(Timestamp::now()), "by": bulk.by, "why": why});
            let mut line = serde_json::to_value(print::exported(dead_letter)).unwrap_or_default();
            line["discarded"] = discarded;
            lines.write(&line)?;
            lines.sync()
        };
        let (number, done) = self.remove_after(selection, bulk, letters, write).await;
        self.audit_finished(&trail, number, done).await
    }

    /// Says what will be done, and asks. Nothing is unacknowledged meanwhile. `None`: nothing is to be done.
    async fn agreed(
        &self,
        verb: &str,
        selection: &Selection,
        bulk: &Bulk,
    ) -> Result<Option<usize>> {
        let (groups, surveyed) = self.survey(selection).await?;
        if surveyed == Done::Interrupted {
            return Ok(None);
        }
        let letters = groups.letters().min(bulk.limit.unwrap_or(usize::MAX));
        let _ = print::groups(&mut io::stderr(), &groups.all(), self.began);
        let _ = writeln!(io::stderr(), "{verb} {letters} of them");
        let consent = if letters == 0 { Consent::Given } else { bulk.consent };
        Ok(agrees(consent, &self.stop).await.then_some(letters))
    }

    /// # A dead letter is removed only when it is safe elsewhere
    ///
    /// `keep` has it confirmed by the broker, or on the disk, before it is removed. A kill in between leaves it in both places.
    /// What dies again meanwhile is left alone.
    async fn remove_after(
        &self,
        selection: &Selection,
        bulk: &Bulk,
        letters: usize,
        mut keep: impl AsyncFnMut(&DeadLetter) -> Result<()>,
    ) -> (usize, Result<Done>) {
        let (bar, mut pace) = (progress_bar(letters), Pace::new(bulk));
        let mut number = 0;
        let done = loop {
            let look = async |held: DeadLetterDelivery| {
                let is_new = held.dead_letter.failed_at.is_some_and(|time| time > self.began);
                if number == letters {
                    return Ok(Disposition::Enough(held));
                }
                if is_new
                    || !selection.takes(&held.dead_letter, self.began)
                    || !pace.wait(&self.stop).await
                {
                    return Ok(Disposition::Stays(held));
                }
                keep(&held.dead_letter).await?;
                number += 1;
                bar.inc(1);
                if !held.remove().await {
                    bar.suspend(|| {
                        warn!(
                            "the removal of a dead letter is not known: it may be there still, and is done with"
                        );
                    });
                }
                Ok(Disposition::Removed)
            };
            match self.queue.go_through(&self.stop, look).await {
                Ok(Pass::TimeIsUp) => {}
                Ok(pass) => break Ok(done(pass)),
                Err(trouble) => break Err(trouble),
            }
        };
        if matches!(done, Ok(Done::Completed)) && number < letters {
            warn!(
                announced = letters,
                done = number,
                "not all dead letters that were announced were there any more: others have them, or they died since; look again"
            );
        }
        (number, done)
    }

    async fn import(&self, lines: &[String], bulk: &Bulk) -> Result<Done> {
        let mut letters = Vec::new();
        for (number, line) in (1..).zip(lines).filter(|(_, line)| !line.trim().is_empty()) {
            letters.push(
                print::imported(self.queue.kind(), line)
                    .map_err(|why| DeadLettersError::Line { number, why })?,
            );
        }
        letters.truncate(bulk.limit.unwrap_or(usize::MAX));
        let _ = writeln!(io::stderr(), "import {} dead letters", letters.len());
        if !agrees(bulk.consent, &self.stop).await {
            return Ok(Done::Interrupted);
        }
        let selection = &Selection::default();
        let trail = self.trail(names::IMPORTED_EVENT, selection, bulk, None);
        self.audit_started(&trail).await?;
        let (bar, mut pace) = (progress_bar(letters.len()), Pace::new(bulk));
        let (mut number, mut done) = (0, Ok(Done::Completed));
        for dead_letter in &letters {
            if !pace.wait(&self.stop).await {
                done = Ok(Done::Interrupted);
                break;
            }
            if let Err(trouble) = self.queue.publish(&dead_letter.again()).await {
                done = Err(trouble);
                break;
            }
            number += 1;
            bar.inc(1);
        }
        self.audit_finished(&trail, number, done).await
    }

    fn trail<'a>(
        &self,
        event_type: &'static str,
        selection: &'a Selection,
        bulk: &'a Bulk,
        why: Option<&'a str>,
    ) -> AuditTrail<'a> {
        AuditTrail { event_type, kind: self.queue.kind(), selection, by: &bulk.by, why }
    }

    /// The first audit event. Where it cannot be published, nothing is done.
    async fn audit_started(&self, trail: &AuditTrail<'_>) -> Result<()> {
        self.queue
            .publish(&trail.audit(Phase::Begun, 0, false).event(self.began, Timestamp::now()))
            .await
    }

    /// The second one, whatever came of the action; and the last line.
    async fn audit_finished(
        &self,
        trail: &AuditTrail<'_>,
        letters: usize,
        done: Result<Done>,
    ) -> Result<Done> {
        let interrupted = !matches!(done, Ok(Done::Completed));
        let audit = trail.audit(Phase::Ended, letters, interrupted);
        let AuditTrail { event_type, kind, by, .. } = trail;
        info!(event_type, %kind, by, letters, interrupted, "dead letters: done");
        let told = self.queue.publish(&audit.event(self.began, Timestamp::now())).await;
        done.and_then(|done| told.map(|()| done))
    }
}

/// What the audit events of one action say.
struct AuditTrail<'a> {
    event_type: &'static str,
    kind: Kind,
    selection: &'a Selection,
    by: &'a str,
    why: Option<&'a str>,
}

impl AuditTrail<'_> {
    fn audit(&self, phase: Phase, letters: usize, interrupted: bool) -> Audit {
        let selection = serde_json::to_value(self.selection).unwrap_or(Value::Null);
        let (event_type, kind) = (self.event_type, self.kind);
        let (by, why) = (self.by.to_owned(), self.why.map(str::to_owned));
        Audit { phase, event_type, kind, by, why, selection, letters, interrupted }
    }
}

fn done(pass: Pass) -> Done {
    if pass == Pass::Through { Done::Completed } else { Done::Interrupted }
}

/// Asks, where that is needed. A signal is a no.
async fn agrees(consent: Consent, stop: &CancellationToken) -> bool {
    if consent == Consent::Given {
        return true;
    }
    let ask = || {
        let _ = write!(io::stderr(), "Go on? [y/N] ");
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
    };
    tokio::select! {
        answer = tokio::task::spawn_blocking(ask) => answer.unwrap_or(false),
        () = stop.cancelled() => {
            // Nothing is unacknowledged, and a read from a terminal cannot be interrupted.
            let _ = writeln!(io::stderr());
            std::process::exit(1)
        }
    }
}
