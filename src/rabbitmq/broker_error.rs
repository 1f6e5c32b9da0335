//! What goes wrong with the broker, for an operator and for those who tell one refusal from
//! another.

use std::io;
use std::time::Duration;

use lapin::ErrorKind;
use lapin::protocol::AMQPSoftError;
use thiserror::Error;

use super::source::SourceError;
use super::tls::TlsError;

/// How long TLS and the greetings may take once an address has taken the connection, and how long a
/// topology that is declared again.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// What went wrong with the broker, for an operator.
#[derive(Debug, Error)]
pub enum BrokerError {
    /// No connection came about in time.
    #[error("no connection to RabbitMQ at {address} within {limit:?}")]
    ConnectTimeout {
        /// Host, port and address.
        address: String,
        /// The time limit of this address.
        limit: Duration,
    },
    /// A host's name has no address.
    #[error("cannot find the address of RabbitMQ at {host}: {source}")]
    NoAddress {
        /// Host and port.
        host: String,
        /// The system's word.
        source: io::Error,
    },
    /// Several addresses, and none of them works.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    NoneWorks(Vec<BrokerError>),
    /// A file that says where the broker is cannot be used.
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
        /// Whether it was to be encrypted.
        is_tls: bool,
        /// lapin's word.
        source: lapin::Error,
    },
    /// The broker has hung up where a TLS connection begins.
    #[error(
        "cannot connect to RabbitMQ at {address}: the broker closed the TLS handshake; does it want a client certificate? ({source})"
    )]
    TlsClosed {
        /// Host and port.
        address: String,
        /// lapin's word.
        source: lapin::Error,
    },
    /// The nodes of a cluster have lost each other.
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
        queue: String,
        /// lapin's word.
        source: lapin::Error,
    },
    /// A consumer has ended while others may go on: its queue was deleted, say.
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
    /// Why no connection came about.
    ///
    /// # A broker that wants a certificate is not taken for one that is gone
    ///
    /// It says so in an alert and hangs up at once. What we have sent meanwhile makes the system
    /// throw the alert away, unless it was read in time, and report a reset instead.
    pub(super) fn connect(address: String, is_tls: bool, source: lapin::Error) -> Self {
        match source.kind() {
            ErrorKind::IOError(error) if is_tls && is_hangup(error.kind()) => {
                Self::TlsClosed { address, source }
            }
            _ => Self::Connect { address, is_tls, source },
        }
    }

    /// What kind of trouble it is: another one of the same kind is not worth a log line.
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

    /// Why no address works: the one reason, or all of them. `None` where there was none to try.
    pub(super) fn of_all(mut errors: Vec<Self>) -> Option<Self> {
        if errors.len() > 1 { Some(Self::NoneWorks(errors)) } else { errors.pop() }
    }

    /// What the broker objected to, where it was a part of the topology that it objected to.
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Topology { source, .. } | Self::Consume { source, .. } => Refusal::of(source),
            _ => None,
        }
    }

    /// Whether the topology may be at fault that nothing is consumed (any more).
    pub(super) fn is_of_the_topology(&self) -> bool {
        matches!(self, Self::ConsumerEnded { .. }) || self.refusal().is_some()
    }

    /// Whether the broker said nothing in time.
    pub(super) fn is_unanswered(&self) -> bool {
        matches!(self, Self::Topology { source, .. } | Self::Consume { source, .. } if is_late(source))
    }
}

/// Whether a time limit of ours, or of the system, is why there is no answer.
pub(super) fn is_late(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::IOError(error) if error.kind() == io::ErrorKind::TimedOut)
}

fn is_hangup(error: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error, BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_that_wants_a_certificate_is_not_taken_for_one_that_is_gone() {
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
