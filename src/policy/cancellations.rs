//! The cancelled commands: they end without a further call.

use std::collections::HashMap;

use jiff::SignedDuration;
use jiff::Timestamp;

use crate::messages::OrgId;
use crate::messages::ledger::{Decision, LedgerEntry};

/// Longer than the undo window and the default `MAX_AGE`. A command that is held for longer can be
/// cancelled again or rejected.
const FORGOTTEN_AFTER: SignedDuration = SignedDuration::from_hours(24 * 60);

/// Who has cancelled a command, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cancellation {
    pub(super) since: Timestamp,
    pub(super) decision: Decision,
    /// Number of the last record that says so.
    pub(super) offset: u64,
}

/// By the command's id, and by its organisation if one was given.
#[derive(Debug, Default)]
pub(super) struct Cancellations {
    known: HashMap<(String, Option<OrgId>), Cancellation>,
    /// Those that were lifted, and since when they had held.
    revoked: HashMap<(String, Option<OrgId>), Timestamp>,
}

impl Cancellations {
    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// # A reminder does not undo a revocation
    ///
    /// Its writer may not have read the revocation yet. A reminder has the moment of the lifted
    /// cancellation; a new cancellation has its own, and counts.
    pub(super) fn add(&mut self, command_id: String, org: Option<OrgId>, new: Cancellation) {
        let oldest = new.since.saturating_sub(FORGOTTEN_AFTER).unwrap_or(Timestamp::MIN);
        self.known.retain(|_, known| known.since >= oldest);
        self.revoked.retain(|_, since| *since >= oldest);
        let key = (command_id, org);
        if self.revoked.get(&key) != Some(&new.since) {
            self.known.insert(key, new);
        }
    }

    /// Lifts the cancellation of this organisation's command; without one, each of this id.
    pub(super) fn revoke(&mut self, command_id: &str, org: Option<&OrgId>) {
        let is_meant = |(id, of): &(String, Option<OrgId>)| {
            id == command_id && (org.is_none() || of.as_ref() == org)
        };
        let lifted = self.known.extract_if(|key, _| is_meant(key));
        self.revoked.extend(lifted.map(|(key, known)| (key, known.since)));
    }

    pub(super) fn find(&self, org: &OrgId, command_id: &str) -> Option<&Decision> {
        let of = |org| self.known.get(&(command_id.to_owned(), org));
        of(None).or_else(|| of(Some(org.clone()))).map(|found| &found.decision)
    }

    /// Forgets the record numbers: they may belong to another stream.
    pub(super) fn read_again(&mut self) {
        self.known.values_mut().for_each(|known| known.offset = 0);
    }

    /// Records to write again because the last one is this old.
    pub(super) fn reminders(&self, next: u64, after: u64) -> impl Iterator<Item = LedgerEntry> {
        let old =
            self.known.iter().filter(move |(_, known)| known.offset.saturating_add(after) <= next);
        old.map(|((command_id, org_id), known)| LedgerEntry::StillCancelled {
            command_id: command_id.clone(),
            org_id: org_id.clone(),
            decision: known.decision.clone(),
            since: known.since,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn org(id: &str) -> OrgId {
        OrgId::try_from(id.to_owned()).unwrap()
    }

    fn at(since: &str, offset: u64) -> Cancellation {
        let decision = Decision { by: "ann".to_owned(), reason: None };
        Cancellation { since: since.parse().unwrap(), decision, offset }
    }

    #[test]
    fn a_cancellation_is_of_one_organisation_or_of_any() {
        let mut cancelled = Cancellations::default();
        cancelled.add("42".to_owned(), Some(org("a")), at("2026-11-23T10:00:00Z", 1));
        cancelled.add("43".to_owned(), None, at("2026-11-23T10:00:00Z", 2));
        let is = |id, command_id| cancelled.find(&org(id), command_id).is_some();
        assert_eq!(
            [is("a", "42"), is("b", "42"), is("a", "43"), is("b", "43")],
            [true, false, true, true]
        );
        assert!(!is("a", "44"));
    }

    #[test]
    fn a_revoked_cancellation_comes_back_by_a_new_one_only() {
        let mut cancelled = Cancellations::default();
        let (first, later) = ("2026-11-23T10:00:00Z", "2026-11-23T11:00:00Z");
        for of in [Some(org("a")), Some(org("b")), None] {
            cancelled.add("42".to_owned(), of, at(first, 1));
        }
        cancelled.add("43".to_owned(), None, at(first, 1));
        let is =
            |cancelled: &Cancellations, id, command| cancelled.find(&org(id), command).is_some();
        cancelled.revoke("42", None);
        assert!(!is(&cancelled, "a", "42") && is(&cancelled, "a", "43"));
        cancelled.add("42".to_owned(), Some(org("a")), at(first, 7));
        assert!(!is(&cancelled, "a", "42"), "a reminder of a worker that did not know");
        for of in ["a", "b"] {
            cancelled.add("42".to_owned(), Some(org(of)), at(later, 8));
        }
        cancelled.revoke("42", Some(&org("a")));
        assert!(!is(&cancelled, "a", "42") && is(&cancelled, "b", "42"));
    }

    #[test]
    fn what_is_old_is_recorded_again_and_forgotten_after_two_months() {
        let mut cancelled = Cancellations::default();
        cancelled.add("old".to_owned(), None, at("2026-01-01T00:00:00Z", 1));
        assert_eq!(cancelled.reminders(100, 100).count(), 0);
        assert_eq!(cancelled.reminders(101, 100).count(), 1);
        cancelled.add("new".to_owned(), None, at("2026-11-23T10:00:00Z", 2));
        assert!(cancelled.find(&org("a"), "old").is_none());
        assert!(cancelled.find(&org("a"), "new").is_some());
    }
}
