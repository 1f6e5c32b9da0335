//! What a worker has read of the ledger, what it wants to write there, and its permits.

use std::collections::HashMap;
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};

use crate::messages::ledger::{GuardLimit, LedgerEntry, LedgerRecord, Scope};
use crate::policy::brakes::Brakes;
use crate::policy::settlement::PAUSED;

#[derive(Default)]
pub(super) struct Shared {
    pub(super) brakes: Brakes,
    /// Number of the next record to read.
    pub(super) next: u64,
    /// All that was there when this session began has been read.
    pub(super) is_current: bool,
    /// What was written last was confirmed, or nothing has been written yet.
    pub(super) is_writable: bool,
    /// Distinguishes the records of this worker.
    pub(super) number: u64,
    /// When the ledger was last read again, its own records had at most this number.
    pub(super) read_before: u64,
    /// Number of the record after the last one that was read, also while the ledger is read again.
    pub(super) read_to: u64,
    /// The stream had dropped records before the worker could read them: when the first one after
    /// them was written.
    pub(super) gap: Option<Timestamp>,
    /// The session's first record, which must be read before anything is decided.
    pub(super) opened: u64,
    pub(super) scopes: HashMap<Scope, Permits>,
    pub(super) outbox: Vec<LedgerRecord>,
}

/// Far fewer records than a segment of the stream holds.
const LEAST_IN_A_SEGMENT: u64 = 100;

/// The permits of one organisation and kind.
#[derive(Default)]
pub(super) struct Permits {
    pub(super) unspent: u32,
    pub(super) waiting: u32,
    /// The reservation that is under way.
    pub(super) asked: Option<u64>,
    /// The last reservation: for how many permits, and when they were granted.
    pub(super) last: Option<(u32, Instant)>,
}

impl Shared {
    pub(super) fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// # What the stream has dropped is not taken for nothing
    ///
    /// Notes a gap before the next record. One that is read again after a loss is none: what was
    /// counted is kept then. Nor is an offset that no record has: RabbitMQ leaves one out at the
    /// start of each segment (3.10 and 4.0, measured), and drops whole segments only.
    pub(super) fn note_gap(&mut self, offset: u64, written: Option<Timestamp>, now: Timestamp) {
        let expected = if self.next > 0 { self.next } else { self.read_to };
        if offset.saturating_sub(expected) >= LEAST_IN_A_SEGMENT {
            self.gap = Some(written.unwrap_or(now).min(now));
        }
        self.read_to = offset + 1;
    }

    /// Until when nobody can say what has been admitted in the guard's window, if that is so.
    pub(super) fn unknown_until(&self, limit: GuardLimit, now: Timestamp) -> Option<Timestamp> {
        let window = SignedDuration::from_secs(limit.window_s.into());
        let end = self.gap?.saturating_add(window).unwrap_or(Timestamp::MAX);
        (end > now).then_some(end)
    }

    pub(super) fn forget_reservations(&mut self) {
        self.scopes.values_mut().for_each(|permits| permits.asked = None);
        self.scopes.retain(|_, permits| permits.unspent > 0 || permits.waiting > 0);
        let is_lasting = |entry: &LedgerEntry| {
            !matches!(
                entry,
                LedgerEntry::Reserved { .. }
                    | LedgerEntry::Opened { .. }
                    | LedgerEntry::Worker(_)
                    | LedgerEntry::Tripped { .. }
            )
        };
        self.outbox.retain(|record| is_lasting(&record.entry));
    }
}

/// Why a command may not be carried out now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Braked {
    /// The guard has tripped for its organisation and kind.
    Held,
    /// An operator has paused its organisation, or all.
    Paused,
    /// The ledger cannot be read or written.
    LedgerUnavailable,
    /// Nobody can say what has been admitted in the guard's window: our clock is wrong.
    ClockWrong,
    /// The ledger has dropped records of the guard's window that this worker has not read.
    WindowUnknown,
    /// See [`Stop`](super::stop::Stop).
    Stopped,
}

impl Braked {
    /// Why the command waits, as headers and logs say it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Paused => PAUSED,
            Self::LedgerUnavailable => "ledger_unavailable",
            Self::ClockWrong => "clock_wrong",
            Self::WindowUnknown => "guard_window_unknown",
            Self::Stopped => "draining",
        }
    }
}
