//! The records of destructive calls that wait to be written to the audit stream.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

use crate::messages::Publication;
use crate::messages::call_record::{self, CallRecord};

/// Records that one message holds, at most.
const AT_ONCE: usize = 200;

/// The records that the broker has not confirmed yet, in the order of the calls.
#[derive(Default)]
pub(super) struct AuditLog {
    shared: Mutex<Shared>,
    to_write: Notify,
    confirmed: watch::Sender<u64>,
}

#[derive(Default)]
struct Shared {
    /// As JSON.
    unconfirmed: VecDeque<Vec<u8>>,
    /// Number of the last record.
    last: u64,
}

impl AuditLog {
    pub(super) fn record(&self, record: &CallRecord<'_>) {
        let record = record.json();
        let mut shared = self.lock();
        shared.unconfirmed.push_back(record);
        shared.last += 1;
        drop(shared);
        self.to_write.notify_one();
    }

    /// Number of the last record so far; 0 if there is none.
    pub(super) fn last(&self) -> u64 {
        self.lock().last
    }

    /// Waits until the broker has confirmed all records up to this one.
    pub(super) async fn confirmed(&self, number: u64) {
        let mut confirmed = self.confirmed.subscribe();
        // The sender is `self`, which outlives this.
        let _ = confirmed.wait_for(|confirmed| *confirmed >= number).await;
    }

    /// Waits until there is a record that is not confirmed.
    pub(super) async fn has_records(&self) {
        while self.lock().unconfirmed.is_empty() {
            self.to_write.notified().await;
        }
    }

    /// The message for the oldest records with their number, as many as one message holds. They
    /// stay here until they are confirmed.
    pub(super) fn batch(&self) -> Option<(Publication<'static>, usize)> {
        let shared = self.lock();
        let number = shared.unconfirmed.len().min(AT_ONCE);
        let records = shared.unconfirmed.iter().take(number).map(Vec::as_slice);
        (number > 0).then(|| (call_record::calls(records), number))
    }

    pub(super) fn confirm(&self, number: usize) {
        let mut shared = self.lock();
        shared.unconfirmed.drain(..number);
        let confirmed = shared.last - shared.unconfirmed.len() as u64;
        drop(shared);
        self.confirmed.send_replace(confirmed);
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::call_record::AuditEntry;

    fn record(id: &str) -> CallRecord<'_> {
        CallRecord {
            at: "2026-11-23T10:00:00Z".parse().unwrap(),
            kind: "task.delete".into(),
            org_id: "o".into(),
            id: id.into(),
            command_id: id.into(),
            correlation_id: None,
            requested_by: None,
            published_by: None,
            reason: None,
            call: "delete".into(),
            verdict: "deleted".into(),
            answer: "HTTP 204".into(),
            http_status: Some(204),
            request_id: None,
            worker: "w".into(),
        }
    }

    async fn batch(audit: &AuditLog) -> Vec<CallRecord<'static>> {
        audit.has_records().await;
        let (message, number) = audit.batch().unwrap();
        let Some(AuditEntry::Calls(calls)) = AuditEntry::read(&message.body) else {
            panic!("{message:?}")
        };
        assert_eq!(calls.len(), number);
        calls
    }

    #[tokio::test]
    async fn a_record_stays_until_it_is_confirmed() {
        let audit = AuditLog::default();
        for id in ["a", "b"] {
            audit.record(&record(id));
        }
        assert_eq!(batch(&audit).await.len(), 2);
        audit.record(&record("c"));
        assert_eq!(batch(&audit).await.len(), 3, "the session was lost: it is written again");
        audit.confirm(2);
        audit.confirmed(2).await;
        assert_eq!(batch(&audit).await, [record("c")]);
        assert_eq!(audit.last(), 3);
        assert!(tokio::time::timeout(std::time::Duration::ZERO, audit.confirmed(3)).await.is_err());
    }
}
