//! Whether the worker is alive and ready, and if not, why. The worker sets it and the HTTP port
//! reads it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The loop beats every second; if it is silent for this long, it hangs.
const LONGEST_SILENCE: Duration = Duration::from_mins(1);

/// The worker's own view of its health.
#[derive(Debug)]
pub struct Health {
    last_heartbeat: Mutex<Instant>,
    reasons: Mutex<BTreeMap<Component, String>>,
}

/// What readiness depends on, the most telling first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    /// The drain before the end.
    Draining,
    /// The connections and the consumer.
    Broker,
    /// The consumer is attached but receives nothing.
    Consumer,
    /// The broker is blocking publishers: an alarm for memory or disk.
    Blocked,
    /// Publishes and their confirms.
    Publisher,
    /// The consumer of the commands that RabbitMQ itself removed from the work queues.
    Undeliverable,
    Breaker,
    /// The ledger, without which nothing may be decided.
    Ledger,
    /// The record of destructive calls, without which nothing is acknowledged.
    Audit,
    /// An operator has paused all organisations.
    Paused,
    /// All organisations are suspended.
    Organisations,
    /// Our clock differs too much from the API's.
    Clock,
}

impl Component {
    pub const ALL: [Self; 12] = [
        Self::Draining,
        Self::Broker,
        Self::Consumer,
        Self::Blocked,
        Self::Publisher,
        Self::Undeliverable,
        Self::Breaker,
        Self::Ledger,
        Self::Audit,
        Self::Paused,
        Self::Organisations,
        Self::Clock,
    ];

    /// The word that metrics use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::Broker => "broker",
            Self::Consumer => "deaf",
            Self::Blocked => "blocked",
            Self::Publisher => "publisher",
            Self::Undeliverable => "undeliverable",
            Self::Breaker => "breaker",
            Self::Ledger => "ledger",
            Self::Audit => "audit",
            Self::Paused => "paused",
            Self::Organisations => "organisations",
            Self::Clock => "clock",
        }
    }
}

impl Default for Health {
    fn default() -> Self {
        let reasons = BTreeMap::from([
            (Component::Broker, "not connected to RabbitMQ yet".to_owned()),
            (Component::Ledger, "the ledger has not been read yet".to_owned()),
        ]);
        Self { last_heartbeat: Mutex::new(Instant::now()), reasons: Mutex::new(reasons) }
    }
}

impl Health {
    /// The worker's loop is alive.
    pub fn heartbeat(&self) {
        *self.last_heartbeat.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Whether the loop has beaten lately.
    pub fn is_alive(&self) -> bool {
        self.silent_for() < LONGEST_SILENCE
    }

    /// How long ago the last beat was.
    pub fn silent_for(&self) -> Duration {
        self.last_heartbeat.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Sets why a component is not ready, or that it is (`None`). Returns whether that changed
    /// anything.
    pub fn set(&self, part: Component, reason: Option<String>) -> bool {
        let mut reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = reasons.get(&part) != reason.as_ref();
        match reason {
            Some(reason) => reasons.insert(part, reason),
            None => reasons.remove(&part),
        };
        is_news
    }

    pub fn is_ready(&self, component: Component) -> bool {
        !self.reasons.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&component)
    }

    /// Why the worker is not ready; empty when it is.
    pub fn reasons(&self) -> Vec<String> {
        self.reasons.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}
