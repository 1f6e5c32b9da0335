//! The state of the ledger: guards, pauses, cancellations. Pure: every worker folds the same
//! records in the same order.

use std::collections::HashMap;

use super::cancellations::{Cancellation, Cancellations};
use super::clock;
use super::guard::{Guard, GuardState, Trip};
use super::workers::Workers;
use crate::messages::OrgId;
use crate::messages::ledger::{Decision, GuardLimit, LedgerEntry, LedgerRecord, Scope};
use jiff::Timestamp;

/// No new call, and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    pub since: Timestamp,
    pub decision: Decision,
}

/// After this many records, a trip, a pause or a cancellation is recorded again. The stream keeps
/// 64 MiB, which holds four times as many of the largest records (1.6 KB: a worker that reports ten
/// suspended organisations).
const REMIND_AFTER: u64 = 10_000;

/// The state that follows from all records so far.
#[derive(Debug, Default)]
pub struct Brakes {
    guards: HashMap<Scope, Guard>,
    paused_all: Option<Pause>,
    paused: HashMap<OrgId, Pause>,
    cancelled: Cancellations,
    workers: Workers,
    /// Per subject, the number of the last record about it.
    recorded: HashMap<Subject, u64>,
    last: Option<Mark>,
    earlier: Option<Earlier>,
}

/// Number, writer and time of a record: no two ledgers have the same.
type Mark = (u64, String, Timestamp);

/// The guards after the last record that was read before.
#[derive(Debug)]
struct Earlier {
    guards: HashMap<Scope, Guard>,
    last: Option<Mark>,
}

/// The subject of a lasting state.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Subject {
    Guard(Scope),
    Pause(Option<OrgId>),
}

/// The effect of a record, for the workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// Its writer has read everything before it.
    Opened { writer: String, number: u64 },
    /// Its writer has got this many permits.
    Reserved { writer: String, number: u64, scope: Scope, granted: u32 },
    /// The guard has tripped just now.
    Tripped(Scope, Trip),
    /// Something else has changed.
    Changed,
}

impl Brakes {
    /// Applies the next record; `offset` is its number in the stream.
    pub fn apply(&mut self, record: LedgerRecord, offset: u64) -> Applied {
        self.apply_at(record, offset, Timestamp::MAX)
    }

    /// The same for a reader that compares the record's time with its own.
    pub fn apply_at(&mut self, record: LedgerRecord, offset: u64, now: Timestamp) -> Applied {
        self.last = Some((offset, record.writer.clone(), record.at));
        let record = LedgerRecord { at: clock::believed(record.at, now), ..record };
        let applied = self.fold(record, offset);
        if let Some(earlier) = self.earlier.take_if(|earlier| earlier.last == self.last) {
            self.guards = earlier.guards;
        }
        applied
    }

    fn fold(&mut self, record: LedgerRecord, offset: u64) -> Applied {
        let LedgerRecord { at, writer, entry } = record;
        match entry {
            LedgerEntry::Worker(state) => self.workers.note(writer, at, state),
            LedgerEntry::Opened { number } => return Applied::Opened { writer, number },
            LedgerEntry::Reserved { number, scope, permits, limit } => {
                let guard = self.guards.entry(scope.clone()).or_default();
                let granted = guard.reserve(permits, limit, at);
                return Applied::Reserved { writer, number, scope, granted };
            }
            LedgerEntry::Tripped { scope, limit } => {
                let trip = Trip { offset, since: at, limit, writer, is_announced: false };
                self.note(Subject::Guard(scope.clone()), offset);
                let guard = self.guards.entry(scope.clone()).or_default();
                let was_tripped = matches!(guard.state(), GuardState::Tripped(_));
                guard.trip(trip.clone());
                if !was_tripped {
                    return Applied::Tripped(scope, trip);
                }
            }
            LedgerEntry::StillTripped { scope, limit, since } => {
                let is_so = self.trip(&scope).is_some();
                if self.is_news(Subject::Guard(scope.clone()), is_so, offset) && !is_so {
                    let trip = Trip { offset, since, limit, writer, is_announced: true };
                    self.guards.entry(scope).or_default().trip(trip);
                }
            }
            LedgerEntry::Announced { scope } => self.guard(scope, offset).announce(),
            LedgerEntry::Granted { scope, permits, until, decision } => {
                self.guard(scope, offset).grant(permits, until, at, decision);
            }
            LedgerEntry::Rearmed { scope, .. } => self.guard(scope, offset).rearm(),
            entry => self.decide(entry, at, offset),
        }
        Applied::Changed
    }

    /// Pauses and cancellations.
    fn decide(&mut self, entry: LedgerEntry, at: Timestamp, offset: u64) {
        match entry {
            LedgerEntry::Paused { org_id, decision } => {
                self.note(Subject::Pause(org_id.clone()), offset);
                self.pause(org_id, Pause { since: at, decision });
            }
            LedgerEntry::StillPaused { org_id, decision, since } => {
                let is_so = self.is_paused(org_id.as_ref());
                if self.is_news(Subject::Pause(org_id.clone()), is_so, offset) && !is_so {
                    self.pause(org_id, Pause { since, decision });
                }
            }
            LedgerEntry::Cancelled { command_id, org_id, decision } => {
                let decision = Cancellation { since: at, decision, offset };
                self.cancelled.add(command_id, org_id, decision);
            }
            LedgerEntry::StillCancelled { command_id, org_id, decision, since } => {
                let decision = Cancellation { since, decision, offset };
                self.cancelled.add(command_id, org_id, decision);
            }
            LedgerEntry::Revoked { command_id, org_id, .. } => {
                self.cancelled.revoke(&command_id, org_id.as_ref());
            }
            LedgerEntry::Resumed { org_id, .. } => {
                self.note(Subject::Pause(org_id.clone()), offset);
                match org_id {
                    Some(org) => _ = self.paused.remove(&org),
                    None => self.paused_all = None,
                }
            }
            // Records of the guard.
            _ => {}
        }
    }

    /// # A reminder does not undo a decision
    ///
    /// Its writer may not have read a decision that was written at the same moment. So it counts
    /// only if the state already matches it, or if nothing is known about its subject because the
    /// stream has dropped the earlier records.
    fn is_news(&mut self, subject: Subject, is_so: bool, offset: u64) -> bool {
        let is_news = is_so || !self.recorded.contains_key(&subject);
        if is_news {
            self.note(subject, offset);
        }
        is_news
    }

    fn note(&mut self, subject: Subject, offset: u64) {
        self.recorded.insert(subject, offset);
    }

    fn guard(&mut self, scope: Scope, offset: u64) -> &mut Guard {
        self.note(Subject::Guard(scope.clone()), offset);
        self.guards.entry(scope).or_default()
    }

    fn pause(&mut self, org_id: Option<OrgId>, pause: Pause) {
        match org_id {
            Some(org) => _ = self.paused.insert(org, pause),
            None => self.paused_all = Some(pause),
        }
    }

    fn is_paused(&self, org_id: Option<&OrgId>) -> bool {
        org_id.map_or(self.paused_all.is_some(), |org| self.paused.contains_key(org))
    }

    /// Records to write again before the stream drops them; `next` is the number of the next
    /// record.
    pub fn reminders(&self, next: u64) -> Vec<LedgerEntry> {
        let is_old = |subject: &Subject| {
            self.recorded.get(subject).is_some_and(|offset| offset + REMIND_AFTER <= next)
        };
        let trips = self.tripped().filter(|(scope, _)| is_old(&Subject::Guard((*scope).clone())));
        let trips = trips.map(|(scope, trip)| LedgerEntry::StillTripped {
            scope: scope.clone(),
            limit: trip.limit,
            since: trip.since,
        });
        let all = self.paused_all.iter().map(|pause| (None, pause));
        let of_orgs = self.paused.iter().map(|(org, pause)| (Some(org.clone()), pause));
        let pauses = all.chain(of_orgs).filter(|(org, _)| is_old(&Subject::Pause(org.clone())));
        let pauses = pauses.map(|(org_id, Pause { since, decision })| LedgerEntry::StillPaused {
            org_id,
            decision: decision.clone(),
            since: *since,
        });
        trips.chain(pauses).chain(self.cancelled.reminders(next, REMIND_AFTER)).collect()
    }

    /// The ledger is read again from its beginning, and it may be a different one. Returns the
    /// records to write again in any case.
    ///
    /// # Losing the ledger does not lift a brake
    ///
    /// Trips, pauses and cancellations stay in force, and the guards go on from what they have
    /// counted. If the old records still exist, they are read again in the same order; after the
    /// last of them the guards are as they were, so nothing is counted twice.
    pub fn read_again(&mut self) -> Vec<LedgerEntry> {
        let lasting = self.reminders(u64::MAX);
        let Self { earlier, guards, last, .. } = self;
        let earlier = earlier
            .get_or_insert_with(|| Earlier { guards: std::mem::take(guards), last: last.clone() });
        let kept =
            earlier.guards.iter().map(|(scope, guard)| (scope.clone(), guard.without_grant()));
        self.guards = kept.collect();
        self.recorded.values_mut().for_each(|offset| *offset = 0);
        self.cancelled.read_again();
        lasting
    }

    /// All that was there has been read. Old records that were not among it are gone.
    pub fn all_was_read(&mut self) {
        self.earlier = None;
    }

    /// The trip, if commands of this scope are held.
    pub fn trip(&self, scope: &Scope) -> Option<&Trip> {
        match self.guards.get(scope)?.state() {
            GuardState::Tripped(trip) => Some(trip),
            _ => None,
        }
    }

    /// What the guard's limit still allows for this organisation and kind.
    pub fn left(&self, scope: &Scope, limit: GuardLimit, now: Timestamp) -> u32 {
        self.guards.get(scope).map_or(limit.max_deletes, |guard| guard.left(limit, now))
    }

    /// The trips without a published event, as far as is known.
    pub fn unannounced(&self) -> Vec<(Scope, Trip)> {
        let trips = self.tripped().filter(|(_, trip)| !trip.is_announced);
        trips.map(|(scope, trip)| (scope.clone(), trip.clone())).collect()
    }

    /// All trips without a decision.
    pub fn tripped(&self) -> impl Iterator<Item = (&Scope, &Trip)> {
        self.guards.iter().filter_map(|(scope, guard)| match guard.state() {
            GuardState::Tripped(trip) => Some((scope, trip)),
            _ => None,
        })
    }

    /// All guards, with their scopes.
    pub fn guards(&self) -> impl Iterator<Item = (&Scope, &Guard)> {
        self.guards.iter()
    }

    /// Why no call may be made for anyone.
    pub fn paused_all(&self) -> Option<&Pause> {
        self.paused_all.as_ref()
    }

    /// Why no call may be made for this organisation.
    pub fn paused(&self, org: &OrgId) -> Option<&Pause> {
        self.paused_all.as_ref().or_else(|| self.paused.get(org))
    }

    /// Who has cancelled this command, if anyone. `command_id` is only called if there are
    /// cancellations.
    pub fn cancelled(&self, org: &OrgId, command_id: impl FnOnce() -> String) -> Option<&Decision> {
        (!self.cancelled.is_empty()).then(|| self.cancelled.find(org, &command_id()))?
    }

    /// The workers that have written recently.
    pub fn workers(&self) -> &Workers {
        &self.workers
    }

    /// The organisations that are paused individually.
    pub fn paused_organisations(&self) -> impl Iterator<Item = (&OrgId, &Pause)> {
        self.paused.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Kind;

    const LIMIT: GuardLimit = GuardLimit { max_deletes: 10, window_s: 60 };

    fn org(id: &str) -> OrgId {
        OrgId::try_from(id.to_owned()).unwrap()
    }

    fn scope(id: &str) -> Scope {
        Scope { org_id: org(id), kind: Kind::TaskDelete }
    }

    fn decision() -> Decision {
        Decision { by: "ann".to_owned(), reason: Some("4711".to_owned()) }
    }

    fn record(writer: &str, entry: LedgerEntry) -> LedgerRecord {
        let at = Timestamp::from_second(1_800_000_000).unwrap();
        LedgerRecord { at, writer: writer.to_owned(), entry }
    }

    fn reserve(brakes: &mut Brakes, writer: &str, org: &str, permits: u32) -> u32 {
        let entry = LedgerEntry::Reserved { number: 1, scope: scope(org), permits, limit: LIMIT };
        match brakes.apply(record(writer, entry), 0) {
            Applied::Reserved { granted, .. } => granted,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn losing_the_ledger_does_not_lift_a_brake() {
        let mut brakes = Brakes::default();
        let limit = GuardLimit { max_deletes: 1, window_s: 60 };
        let (org_id, decision) = (Some(org("a")), decision());
        let decision_of_ann = decision.clone();
        let lasting = [
            LedgerEntry::Tripped { scope: scope("b"), limit },
            LedgerEntry::Paused { org_id: org_id.clone(), decision: decision.clone() },
            LedgerEntry::Cancelled { command_id: "c1".to_owned(), org_id: None, decision },
        ];
        for (offset, entry) in (500_000..).zip(lasting) {
            let _ = brakes.apply(record("w", entry), offset);
        }
        assert_eq!(brakes.read_again().len(), 3, "each is recorded again");
        assert!(brakes.trip(&scope("b")).is_some() && brakes.paused(&org("a")).is_some());
        assert!(brakes.cancelled(&org("x"), || "c1".to_owned()).is_some());
        assert_eq!(brakes.reminders(REMIND_AFTER).len(), 3, "by the numbers of the new one");
        let resumed = LedgerEntry::Resumed { org_id, decision: decision_of_ann };
        let _ = brakes.apply(record("w", resumed), 7);
        assert!(brakes.paused(&org("a")).is_none());
    }

    /// Five reservations of two permits each, with their numbers; the limit is ten.
    fn five_reservations(brakes: &mut Brakes) -> Vec<u32> {
        (0..5).map(|offset| reserve_at(brakes, offset)).collect()
    }

    fn reserve_at(brakes: &mut Brakes, offset: u64) -> u32 {
        let entry =
            LedgerEntry::Reserved { number: offset, scope: scope("a"), permits: 2, limit: LIMIT };
        match brakes.apply(record("w", entry), offset) {
            Applied::Reserved { granted, .. } => granted,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn losing_the_ledger_frees_no_permits() {
        let mut brakes = Brakes::default();
        assert_eq!(five_reservations(&mut brakes), [2; 5]);
        brakes.read_again();
        let other = record("other", LedgerEntry::Opened { number: 1 });
        brakes.apply(other, 0);
        assert_eq!(reserve_at(&mut brakes, 1), 0, "in another stream");
        brakes.read_again();
        assert_eq!(reserve_at(&mut brakes, 0), 0, "and read again once more");
    }

    #[test]
    fn records_that_are_read_again_are_not_counted_twice() {
        let mut brakes = Brakes::default();
        let granted: Vec<_> = (0..3).map(|offset| reserve_at(&mut brakes, offset)).collect();
        assert_eq!(granted, [2; 3]);
        brakes.read_again();
        reserve_at(&mut brakes, 0);
        // The connection is lost again before all has been read.
        brakes.read_again();
        (0..3).for_each(|offset| _ = reserve_at(&mut brakes, offset));
        assert_eq!(reserve_at(&mut brakes, 3), 2);
        assert_eq!(reserve_at(&mut brakes, 4), 2, "ten in all");
        assert_eq!(reserve_at(&mut brakes, 5), 0);
    }

    #[test]
    fn a_fast_clock_empties_no_other_workers_window() {
        let mut brakes = Brakes::default();
        let now = record("w", LedgerEntry::Opened { number: 0 }).at;
        let mut reserve = |offset, ahead_s| {
            let at = now + jiff::SignedDuration::from_secs(ahead_s);
            let entry =
                LedgerEntry::Reserved { number: 1, scope: scope("a"), permits: 6, limit: LIMIT };
            let record = LedgerRecord { at, ..record("w", entry) };
            match brakes.apply_at(record, offset, now) {
                Applied::Reserved { granted, .. } => granted,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!([reserve(0, 0), reserve(1, 7200), reserve(2, 0)], [6, 4, 0]);
        assert_eq!(reserve(3, 70), 6, "within the tolerance");
    }

    #[test]
    fn each_record_survives_the_wire() {
        let (scope, decision) = (scope("a"), decision());
        let until = "2026-12-01T00:00:00Z".parse().unwrap();
        let entries = [
            LedgerEntry::Opened { number: 1 },
            LedgerEntry::Reserved { number: 2, scope: scope.clone(), permits: 32, limit: LIMIT },
            LedgerEntry::Tripped { scope: scope.clone(), limit: LIMIT },
            LedgerEntry::StillTripped { scope: scope.clone(), limit: LIMIT, since: until },
            LedgerEntry::StillPaused {
                org_id: Some(org("a")),
                decision: decision.clone(),
                since: until,
            },
            LedgerEntry::Announced { scope: scope.clone() },
            LedgerEntry::Granted {
                scope: scope.clone(),
                permits: 100,
                until,
                decision: decision.clone(),
            },
            LedgerEntry::Rearmed { scope, decision: decision.clone() },
            LedgerEntry::Paused { org_id: None, decision: decision.clone() },
            LedgerEntry::Resumed { org_id: Some(org("a")), decision: decision.clone() },
        ];
        for entry in entries {
            let record = record("w", entry);
            let body = record.body();
            let read = LedgerRecord::read(&body);
            assert_eq!(read, Some(record), "{}", String::from_utf8_lossy(&body));
        }
        assert_eq!(
            LedgerRecord::read(br#"{"at":"2026-12-01T00:00:00Z","writer":"w","entry":"new"}"#),
            None
        );
    }

    #[test]
    fn a_trip_is_of_one_organisation_and_kind() {
        let mut brakes = Brakes::default();
        assert_eq!(reserve(&mut brakes, "w1", "a", 8) + reserve(&mut brakes, "w2", "a", 8), 10);
        let tripped = || record("w2", LedgerEntry::Tripped { scope: scope("a"), limit: LIMIT });
        assert!(matches!(brakes.apply(tripped(), 5), Applied::Tripped(..)));
        assert_eq!(brakes.apply(tripped(), 6), Applied::Changed, "reported once");
        assert_eq!(brakes.trip(&scope("a")).map(|trip| trip.offset), Some(5));
        assert_eq!(brakes.trip(&scope("b")), None);
        let archive = Scope { kind: Kind::TaskArchive, ..scope("a") };
        assert_eq!(brakes.trip(&archive), None);
        assert_eq!(reserve(&mut brakes, "w1", "b", 8), 8);
    }

    #[test]
    fn a_pause_of_all_and_one_of_an_organisation_end_apart() {
        let mut brakes = Brakes::default();
        let apply = |brakes: &mut Brakes, entry| brakes.apply(record("cli", entry), 0);
        let pause = |org_id| LedgerEntry::Paused { org_id, decision: decision() };
        let resume = |org_id| LedgerEntry::Resumed { org_id, decision: decision() };
        apply(&mut brakes, pause(Some(org("a"))));
        assert!(brakes.paused(&org("a")).is_some() && brakes.paused(&org("b")).is_none());
        apply(&mut brakes, pause(None));
        assert!(brakes.paused(&org("b")).is_some() && brakes.paused_all().is_some());
        apply(&mut brakes, resume(None));
        assert!(brakes.paused(&org("a")).is_some() && brakes.paused(&org("b")).is_none());
        apply(&mut brakes, resume(Some(org("a"))));
        assert!(brakes.paused(&org("a")).is_none());
    }

    #[test]
    fn what_lasts_is_recorded_again_before_the_stream_forgets_it() {
        let mut brakes = Brakes::default();
        let tripped = LedgerEntry::Tripped { scope: scope("a"), limit: LIMIT };
        brakes.apply(record("w", tripped), 5);
        brakes.apply(record("cli", LedgerEntry::Paused { org_id: None, decision: decision() }), 6);
        assert_eq!(brakes.reminders(5 + REMIND_AFTER - 1), []);
        let reminders = brakes.reminders(6 + REMIND_AFTER);
        assert_eq!(reminders.len(), 2);
        // A reader that sees only these records.
        let mut later = Brakes::default();
        for (at, reminder) in reminders.into_iter().enumerate() {
            let at = 6 + REMIND_AFTER + at as u64;
            later.apply(record("w", reminder.clone()), at);
            brakes.apply(record("w", reminder), at);
        }
        assert!(later.paused_all().is_some() && later.trip(&scope("a")).is_some());
        assert_eq!(later.unannounced(), [], "its event was published long ago");
        assert_eq!(brakes.reminders(6 + REMIND_AFTER + 3), [], "not again at once");
    }

    #[test]
    fn a_reminder_does_not_undo_a_decision() {
        let mut brakes = Brakes::default();
        let since = Timestamp::from_second(1_800_000_000).unwrap();
        for entry in [
            LedgerEntry::Tripped { scope: scope("a"), limit: LIMIT },
            LedgerEntry::Paused { org_id: None, decision: decision() },
            LedgerEntry::Rearmed { scope: scope("a"), decision: decision() },
            LedgerEntry::Resumed { org_id: None, decision: decision() },
            LedgerEntry::StillTripped { scope: scope("a"), limit: LIMIT, since },
            LedgerEntry::StillPaused { org_id: None, decision: decision(), since },
        ] {
            brakes.apply(record("w", entry), 7);
        }
        assert!(brakes.paused_all().is_none() && brakes.trip(&scope("a")).is_none());
    }
}
