//! The status of an organisation, for people.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::organisation::{Organisation, State};
use super::{ApiAccess, SuspendReason};
use crate::messages::OrgId;

/// What `/status` shows of an organisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// `unrestricted`, `slow_start` or `suspended`.
    pub state: &'static str,
    /// Why it is suspended.
    pub reason: Option<SuspendReason>,
    /// For how long it is suspended.
    pub suspended_for: Option<Duration>,
    /// How far away its next probe is.
    pub next_probe_in: Option<Duration>,
    /// How many of its commands have waited since.
    pub waiting: u64,
    /// Its calls in flight.
    pub in_flight: usize,
}

impl ApiAccess {
    /// How many organisations with a token are suspended for this reason.
    pub fn suspended_for(&self, reason: SuspendReason) -> usize {
        self.suspensions().filter(|suspension| suspension.reason == reason).count()
    }

    /// What `/status` shows of each organisation with a token, in the order of their ids.
    pub fn standings(&self, now: Instant) -> BTreeMap<&OrgId, Standing> {
        self.with_token().map(|(org, organisation)| (org, organisation.standing(now))).collect()
    }

    /// Since when the breaker is open.
    pub fn breaker_open_since(&self) -> Option<Instant> {
        self.breaker.open_since()
    }

    /// How many organisations may be called, suspended ones included.
    pub fn callable(&self) -> usize {
        self.callable.len()
    }
}

impl Organisation {
    pub(super) fn standing(&self, now: Instant) -> Standing {
        let suspension = self.suspension();
        Standing {
            state: match self.state {
                State::SlowStart { .. } => "slow_start",
                State::Unrestricted => "unrestricted",
                State::Suspended(_) => "suspended",
            },
            reason: suspension.map(|suspension| suspension.reason),
            suspended_for: suspension
                .map(|suspension| now.saturating_duration_since(suspension.since)),
            next_probe_in: suspension
                .map(|suspension| suspension.next_probe.saturating_duration_since(now)),
            waiting: suspension.map_or(0, |suspension| suspension.waited),
            in_flight: self.in_flight,
        }
    }
}
