//! One permitted call: makes it, verifies an absence, and reports the result.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use secrecy::SecretString;

use super::api_request::{About, ApiRequest, Called, MadeCall};
use super::engine::Engine;
use super::permits::PermitGuard;
use crate::failpoint::{self, Failpoint};
use crate::messages::call_record::CallRecord;
use crate::messages::{Command, Incoming, Outcome, Properties, Target};
use crate::policy::absence::{Reach, believe, substitute_answer};
use crate::policy::answer::Answer;
use crate::policy::api_access::{CommandKey, Feedback};
use crate::policy::dry_run::{self, Seen};
use crate::policy::retry_after;
use crate::policy::undo::Found;
use crate::policy::verdict::Verdict;

/// The permission for one call, and the token for it.
pub(super) struct Call<'a> {
    pub(super) engine: &'a Engine,
    pub(super) permit: PermitGuard,
    pub(super) token: Arc<SecretString>,
}

/// One reading of the clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) instant: Instant,
    pub(super) time: Timestamp,
}

impl Moment {
    pub(super) fn now() -> Self {
        Self { instant: Instant::now(), time: Timestamp::now() }
    }
}

/// The result of a call.
pub(super) struct Answered {
    pub(super) answer: Answer,
    pub(super) verdict: Verdict,
    /// The result of a look.
    pub(super) seen: Seen,
    /// The finding about a task that is archived before it is deleted.
    pub(super) found: Found,
    /// Whether a destructive call was made, not only a look.
    pub(super) was_destructive: bool,
    pub(super) retry_after: Option<Duration>,
    /// See [`crate::policy::api_access::Recorded`].
    pub(super) is_outage: bool,
    /// The request that was answered last.
    pub(super) request: ApiRequest,
    /// When it was answered.
    pub(super) at: Moment,
}

impl Engine {
    /// # Each destructive call leaves a record
    ///
    /// No delivery is acknowledged before the records of its calls have been confirmed (`Settler`).
    /// A worker that is killed between the call and its record leaves no record of that call; the
    /// command is delivered again, and the next call leaves one.
    fn keep_record<'a>(
        &'a self,
        command: &'a Command,
        incoming: &'a Incoming,
        MadeCall { call, verdict, answer }: &'a MadeCall,
    ) {
        if !self.ledger.is_kept() {
            return;
        }
        let Target { kind, org, id } = &command.target;
        let Properties { correlation_id, published_by, .. } = &incoming.properties;
        let borrowed = |text: &'a Option<String>| text.as_deref().map(Cow::Borrowed);
        self.audit.record(&CallRecord {
            at: Timestamp::now(),
            kind: kind.as_str().into(),
            org_id: org.as_str().into(),
            id: id.as_str().into(),
            command_id: Outcome::command_id(incoming, Some(command)).into(),
            correlation_id: borrowed(correlation_id),
            requested_by: borrowed(&command.requested_by),
            published_by: borrowed(published_by),
            reason: borrowed(&command.reason),
            call: (*call).into(),
            verdict: verdict.as_str().into(),
            answer: answer.describe().into(),
            http_status: answer.status(),
            request_id: answer.request_id().map(Cow::Borrowed),
            worker: self.ledger.writer().into(),
        });
    }
}

impl Call<'_> {
    /// Makes the call, after this many earlier `calls`, and records its answer.
    pub(super) async fn make(self, command: &Command, incoming: &Incoming, calls: u32) -> Answered {
        let engine = self.engine;
        let about = About { properties: &incoming.properties, resends: calls };
        let started = Instant::now();
        failpoint::hit(Failpoint::BeforeCall).await;
        let stage = engine.delete_mode.stage(command.target.kind, incoming.retry_state.purge_at);
        let Called { answer, verdict, seen, found, record, mut request } = {
            let _in_flight = InFlight::new(engine);
            if let Some(api) = &engine.destructive_api {
                self.destroy(api, stage, &command.target, about).await
            } else {
                let (answer, seen, request) =
                    engine.look(&command.target, &self.token, about).await;
                Called { seen, ..Called::of(dry_run::decide(&answer), answer, request) }
            }
        };
        let took = started.elapsed();
        failpoint::hit(Failpoint::AfterCall).await;
        let class = answer.class();
        if answer.is_ambiguous() {
            engine.metrics.ambiguous_answers.inc();
        }
        let (verdict, answer) = self.prove((verdict, answer), &command.target, about).await;
        let was_destructive = record.is_some();
        if let Some(made) = &record {
            engine.keep_record(command, incoming, made);
        }
        let at = Moment::now();
        request.judged(verdict);
        engine.metrics.count_call(command.target.kind, verdict, class, took);
        engine.compare_clocks(&answer, at.time);
        let retry_after = retry_after::of(&answer, at.time);
        let feedback = Feedback { command: key(command), verdict, retry_after };
        let recorded = self.permit.record(feedback, at.instant);
        engine.report_changes(&command.target.org, verdict, &answer, &recorded.changes);
        let is_outage = recorded.is_outage;
        Answered {
            answer,
            verdict,
            seen,
            found,
            was_destructive,
            retry_after,
            is_outage,
            request,
            at,
        }
    }

    /// Verifies an absence. If that question is not answered, its answer replaces the absence.
    async fn prove(
        &self,
        (verdict, answer): (Verdict, Answer),
        target: &Target,
        about: About<'_>,
    ) -> (Verdict, Answer) {
        let (engine, org) = (self.engine, &target.org);
        match verdict {
            Verdict::AlreadyAbsent | Verdict::UnverifiedAbsence => {
                let (reach, list) = engine
                    .reach
                    .ask(org, &self.token, engine.list(target, &self.token, about))
                    .await;
                let is_unanswered = matches!(reach, Reach::Unanswered(_));
                (
                    believe(verdict, reach),
                    if is_unanswered { substitute_answer(&list) } else { answer },
                )
            }
            Verdict::Deleted | Verdict::Present => {
                engine.reach.is_served(org);
                (verdict, answer)
            }
            _ => (verdict, answer),
        }
    }
}

/// Two commands for the same task are the same to the API.
fn key(command: &Command) -> CommandKey {
    let mut hasher = DefaultHasher::new();
    let Target { kind, org, id } = &command.target;
    (kind, org.as_str(), id.as_str()).hash(&mut hasher);
    CommandKey(hasher.finish())
}

struct InFlight<'a>(&'a Engine);

impl<'a> InFlight<'a> {
    fn new(engine: &'a Engine) -> Self {
        engine.metrics.calls_in_flight.inc();
        Self(engine)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.metrics.calls_in_flight.dec();
    }
}
