//! The queue of held commands: counted, moved back to the work queue, or dead-lettered. Safe to
//! interrupt at any moment.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use jiff::Timestamp;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::LedgerJobError;
use super::ledger_file::LedgerFile;
use crate::consent::Consent;
use crate::kind::Kind;
use crate::messages::audit::{Audit, Phase};
use crate::messages::ledger::{Decision, Scope};
use crate::messages::{Command, OrgId, Publication, names};
use crate::policy::outcome::rejected_by_a_person;
use crate::rabbitmq::held_commands::{HeldCommand, HeldReader};
use crate::rabbitmq::{Connection, Delivery, PublishError, Publisher};

/// Ids that are shown per organisation.
const SAMPLES: usize = 5;

type Result<T> = std::result::Result<T, LedgerJobError>;

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

/// The queue of the held commands of a kind.
pub(super) struct HeldQueue<'a> {
    kind: Kind,
    reading: &'a Connection,
    publisher: Publisher,
}

/// What happens to a held command after the look.
enum Move {
    Stays,
    Publish(Vec<Publication<'static>>),
    Enough,
}

impl<'a> HeldQueue<'a> {
    pub(super) fn of(kind: Kind, ledger: &'a LedgerFile) -> Self {
        Self { kind, reading: ledger.reading(), publisher: ledger.publisher().clone() }
    }

    /// Counts the held commands; all stay.
    pub(super) async fn survey(&self, stop: &CancellationToken) -> Result<Groups> {
        let mut groups = Groups::new();
        let look = |held: &HeldCommand| {
            let Some(command) = command(held) else { return Move::Stays };
            let group = groups.entry(command.target.org).or_default();
            group.count += 1;
            group.oldest = group.oldest.into_iter().chain(held.since).min();
            group.asked_by.extend(command.requested_by);
            group.asked_by.extend(held.incoming.properties.published_by.clone());
            if group.samples.len() < SAMPLES {
                group.samples.push(command.target.id.to_string());
            }
            Move::Stays
        };
        self.go_through(stop, look).await?;
        Ok(groups)
    }

    /// Says what will be done and, unless the operator has agreed already, asks for the
    /// organisation's id.
    pub(super) async fn agrees(
        &self,
        verb: &str,
        scope: &Scope,
        max: Option<u32>,
        consent: Consent,
        stop: &CancellationToken,
    ) -> Result<bool> {
        let groups = self.survey(stop).await?;
        let org = scope.org_id.to_string();
        let count = groups.get(&scope.org_id).map_or(0, |group| group.count);
        let number = max.map_or(count, |max| count.min(max as usize));
        let kind = scope.kind;
        let _ = writeln!(
            io::stderr(),
            "{count} {kind} commands of organisation {org} are held; {verb} {number} of them"
        );
        if consent == Consent::Given {
            return Ok(true);
        }
        let ask = move || {
            let _ = write!(io::stderr(), "Type the organisation's id to continue: ");
            let mut answer = String::new();
            io::stdin().read_line(&mut answer).is_ok() && answer.trim() == org
        };
        tokio::select! {
            answer = tokio::task::spawn_blocking(ask) => Ok(answer.unwrap_or(false)),
            // Exiting is safe because nothing is unacknowledged, and necessary because a read from
            // a terminal cannot be interrupted.
            () = stop.cancelled() => std::process::exit(1),
        }
    }

    /// Puts at most `max` commands back on the work queue, the oldest first.
    pub(super) async fn release(
        &self,
        scope: &Scope,
        max: u32,
        decision: &Decision,
        stop: &CancellationToken,
    ) -> Result<bool> {
        let mut left = max;
        let look = |held: &HeldCommand| match command(held) {
            _ if left == 0 => Move::Enough,
            Some(command) if command.target.org == scope.org_id => {
                left -= 1;
                let now = Timestamp::now();
                Move::Publish(vec![
                    Publication::released(&held.incoming, held.since, now).into_owned(),
                ])
            }
            _ => Move::Stays,
        };
        let selection = json!({"org": scope.org_id.as_str(), "max": max});
        self.audited(names::RELEASED_EVENT, decision, selection, stop, look).await
    }

    /// Dead-letters all held commands of an organisation, or only those of one requester.
    pub(super) async fn reject(
        &self,
        scope: &Scope,
        requested_by: Option<&str>,
        decision: &Decision,
        stop: &CancellationToken,
    ) -> Result<bool> {
        let is_meant = |command: &Command| {
            command.target.org == scope.org_id
                && requested_by.is_none_or(|by| command.requested_by.as_deref() == Some(by))
        };
        let look = |held: &HeldCommand| match command(held) {
            Some(command) if is_meant(&command) => {
                let settlement = rejected_by_a_person(&held.incoming, decision);
                let publications = settlement.publications(&held.incoming, Timestamp::now());
                Move::Publish(publications.into_iter().map(Publication::into_owned).collect())
            }
            _ => Move::Stays,
        };
        let selection = json!({"org": scope.org_id.as_str(), "requested_by": requested_by});
        self.audited(names::REJECTED_EVENT, decision, selection, stop, look).await
    }

    /// Runs between the two audit events. Returns whether it was completed.
    async fn audited(
        &self,
        event_type: &'static str,
        decision: &Decision,
        selection: serde_json::Value,
        stop: &CancellationToken,
        look: impl FnMut(&HeldCommand) -> Move,
    ) -> Result<bool> {
        let began = Timestamp::now();
        let audit = |phase, dead_letters, interrupted| Audit {
            phase,
            event_type,
            kind: self.kind,
            by: decision.by.clone(),
            why: decision.reason.clone(),
            selection: selection.clone(),
            dead_letters,
            interrupted,
        };
        self.publish(&audit(Phase::Begun, 0, false).event(began, began)).await?;
        let moved = self.go_through(stop, look).await;
        let (number, is_whole) = *moved.as_ref().unwrap_or(&(0, false));
        let (by, kind) = (&decision.by, self.kind);
        info!(event_type, %kind, by, number, interrupted = !is_whole, "held commands: done");
        let ended = audit(Phase::Ended, number, !is_whole).event(began, Timestamp::now());
        let told = self.publish(&ended).await;
        moved.and_then(|_| told.map(|()| is_whole))
    }

    /// Shows each held command to `look`, once, the oldest first. Returns how many were moved, and
    /// whether all were seen.
    ///
    /// # A held command is removed only when it is safe elsewhere
    ///
    /// The broker confirms its replacement before it is removed. A kill in between leaves both: a
    /// duplicate command, which is harmless, and no loss.
    async fn go_through(
        &self,
        stop: &CancellationToken,
        mut look: impl FnMut(&HeldCommand) -> Move,
    ) -> Result<(usize, bool)> {
        let mut reader = HeldReader::open(self.reading, self.kind).await?;
        let result = self.pass(&mut reader, stop, &mut look).await;
        reader.close().await;
        result
    }

    async fn pass(
        &self,
        reader: &mut HeldReader,
        stop: &CancellationToken,
        look: &mut impl FnMut(&HeldCommand) -> Move,
    ) -> Result<(usize, bool)> {
        let (mut moved, mut left) = (0, None);
        // Commands that arrive meanwhile are not looked at.
        while left != Some(0) {
            if stop.is_cancelled() {
                return Ok((moved, false));
            }
            let Some((held, behind)) = reader.next().await? else { break };
            left = Some(left.map_or(behind, |left: u32| left - 1));
            match look(&held.message) {
                Move::Stays => {}
                Move::Enough => break,
                Move::Publish(publications) => {
                    for publication in publications {
                        self.publish(&publication).await?;
                        if let Some(record) = publication.mirrored(self.kind) {
                            self.mirror(&record).await;
                        }
                    }
                    self.remove(held).await;
                    moved += 1;
                }
            }
        }
        Ok((moved, true))
    }

    /// An older topology has no mirror, and a failure to write to it stops nothing.
    async fn mirror(&self, record: &Publication<'_>) {
        match self.publisher.publish(record).await {
            Ok(()) | Err(PublishError::Returned(_)) => {}
            Err(error) => warn!("a dead letter is not in {}: {error}", self.kind.mirror()),
        }
    }

    async fn remove(&self, held: Delivery<HeldCommand>) {
        if !held.acknowledge().await {
            warn!("a command was moved and its removal is not known: it may be there twice");
        }
    }

    async fn publish(&self, publication: &Publication<'_>) -> Result<()> {
        let to = match publication.exchange {
            "" => publication.routing_key.clone(),
            exchange => exchange.to_owned(),
        };
        let published = self.publisher.publish(publication).await;
        published.map_err(|source| LedgerJobError::Publish { to, source })
    }
}

fn command(held: &HeldCommand) -> Option<Command> {
    Command::decode(held.incoming.kind, &held.incoming.body).ok()
}
