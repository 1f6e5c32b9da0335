//! Archive first, delete later: which calls a `task.delete` makes, and what follows if deleting is
//! not the first of them.
//!
//! # Restoring a task in time cancels its deletion
//!
//! The task is archived at once, and deleted only if it is still archived when the undo window has
//! ended. One race remains: a task that is restored between that look and the call right after it
//! is deleted.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::dry_run::{self, Seen};
use super::verdict::Verdict;
use crate::kind::Kind;
use crate::messages::Command;

/// What `task.delete` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeleteMode {
    /// Deletes at once.
    #[default]
    Delete,
    /// Archives, and nothing more.
    Archive,
    /// Archives, and deletes the task if it is still archived when this time has passed.
    ArchiveThenDelete(Duration),
}

/// The current stage of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The destructive call of its kind.
    Call,
    /// The call that archives the task.
    Archive,
    /// A look; and the destructive call, if the task is still archived.
    Purge,
}

/// A finding besides the verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Found {
    /// Nothing beyond the verdict.
    #[default]
    Nothing,
    /// The task is archived now.
    Archived,
    /// The task was archived and no longer is.
    Restored,
    /// The task was archived and can no longer be found.
    Gone,
}

impl DeleteMode {
    /// The next stage of a command. An archived task is looked at in any mode.
    pub fn stage(self, kind: Kind, purge_at: Option<Timestamp>) -> Stage {
        match self {
            _ if kind != Kind::TaskDelete => Stage::Call,
            _ if purge_at.is_some() => Stage::Purge,
            Self::Delete => Stage::Call,
            Self::Archive | Self::ArchiveThenDelete(_) => Stage::Archive,
        }
    }

    /// When a task that is archived now is deleted; `None` if it is not.
    pub fn purge_at(self, now: Timestamp) -> Option<Timestamp> {
        let Self::ArchiveThenDelete(window) = self else { return None };
        let window = SignedDuration::try_from(window).unwrap_or(SignedDuration::MAX);
        Some(now.saturating_add(window).unwrap_or(Timestamp::MAX))
    }

    /// # A task that may not be deleted after the undo window is not archived
    ///
    /// If its `not_after` comes before the window ends, it would be archived and never deleted.
    pub fn refuse(self, command: &Command, now: Timestamp) -> Option<String> {
        let (limit, purge_at) = (command.not_after?, self.purge_at(now)?);
        let is_late = limit < purge_at;
        is_late.then(|| format!("its not_after, {limit}, comes before its undo window ends"))
    }
}

/// Interprets a look after archiving got "not found": the task may be archived already, by an
/// earlier call whose answer was lost, or by a person.
pub fn after_archive_not_found(look: Verdict, seen: Seen) -> (Verdict, Found) {
    match (look, seen.archived) {
        (Verdict::Present, Some(true)) => (Verdict::Deleted, Found::Archived),
        // It exists and could not be archived: try again.
        (Verdict::Present, _) => (Verdict::Transient, Found::Nothing),
        _ => (look, Found::Nothing),
    }
}

/// Interprets a look when the undo window has ended. `None`: the task is still archived, so it is
/// deleted.
pub fn before_purge(look: Verdict, seen: Seen) -> Option<(Verdict, Found)> {
    match (look, seen.archived) {
        (Verdict::Present, Some(true)) => None,
        (Verdict::Present, Some(false)) => Some((Verdict::Present, Found::Restored)),
        // An answer that does not say whether it is archived is not the API's.
        (Verdict::Present, None) => Some((Verdict::Misdirected, Found::Nothing)),
        (Verdict::AlreadyAbsent | Verdict::UnverifiedAbsence, _) => Some((look, Found::Gone)),
        _ => Some((look, Found::Nothing)),
    }
}

/// See [`dry_run::decide`].
pub use dry_run::decide as decide_look;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-11-23T10:00:00Z";
    const WEEK: DeleteMode = DeleteMode::ArchiveThenDelete(Duration::from_hours(24 * 7));

    fn now() -> Timestamp {
        NOW.parse().unwrap()
    }

    #[test]
    fn only_task_delete_is_archived_first_and_what_was_archived_is_looked_at_in_any_mode() {
        for mode in [DeleteMode::Delete, DeleteMode::Archive, WEEK] {
            assert_eq!(mode.stage(Kind::TagDelete, None), Stage::Call);
            assert_eq!(mode.stage(Kind::TaskDelete, Some(now())), Stage::Purge);
        }
        let stage = |mode: DeleteMode| mode.stage(Kind::TaskDelete, None);
        assert_eq!(stage(DeleteMode::Delete), Stage::Call);
        assert_eq!([DeleteMode::Archive, WEEK].map(stage), [Stage::Archive; 2]);
    }

    #[test]
    fn a_task_that_may_not_be_deleted_after_the_undo_window_is_not_archived() {
        let command = |not_after: &str| {
            let body = format!(r#"{{"org_id":"o","task_id":"t","not_after":"{not_after}"}}"#);
            Command::decode(Kind::TaskDelete, body.as_bytes()).unwrap()
        };
        assert!(WEEK.refuse(&command("2026-11-30T09:59:59Z"), now()).is_some());
        assert!(WEEK.refuse(&command("2026-11-30T10:00:00Z"), now()).is_none());
        assert!(DeleteMode::Archive.refuse(&command("2026-11-23T10:00:01Z"), now()).is_none());
    }

    #[test]
    fn restoring_a_task_in_time_cancels_its_deletion() {
        let seen = |archived| Seen { archived, one_off: None };
        let purge = |look, archived| before_purge(look, seen(archived));
        assert_eq!(purge(Verdict::Present, Some(true)), None);
        let restored = Some((Verdict::Present, Found::Restored));
        assert_eq!(purge(Verdict::Present, Some(false)), restored);
        assert_eq!(purge(Verdict::Present, None), Some((Verdict::Misdirected, Found::Nothing)));
        for absent in [Verdict::AlreadyAbsent, Verdict::UnverifiedAbsence] {
            assert_eq!(purge(absent, None), Some((absent, Found::Gone)));
        }
        assert_eq!(purge(Verdict::Throttled, None), Some((Verdict::Throttled, Found::Nothing)));
    }

    #[test]
    fn a_task_that_is_archived_already_counts_as_archived() {
        let seen = |archived| Seen { archived, one_off: None };
        let archive = |look, archived| after_archive_not_found(look, seen(archived));
        assert_eq!(archive(Verdict::Present, Some(true)), (Verdict::Deleted, Found::Archived));
        assert_eq!(archive(Verdict::Present, Some(false)), (Verdict::Transient, Found::Nothing));
        let absent = Verdict::AlreadyAbsent;
        assert_eq!(archive(absent, None), (absent, Found::Nothing));
    }
}
