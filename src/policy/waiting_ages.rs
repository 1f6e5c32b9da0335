//! The age of the oldest command that this worker has sent to a delay queue.
//!
//! Grouped by the second of return, so memory does not grow with the number of commands.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

/// A command is back within this time, if there is a worker to take it.
const GRACE: SignedDuration = SignedDuration::from_secs(5);

/// The ages of the waiting commands.
#[derive(Debug, Default)]
pub(crate) struct WaitingAges {
    /// By the second of return: when the oldest command was first seen.
    back: BTreeMap<i64, Timestamp>,
}

impl WaitingAges {
    /// A command with this `first_seen` waits until then.
    pub(crate) fn waits(&mut self, first_seen: Timestamp, until: Timestamp) {
        let oldest = self.back.entry(until.as_second()).or_insert(first_seen);
        *oldest = first_seen.min(*oldest);
    }

    /// When the oldest waiting command was first seen.
    pub(crate) fn oldest(&mut self, now: Timestamp) -> Option<Timestamp> {
        let over = (now - GRACE).as_second();
        self.back = self.back.split_off(&over);
        self.back.values().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_counts_until_it_is_back() {
        let at = |second: i64| Timestamp::from_second(1_800_000_000 + second).unwrap();
        let mut ages = WaitingAges::default();
        assert_eq!(ages.oldest(at(0)), None);
        ages.waits(at(-500), at(10));
        ages.waits(at(-20), at(60));
        ages.waits(at(-30), at(60));
        assert_eq!(ages.oldest(at(12)), Some(at(-500)));
        assert_eq!(ages.oldest(at(20)), Some(at(-30)));
        assert_eq!(ages.oldest(at(70)), None);
    }
}
