//! How an organisation stands, for people.

use std::time::Duration;

use super::SuspendReason;

/// What `/status` shows of an organisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// `unrestricted`, `slow_start` or `suspended`.
    pub state: &'static str,
    /// Why it is suspended.
    pub reason: Option<SuspendReason>,
    /// For how long it is suspended.
    pub suspended_for: Option<Duration>,
    /// How far its next probe is away.
    pub next_probe_in: Option<Duration>,
    /// How many of its commands have waited since.
    pub waiting: u64,
    /// Its calls in flight.
    pub in_flight: usize,
}
