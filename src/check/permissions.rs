//! What the worker's user may do at the broker, and what it should not.

use std::borrow::Cow;

use super::{Fact, judge};
use crate::kind::Kind;
use crate::messages::derived_id::derived;
use crate::messages::names;
use crate::rabbitmq::probe::{May, Questions};
use crate::rabbitmq::topology::Provision;
use crate::rabbitmq::{BrokerSettings, Connection};

/// Whether the broker accepts publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Publishing {
    Open,
    /// An alarm for memory or disk.
    Blocked,
}

pub(super) async fn permissions(
    connection: &Connection,
    settings: &BrokerSettings,
    publishing: Publishing,
) -> Vec<Fact> {
    let (ask, unused_name) = (Questions::new(connection), unused_name());
    let may_write = async |exchange: &str| match publishing {
        Publishing::Open => ask.may_write(exchange).await,
        Publishing::Blocked => May::Blocked,
    };
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
            may_write(exchange).await,
            grant.clone(),
        ));
    }
    let ours = may_declare(&ask, kinds).await;
    let mut beyond = vec![("configure anything".to_owned(), ask.may_configure(&unused_name).await)];
    if settings.topology.provision == Provision::Check {
        beyond.push(("configure the topology".to_owned(), ours));
    } else {
        const LET: &str = "Let it, or set DECLARE_TOPOLOGY=false and run `setup` as another user";
        facts.push(judge::needed("configure (DECLARE_TOPOLOGY)", ours, LET));
    }
    let others = [
        ("write any exchange", may_write(&unused_name).await),
        ("write the default exchange, so any queue", may_write("").await),
        ("write task.commands", may_write(names::COMMANDS_EXCHANGE).await),
        ("read any queue", ask.may_read(&unused_name).await),
        ("read task.events.unrouted", ask.may_read(names::UNROUTED_EVENTS).await),
    ];
    beyond.extend(others.map(|(what, may)| (what.to_owned(), may)));
    for queue in kinds.iter().map(|kind| kind.dead_letter_queue()) {
        beyond.push((format!("read {queue}"), ask.may_read(&queue).await));
    }
    facts.push(judge::too_much(&beyond));
    facts
}

/// Whether the user may configure the topology of these kinds.
pub(super) async fn may_declare(ask: &Questions<'_>, kinds: &[Kind]) -> May {
    let unused_name = unused_name();
    let mut ours = May::Yes;
    for kind in kinds {
        let may = ask.may_configure(&format!("{kind}.{unused_name}")).await;
        ours = if may == May::Yes { ours } else { may };
    }
    ours
}

/// The command that grants the worker's user exactly what it needs.
pub(super) fn grant(kinds: &[Kind]) -> Cow<'static, str> {
    let escaped = |queue: &str| queue.replace('.', r"\.");
    let queues = kinds.iter().map(|kind| escaped(kind.queue())).collect::<Vec<_>>().join("|");
    let read = format!(r"^(({queues})(\.undeliverable)?|{})$", escaped(names::LEDGER));
    let write = r"^task\.(events|retry|dlx|ledger)$";
    format!("rabbitmqctl set_permissions -p VHOST USER '^$' '{write}' '{read}'").into()
}

/// A name that nothing has: it contains the current time.
pub(super) fn unused_name() -> String {
    let now = jiff::Timestamp::now().to_string();
    let id = derived(&[now.as_bytes()]);
    format!("tallyfy-check-{}", id.simple())
}
