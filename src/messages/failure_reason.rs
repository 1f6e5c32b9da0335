//! Why a command was dead-lettered, in the words of the contract.

use schemars::JsonSchema;
use serde::Serialize;

/// Why a command was dead-lettered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailureReason {
    /// The body is not a command.
    Malformed,
    /// The command names an organisation that this worker may not touch.
    OrgNotAllowed,
    /// Its producer may not ask for it, or RabbitMQ has not validated who that is.
    ProducerNotAllowed,
    /// Past `not_after` or `MAX_AGE`.
    Expired,
    /// The API refused with 403.
    Forbidden,
    /// The API refused with another 4xx.
    Rejected,
    /// `MAX_ATTEMPTS` answered attempts have failed.
    AttemptsExhausted,
    /// There is no such object, which is no success for this kind.
    NotFound,
    /// There is no such process, or it is not archived.
    NotFoundOrNotArchived,
    /// A person has rejected what the mass-deletion guard had held.
    GuardRejected,
    /// RabbitMQ moved it: it was delivered again and again, and never acknowledged.
    Poison,
    /// RabbitMQ moved it: its producer's own `expiration` passed before a worker had it.
    ExpiredInQueue,
    /// RabbitMQ moved it for another reason, or somebody published it where only RabbitMQ should.
    Undeliverable,
}

impl FailureReason {
    pub const ALL: [Self; 13] = [
        Self::Malformed,
        Self::OrgNotAllowed,
        Self::ProducerNotAllowed,
        Self::Expired,
        Self::Forbidden,
        Self::Rejected,
        Self::AttemptsExhausted,
        Self::NotFound,
        Self::NotFoundOrNotArchived,
        Self::GuardRejected,
        Self::Poison,
        Self::ExpiredInQueue,
        Self::Undeliverable,
    ];

    /// The reason of this word.
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }

    /// RabbitMQ moved the command, not a worker.
    pub fn is_of_rabbitmq(self) -> bool {
        matches!(self, Self::Poison | Self::ExpiredInQueue | Self::Undeliverable)
    }

    /// The word that headers, events, metrics and logs use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::OrgNotAllowed => "org_not_allowed",
            Self::ProducerNotAllowed => "producer_not_allowed",
            Self::Expired => "expired",
            Self::Forbidden => "forbidden",
            Self::Rejected => "rejected",
            Self::AttemptsExhausted => "attempts_exhausted",
            Self::NotFound => "not_found",
            Self::NotFoundOrNotArchived => "not_found_or_not_archived",
            Self::GuardRejected => "guard_rejected",
            Self::Poison => "poison",
            Self::ExpiredInQueue => "expired_in_queue",
            Self::Undeliverable => "undeliverable",
        }
    }
}
