//! Looks through the queue of held commands, and counts them by organisation.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::LedgerJobError;
use crate::kind::Kind;
use crate::messages::{Command, Incoming, OrgId};
use crate::rabbitmq::held_commands::{HeldCommand, HeldReader};
use crate::rabbitmq::{Connection, Delivery};

/// Ids that are shown per organisation.
const SAMPLES: usize = 5;

pub(super) type Result<T> = std::result::Result<T, LedgerJobError>;

/// The held commands of one organisation.
#[derive(Debug, Default, Clone)]
pub struct Group {
    pub count: usize,
    pub oldest: Option<Timestamp>,
    /// The requesters: `requested_by` of the commands, and the users that published them.
    pub asked_by: BTreeSet<String>,
    pub samples: Vec<String>,
}

/// By organisation.
pub type Groups = BTreeMap<OrgId, Group>;

/// Counts the held commands; all stay.
pub(super) async fn survey(
    connection: &Connection,
    kind: Kind,
    stop: &CancellationToken,
) -> Result<Groups> {
    let mut groups = Groups::new();
    let mut reader = HeldReader::open(connection, kind).await?;
    let result = read(&mut reader, stop, |held| {
        let HeldCommand { incoming, since } = &held.message;
        let Some(command) = command(incoming) else { return };
        let group = groups.entry(command.target.org).or_default();
        group.count += 1;
        group.oldest = group.oldest.into_iter().chain(*since).min();
        group.asked_by.extend(command.requested_by);
        group.asked_by.extend(incoming.properties.published_by.clone());
        if group.samples.len() < SAMPLES {
            group.samples.push(command.target.id.to_string());
        }
    })
    .await;
    reader.close().await;
    result.map(|()| groups)
}

/// Reads the whole queue, or until it is stopped.
pub(super) async fn read(
    reader: &mut HeldReader,
    stop: &CancellationToken,
    mut take: impl FnMut(Delivery<HeldCommand>),
) -> Result<()> {
    while !stop.is_cancelled() {
        let Some((held, _)) = reader.next().await? else { break };
        take(held);
    }
    Ok(())
}

pub(super) fn command(incoming: &Incoming) -> Option<Command> {
    Command::decode(incoming.kind, &incoming.body).ok()
}
