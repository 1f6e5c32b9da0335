//! What the ledger says at the moment, for all commands of this worker. `admission` asks there for
//! the guard's permits.
//!
//! `follow_ledger` keeps it up for as long as a session lasts.

mod admission;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use jiff::Timestamp;
use tokio::sync::{Notify, watch};

pub(super) use self::admission::Admission;
pub(super) use super::ledger_state::Braked;
use super::ledger_state::Shared;
use crate::messages::OrgId;
use crate::messages::ledger::{
    Decision, GuardLimit, LedgerEntry, LedgerRecord, Scope, WorkerState,
};
use crate::policy::brakes::{Applied, Brakes};
use crate::policy::guard::Trip;

/// After so many records a look is taken at what must be recorded again.
const REMIND_EVERY: u64 = 1_000;

/// The ledger as one worker sees it.
pub(super) struct Ledger {
    writer: String,
    limit: Option<GuardLimit>,
    /// Whether there is a ledger at all: the `delete` command has no broker.
    is_kept: bool,
    shared: Mutex<Shared>,
    changes: watch::Sender<()>,
    to_write: Notify,
}

impl Ledger {
    /// A ledger that has not been read yet. Without a limit the guard is off.
    pub(super) fn new(limit: Option<GuardLimit>) -> Self {
        // Seeded by the operating system.
        let writer = format!("{:016x}", RandomState::new().build_hasher().finish());
        Self {
            writer,
            limit,
            is_kept: true,
            shared: Mutex::default(),
            changes: watch::Sender::new(()),
            to_write: Notify::new(),
        }
    }

    /// For a list of commands that needs no broker.
    pub(super) fn none() -> Self {
        Self { is_kept: false, ..Self::new(None) }
    }

    /// Whether there is a broker that keeps it.
    pub(super) fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// Whether it says what the guard counts.
    pub(super) fn is_counting(&self) -> bool {
        self.is_kept && self.limit.is_some()
    }

    /// Which worker this is, in its records.
    pub(super) fn writer(&self) -> &str {
        &self.writer
    }

    /// Why no call may be made for a command, as far as is known at once.
    pub(super) fn check(&self, scope: &Scope, is_counted: bool) -> Result<(), Braked> {
        let shared = self.lock();
        if shared.brakes.paused(&scope.org_id).is_some() {
            return Err(Braked::Paused);
        }
        let is_held = is_counted && shared.brakes.trip(scope).is_some();
        if is_held { Err(Braked::Held) } else { Ok(()) }
    }

    /// Who has cancelled a command, as far as is known.
    pub(super) fn cancelled(
        &self,
        org: &OrgId,
        command_id: impl FnOnce() -> String,
    ) -> Option<Decision> {
        self.lock().brakes.cancelled(org, command_id).cloned()
    }

    /// Whether all that was there has been read.
    pub(super) fn is_current(&self) -> bool {
        !self.is_kept || self.lock().is_current
    }

    /// Looks at the state.
    pub(super) fn with<T>(&self, look: impl FnOnce(&Brakes) -> T) -> T {
        look(&self.lock().brakes)
    }

    /// Whether an operator has paused all organisations.
    pub(super) fn is_paused(&self) -> bool {
        self.lock().brakes.paused_all().is_some()
    }

    /// Notified when a record was read, or the ledger was lost.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// A session begins. Returns the number of the first record to read.
    pub(super) fn open(&self) -> u64 {
        let mut shared = self.lock();
        shared.forget_reservations();
        let number = shared.next_number();
        shared.opened = number;
        shared.is_writable = true;
        self.write(&mut shared, LedgerEntry::Opened { number });
        shared.next
    }

    /// The session is lost, or the ledger cannot be read: nothing is decided until all has been
    /// read again.
    pub(super) fn close(&self) {
        let mut shared = self.lock();
        shared.is_current = false;
        shared.forget_reservations();
        drop(shared);
        self.changes.send_replace(());
    }

    /// It may be another ledger now: all of it must be read.
    pub(super) fn forget(&self) {
        self.read_again(&mut self.lock());
    }

    fn read_again(&self, shared: &mut Shared) {
        shared.next = 0;
        shared.read_before = shared.number;
        for entry in shared.brakes.read_again() {
            self.write(shared, entry);
        }
    }

    /// Applies the next record. Returns the trips that this worker must report: its own, or, when
    /// everything that was in the ledger has been read, all without an event.
    pub(super) fn apply(&self, offset: u64, record: Option<LedgerRecord>) -> Vec<(Scope, Trip)> {
        let mut shared = self.lock();
        shared.note_gap(offset, record.as_ref().map(|record| record.at), Timestamp::now());
        if offset < shared.next {
            self.read_again(&mut shared);
        }
        shared.next = offset + 1;
        let Some(record) = record else { return Vec::new() };
        let to_report = match shared.brakes.apply_at(record, offset, Timestamp::now()) {
            Applied::Opened { writer, number } if writer == self.writer => {
                if number == shared.opened {
                    shared.is_current = true;
                    shared.brakes.all_was_read();
                }
                shared.brakes.unannounced()
            }
            Applied::Reserved { writer, number, scope, granted } if writer == self.writer => {
                self.reserved(&mut shared, number, scope, granted);
                Vec::new()
            }
            Applied::Tripped(scope, trip) if trip.writer == self.writer => {
                vec![(scope, trip)]
            }
            _ => Vec::new(),
        };
        let now = Timestamp::now();
        // One worker is enough: if each wrote all of them, the reminders alone could fill the
        // stream.
        if shared.is_current
            && shared.next.is_multiple_of(REMIND_EVERY)
            && shared.brakes.workers().is_first(&self.writer, now)
        {
            for reminder in shared.brakes.reminders(shared.next) {
                self.write(&mut shared, reminder);
            }
        }
        drop(shared);
        self.changes.send_replace(());
        to_report
    }

    /// # Permits are granted once
    ///
    /// When the ledger is read again, it may contain reservations whose permits are spent.
    fn reserved(&self, shared: &mut Shared, number: u64, scope: Scope, granted: u32) {
        let is_tripped = shared.brakes.trip(&scope).is_some();
        let is_new = number > shared.read_before;
        let permits = shared.scopes.entry(scope.clone()).or_default();
        if permits.asked == Some(number) {
            permits.asked = None;
        }
        if !is_new {
            return;
        }
        permits.unspent += granted;
        permits.last = Some((granted, Instant::now()));
        if let (0, false, Some(limit)) = (granted, is_tripped, self.limit) {
            self.write(shared, LedgerEntry::Tripped { scope, limit });
        }
    }

    /// Publishes this worker's state to the others.
    pub(super) fn publish_state(&self, state: WorkerState) {
        let mut shared = self.lock();
        if shared.is_current {
            self.write(&mut shared, LedgerEntry::Worker(state));
        }
    }

    /// The event of a trip has been published.
    pub(super) fn announced(&self, scope: Scope) {
        self.write(&mut self.lock(), LedgerEntry::Announced { scope });
    }

    fn write(&self, shared: &mut Shared, entry: LedgerEntry) {
        let (at, writer) = (Timestamp::now(), self.writer.clone());
        shared.outbox.push(LedgerRecord { at, writer, entry });
        self.to_write.notify_one();
    }

    /// What is to be written next; waits until there is something.
    pub(super) async fn outbox(&self) -> Vec<LedgerRecord> {
        loop {
            let records = std::mem::take(&mut self.lock().outbox);
            if !records.is_empty() {
                return records;
            }
            self.to_write.notified().await;
        }
    }

    /// What was written has been confirmed.
    pub(super) fn written(&self) {
        let was_writable = std::mem::replace(&mut self.lock().is_writable, true);
        if !was_writable {
            self.changes.send_replace(());
        }
    }

    /// Whether all of it has been read, and it can be written.
    pub(super) fn is_in_order(&self) -> bool {
        let shared = self.lock();
        !self.is_kept || (shared.is_current && shared.is_writable)
    }

    /// It was not written, as far as is known. A reservation is asked for again by those who wait
    /// for it; the rest is kept.
    pub(super) fn not_written(&self, record: LedgerRecord) {
        let mut shared = self.lock();
        if let LedgerEntry::Reserved { number, scope, .. } = &record.entry {
            if let Some(permits) = shared.scopes.get_mut(scope)
                && permits.asked == Some(*number)
            {
                permits.asked = None;
            }
            // Something is written again and again, until that works.
            let number = shared.opened;
            self.write(&mut shared, LedgerEntry::Opened { number });
        } else {
            shared.outbox.push(record);
            self.to_write.notify_one();
        }
        shared.is_writable = false;
        drop(shared);
        self.changes.send_replace(());
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Kind;

    #[test]
    fn permits_are_not_granted_again_when_their_reservation_is_read_again() {
        let limit = GuardLimit { max_deletes: 100, window_s: 3600 };
        let ledger = Ledger::new(Some(limit));
        let org_id = OrgId::try_from("a".to_owned()).unwrap();
        let scope = Scope { org_id, kind: Kind::TaskDelete };
        let record =
            |entry| LedgerRecord { at: Timestamp::now(), writer: ledger.writer.clone(), entry };
        ledger.open();
        let opened = ledger.lock().opened;
        let number = ledger.lock().next_number();
        let records = [
            record(LedgerEntry::Opened { number: opened }),
            record(LedgerEntry::Reserved { number, scope: scope.clone(), permits: 8, limit }),
        ];
        let read = || {
            for (offset, record) in (0..).zip(records.clone()) {
                ledger.apply(offset, Some(record));
            }
            ledger.lock().scopes[&scope].unspent
        };
        assert_eq!(read(), 8);
        ledger.close();
        ledger.forget();
        assert_eq!(ledger.open(), 0, "from the first record on");
        assert_eq!(read(), 8);
    }

    #[test]
    fn what_the_stream_has_dropped_is_not_taken_for_nothing() {
        let limit = GuardLimit { max_deletes: 100, window_s: 3600 };
        let read = |records: &[(u64, i64)]| {
            let ledger = Ledger::new(Some(limit));
            for (offset, minutes) in records {
                let at = Timestamp::now() - jiff::SignedDuration::from_mins(*minutes);
                let entry = LedgerEntry::Opened { number: 1 };
                ledger.apply(*offset, Some(LedgerRecord { at, writer: "w".to_owned(), entry }));
            }
            let left = ledger.unknown_until()?.duration_since(Timestamp::now());
            Some(left.as_secs().cast_unsigned().div_ceil(60))
        };
        assert_eq!(read(&[(0, 1), (1, 1)]), None, "a new stream");
        assert_eq!(read(&[(700, 20), (701, 1)]), Some(40), "a part of the window");
        assert_eq!(read(&[(700, 61), (701, 1)]), None, "the whole window");
        assert_eq!(read(&[(0, 90), (700, 20)]), Some(40), "dropped while it was away");
        assert_eq!(read(&[(1, 20), (3, 1)]), None, "offsets that no record has");
        assert_eq!(read(&[(700, -6000)]), Some(60), "by a clock that is days ahead");
        assert_eq!(read(&[(0, 1), (1, 1), (0, 1)]), None, "another stream");
        let ledger = Ledger::new(Some(limit));
        ledger.forget();
        let entry = LedgerEntry::Opened { number: 1 };
        let record = LedgerRecord { at: Timestamp::now(), writer: "w".to_owned(), entry };
        ledger.apply(700, Some(record));
        assert!(ledger.unknown_until().is_some(), "nothing had come at first");
    }

    #[tokio::test]
    async fn nothing_that_the_guard_counts_is_admitted_while_its_window_is_unknown() {
        let ledger = Ledger::new(Some(GuardLimit { max_deletes: 100, window_s: 3600 }));
        let org_id = OrgId::try_from("a".to_owned()).unwrap();
        let scope = Scope { org_id, kind: Kind::TaskDelete };
        ledger.open();
        let entry = LedgerEntry::Opened { number: ledger.lock().opened };
        let record = LedgerRecord { at: Timestamp::now(), writer: ledger.writer.clone(), entry };
        ledger.apply(700, Some(record));
        let never = tokio_util::sync::CancellationToken::new;
        let stop = crate::worker::stop::Stop { draining: never(), session_lost: never() };
        let admit = async |is_counted| {
            Admission::begin(&ledger, &scope, &stop, is_counted).wait_for_permit().await
        };
        assert_eq!(admit(true).await, Err(Braked::WindowUnknown));
        assert_eq!(admit(false).await, Ok(()), "a retry");
    }
}
