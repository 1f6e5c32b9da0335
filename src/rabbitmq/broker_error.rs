//! What goes wrong with the broker, for an operator and for those who tell one refusal from another.

use std::time::Duration;

use lapin::ErrorKind;
use lapin::protocol::AMQPSoftError;
use thiserror::Error;

use super::tls::TlsError;

/// How long a connection may take to come about.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What went wrong with the broker, for an operator.
#[derive(Debug, Error)]
pub enum BrokerError {
    /// No connection came about in time.
    #[error("no connection to RabbitMQ at {0} within {CONNECT_TIMEOUT:?}")]
    ConnectTimeout(String),
    /// A certificate or a key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Refused, wrong credentials, wrong virtual host, TLS.
    #[error("cannot connect to RabbitMQ at {address}: {source}")]
    Connect {
        /// Host and port.
        address: String,
        /// lapin's word.
        source: lapin::Error,
    },
    /// The topology is not what it should be.
    #[error("{what}: {source}")]
    Topology {
        /// What was declared or looked for.
        what: String,
        /// lapin's word.
        source: lapin::Error,
    },
    /// The dead letters cannot be read.
    #[error("cannot read {queue}: {source}")]
    DeadLetters {
        /// Their queue.
        queue: String,
        /// lapin's word.
        source: lapin::Error,
    },
    /// Consuming could not begin.
    #[error("cannot consume from {queue}: {source}")]
    Consume {
        /// The queue.
        queue: &'static str,
        /// lapin's word.
        source: lapin::Error,
    },
    /// A consumer has ended while others may go on: its queue was deleted, say.
    #[error("the broker has ended the consumer of {queue}")]
    ConsumerEnded {
        /// Its queue.
        queue: &'static str,
    },
    /// The channel or the connection is gone.
    #[error(transparent)]
    Lost(lapin::Error),
}

impl BrokerError {
    /// What kind of trouble it is: another one of the same kind is not worth a log line.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ConnectTimeout(_) | Self::Tls(_) | Self::Connect { .. } => "connect",
            Self::Topology { .. } => "topology",
            Self::Consume { .. } => "consume",
            Self::DeadLetters { .. } => "dead_letters",
            Self::ConsumerEnded { .. } | Self::Lost(_) => "lost",
        }
    }

    /// What the broker objected to, where it was a part of the topology that it objected to.
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Topology { source, .. } => Refusal::of(source),
            _ => None,
        }
    }
}

/// Why the broker has refused something that it understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such thing.
    NotFound,
    /// The user may not.
    AccessRefused,
    /// It is there, and is not as was said; or the message is larger than the broker takes.
    PreconditionFailed,
}

impl Refusal {
    pub(super) fn of(error: &lapin::Error) -> Option<Self> {
        let ErrorKind::ProtocolError(word) = error.kind() else { return None };
        let refusals = [
            (AMQPSoftError::NOTFOUND, Self::NotFound),
            (AMQPSoftError::ACCESSREFUSED, Self::AccessRefused),
            (AMQPSoftError::PRECONDITIONFAILED, Self::PreconditionFailed),
        ];
        let refusal =
            refusals.into_iter().find(|(word_of_it, _)| word_of_it.get_id() == word.get_id());
        refusal.map(|(_, refusal)| refusal)
    }
}
