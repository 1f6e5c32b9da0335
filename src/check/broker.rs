//! The broker's side: login, topology, permissions, confirms.

use std::borrow::Cow;

use uuid::Uuid;

use super::{Fact, judge};
use crate::kind::Kind;
use crate::messages::{Publication, names};
use crate::rabbitmq::probe::{May, Questions, version};
use crate::rabbitmq::topology::{self, Provision, Topology};
use crate::rabbitmq::{BrokerError, BrokerSettings, Connection, PublishError, Publisher, Refusal};

const TOPOLOGY: &str = "topology";
const NO_ANSWER: &str =
    "That does not tell what is wrong with it: try again, and look at the broker's log";
const RUN_SETUP: &str =
    "Run `setup` as a user who may configure; with the same WAIT_LADDER as here";

pub(super) async fn facts(settings: &BrokerSettings) -> Vec<Fact> {
    let (mut facts, connection) = hosts(settings).await;
    let Some(connection) = connection else { return facts };
    facts.push(tls(&connection));
    facts.extend(topology(&connection, &settings.topology).await);
    facts.extend(permissions(&connection, settings).await);
    facts.extend(settings.topology.kinds.iter().map(|kind| judge::kind(*kind)));
    let publisher = Publisher::new(connection);
    facts.push(confirms(&publisher, &settings.topology.kinds).await);
    publisher.connection().close().await;
    facts
}

/// Every address of every host, each with its fact; and a connection to one, for all that follows.
async fn hosts(settings: &BrokerSettings) -> (Vec<Fact>, Option<Connection>) {
    const BROKER: &str = "broker";
    let opened = match Connection::open_each(&settings.url, &settings.tls, "check").await {
        Ok(opened) => opened,
        Err(error) => return (vec![Fact::failed(BROKER, error.to_string(), cure(&error))], None),
    };
    let is_one = opened.len() == 1;
    let one_works = opened.iter().any(|(_, opened)| opened.is_ok());
    let (mut facts, mut first) = (Vec::new(), None);
    for (host, opened) in opened {
        let name = if is_one { BROKER.to_owned() } else { format!("{BROKER} {host}") };
        match opened {
            Ok(connection) => {
                let version = version(&connection, &settings.tls).await;
                let version = version.unwrap_or_else(|| "of an unknown version".to_owned());
                facts.push(Fact::ok(&name, format!("RabbitMQ {version} at {host}")));
                if first.is_none() {
                    first = Some(connection);
                } else {
                    connection.close().await;
                }
            }
            // The worker works as long as one host does.
            Err(error) if one_works => {
                facts.push(Fact::warning(&name, error.to_string(), cure(&error)));
            }
            Err(error) => facts.push(Fact::failed(&name, error.to_string(), cure(&error))),
        }
    }
    (facts, first)
}

fn cure(error: &BrokerError) -> &'static str {
    match error {
        BrokerError::TlsClosed { .. } => {
            "Set AMQP_CLIENT_CERT_FILE and AMQP_CLIENT_KEY_FILE if it does; otherwise look whether this port speaks TLS"
        }
        // Whether it is the certificate that fails is told in the text of the system alone.
        BrokerError::Connect { is_tls: true, .. } => {
            "Look at AMQP_URL (TLS has a port of its own; user, password, virtual host), and whether the broker runs; where it is the \
             certificate: at AMQP_CA_FILE for the broker's authority, at AMQP_CLIENT_CERT_FILE and AMQP_CLIENT_KEY_FILE for our own"
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

/// Whether all is there, and, where the user may configure, whether it is as it should be.
async fn topology(connection: &Connection, topology: &Topology) -> Vec<Fact> {
    let ensure = async |provision| {
        topology::ensure(connection, &Topology { provision, ..topology.clone() }).await
    };
    if let Err(error) = ensure(Provision::Check).await {
        let cure = if_refused(&error, Refusal::NotFound, RUN_SETUP);
        return vec![Fact::failed(TOPOLOGY, error.to_string(), cure)];
    }
    let arguments = match ensure(Provision::Compare).await {
        Ok(old) if old.is_empty() => {
            Fact::ok("arguments", "every exchange and queue is as it should be")
        }
        Ok(old) => {
            Fact::ok("arguments", format!("{}: {}", old.join(" "), topology::cure_of_old_queues()))
        }
        Err(error) if error.refusal() == Some(Refusal::AccessRefused) => Fact::skipped(
            "arguments",
            "the user may not configure, so cannot see them; `setup` can",
        ),
        Err(error) => {
            const DECLARE_AGAIN: &str =
                "Somebody declared it otherwise: empty it, delete it, then run `setup`";
            let cure = if_refused(&error, Refusal::PreconditionFailed, DECLARE_AGAIN);
            Fact::failed("arguments", error.to_string(), cure)
        }
    };
    vec![Fact::ok(TOPOLOGY, "every exchange and queue is there"), arguments]
}

/// The cure for what the broker has refused in this way; nobody shall delete a queue because a
/// broker was slow.
fn if_refused(error: &BrokerError, refusal: Refusal, cure: &'static str) -> &'static str {
    if error.refusal() == Some(refusal) { cure } else { NO_ANSWER }
}

async fn permissions(connection: &Connection, settings: &BrokerSettings) -> Vec<Fact> {
    let (ask, nobody) = (Questions(connection), nobody());
    let kinds = &settings.topology.kinds;
    let grant = grant(kinds);
    let mut facts = Vec::new();
    let queues =
        kinds.iter().flat_map(|kind| [kind.queue().to_owned(), kind.undeliverable_queue()]);
    for queue in queues.chain([names::LEDGER.to_owned()]) {
        let may = ask.may_read(&queue).await;
        facts.push(judge::needed(&format!("read {queue}"), may, grant.clone()));
    }
    for exchange in [
        names::EVENTS_EXCHANGE,
        names::RETRY_EXCHANGE,
        names::DEAD_LETTER_EXCHANGE,
        names::LEDGER_EXCHANGE,
    ] {
        facts.push(judge::needed(
            &format!("write {exchange}"),
            ask.may_write(exchange).await,
            grant.clone(),
        ));
    }
    let mut ours = May::Yes;
    for kind in kinds {
        let may = ask.may_configure(&format!("{kind}.{nobody}")).await;
        ours = if may == May::Yes { ours } else { may };
    }
    let mut beyond = vec![("configure anything".to_owned(), ask.may_configure(&nobody).await)];
    if settings.topology.provision == Provision::Check {
        beyond.push(("configure the topology".to_owned(), ours));
    } else {
        const LET: &str = "Let it, or set DECLARE_TOPOLOGY=false and run `setup` as another user";
        facts.push(judge::needed("configure (DECLARE_TOPOLOGY)", ours, LET));
    }
    let others = [
        ("write any exchange", ask.may_write(&nobody).await),
        ("write the default exchange, so any queue", ask.may_write("").await),
        ("write task.commands", ask.may_write(names::COMMANDS_EXCHANGE).await),
        ("read any queue", ask.may_read(&nobody).await),
        ("read task.events.unrouted", ask.may_read(names::UNROUTED_EVENTS).await),
    ];
    beyond.extend(others.map(|(what, may)| (what.to_owned(), may)));
    for queue in kinds.iter().map(|kind| kind.dead_letter_queue()) {
        beyond.push((format!("read {queue}"), ask.may_read(&queue).await));
    }
    facts.push(judge::too_much(&beyond));
    facts
}

/// A publish that no queue takes must come back, and be known to have come back.
async fn confirms(publisher: &Publisher, kinds: &[Kind]) -> Fact {
    const NAME: &str = "confirms and returns";
    let nowhere = Publication {
        exchange: names::RETRY_EXCHANGE,
        routing_key: nobody(),
        body: Vec::new().into(),
        message_id: None,
        correlation_id: None,
        content_type: None,
        headers: Vec::new(),
    };
    match publisher.publish(&nowhere).await {
        Err(PublishError::Returned(_)) => Fact::ok(NAME, "what no queue takes comes back"),
        Ok(()) => Fact::failed(
            NAME,
            "a queue takes what none should",
            "Remove the foreign binding from task.retry",
        ),
        Err(error) => Fact::failed(NAME, error.to_string(), cure_of_publishing(&error, kinds)),
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

/// What gives the worker's user all that it needs, and no more.
fn grant(kinds: &[Kind]) -> Cow<'static, str> {
    let escaped = |queue: &str| queue.replace('.', r"\.");
    let queues = kinds.iter().map(|kind| escaped(kind.queue())).collect::<Vec<_>>().join("|");
    let read = format!(r"^(({queues})(\.undeliverable)?|{})$", escaped(names::LEDGER));
    let write = r"^task\.(events|retry|dlx|ledger)$";
    format!("rabbitmqctl set_permissions -p VHOST USER '^$' '{write}' '{read}'").into()
}

/// A name that nothing has: it hangs on the moment.
fn nobody() -> String {
    let now = jiff::Timestamp::now().to_string();
    let id = Uuid::new_v5(&crate::messages::command::ID_NAMESPACE, now.as_bytes());
    format!("tallyfy-check-{}", id.simple())
}
