//! The requests and their results: one entry per request, and counts that are kept even when the
//! entries are not. It never contains a token.

use std::collections::BTreeMap;
use std::sync::Arc;

use hyper::HeaderMap;
use jiff::Timestamp;
use serde::{Serialize, Serializer};

use crate::api::Call;
use crate::normal_answers::Change;
use crate::operation::Operation;

/// How many unexpected requests the summary names.
const MAX_UNEXPECTED: usize = 100;
const KEPT_HEADERS: [&str; 8] = [
    "accept",
    "x-tallyfy-client",
    "content-length",
    "content-type",
    "transfer-encoding",
    "user-agent",
    "host",
    "traceparent",
];

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Entry {
    seq: u64,
    #[serde(serialize_with = "with_milliseconds")]
    at: Timestamp,
    at_ms: i64,
    method: String,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    org_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    task_id: Option<String>,
    operation: Operation,
    headers: BTreeMap<&'static str, String>,
    body_bytes: u64,
    status: Option<u16>,
    effect: Option<Change>,
    fault: Option<u64>,
}

/// What was known when the request arrived.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing {
    pub(crate) is_authorised: bool,
    pub(crate) is_task_known: bool,
}

#[derive(Debug, Clone, Serialize)]
struct Unexpected {
    seq: u64,
    method: String,
    path: String,
    why: &'static str,
}

#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Counts {
    requests: u64,
    by_operation: BTreeMap<Operation, u64>,
    /// Under `none`: requests that ended without an answer.
    by_status: BTreeMap<String, u64>,
    by_effect: BTreeMap<Change, u64>,
    unexpected: Vec<Unexpected>,
    unexpected_total: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    keeps_entries: bool,
    /// Shared, so that a reader takes a cheap copy and serialises it outside the lock.
    entries: Vec<Arc<Entry>>,
    counts: Counts,
    last_seq: u64,
    /// Requests up to this one were removed by `clear`; their later results are not counted.
    cleared_to: u64,
    in_flight: u64,
    max_in_flight: u64,
}

impl Ledger {
    pub(crate) fn new(keeps_entries: bool) -> Self {
        Self { keeps_entries, ..Self::default() }
    }

    /// Records a new request and returns its number.
    pub(crate) fn arrive(&mut self, call: &Call, headers: &HeaderMap, standing: Standing) -> u64 {
        self.last_seq += 1;
        self.in_flight += 1;
        self.max_in_flight = self.max_in_flight.max(self.in_flight);
        self.counts.arrive(self.last_seq, call, standing);
        if self.keeps_entries {
            self.entries.push(Arc::new(Entry::new(self.last_seq, call, headers, standing)));
        }
        self.last_seq
    }

    pub(crate) fn note_body(&mut self, seq: u64, bytes: u64) {
        self.amend(seq, |entry| entry.body_bytes = bytes);
    }

    pub(crate) fn note_fault(&mut self, seq: u64, fault: u64) {
        self.amend(seq, |entry| entry.fault = Some(fault));
    }

    pub(crate) fn note_change(&mut self, seq: u64, change: Change) {
        if seq > self.cleared_to {
            *self.counts.by_effect.entry(change).or_default() += 1;
        }
        self.amend(seq, |entry| entry.effect = Some(change));
    }

    pub(crate) fn note_status(&mut self, seq: u64, status: u16) {
        self.count_end(seq, status.to_string());
        self.amend(seq, |entry| entry.status = Some(status));
    }

    pub(crate) fn note_no_answer(&mut self, seq: u64) {
        self.count_end(seq, "none".to_owned());
    }

    /// The last byte of the answer was sent, or there will be none.
    pub(crate) fn leave(&mut self) {
        self.in_flight -= 1;
    }

    /// Removes all entries and counts. Numbers go on, and requests in flight stay in flight.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.counts = Counts::default();
        self.cleared_to = self.last_seq;
        self.max_in_flight = self.in_flight;
    }

    pub(crate) fn entries_after(&self, seq: u64) -> Vec<Arc<Entry>> {
        let first = self.entries.partition_point(|entry| entry.seq <= seq);
        self.entries[first..].to_vec()
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts.clone()
    }

    /// The requests in flight now, and the most at any time.
    pub(crate) fn in_flight(&self) -> (u64, u64) {
        (self.in_flight, self.max_in_flight)
    }

    fn count_end(&mut self, seq: u64, end: String) {
        if seq > self.cleared_to {
            *self.counts.by_status.entry(end).or_default() += 1;
        }
    }

    fn amend(&mut self, seq: u64, change: impl FnOnce(&mut Entry)) {
        let Ok(index) = self.entries.binary_search_by_key(&seq, |entry| entry.seq) else { return };
        change(Arc::make_mut(&mut self.entries[index]));
    }
}

impl Counts {
    fn arrive(&mut self, seq: u64, call: &Call, standing: Standing) {
        self.requests += 1;
        *self.by_operation.entry(call.operation).or_default() += 1;
        let why = match call.operation {
            Operation::Unknown => "unknown operation",
            Operation::Delete if !standing.is_task_known => {
                "delete of a task that was never registered"
            }
            _ => return,
        };
        self.unexpected_total += 1;
        if self.unexpected.len() < MAX_UNEXPECTED {
            let (method, path) = (call.method.to_string(), call.path.clone());
            self.unexpected.push(Unexpected { seq, method, path, why });
        }
    }
}

impl Entry {
    fn new(seq: u64, call: &Call, headers: &HeaderMap, standing: Standing) -> Self {
        let at = Timestamp::now();
        Self {
            seq,
            at,
            at_ms: at.as_millisecond(),
            method: call.method.to_string(),
            path: call.path.clone(),
            org_id: call.org_id.clone(),
            task_id: call.task_id.clone(),
            operation: call.operation,
            headers: kept_headers(headers, standing.is_authorised),
            body_bytes: 0,
            status: None,
            effect: None,
            fault: None,
        }
    }
}

fn kept_headers(headers: &HeaderMap, is_authorised: bool) -> BTreeMap<&'static str, String> {
    let text = |name: &'static str| {
        headers
            .get(name)
            .map(|value| (name, String::from_utf8_lossy(value.as_bytes()).into_owned()))
    };
    let mut kept: BTreeMap<_, _> = KEPT_HEADERS.into_iter().filter_map(text).collect();
    if headers.contains_key("authorization") {
        let redacted = if is_authorised { "Bearer <ok>" } else { "Bearer <wrong>" };
        kept.insert("authorization", redacted.to_owned());
    }
    kept
}

fn with_milliseconds<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{at:.3}"))
}
