//! The actions that change something: replay, discard, import. Each asks first, and leaves an audit
//! trail.

use std::io::{self, Write};
use std::path::Path;

use jiff::Timestamp;
use serde_json::json;
use tracing::warn;

use super::audit_trail::AuditTrail;
use super::lines::Lines;
use super::pace::{Pace, progress_bar};
use super::queue::{Disposition, Pass};
use super::selection::Selection;
use super::session::{Result, Session, done};
use super::{ActionResult, Bulk, DeadLettersError, print};
use crate::consent::{Consent, agrees};
use crate::messages::{DeadLetter, names, time};
use crate::rabbitmq::Delivery;

impl Session {
    pub(super) async fn replay(&self, selection: &Selection, bulk: &Bulk) -> Result<ActionResult> {
        match self.agreed("replay", selection, bulk).await? {
            Some(dead_letters) => self.replay_agreed(selection, bulk, dead_letters).await,
            None => Ok(ActionResult::Interrupted),
        }
    }

    /// At most this many of the selected dead letters.
    pub(super) async fn replay_agreed(
        &self,
        selection: &Selection,
        bulk: &Bulk,
        dead_letters: usize,
    ) -> Result<ActionResult> {
        let trail = AuditTrail {
            event_type: names::REPLAYED_EVENT,
            kind: self.queue.kind(),
            selection,
            by: &bulk.by,
            why: None,
            began: Timestamp::now(),
        };
        trail.started(&self.queue).await?;
        let publish = async |dead_letter: &DeadLetter| {
            self.queue.publish(&dead_letter.replay(&bulk.by, Timestamp::now())).await
        };
        let (number, done) = self.remove_after(selection, bulk, dead_letters, publish).await;
        trail.finished(&self.queue, number, done).await
    }

    pub(super) async fn discard(
        &self,
        selection: &Selection,
        bulk: &Bulk,
        file: &Path,
        why: &str,
    ) -> Result<ActionResult> {
        let lines = Lines::append_to(file)?;
        match self.agreed("discard", selection, bulk).await? {
            Some(dead_letters) => {
                self.discard_agreed(selection, bulk, dead_letters, (lines, why)).await
            }
            None => Ok(ActionResult::Interrupted),
        }
    }

    /// At most this many of the selected dead letters.
    pub(super) async fn discard_agreed(
        &self,
        selection: &Selection,
        bulk: &Bulk,
        dead_letters: usize,
        (mut lines, why): (Lines, &str),
    ) -> Result<ActionResult> {
        let trail = AuditTrail {
            event_type: names::DISCARDED_EVENT,
            kind: self.queue.kind(),
            selection,
            by: &bulk.by,
            why: Some(why),
            began: Timestamp::now(),
        };
        trail.started(&self.queue).await?;
        let write = async |dead_letter: &DeadLetter| {
            let discarded = json!({"at": time::text(Timestamp::now()), "by": bulk.by, "why": why});
            let mut line = serde_json::to_value(print::exported(dead_letter)).unwrap_or_default();
            line["discarded"] = discarded;
            lines.write(&line)?;
            lines.sync()
        };
        let (number, done) = self.remove_after(selection, bulk, dead_letters, write).await;
        trail.finished(&self.queue, number, done).await
    }

    /// Says what will be done, and asks. Nothing is unacknowledged meanwhile. `None`: there is
    /// nothing to do.
    async fn agreed(
        &self,
        verb: &str,
        selection: &Selection,
        bulk: &Bulk,
    ) -> Result<Option<usize>> {
        let (groups, surveyed) = self.survey(selection).await?;
        if surveyed == ActionResult::Interrupted {
            return Ok(None);
        }
        let dead_letters = groups.dead_letters().min(bulk.limit.unwrap_or(usize::MAX));
        let _ = print::groups(&mut io::stderr(), &groups.all(), self.began);
        let _ = writeln!(io::stderr(), "{verb} {dead_letters} of them");
        let consent = if dead_letters == 0 { Consent::Given } else { bulk.consent };
        Ok(agrees(consent, "", &self.stop).await.then_some(dead_letters))
    }

    /// # A dead letter is removed only when it is safe elsewhere
    ///
    /// `keep` stores it, confirmed by the broker or forced to the disk, before it is removed. A
    /// kill in between leaves it in both places. A command that fails again is left alone.
    ///
    /// # A dead letter with a false date can be removed
    ///
    /// A command cannot have failed in the future, so a dead letter with such a date does not count
    /// as one that failed meanwhile. At most as many are removed as were counted, and a pass looks
    /// at no more than were in the queue when it began.
    async fn remove_after(
        &self,
        selection: &Selection,
        bulk: &Bulk,
        dead_letters: usize,
        mut keep: impl AsyncFnMut(&DeadLetter) -> Result<()>,
    ) -> (usize, Result<ActionResult>) {
        let (bar, mut pace) = (progress_bar(dead_letters), Pace::new(bulk));
        let mut number = 0;
        let done = loop {
            let look = async |held: Delivery<DeadLetter>| {
                let died_since = |time| time > self.began && time <= Timestamp::now();
                let is_new = held.message.failed_at.is_some_and(died_since);
                if number == dead_letters {
                    return Ok(Disposition::Enough(held));
                }
                let is_unseen = self.only.as_ref().is_some_and(|seen| !seen.contain(&held.message));
                if is_new
                    || is_unseen
                    || !selection.takes(&held.message, self.began)
                    || !pace.wait(&self.stop).await
                {
                    return Ok(Disposition::Stays(held));
                }
                keep(&held.message).await?;
                number += 1;
                bar.inc(1);
                self.progress.inc();
                let removal = held.message.removal(&bulk.by);
                if !held.acknowledge().await {
                    bar.suspend(|| {
                        warn!(
                            "the removal of a dead letter is not confirmed: it may still be there, although it was processed"
                        );
                    });
                }
                self.queue.record(&removal.publication(self.queue.kind())).await;
                Ok(Disposition::Removed)
            };
            match self.queue.go_through(&self.stop, look).await {
                Ok(Pass::TimeIsUp) => {}
                Ok(pass) => break Ok(done(pass)),
                Err(trouble) => break Err(trouble),
            }
        };
        if matches!(done, Ok(ActionResult::Completed)) && number < dead_letters {
            warn!(
                announced = dead_letters,
                done = number,
                "not all dead letters that were announced were there any more: others have them, or they have failed again since; look again"
            );
        }
        (number, done)
    }

    pub(super) async fn import(&self, lines: &[String], bulk: &Bulk) -> Result<ActionResult> {
        let mut dead_letters = Vec::new();
        for (number, line) in (1..).zip(lines).filter(|(_, line)| !line.trim().is_empty()) {
            dead_letters.push(
                print::imported(self.queue.kind(), line)
                    .map_err(|why| DeadLettersError::Line { number, why })?,
            );
        }
        dead_letters.truncate(bulk.limit.unwrap_or(usize::MAX));
        let _ = writeln!(io::stderr(), "import {} dead letters", dead_letters.len());
        if !agrees(bulk.consent, "", &self.stop).await {
            return Ok(ActionResult::Interrupted);
        }
        let selection = &Selection::default();
        let trail = AuditTrail {
            event_type: names::IMPORTED_EVENT,
            kind: self.queue.kind(),
            selection,
            by: &bulk.by,
            why: None,
            began: Timestamp::now(),
        };
        trail.started(&self.queue).await?;
        let (bar, mut pace) = (progress_bar(dead_letters.len()), Pace::new(bulk));
        let (mut number, mut done) = (0, Ok(ActionResult::Completed));
        for dead_letter in &dead_letters {
            if !pace.wait(&self.stop).await {
                done = Ok(ActionResult::Interrupted);
                break;
            }
            if let Err(trouble) = self.queue.publish(&dead_letter.again()).await {
                done = Err(trouble);
                break;
            }
            self.queue.record(&dead_letter.mirrored()).await;
            number += 1;
            bar.inc(1);
        }
        trail.finished(&self.queue, number, done).await
    }
}
