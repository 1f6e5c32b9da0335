//! The queue of held commands: counted, moved back to the work queue, or dead-lettered. Safe to
//! interrupt at any moment.

use std::io::{self, Write};

use jiff::Timestamp;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::LedgerJobError;
use super::held_look::{Result, command, read};
use super::ledger_file::LedgerFile;
use super::question::agrees;
use crate::consent::Consent;
use crate::kind::Kind;
use crate::messages::audit::{Audit, Phase};
use crate::messages::ledger::{Decision, Scope};
use crate::messages::{OrgId, Publication, names};
use crate::policy::outcome::rejected_by_a_person;
use crate::rabbitmq::held_commands::{HeldCommand, HeldReader};
use crate::rabbitmq::{Connection, Delivery, PublishError, Publisher};

/// The queue of the held commands of a kind.
pub(super) struct HeldQueue<'a> {
    kind: Kind,
    reading: &'a Connection,
    publisher: Publisher,
}

/// The held commands that a decision is about, unacknowledged, the oldest first.
pub(super) struct Found {
    reader: HeldReader,
    /// All held commands of the organisation.
    of_org: usize,
    meant: Vec<Delivery<HeldCommand>>,
}

impl Found {
    /// Requeues those that were not moved.
    pub(super) async fn close(self) {
        self.reader.close().await;
    }
}

impl<'a> HeldQueue<'a> {
    pub(super) fn of(kind: Kind, ledger: &'a LedgerFile) -> Self {
        Self { kind, reading: ledger.reading(), publisher: ledger.publisher().clone() }
    }

    /// Takes the held commands of an organisation, or only those of one requester.
    ///
    /// # The oldest come first, wherever they are in the queue
    ///
    /// RabbitMQ puts back what a look has requeued in another order. So all of them are read, and
    /// then sorted by the moment from which they are held.
    pub(super) async fn find(
        &self,
        org: &OrgId,
        requested_by: Option<&str>,
        stop: &CancellationToken,
    ) -> Result<Found> {
        let mut reader = HeldReader::open(self.reading, self.kind).await?;
        let (mut of_org, mut meant) = (0, Vec::new());
        let result = read(&mut reader, stop, |held| {
            let command = command(&held.message.incoming);
            let Some(command) = command.filter(|command| command.target.org == *org) else {
                return;
            };
            of_org += 1;
            if requested_by.is_none_or(|by| command.requested_by.as_deref() == Some(by)) {
                meant.push(held);
            }
        })
        .await;
        meant.sort_by_key(|held| held.message.since);
        let found = Found { reader, of_org, meant };
        match result {
            Ok(()) => Ok(found),
            Err(error) => {
                found.close().await;
                Err(error)
            }
        }
    }

    /// The commands that a decision is about, if the operator agrees to it.
    ///
    /// # Nothing is kept from others while an operator thinks
    ///
    /// What was counted goes back before the question, and is read again after the answer.
    pub(super) async fn agreed(
        &self,
        verb: &str,
        (org, requested_by, max): (&OrgId, Option<&str>, Option<u32>),
        consent: Consent,
        stop: &CancellationToken,
    ) -> Result<Option<Found>> {
        let found = self.find(org, requested_by, stop).await?;
        let counts = (found.of_org, found.meant.len());
        if consent == Consent::Given && !stop.is_cancelled() {
            self.announce(verb, (org, max), counts);
            return Ok(Some(found));
        }
        found.close().await;
        if stop.is_cancelled() {
            return Ok(None);
        }
        self.announce(verb, (org, max), counts);
        if !agrees(org, stop).await {
            return Ok(None);
        }
        self.find(org, requested_by, stop).await.map(Some)
    }

    fn announce(
        &self,
        verb: &str,
        (org, max): (&OrgId, Option<u32>),
        (of_org, meant): (usize, usize),
    ) {
        let (kind, number) = (self.kind, max.map_or(meant, |max| meant.min(max as usize)));
        let _ = writeln!(
            io::stderr(),
            "{of_org} {kind} commands of organisation {org} are held; {verb} {number} of them"
        );
    }

    /// Puts at most `max` commands back on the work queue, the oldest first.
    pub(super) async fn release(
        &self,
        scope: &Scope,
        (max, mut found): (u32, Found),
        decision: &Decision,
        stop: &CancellationToken,
    ) -> Result<bool> {
        found.meant.truncate(max as usize);
        let selection = json!({"org": scope.org_id.as_str(), "max": max});
        self.audited(names::RELEASED_EVENT, decision, selection, async |moved| {
            let released = |HeldCommand { incoming, since }: &HeldCommand| {
                vec![Publication::released(incoming, *since, Timestamp::now()).into_owned()]
            };
            let result = self.move_found(&mut found, released, stop, moved).await;
            found.close().await;
            result
        })
        .await
    }

    /// Dead-letters all held commands of an organisation, or only those of one requester.
    ///
    /// # Nothing that was held when it began stays held
    ///
    /// The broker may still be putting back what another reader has looked at, and this one does
    /// not see it then. So it looks again until nothing is left that was held before.
    pub(super) async fn reject(
        &self,
        scope: &Scope,
        (requested_by, found): (Option<&str>, Found),
        decision: &Decision,
        stop: &CancellationToken,
    ) -> Result<bool> {
        let (org, began) = (&scope.org_id, Timestamp::now());
        let selection = json!({"org": org.as_str(), "requested_by": requested_by});
        self.audited(names::REJECTED_EVENT, decision, selection, async |moved| {
            let rejected = |HeldCommand { incoming, .. }: &HeldCommand| {
                let settlement = rejected_by_a_person(incoming, decision);
                let publications = settlement.publications(incoming, Timestamp::now());
                publications.into_iter().map(Publication::into_owned).collect()
            };
            let mut found = found;
            loop {
                let result = self.move_found(&mut found, rejected, stop, moved).await;
                found.close().await;
                if !result? {
                    return Ok(false);
                }
                found = self.find(org, requested_by, stop).await?;
                let is_old =
                    |held: &Delivery<HeldCommand>| held.message.since.is_none_or(|at| at < began);
                if !found.meant.iter().any(is_old) {
                    found.close().await;
                    return Ok(!stop.is_cancelled());
                }
            }
        })
        .await
    }

    /// Publishes what replaces each command, and removes it. Returns whether all were moved.
    ///
    /// # A held command is removed only when it is safe elsewhere
    ///
    /// The broker confirms its replacement before it is removed. A kill in between leaves both: a
    /// duplicate command, which is harmless, and no loss.
    async fn move_found(
        &self,
        found: &mut Found,
        replace: impl Fn(&HeldCommand) -> Vec<Publication<'static>>,
        stop: &CancellationToken,
        moved: &mut usize,
    ) -> Result<bool> {
        for held in found.meant.drain(..) {
            if stop.is_cancelled() {
                return Ok(false);
            }
            for publication in replace(&held.message) {
                self.publish(&publication).await?;
                if let Some(record) = publication.mirrored(self.kind) {
                    self.mirror(&record).await;
                }
            }
            *moved += 1;
            if !self.remove(held).await {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Runs between the two audit events. Returns whether it was completed.
    async fn audited(
        &self,
        event_type: &'static str,
        decision: &Decision,
        selection: serde_json::Value,
        run: impl AsyncFnOnce(&mut usize) -> Result<bool>,
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
        let mut number = 0;
        let result = run(&mut number).await;
        let is_whole = *result.as_ref().unwrap_or(&false);
        let (by, kind) = (&decision.by, self.kind);
        info!(event_type, %kind, by, number, interrupted = !is_whole, "held commands: done");
        let ended = audit(Phase::Ended, number, !is_whole).event(began, Timestamp::now());
        let told = self.publish(&ended).await;
        result.and_then(|is_whole| told.map(|()| is_whole))
    }

    /// An older topology has no mirror, and a failure to write to it stops nothing.
    async fn mirror(&self, record: &Publication<'_>) {
        match self.publisher.publish(record).await {
            Ok(()) | Err(PublishError::Returned(_)) => {}
            Err(error) => warn!("a dead letter is not in {}: {error}", self.kind.mirror()),
        }
    }

    /// Whether it is gone. If not, the connection is lost, and none of the others could be removed.
    async fn remove(&self, held: Delivery<HeldCommand>) -> bool {
        let is_gone = held.acknowledge().await;
        if !is_gone {
            warn!("a command was moved and its removal is not known: it may be there twice");
        }
        is_gone
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
