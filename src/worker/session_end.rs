//! How a session with the broker ends, and how long the worker may wait before the next one. Pure.

use std::time::Duration;

use crate::rabbitmq::BrokerError;

const LONGEST_RECONNECT: Duration = Duration::from_secs(10);
/// A session that could consume may have been ended by a message, which must reach its delivery
/// limit soon (see `ramp_up`).
const LONGEST_AFTER_CONSUMING: Duration = Duration::from_secs(1);

/// How a session has ended.
#[derive(Debug)]
pub(super) enum SessionEnd {
    /// The worker drains. What is in flight is settled before the session closes.
    Draining,
    /// It was never opened.
    NotOpened(BrokerError),
    /// It was lost before anything could be consumed.
    NeverConsumed(String),
    /// It was lost, or one of its consumers was.
    Lost(String),
}

impl SessionEnd {
    /// The longest pause before the next session.
    pub(super) fn longest_pause(&self) -> Duration {
        match self {
            Self::Draining => Duration::ZERO,
            // After this the next address may work better.
            Self::NotOpened(BrokerError::NoMajority { .. }) | Self::Lost(_) => {
                LONGEST_AFTER_CONSUMING
            }
            Self::NotOpened(_) | Self::NeverConsumed(_) => LONGEST_RECONNECT,
        }
    }
}
