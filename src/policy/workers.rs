//! The workers that have recently written to the ledger, and their state.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};

use crate::messages::ledger::WorkerState;

/// Each writes at least once a minute.
const GONE_AFTER: SignedDuration = SignedDuration::from_mins(5);

/// One worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub at: Timestamp,
    pub state: WorkerState,
}

/// By their names in the records.
#[derive(Debug, Default)]
pub struct Workers(HashMap<String, Seen>);

impl Workers {
    pub(super) fn note(&mut self, writer: String, at: Timestamp, state: WorkerState) {
        self.0.retain(|_, seen| at.duration_since(seen.at) <= GONE_AFTER);
        self.0.insert(writer, Seen { at, state });
    }

    /// Whether no other live worker has a lower name: then this one does what only one must do.
    pub fn is_first(&self, writer: &str, now: Timestamp) -> bool {
        let is_alive = |seen: &Seen| now.duration_since(seen.at).abs() <= GONE_AFTER;
        !self.0.iter().any(|(other, seen)| other.as_str() < writer && is_alive(seen))
    }

    /// The workers that have written in the last five minutes, ordered by host and name.
    pub fn alive(&self, now: Timestamp) -> Vec<(&str, &Seen)> {
        let alive = self.0.iter().filter(|(_, seen)| now.duration_since(seen.at) <= GONE_AFTER);
        let mut alive: Vec<_> = alive.map(|(writer, seen)| (writer.as_str(), seen)).collect();
        alive.sort_by_key(|(writer, seen)| (seen.state.host.clone(), (*writer).to_owned()));
        alive
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(host: &str) -> WorkerState {
        WorkerState { host: host.to_owned(), version: "1".to_owned(), ..WorkerState::default() }
    }

    #[test]
    fn a_worker_that_has_not_written_for_five_minutes_is_gone() {
        let at = |minute: i64| Timestamp::from_second(1_800_000_000 + 60 * minute).unwrap();
        let mut workers = Workers::default();
        workers.note("a".to_owned(), at(0), state("one"));
        workers.note("b".to_owned(), at(4), state("two"));
        let alive = |workers: &Workers, minute| {
            workers
                .alive(at(minute))
                .iter()
                .map(|(writer, _)| (*writer).to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(alive(&workers, 5), ["a", "b"]);
        assert_eq!(alive(&workers, 6), ["b"]);
        assert!(workers.is_first("a", at(5)) && !workers.is_first("b", at(5)));
        assert!(workers.is_first("b", at(6)), "the first one is gone");
        workers.note("b".to_owned(), at(8), state("two"));
        assert_eq!(workers.0.len(), 1);
    }
}
