//! One request to the API, from its start until its result is known: its span and its metrics.

use std::sync::Arc;
use std::time::{Duration, Instant};

use secrecy::SecretString;

use super::engine::Engine;
use crate::messages::{Properties, Target};
use crate::metrics::{Metrics, RequestEnd};
use crate::policy::answer::Answer;
use crate::policy::dry_run::Seen;
use crate::policy::settlement::Settlement;
use crate::policy::undo::Found;
use crate::policy::verdict::Verdict;
use crate::spans::{CallSpan, Endpoint};
use crate::tallyfy_api::DestructiveApi;

/// The command's data for the spans of its requests.
#[derive(Clone, Copy)]
pub(super) struct About<'a> {
    pub(super) properties: &'a Properties,
    /// Calls made for it before.
    pub(super) resends: u32,
}

impl About<'_> {
    /// The same for a new request instead of a repeat.
    pub(super) fn beside(self) -> Self {
        Self { resends: 0, ..self }
    }
}

/// The result of the calls for one command.
pub(super) struct Called {
    pub(super) answer: Answer,
    pub(super) verdict: Verdict,
    pub(super) seen: Seen,
    pub(super) found: Found,
    /// The destructive call that is to be recorded, if one was made.
    pub(super) record: Option<MadeCall>,
    /// The request that was answered last.
    pub(super) request: ApiRequest,
}

/// A destructive call and its own answer. A look or a list may have come after it.
pub(super) struct MadeCall {
    pub(super) call: &'static str,
    pub(super) verdict: Verdict,
    pub(super) answer: Answer,
}

impl Called {
    pub(super) fn of(verdict: Verdict, answer: Answer, request: ApiRequest) -> Self {
        let (seen, found) = (Seen::default(), Found::Nothing);
        Self { answer, verdict, seen, found, record: None, request }
    }
}

/// An answered request that the metrics have not recorded yet.
pub(super) struct ApiRequest {
    metrics: Arc<Metrics>,
    span: CallSpan,
    method: &'static str,
    took: Duration,
    status: Option<u16>,
    class: &'static str,
}

impl ApiRequest {
    /// Records the meaning of the answer.
    pub(super) fn judged(&mut self, verdict: Verdict) {
        self.span.judged(verdict);
    }

    /// # An absence that ends as success is no error
    ///
    /// The conventions leave it to the caller whether a 404 is an error:
    /// <https://opentelemetry.io/docs/specs/semconv/http/http-spans/#status>.
    pub(super) fn end(self, is_absence_success: bool) {
        let is_error = match self.status {
            Some(404 | 410) => !is_absence_success,
            Some(status) => status >= 400,
            None => true,
        };
        let Self { method, status, class, .. } = self;
        self.metrics.observe_request(RequestEnd { method, status, class, is_error }, self.took);
        self.span.end(
            is_error.then(|| status.map_or_else(|| class.to_owned(), |status| status.to_string())),
        );
    }
}

/// Whether this is the requested end.
pub(super) fn is_success(settlement: &Settlement) -> bool {
    match settlement {
        Settlement::Finish(_) | Settlement::DryRun(_) | Settlement::Undo(..) => true,
        Settlement::RetryLater(_)
        | Settlement::Postpone(_)
        | Settlement::DeadLetter(..)
        | Settlement::Reject(_)
        | Settlement::Hold(_)
        | Settlement::Requeue => false,
    }
}

/// A request in flight.
struct Sent<'a> {
    engine: &'a Engine,
    endpoint: Endpoint,
    span: CallSpan,
    began: Instant,
}

impl<'a> Sent<'a> {
    fn begin(engine: &'a Engine, endpoint: Endpoint, target: &Target, about: About<'_>) -> Self {
        let on = (about.properties, about.resends);
        let span = engine.spans.call(endpoint, target, on, engine.api.base_url());
        Self { engine, endpoint, span, began: Instant::now() }
    }

    fn answered(mut self, answer: &Answer) -> ApiRequest {
        self.span.answered(answer);
        ApiRequest {
            metrics: Arc::clone(&self.engine.metrics),
            span: self.span,
            method: self.endpoint.method(),
            took: self.began.elapsed(),
            status: answer.status(),
            class: answer.class(),
        }
    }
}

impl Engine {
    pub(super) async fn send_destructive(
        &self,
        api: &DestructiveApi,
        target: &Target,
        token: &SecretString,
        about: About<'_>,
    ) -> (Answer, ApiRequest) {
        let sent = Sent::begin(self, Endpoint::Destroy, target, about);
        let trace = sent.span.context(about.properties);
        let answer = api.delete(target, token, trace).await;
        let request = sent.answered(&answer);
        (answer, request)
    }

    pub(super) async fn look(
        &self,
        target: &Target,
        token: &SecretString,
        about: About<'_>,
    ) -> (Answer, Seen, ApiRequest) {
        let sent = Sent::begin(self, Endpoint::Look, target, about);
        let trace = sent.span.context(about.properties);
        let (answer, seen) = self.api.look(target, token, trace).await;
        let request = sent.answered(&answer);
        (answer, seen, request)
    }

    /// Lists a task of the target's organisation; the rate limit counts it.
    pub(super) async fn list(
        &self,
        target: &Target,
        token: &SecretString,
        about: About<'_>,
    ) -> Answer {
        self.count_another_call(target);
        let sent = Sent::begin(self, Endpoint::List, target, about.beside());
        let trace = sent.span.context(about.properties);
        let answer = self.api.list_tasks(&target.org, token, trace).await;
        sent.answered(&answer).end(false);
        answer
    }

    /// Counts another call with the same permit for the rate limit.
    pub(super) fn count_another_call(&self, target: &Target) {
        self.permits.with(|access, now| access.count_call(&target.org, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::event::samples;
    use crate::messages::{EndKind, RetryState};

    #[test]
    fn only_the_end_that_was_asked_for_makes_an_absence_a_success() {
        let dead = samples::outcome(EndKind::DeadLettered);
        let finished = Settlement::Finish(samples::outcome(EndKind::AlreadyAbsent));
        assert!(is_success(&finished));
        assert!(!is_success(&Settlement::DeadLetter(dead, RetryState::default())));
        assert!(!is_success(&Settlement::Hold(RetryState::default())));
    }
}
