//! What happens to a command in a dry run, after the worker has looked at its object.

use super::call::Answered;
use super::command_run::{CommandRun, Step};
use crate::messages::{DryRun, EndKind};
use crate::policy::dry_run::{self, LookStep};
use crate::policy::next_step::Facts;
use crate::policy::outcome::cut;
use crate::policy::settlement::{Settlement, wait_reason};

impl CommandRun<'_> {
    /// The next step after an answer.
    pub(super) fn after_look(&mut self, answered: &Answered, facts: &Facts) -> Step {
        let Answered { verdict, seen, at, .. } = *answered;
        let (wait, schedule) = (facts.retry_after, &self.engine.schedule);
        Step::Settle(match dry_run::after_look(verdict, seen, facts, schedule) {
            LookStep::TryAgain(delay) => return Step::TryAgain(delay),
            LookStep::RetryLater(delay) => {
                Settlement::RetryLater(self.wait(delay, "attempt_failed", wait, at))
            }
            LookStep::Postpone(delay) => self.postpone(delay, wait_reason(verdict), wait, at),
            LookStep::End(would) => {
                let last = cut(&answered.answer.describe());
                // Used for the facts about the command; its end is reported in the words of a dry
                // run.
                let outcome = self.outcome(EndKind::DeadLettered, None);
                Settlement::DryRun(DryRun::of(outcome, would, &last))
            }
        })
    }
}
