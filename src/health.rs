//! Whether the worker lives and is ready, and why not: set by the worker, read by the HTTP port.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The loop turns every second; this long without a turn means that it hangs.
const LONGEST_TURN: Duration = Duration::from_mins(1);

/// What the worker says of itself.
#[derive(Debug)]
pub struct Health {
    last_turn: Mutex<Instant>,
    reasons: Mutex<Reasons>,
}

#[derive(Debug)]
struct Reasons {
    broker: Option<String>,
    publisher: Option<String>,
    breaker: Option<String>,
    draining: Option<String>,
}

/// What may stand in the way of being ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The connections and the consumer.
    Broker,
    /// Publishes and their confirms.
    Publisher,
    /// The circuit breaker.
    Breaker,
    /// The drain before the end.
    Draining,
}

impl Default for Health {
    fn default() -> Self {
        let broker = Some("not connected to RabbitMQ yet".to_owned());
        let reasons = Reasons { broker, publisher: None, breaker: None, draining: None };
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
        let held = match part {
            Part::Broker => &mut reasons.broker,
            Part::Publisher => &mut reasons.publisher,
            Part::Breaker => &mut reasons.breaker,
            Part::Draining => &mut reasons.draining,
        };
        let is_news = *held != reason;
        *held = reason;
        is_news
    }

    /// Why the worker is not ready; empty when it is.
    pub fn reasons(&self) -> Vec<String> {
        let reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        let all = [&reasons.draining, &reasons.broker, &reasons.publisher, &reasons.breaker];
        all.into_iter().flatten().cloned().collect()
    }
}
