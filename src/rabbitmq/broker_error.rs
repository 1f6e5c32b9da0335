//! Errors of the broker, for operators and for code that distinguishes refusals.

use std::io;
use std::time::Duration;

use lapin::ErrorKind;
use lapin::protocol::AMQPSoftError;
use thiserror::Error;

use super::source::SourceError;
use super::tls::TlsError;

/// How long TLS and the AMQP handshake may take once an address has accepted the connection; and
/// how long declaring the topology again may take.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// An error of the broker, for an operator.
#[derive(Debug, Error)]
pub enum BrokerError {
    /// No connection was established in time.
    #[error("no connection to RabbitMQ at {address} within {limit:?}")]
    ConnectTimeout {
        /// Host, port and address.
        address: String,
        /// The time limit of this address.
        limit: Duration,
    },
    /// A host name has no address.
    #[error("cannot find the address of RabbitMQ at {host}: {source}")]
    NoAddress {
        /// Host and port.
        host: String,
        /// The system's error.
        source: io::Error,
    },
    /// There are several addresses, and none of them works.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    NoneWorks(Vec<BrokerError>),
    /// A file with the broker's address or password cannot be used.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A certificate or a key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Refused, wrong credentials, wrong virtual host, TLS.
    #[error("cannot connect to RabbitMQ at {address}: {source}")]
    Connect {
        /// Host and port.
        address: String,
        /// Whether the connection should be encrypted.
        is_tls: bool,
        /// lapin's error.
        source: lapin::Error,
    },
    /// The broker hung up at the start of a TLS connection.
    #[error(
        "cannot connect to RabbitMQ at {address}: the broker closed the TLS handshake; does it want a client certificate? ({source})"
    )]
    TlsClosed {
        /// Host and port.
        address: String,
        /// lapin's error.
        source: lapin::Error,
    },
    /// The cluster's nodes have lost each other.
    #[error(
        "RabbitMQ at {address} takes connections, but does not answer what needs a majority of its nodes"
    )]
    NoMajority {
        /// Host, port and address.
        address: String,
    },
    /// The topology is not what it should be.
    #[error("{what}: {source}")]
    Topology {
        /// What was declared or checked.
        what: String,
        /// lapin's error.
        source: lapin::Error,
    },
    /// The dead letters cannot be read.
    #[error("cannot read {queue}: {source}")]
    DeadLetters {
        /// Their queue.
        queue: String,
        /// lapin's error.
        source: lapin::Error,
    },
    /// Consuming could not start.
    #[error("cannot consume from {queue}: {source}")]
    Consume {
        /// The queue.
        queue: String,
        /// lapin's error.
        source: lapin::Error,
    },
    /// A consumer has ended while others may continue: its queue was deleted, say.
    #[error("the broker has ended the consumer of {queue}")]
    ConsumerEnded {
        /// Its queue.
        queue: String,
    },
    /// The channel or the connection is gone.
    #[error(transparent)]
    Lost(lapin::Error),
}

impl BrokerError {
    /// Why no connection was established.
    ///
    /// # A broker that requires a certificate is not reported as gone
    ///
    /// It sends a TLS alert and hangs up at once. Unless the alert is read in time, data that we
    /// send meanwhile makes the system discard it and report a reset instead.
    pub(super) fn connect(address: String, is_tls: bool, source: lapin::Error) -> Self {
        match source.kind() {
            ErrorKind::IOError(error) if is_tls && is_hangup(error.kind()) => {
                Self::TlsClosed { address, source }
            }
            _ => Self::Connect { address, is_tls, source },
        }
    }

    /// The kind of problem: another one of the same kind is not worth a log line.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ConnectTimeout { .. }
            | Self::NoAddress { .. }
            | Self::NoneWorks(_)
            | Self::Source(_)
            | Self::Tls(_)
            | Self::Connect { .. }
            | Self::TlsClosed { .. } => "connect",
            Self::NoMajority { .. } => "no_majority",
            Self::Topology { .. } => "topology",
            Self::Consume { .. } => "consume",
            Self::DeadLetters { .. } => "dead_letters",
            Self::ConsumerEnded { .. } | Self::Lost(_) => "lost",
        }
    }

    /// Why no address works: the one reason, or all of them. `None` if there was none to try.
    pub(super) fn of_all(mut errors: Vec<Self>) -> Option<Self> {
        if errors.len() > 1 { Some(Self::NoneWorks(errors)) } else { errors.pop() }
    }

    /// The refusal, if the broker objected to a part of the topology.
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Topology { source, .. } | Self::Consume { source, .. } => Refusal::of(source),
            _ => None,
        }
    }

    /// Whether the topology may be why nothing is consumed (any more).
    pub(super) fn is_of_the_topology(&self) -> bool {
        matches!(self, Self::ConsumerEnded { .. }) || self.refusal().is_some()
    }

    /// Whether the broker did not answer in time.
    pub(super) fn is_unanswered(&self) -> bool {
        matches!(self, Self::Topology { source, .. } | Self::Consume { source, .. } if is_late(source))
    }
}

/// Whether a time limit, ours or the system's, is why there is no answer.
pub(super) fn is_late(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::IOError(error) if error.kind() == io::ErrorKind::TimedOut)
}

fn is_hangup(error: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error, BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

/// Why the broker refused a request that it understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It does not exist.
    NotFound,
    /// The user has no permission.
    AccessRefused,
    /// It exists with other arguments; or the message is larger than the broker accepts.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_that_requires_a_certificate_is_not_reported_as_gone() {
        let told = |is_tls, kind: io::ErrorKind| {
            BrokerError::connect("h:5671".into(), is_tls, io::Error::from(kind).into()).to_string()
        };
        let question = "closed the TLS handshake; does it want a client certificate?";
        for kind in [io::ErrorKind::ConnectionReset, io::ErrorKind::UnexpectedEof] {
            assert!(told(true, kind).contains(question), "{kind}");
            assert!(!told(false, kind).contains(question), "{kind}: no TLS");
        }
        let refused = told(true, io::ErrorKind::ConnectionRefused);
        assert!(!refused.contains(question), "{refused}");
    }
}
