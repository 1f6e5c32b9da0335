//! Whether the worker lives and is ready, and why not: set by the worker, read by the HTTP port.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The loop turns every second; this long without a turn means that it hangs.
const LONGEST_TURN: Duration = Duration::from_mins(1);

/// What the worker says of itself.
#[derive(Debug)]
pub struct Health {
    last_turn: Mutex<Instant>,
    reasons: Mutex<BTreeMap<Part, String>>,
}

/// What may stand in the way of being ready, the most telling first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The drain before the end.
    Draining,
    /// The connections and the consumer.
    Broker,
    /// The broker takes no messages: an alarm for memory or disk.
    Blocked,
    /// Publishes and their confirms.
    Publisher,
    /// The circuit breaker.
    Breaker,
    /// The gates of all organisations.
    Organisations,
}

impl Default for Health {
    fn default() -> Self {
        let reasons = BTreeMap::from([(Part::Broker, "not connected to RabbitMQ yet".to_owned())]);
        Self { last_turn: Mutex::new(Instant::now()), reasons: Mutex::new(reasons) }
    }
}

impl Health {
    /// The worker's loop has turned.
    pub fn turn(&self) {
        *self.last_turn.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Whether the loop has turned lately.
    pub fn is_alive(&self) -> bool {
        self.last_turn.lock().unwrap_or_else(PoisonError::into_inner).elapsed() < LONGEST_TURN
    }

    /// Says why a part is not ready, or that it is (`None`). Returns whether that is news.
    pub fn set(&self, part: Part, reason: Option<String>) -> bool {
        let mut reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = reasons.get(&part) != reason.as_ref();
        match reason {
            Some(reason) => reasons.insert(part, reason),
            None => reasons.remove(&part),
        };
        is_news
    }

    /// Why the worker is not ready; empty when it is.
    pub fn reasons(&self) -> Vec<String> {
        self.reasons.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}
