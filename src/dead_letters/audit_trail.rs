//! The two audit events of an action that changes something: before it begins, and when it has
//! ended.

use jiff::Timestamp;
use serde_json::Value;
use tracing::info;

use super::queue::DeadLetterQueue;
use super::selection::Selection;
use super::{ActionResult, DeadLettersError};
use crate::kind::Kind;
use crate::messages::audit::{Audit, Phase};

type Result<T> = std::result::Result<T, DeadLettersError>;

/// What the audit events of one action say.
pub(super) struct AuditTrail<'a> {
    pub(super) event_type: &'static str,
    pub(super) kind: Kind,
    pub(super) selection: &'a Selection,
    pub(super) by: &'a str,
    pub(super) why: Option<&'a str>,
    /// Makes the ids of its events, so that no two actions share them.
    pub(super) began: Timestamp,
}

impl AuditTrail<'_> {
    fn audit(&self, phase: Phase, dead_letters: usize, interrupted: bool) -> Audit {
        let selection = serde_json::to_value(self.selection).unwrap_or(Value::Null);
        let (event_type, kind) = (self.event_type, self.kind);
        let (by, why) = (self.by.to_owned(), self.why.map(str::to_owned));
        Audit { phase, event_type, kind, by, why, selection, dead_letters, interrupted }
    }

    /// The first audit event. If it cannot be published, nothing is done.
    pub(super) async fn started(&self, queue: &DeadLetterQueue) -> Result<()> {
        let event = self.audit(Phase::Begun, 0, false).event(self.began, Timestamp::now());
        queue.publish(&event).await?;
        queue.record(&event.audit_record(self.kind)).await;
        Ok(())
    }

    /// The second audit event, however the action ended, and the last line of output.
    pub(super) async fn finished(
        &self,
        queue: &DeadLetterQueue,
        dead_letters: usize,
        done: Result<ActionResult>,
    ) -> Result<ActionResult> {
        let interrupted = !matches!(done, Ok(ActionResult::Completed));
        let audit = self.audit(Phase::Ended, dead_letters, interrupted);
        let Self { event_type, kind, by, .. } = self;
        info!(event_type, %kind, by, letters = dead_letters, interrupted, "dead letters: done");
        let event = audit.event(self.began, Timestamp::now());
        let told = queue.publish(&event).await;
        queue.record(&event.audit_record(self.kind)).await;
        done.and_then(|done| told.map(|()| done))
    }
}
