//! The broker's side: login, topology, permissions, confirms.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::permissions::{Publishing, grant, may_declare, permissions, unused_name};
use super::{Fact, Purpose, State, judge};
use crate::kind::Kind;
use crate::messages::{Publication, names};
use crate::rabbitmq::probe::{May, Questions, version};
use crate::rabbitmq::topology::{self, Found, Provision, Topology};
use crate::rabbitmq::{
    BrokerError, BrokerSettings, Connection, Preference, PublishError, Publisher, Refusal,
};

const TOPOLOGY: &str = "topology";
const CONFIRMS: &str = "confirms and returns";
const NO_ANSWER: &str =
    "That does not show what is wrong with it: try again, and check the broker's log";
const RUN_SETUP: &str =
    "Run `setup` as a user with the configure permission, with the same WAIT_LADDER as here";
const WILL_DECLARE: &str = "`run` declares it (DECLARE_TOPOLOGY=true), so does `setup`. A new virtual host has nothing: if this one is not new, \
     look at AMQP_URL, KINDS and WAIT_LADDER";
const NO_MIRROR: &str = "Run `setup`, or `run` with DECLARE_TOPOLOGY=true. Dead letters are safe without this stream, but the console then has to take them from \
     their queue to show them, and cannot show what became of them";
const DECLARE_AGAIN: &str = "It was declared with other arguments. docs/operations.md, 'A queue has other arguments', moves its messages without loss; \
     do not purge it";
const BLOCKED: &str =
    "`rabbitmqctl status`, section alarms: free memory or disk. A worker waits until it stops";

pub(super) async fn facts(settings: &BrokerSettings, purpose: Purpose) -> Vec<Fact> {
    let (mut facts, connection) = hosts(settings, purpose).await;
    let Some(connection) = connection else { return facts };
    facts.push(tls(&connection));
    let (topology, state) = topology(&connection, &settings.topology).await;
    facts.extend(topology);
    let (confirms, publishing) = publishing(&connection, settings, state).await;
    facts.extend(permissions(&connection, settings, publishing).await);
    facts.extend(settings.topology.kinds.iter().map(|kind| judge::kind(*kind)));
    let is_waited_for = publishing == Publishing::Blocked;
    facts.push(if is_waited_for { confirms.waited_for(purpose) } else { confirms });
    connection.close().await;
    facts
}

/// Whether the exchanges and queues exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TopologyState {
    Complete,
    /// Some are missing, and `run` declares them.
    ToBeDeclared,
    Incomplete,
}

/// One fact per address of each host, and a connection to one of them for the rest of the checks.
///
/// A host works if one of its addresses does (`localhost` is often two, of which the broker has
/// one). A worker starts if one host works.
async fn hosts(settings: &BrokerSettings, purpose: Purpose) -> (Vec<Fact>, Option<Connection>) {
    const BROKER: &str = "broker";
    let opened = match Connection::open_each(&settings.url, &settings.tls, "check").await {
        Ok(opened) => opened,
        Err(error) => return (vec![Fact::failed(BROKER, error.to_string(), cure(&error))], None),
    };
    let is_one = opened.len() == 1;
    let working = opened.iter().filter(|(_, _, opened)| opened.is_ok());
    let working: BTreeSet<_> = working.map(|(host, _, _)| host.clone()).collect();
    let (mut facts, mut first) = (Vec::new(), None);
    for (host, address, opened) in opened {
        let name = if is_one { BROKER.to_owned() } else { format!("{BROKER} {address}") };
        match opened {
            Ok(connection) => {
                let version = version(&connection, &settings.tls).await;
                let version = version.unwrap_or_else(|| "of an unknown version".to_owned());
                facts.push(Fact::ok(&name, format!("RabbitMQ {version} at {address}")));
                if first.is_none() {
                    first = Some(connection);
                } else {
                    connection.close().await;
                }
            }
            Err(error) => {
                let is_enough =
                    working.contains(&host) || (purpose == Purpose::Start && !working.is_empty());
                let fact = if is_enough { Fact::warning } else { Fact::failed };
                facts.push(fact(&name, error.to_string(), cure(&error)));
            }
        }
    }
    (facts, first)
}

fn cure(error: &BrokerError) -> &'static str {
    match error {
        BrokerError::TlsClosed { .. } => {
            "Set AMQP_CLIENT_CERT_FILE and AMQP_CLIENT_KEY_FILE if it does; otherwise look whether this port speaks TLS"
        }
        // Only the system's text says whether the certificate is at fault.
        BrokerError::Connect { is_tls: true, .. } => {
            "Look at AMQP_URL (TLS has a port of its own; user, password, virtual host), and whether the broker runs; where it is the \
             certificate: at AMQP_CA_FILE for the broker's CA, at AMQP_CLIENT_CERT_FILE and AMQP_CLIENT_KEY_FILE for our own"
        }
        BrokerError::Tls(_) => "Look at AMQP_CA_FILE and AMQP_CLIENT_*_FILE",
        BrokerError::Source(_) => "Look at AMQP_URL_FILE and AMQP_PASSWORD_FILE",
        BrokerError::NoAddress { .. } => "Look at the hosts of AMQP_URL, and at the name server",
        BrokerError::ConnectTimeout { .. } => "Look at host and port of AMQP_URL, and at firewalls",
        _ => {
            "Look at AMQP_URL: host, port (TLS has its own), user, password, virtual host; and whether the broker runs"
        }
    }
}

fn tls(connection: &Connection) -> Fact {
    if connection.is_tls() {
        Fact::ok("TLS", "the broker's certificate is trusted")
    } else {
        Fact::skipped("TLS", "not used (amqp://)")
    }
}

/// Whether everything exists and, if the user may configure, has the right arguments.
async fn topology(connection: &Connection, topology: &Topology) -> (Vec<Fact>, TopologyState) {
    let ensure = async |provision| {
        topology::ensure(connection, &Topology { provision, ..topology.clone() }).await
    };
    let missing = match ensure(Provision::Check).await {
        Ok(found) => found.missing,
        Err(error) => return incomplete(connection, topology, &error).await,
    };
    let exists = if missing.is_empty() {
        Fact::ok(TOPOLOGY, "every exchange and queue exists")
    } else {
        Fact::warning(TOPOLOGY, format!("does not exist: {}", missing.join(" ")), NO_MIRROR)
    };
    let arguments = match ensure(Provision::Compare).await {
        Ok(Found { old, .. }) if old.is_empty() => {
            Fact::ok("arguments", "every exchange and queue is as it should be")
        }
        Ok(Found { old, .. }) => {
            Fact::ok("arguments", format!("{}: {}", old.join(" "), topology::cure_of_old_queues()))
        }
        Err(error) if error.refusal() == Some(Refusal::AccessRefused) => Fact::skipped(
            "arguments",
            "the user may not configure, so cannot see them; `setup` can",
        ),
        Err(error) => {
            let cure = if_refused(&error, Refusal::PreconditionFailed, DECLARE_AGAIN);
            Fact::failed("arguments", error.to_string(), cure)
        }
    };
    (vec![exists, arguments], TopologyState::Complete)
}

/// Something that a worker needs is missing.
async fn incomplete(
    connection: &Connection,
    topology: &Topology,
    error: &BrokerError,
) -> (Vec<Fact>, TopologyState) {
    let is_missing = error.refusal() == Some(Refusal::NotFound);
    if is_missing && topology.provision == Provision::Declare {
        let may = may_declare(&Questions::new(connection), &topology.kinds).await;
        if may == May::Yes {
            let found = error.to_string().replace(", run `setup`", "");
            return (
                vec![Fact::warning(TOPOLOGY, found, WILL_DECLARE)],
                TopologyState::ToBeDeclared,
            );
        }
    }
    let cure = if_refused(error, Refusal::NotFound, RUN_SETUP);
    (vec![Fact::failed(TOPOLOGY, error.to_string(), cure)], TopologyState::Incomplete)
}

/// The fix for such a refusal. A slow broker must not make anyone delete a queue.
fn if_refused(error: &BrokerError, refusal: Refusal, cure: &'static str) -> &'static str {
    if error.refusal() == Some(refusal) { cure } else { NO_ANSWER }
}

/// Uses its own connection: a broker that blocks publishers stops reading from any connection that
/// has tried to publish.
async fn publishing(
    connection: &Connection,
    settings: &BrokerSettings,
    state: TopologyState,
) -> (Fact, Publishing) {
    let preference = Preference { first: Some(connection.address()), last: Vec::new() };
    let opened =
        Connection::open_preferring(&settings.url, &settings.tls, "check", preference).await;
    let own = match opened {
        Ok(own) => own,
        Err(error) => {
            let fact = Fact::failed(CONFIRMS, error.to_string(), cure(&error));
            return (fact, Publishing::Open);
        }
    };
    let publisher = Publisher::new(own);
    let found = tokio::select! {
        biased;
        reason = publisher.connection().becomes_blocked() => {
            let found = format!("RabbitMQ is blocking publishers ({reason})");
            (Fact::failed(CONFIRMS, found, BLOCKED), Publishing::Blocked)
        }
        fact = confirms_unblocked(&publisher, &settings.topology.kinds, state) => (fact, Publishing::Open),
    };
    publisher.connection().close().await;
    found
}

/// # A confirm does not show that publishers are not blocked
///
/// RabbitMQ hands a publish on before it stops reading from its connection. So the confirm may
/// overtake the notice that the connection is blocked; the answer to a later request cannot.
async fn confirms_unblocked(publisher: &Publisher, kinds: &[Kind], state: TopologyState) -> Fact {
    let fact = confirms(publisher, kinds, state).await;
    if fact.state == State::Failed {
        return fact;
    }
    match publisher.connection().answers().await {
        Ok(()) => fact,
        Err(error) => Fact::failed(CONFIRMS, error.to_string(), NO_ANSWER),
    }
}

/// An unroutable publish must be returned, and the publisher must notice.
async fn confirms(publisher: &Publisher, kinds: &[Kind], state: TopologyState) -> Fact {
    let nowhere = Publication {
        exchange: names::RETRY_EXCHANGE,
        routing_key: unused_name(),
        body: Vec::new().into(),
        message_id: None,
        correlation_id: None,
        content_type: None,
        headers: Vec::new(),
    };
    match publisher.publish(&nowhere).await {
        Err(error)
            if state == TopologyState::ToBeDeclared
                && error.refusal() == Some(Refusal::NotFound) =>
        {
            Fact::skipped(CONFIRMS, "cannot be checked before the topology exists")
        }
        Err(PublishError::Returned(_)) => Fact::ok(CONFIRMS, "unroutable messages are returned"),
        Ok(()) => Fact::failed(
            CONFIRMS,
            "a queue takes a message that none should",
            "Remove the foreign binding from task.retry",
        ),
        Err(error) => Fact::failed(CONFIRMS, error.to_string(), cure_of_publishing(&error, kinds)),
    }
}

fn cure_of_publishing(error: &PublishError, kinds: &[Kind]) -> Cow<'static, str> {
    match error {
        _ if error.refusal() == Some(Refusal::NotFound) => RUN_SETUP.into(),
        PublishError::Broken(_) => grant(kinds),
        _ => {
            "Does the broker take messages at all? `rabbitmqctl status` shows alarms for memory and disk".into()
        }
    }
}
