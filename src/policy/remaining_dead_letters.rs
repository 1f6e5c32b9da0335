//! Which dead letters still exist, derived from the records of their mirror. Pure.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::messages::deaths::is_same_death;
use crate::messages::{DeadLetter, MirrorRecord, Removal};

/// How much is kept in memory at most; the oldest is dropped first.
const MOST_BYTES: usize = 256 * 1024 * 1024;
/// What a dead letter takes besides its body.
const OVERHEAD: usize = 1024;
/// Removals of dead letters that have not been read from the mirror (yet).
const MOST_EARLY_REMOVALS: usize = 10_000;
const MOST_AUDITS: usize = 40;

type Death = (String, Option<Timestamp>);

/// The state that follows from all records so far.
#[derive(Debug, Default)]
pub struct RemainingDeadLetters {
    dead_letters: BTreeMap<u64, Arc<DeadLetter>>,
    by_event: HashMap<String, Vec<u64>>,
    early_removals: VecDeque<Death>,
    audits: VecDeque<Value>,
    bytes: usize,
    forgotten: usize,
}

impl RemainingDeadLetters {
    /// Applies the next record; `offset` is its number in the stream.
    pub fn apply(&mut self, record: MirrorRecord, offset: u64) {
        match record {
            MirrorRecord::Dead(dead_letter) => self.add(*dead_letter, offset),
            MirrorRecord::Removed(removal) => self.remove(removal),
            MirrorRecord::Audit(event) => {
                self.audits.push_front(event);
                self.audits.truncate(MOST_AUDITS);
            }
        }
    }

    /// The dead letters, the oldest first.
    pub fn dead_letters(&self) -> impl DoubleEndedIterator<Item = (u64, &Arc<DeadLetter>)> {
        self.dead_letters.iter().map(|(offset, dead_letter)| (*offset, dead_letter))
    }

    pub fn get(&self, offset: u64) -> Option<&Arc<DeadLetter>> {
        self.dead_letters.get(&offset)
    }

    /// Whether this one is among them.
    pub fn knows(&self, dead_letter: &DeadLetter) -> bool {
        self.find(&dead_letter.failure_event(), dead_letter.failed_at).is_some()
    }

    /// The audit events of what operators did, the latest first.
    pub fn audits(&self) -> impl Iterator<Item = &Value> {
        self.audits.iter()
    }

    /// How many were dropped because there are too many.
    pub fn forgotten(&self) -> usize {
        self.forgotten
    }

    /// # A removal that is read before its dead letter still removes it
    ///
    /// A worker writes its record when the dead letter is already in the queue, so someone may have
    /// replayed it by then.
    fn add(&mut self, dead_letter: DeadLetter, offset: u64) {
        let event_id = dead_letter.failure_event();
        let death = (event_id, dead_letter.failed_at);
        if let Some(at) = self.early_removals.iter().position(|removed| *removed == death) {
            self.early_removals.remove(at);
            return;
        }
        self.bytes += dead_letter.body.len() + OVERHEAD;
        self.by_event.entry(death.0).or_default().push(offset);
        self.dead_letters.insert(offset, Arc::new(dead_letter));
        while self.bytes > MOST_BYTES
            && let Some(oldest) = self.dead_letters.keys().next().copied()
        {
            self.forget(oldest);
            self.forgotten += 1;
        }
    }

    fn remove(&mut self, removal: Removal) {
        let Removal { event_id, failed_at, .. } = removal;
        if let Some(offset) = self.find(&event_id, failed_at) {
            return self.forget(offset);
        }
        self.early_removals.push_back((event_id, failed_at));
        if self.early_removals.len() > MOST_EARLY_REMOVALS {
            self.early_removals.pop_front();
        }
    }

    /// The exact death; otherwise the one of the same command that is close to it in time.
    fn find(&self, event_id: &str, failed_at: Option<Timestamp>) -> Option<u64> {
        let same = self.by_event.get(event_id)?;
        let died = |offset: &u64| {
            self.dead_letters.get(offset).and_then(|dead_letter| dead_letter.failed_at)
        };
        let is_near = |offset: &&u64| is_same_death(died(offset), failed_at);
        let exact = same.iter().find(|offset| died(offset) == failed_at);
        exact.or_else(|| same.iter().find(is_near)).copied()
    }

    fn forget(&mut self, offset: u64) {
        let Some(dead_letter) = self.dead_letters.remove(&offset) else { return };
        self.bytes = self.bytes.saturating_sub(dead_letter.body.len() + OVERHEAD);
        let event_id = dead_letter.failure_event();
        if let Some(same) = self.by_event.get_mut(&event_id) {
            same.retain(|other| *other != offset);
            if same.is_empty() {
                self.by_event.remove(&event_id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::Properties;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(1_800_000_000_000 + ms).unwrap()
    }

    fn dead_letter(id: &str, ms: i64) -> DeadLetter {
        let properties = Properties { message_id: Some(id.to_owned()), ..Properties::default() };
        DeadLetter { properties, failed_at: Some(at(ms)), ..DeadLetter::default() }
    }

    fn dead(id: &str, ms: i64) -> MirrorRecord {
        MirrorRecord::Dead(Box::new(dead_letter(id, ms)))
    }

    fn removed(id: &str, ms: i64) -> MirrorRecord {
        MirrorRecord::Removed(dead_letter(id, ms).removal("ann"))
    }

    fn left(records: impl IntoIterator<Item = MirrorRecord>) -> Vec<u64> {
        let mut mirror = RemainingDeadLetters::default();
        for (offset, record) in (0..).zip(records) {
            mirror.apply(record, offset);
        }
        mirror.dead_letters().map(|(offset, _)| offset).collect()
    }

    #[test]
    fn what_was_removed_is_no_longer_dead_and_its_next_death_is() {
        assert_eq!(left([dead("a", 1), dead("b", 2), removed("a", 1)]), [1]);
        assert_eq!(left([dead("a", 1), removed("a", 1), dead("a", 60_000)]), [2]);
        // The same command twice: the removed one goes.
        assert_eq!(left([dead("a", 1), dead("a", 60_000), removed("a", 60_000)]), [0]);
    }

    #[test]
    fn a_removal_that_is_read_before_its_dead_letter_still_removes_it() {
        assert_eq!(left([removed("a", 1), dead("a", 1), dead("b", 1)]), [2]);
        assert_eq!(left([removed("a", 1), dead("a", 60_000)]), [1], "another death");
    }

    #[test]
    fn a_death_that_rabbitmq_dates_to_the_second_is_the_same() {
        assert_eq!(left([dead("a", 1500), removed("a", 1000)]), [] as [u64; 0]);
        assert_eq!(left([dead("a", 1500), removed("a", 60_000)]), [0]);
    }

    #[test]
    fn the_latest_audits_come_first() {
        let mut mirror = RemainingDeadLetters::default();
        for number in 0..100 {
            mirror.apply(MirrorRecord::Audit(Value::from(number)), number);
        }
        assert_eq!(mirror.audits().next(), Some(&Value::from(99)));
        assert_eq!(mirror.audits().count(), MOST_AUDITS);
    }
}
