//! What happens to a task that is archived before it is deleted.

use jiff::Timestamp;
use tracing::warn;

use super::call::Answered;
use super::command_run::CommandRun;
use crate::messages::{EndKind, FailureReason, Outcome, Pending, RetryState};
use crate::policy::next_step::NextStep;
use crate::policy::settlement::Settlement;
use crate::policy::undo::Found;

const RESTORED: &str = "restored in Tallyfy";

impl CommandRun<'_> {
    /// The settlement that follows from the finding besides the verdict; `None` if there is none,
    /// or it does not matter.
    ///
    /// # A task that is gone before its undo window has ended is held
    ///
    /// There is no proof that it was deleted: it may have been moved, or the token may no longer
    /// reach it. A person decides. If an earlier call of ours may have deleted it, it counts as
    /// absent, and the event says so (`ambiguous`).
    pub(super) fn after_undo(
        &mut self,
        answered: &Answered,
        next: &NextStep,
    ) -> Option<Settlement> {
        match answered.found {
            Found::Nothing => None,
            Found::Archived => Some(self.archived(answered.at.time)),
            Found::Restored => {
                let outcome = self.outcome(EndKind::Cancelled, None);
                let cancelled_by = Some(RESTORED.to_owned());
                Some(Settlement::Finish(Outcome { cancelled_by, ..outcome }))
            }
            Found::Gone if self.may_be_done() => None,
            Found::Gone => match next {
                NextStep::Finish { .. } => Some(self.hold_what_is_gone()),
                _ => None,
            },
        }
    }

    fn archived(&self, now: Timestamp) -> Settlement {
        let outcome = self.outcome(EndKind::Archived, None);
        let Some(purge_at) = self.engine.delete_mode.purge_at(now) else {
            return Settlement::Finish(outcome);
        };
        let retry_state = RetryState {
            attempts: 0,
            calls: 0,
            // An earlier delivery may have left another copy, which deletes the task first.
            ambiguous: self.incoming.redelivered,
            not_before: Some(purge_at),
            purge_at: Some(purge_at),
            wait_reasons: None,
            ..self.retry_state.clone()
        };
        Settlement::Undo(Pending::of(outcome, purge_at), retry_state)
    }

    fn hold_what_is_gone(&self) -> Settlement {
        let (org_id, id) = (&self.command.target.org, &self.command.target.id);
        warn!(
            %org_id, task_id = %id,
            "the task is gone before its undo window has ended, and nothing proves that it was deleted: its command is held until an operator decides (guard list)"
        );
        let history = self.retry_state.history.clone();
        let first_seen = self.retry_state.first_seen;
        // If released, it starts again: the task is archived, if it exists.
        Settlement::Hold(RetryState { first_seen, history, ..RetryState::default() })
    }

    /// The end of a command that would wait in the undo window for longer than its producer allows.
    pub(super) fn outlives_its_limit(&mut self) -> Option<Settlement> {
        if self.retry_state.purge_at.is_some() {
            return None;
        }
        let detail = self.engine.delete_mode.refuse(&self.command, Timestamp::now())?;
        Some(self.dead_letter(FailureReason::Expired, &detail))
    }
}
