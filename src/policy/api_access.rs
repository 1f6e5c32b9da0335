//! Whether the API may be called now, for this organisation: the breaker and the organisations' circuits as one decision.
//!
//! Pure: `worker::permits` holds it behind one lock, asks [`ApiAccess::admit`] before a call and tells
//! [`ApiAccess::record`] what came of it, or [`ApiAccess::release`] that no call was made.

mod breaker;
mod last_used;
mod organisation;
mod pace;
mod permit;
mod service;
mod standing;
mod streak;
mod suspension;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use self::breaker::{Breaker, ProbeRank};
use self::last_used::LastUsed;
use self::organisation::{Organisation, SLOW_START_CALLS};
pub use self::permit::{Denied, Intake, Permit, PermitKind};
pub use self::service::{Change, Feedback, Recorded, SuspendReason};
use self::service::{Service, service};
pub use self::standing::Standing;
pub use self::streak::CommandKey;
use self::suspension::CircuitChange;
use crate::messages::OrgId;
use crate::policy::verdict::Verdict;

/// How long an organisation counts as served after a good answer.
const EVIDENCE: Duration = Duration::from_secs(10);
/// An organisation that nobody has used for this long is forgotten; what comes after begins with slow start.
const IDLE: Duration = Duration::from_mins(10);

/// The breaker and the organisations that were called lately.
///
/// # One tenant's trouble stays that tenant's
///
/// Each organisation has a circuit of its own, which is suspended when the organisation is throttled, unauthorized, failing or
/// misdirected. The breaker, which stops all, opens only when failures come from several distinct commands and no organisation is
/// served.
#[derive(Debug)]
pub struct ApiAccess {
    concurrency: usize,
    /// A suspended organisation may have commands in a delay queue for this long.
    longest_delay: Duration,
    breaker: Breaker,
    organisations: HashMap<OrgId, Organisation>,
    in_flight: usize,
    callable: usize,
    /// Those that commands have come for.
    known: HashSet<OrgId>,
    suspended: usize,
    last_used: LastUsed,
}

impl ApiAccess {
    /// Everything may be called, each organisation with slow start. `longest_delay` is that of the delay queues.
    pub fn new(concurrency: usize, longest_delay: Duration) -> Self {
        Self {
            concurrency,
            longest_delay,
            breaker: Breaker::default(),
            organisations: HashMap::new(),
            in_flight: 0,
            callable: 0,
            known: HashSet::new(),
            suspended: 0,
            last_used: LastUsed::default(),
        }
    }

    /// Only these organisations may be called from now on: the others' circuits are forgotten.
    pub fn set_organisations<'a>(&mut self, callable: impl Iterator<Item = &'a OrgId>) {
        let (mut organisations, mut known) = (HashMap::new(), HashSet::new());
        self.callable = 0;
        for org in callable {
            self.callable += 1;
            organisations.extend(self.organisations.remove_entry(org));
            known.extend(self.known.take(org));
        }
        // What is in flight comes back to a circuit that is new.
        (self.organisations, self.known) = (organisations, known);
        self.count_suspended();
    }

    /// Forgets what nobody has used for long.
    pub fn forget_idle(&mut self, now: Instant) {
        let longest_delay = self.longest_delay;
        self.organisations.retain(|_, organisation| {
            let idle = if organisation.is_suspended() { IDLE + longest_delay } else { IDLE };
            organisation.in_flight > 0
                || now.saturating_duration_since(organisation.last_used) < idle
        });
        self.count_suspended();
    }

    /// Asks for one call. `was_tried`: the command was called for before.
    ///
    /// # Errors
    /// [`Denied`] says why not, and when it may be worth asking again.
    pub fn admit(&mut self, org: &OrgId, was_tried: bool, now: Instant) -> Result<Permit, Denied> {
        let every_probe_is_welcome = self.breaker.is_open();
        let is_full = self.in_flight >= self.concurrency;
        self.last_used.note(org, now);
        let limit = self.limit(org, now);
        let organisation = self.organisation(org, now);
        organisation.last_used = now;
        let kind = organisation
            .permit_kind(every_probe_is_welcome, was_tried, now)
            .map_err(|(reason, retry_in)| Denied::Suspended { reason, retry_in })?;
        if is_full || organisation.in_flight >= limit {
            return Err(Denied::Busy);
        }
        let organisation_has_failed = organisation.is_failing() || organisation.is_suspended();
        let rank = ProbeRank { organisation_has_failed, command_was_tried: was_tried };
        let is_breaker_probe =
            self.breaker.admit(rank, now).map_err(|retry_in| Denied::BreakerOpen { retry_in })?;
        self.organisation(org, now).begin_call(kind, now);
        self.in_flight += 1;
        Ok(Permit { kind, since: now, is_breaker_probe })
    }

    /// A permitted call was not made.
    pub fn release(&mut self, org: &OrgId, permit: Permit, now: Instant) {
        self.take_back(org, permit, None, now);
    }

    /// A permitted call was answered.
    pub fn record(
        &mut self,
        org: &OrgId,
        permit: Permit,
        feedback: Feedback,
        now: Instant,
    ) -> Recorded {
        self.take_back(org, permit, Some(now.saturating_duration_since(permit.since)), now);
        let concurrency = self.concurrency;
        let organisation = self.organisation(org, now);
        let was_suspended = organisation.is_suspended();
        let is_believed =
            feedback.verdict == Verdict::UnverifiedAbsence && organisation.believes_absence();
        let circuit = organisation.record(permit.kind, &feedback, now);
        organisation.lift_window(concurrency);
        let mut changes: Vec<Change> = circuit.map(|change| change.told(now)).into_iter().collect();
        if is_believed || feedback.verdict != Verdict::UnverifiedAbsence {
            changes.extend(self.record_for_all(&feedback, was_suspended, now));
        }
        self.note(circuit);
        let is_suspended = self.organisation(org, now).is_suspended();
        Recorded { is_outage: !is_believed && (is_suspended || self.breaker.is_open()), changes }
    }

    /// # The breaker opens only when no organisation is served
    ///
    /// Once an organisation is suspended its failures count no more: it is known to fail. An organisation whose last answer was a
    /// good one, not long ago, speaks against an outage of all.
    fn record_for_all(
        &mut self,
        feedback: &Feedback,
        was_suspended: bool,
        now: Instant,
    ) -> Option<Change> {
        match service(feedback.verdict) {
            Service::Served => {
                let open_for = self.breaker.served(now)?;
                self.organisations
                    .values_mut()
                    .for_each(|organisation| organisation.probe_outage_now(now));
                Some(Change::BreakerClosed { open_for })
            }
            Service::Failed(_) if !was_suspended && self.breaker.failed(feedback.command) => {
                if self
                    .organisations
                    .values()
                    .any(|organisation| organisation.is_served(now, EVIDENCE))
                {
                    return None;
                }
                self.breaker.trip(now);
                self.organisations.values_mut().for_each(Organisation::restart_slowly);
                Some(Change::BreakerOpened)
            }
            Service::Failed(_) | Service::Denied(_) => None,
        }
    }

    fn note(&mut self, change: Option<CircuitChange>) {
        if matches!(change, Some(CircuitChange::Suspended(_))) {
            self.breaker.forget_failures();
        }
        if change.is_some() {
            self.count_suspended();
        }
    }

    /// What suspended an organisation is gone (it has a new token, say): its next call is a probe.
    pub fn probe_now(&mut self, org: &OrgId, now: Instant) {
        if let Some(organisation) = self.organisations.get_mut(org) {
            organisation.probe_now(now);
        }
    }

    /// One more command of a suspended organisation waits.
    pub fn count_waiting(&mut self, org: &OrgId) {
        if let Some(organisation) = self.organisations.get_mut(org) {
            organisation.count_waiting();
        }
    }

    /// How commands may be taken in now.
    pub fn intake(&self, now: Instant) -> Intake {
        if !self.are_all_suspended() {
            return if self.breaker.is_open() { Intake::Probing } else { Intake::Bulk };
        }
        if self.callable == 0 {
            return Intake::Paused(now + Duration::from_secs(1));
        }
        if self.known.len() < self.callable {
            return Intake::Probing;
        }
        let suspensions = self.organisations.values().filter_map(Organisation::suspension);
        let breaker = self.breaker.next_probe();
        let due = suspensions.map(|suspension| match breaker {
            Some(probe) if suspension.reason.is_outage() => probe.max(suspension.floor),
            _ => suspension.next_probe,
        });
        match due.min() {
            // Not worth to stop for less: an open breaker makes two probes a second.
            Some(due) if due > now + breaker::PROBE_INTERVAL => Intake::Paused(due),
            _ => Intake::Probing,
        }
    }

    /// Which of the organisations that have commands waiting for a place gets the next one: the one with the fewest calls in flight.
    pub fn next_in_line<'a>(
        &self,
        waiting: impl Iterator<Item = &'a OrgId>,
        now: Instant,
    ) -> Option<&'a OrgId> {
        if self.in_flight >= self.concurrency {
            return None;
        }
        let place = |org: &'a OrgId| {
            let in_flight =
                self.organisations.get(org).map_or(0, |organisation| organisation.in_flight);
            (in_flight < self.limit(org, now)).then_some((in_flight, org))
        };
        waiting.filter_map(place).min_by_key(|(in_flight, _)| *in_flight).map(|(_, org)| org)
    }

    /// Whether what waits for a place of this organisation keeps others from being seen: its answers take long.
    pub fn is_slow(&self, org: &OrgId, now: Instant) -> bool {
        self.callable > 1
            && self.organisations.get(org).is_some_and(|organisation| organisation.is_slow(now))
    }

    /// How many organisations are suspended for this.
    pub fn suspended_for(&self, reason: SuspendReason) -> usize {
        let suspensions = self.organisations.values().filter_map(Organisation::suspension);
        suspensions.filter(|suspension| suspension.reason == reason).count()
    }

    /// How many organisations may be called, suspended ones included.
    pub fn callable(&self) -> usize {
        self.callable
    }

    /// Whether every organisation that commands have come for is suspended. One that has a token and never had a command says
    /// nothing: it may be a stray file.
    pub fn are_all_suspended(&self) -> bool {
        self.callable == 0 || (!self.known.is_empty() && self.suspended >= self.known.len())
    }

    /// What `/status` shows of each organisation, in the order of their ids.
    pub fn standings(&self, now: Instant) -> BTreeMap<&OrgId, Standing> {
        self.organisations
            .iter()
            .map(|(org, organisation)| (org, organisation.standing(now)))
            .collect()
    }

    /// Since when the breaker is open.
    pub fn breaker_open_since(&self) -> Option<Instant> {
        self.breaker.open_since()
    }

    /// Calls that an organisation may have in flight.
    ///
    /// # A slow organisation does not keep the last places from the others
    ///
    /// A call cannot be taken back. So while another organisation is about, one whose calls take long leaves a quarter of the
    /// places free. One organisation alone uses all of them, and so does one that is fast.
    fn limit(&self, org: &OrgId, now: Instant) -> usize {
        let all = self.concurrency;
        let Some(organisation) = self.organisations.get(org) else {
            return SLOW_START_CALLS.min(all);
        };
        let must_share = organisation.is_slow(now) && self.last_used.is_another_about(org, now);
        organisation.limit(if must_share { all - all / 4 } else { all })
    }

    fn organisation(&mut self, org: &OrgId, now: Instant) -> &mut Organisation {
        if !self.organisations.contains_key(org) {
            self.organisations.insert(org.clone(), Organisation::new(now));
            self.known.insert(org.clone());
        }
        self.organisations.get_mut(org).expect("it has just been put there")
    }

    fn take_back(&mut self, org: &OrgId, permit: Permit, took: Option<Duration>, now: Instant) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if permit.is_breaker_probe {
            self.breaker.release_probe();
        }
        self.organisation(org, now).end_call(permit.kind, took, now);
    }

    fn count_suspended(&mut self) {
        self.suspended =
            self.organisations.values().filter(|organisation| organisation.is_suspended()).count();
    }
}

#[cfg(test)]
mod tests;
