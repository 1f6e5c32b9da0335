//! The mirror of a kind's dead letters: a stream beside their queue, which is read without taking
//! anything out of it. It records each dead letter and what happens to it.
//!
//! # The mirror does not make an undelivered dead letter look delivered
//!
//! RabbitMQ returns a mandatory publish only if no queue at all takes it. If the mirror were bound
//! by the dead letters' key, it would take a dead letter whose queue is gone, and the dead letter
//! would count as safe. So the mirror has its own key and its own record for each dead letter,
//! published after the dead letter is confirmed. Whether that record gets through changes nothing
//! for the command.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::names;
use super::publication::{HeaderValue, Publication};
use super::{DeadLetter, time};
use crate::kind::Kind;

const REMOVED: &str = "removed";
const AUDIT: &str = "audit";

/// A record of the mirror.
#[derive(Debug, Clone, PartialEq)]
pub enum MirrorRecord {
    /// A command has died.
    Dead(Box<DeadLetter>),
    /// An operator has removed a dead letter from its queue.
    Removed(Removal),
    /// The audit event of what an operator did.
    Audit(Value),
}

/// Which dead letter is no longer there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removal {
    /// Id of its failure event.
    pub event_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "time::serialize")]
    pub failed_at: Option<Timestamp>,
    pub by: String,
}

impl MirrorRecord {
    /// `mark` is the header that marks the other two; a record without it is a dead letter.
    pub(crate) fn read(
        mark: Option<&str>,
        body: Vec<u8>,
        dead_letter: impl FnOnce(Vec<u8>) -> DeadLetter,
    ) -> Option<Self> {
        match mark {
            None => Some(Self::Dead(Box::new(dead_letter(body)))),
            Some(REMOVED) => serde_json::from_slice(&body).ok().map(Self::Removed),
            Some(AUDIT) => serde_json::from_slice(&body).ok().map(Self::Audit),
            Some(_) => None,
        }
    }
}

impl DeadLetter {
    /// The record that it is no longer among the dead letters.
    pub fn removal(&self, by: &str) -> Removal {
        let (event_id, by) = (self.failure_event(), by.to_owned());
        Removal { event_id, failed_at: self.failed_at, by }
    }

    /// Its record, for an operator.
    pub fn mirrored(&self) -> Publication<'_> {
        Publication { routing_key: self.kind.mirror(), ..self.again() }
    }
}

impl Removal {
    /// Its record, for an operator, who may publish to the default exchange.
    pub fn publication(&self, kind: Kind) -> Publication<'static> {
        record(kind, REMOVED, serde_json::to_vec(self).unwrap_or_default())
    }
}

impl Publication<'_> {
    /// The record of a dead letter, for a worker, which publishes to the exchange of the dead
    /// letters. `None` if this is not a dead letter.
    pub fn mirrored(&self, kind: Kind) -> Option<Publication<'_>> {
        self.is_dead_letter().then(|| Publication {
            routing_key: kind.mirror(),
            body: (&*self.body).into(),
            ..self.clone_without_body()
        })
    }

    /// The record of an audit event.
    pub(crate) fn audit_record(&self, kind: Kind) -> Publication<'static> {
        record(kind, AUDIT, self.body.to_vec())
    }
}

fn record(kind: Kind, mark: &str, body: Vec<u8>) -> Publication<'static> {
    Publication {
        exchange: "",
        routing_key: kind.mirror(),
        body: body.into(),
        message_id: None,
        correlation_id: None,
        content_type: Some("application/json".to_owned()),
        headers: vec![(names::X_MIRROR, HeaderValue::Text(mark.to_owned()))],
    }
}
