//! One permitted call: makes it, and gives the permit back whatever becomes of it.

use std::sync::Arc;
use std::time::Instant;

use secrecy::SecretString;

use super::engine::{Engine, Place};
use crate::messages::{Command, OrgId, Properties};
use crate::policy::answer::Answer;
use crate::policy::org_gate::{Lesson, Permit};
use crate::policy::verdict::{Verdict, decide};
use crate::seams::{self, Seam};

/// The permission for one call; holds one of the places.
pub struct Call<'a> {
    pub(super) pass: Pass<'a>,
    pub(super) token: Arc<SecretString>,
    pub(super) place: Place<'a>,
}

impl Call<'_> {
    /// Makes the call and lets breaker, gates and metrics learn from its answer.
    pub async fn make(self, command: &Command, properties: &Properties) -> (Answer, Verdict) {
        let engine = self.pass.engine;
        let in_flight = InFlight::new(engine);
        let started = Instant::now();
        seams::pass(Seam::BeforeCall).await;
        let mut span = engine.spans.call(properties, engine.api.base_url());
        let trace = span.context(properties);
        let answer = engine.api.delete(&command.org_id, &command.task_id, &self.token, trace).await;
        seams::pass(Seam::AfterCall).await;
        drop((in_flight, self.place));
        let verdict = decide(&answer);
        span.answered(&answer, verdict);
        drop(span);
        engine.metrics.count_call(verdict, answer.class(), started.elapsed());
        if answer.leaves_doubt() {
            engine.metrics.ambiguous_answers.inc();
        }
        engine.learn(self.pass, verdict, &answer);
        (answer, verdict)
    }
}

/// A gate's permit on its way; it comes back by itself where no call comes about (a panic, an open breaker).
pub(super) struct Pass<'a> {
    pub(super) engine: &'a Engine,
    pub(super) org: &'a OrgId,
    pub(super) permit: Option<Permit>,
}

impl Pass<'_> {
    /// Whether the gate has closed with it.
    pub(super) fn end(&mut self, lesson: Lesson) -> bool {
        self.permit.take().is_some_and(|permit| self.engine.take_back(self.org, permit, lesson))
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.end(Lesson::Nothing);
    }
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
