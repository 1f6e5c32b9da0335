//! Whether the API may be called now for this organisation: the breaker and the organisations'
//! circuits in one decision.
//!
//! Pure: `worker::permits` keeps it behind one lock, calls [`ApiAccess::admit`] before a call and
//! afterwards [`ApiAccess::record`] with the result, or [`ApiAccess::release`] if no call was made.

mod breaker;
mod concurrency;
pub mod held;
mod intake;
mod last_used;
mod organisation;
mod pace;
mod permit;
pub mod rate;
mod service;
mod standing;
mod streak;
mod suspension;
mod tokens;

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use self::breaker::{Breaker, ProbeRank};
use self::last_used::LastUsed;
use self::organisation::Organisation;
pub use self::permit::{Denied, Intake, Permit, PermitKind};
use self::rate::{Bucket, RateLimits};
pub use self::service::{Change, Feedback, Recorded, SuspendReason};
use self::service::{Service, service};
pub use self::standing::Standing;
pub use self::streak::CommandKey;
use self::suspension::{CircuitChange, Suspension};
pub use self::tokens::Line;
use crate::messages::OrgId;
use crate::policy::verdict::Verdict;

/// How long an organisation counts as served after a good answer.
const EVIDENCE: Duration = Duration::from_secs(10);
/// An organisation that was not used for this long is forgotten; its next call begins with slow
/// start.
const IDLE: Duration = Duration::from_mins(10);

/// The breaker and the recently called organisations.
///
/// # One tenant's outage stays that tenant's
///
/// Each organisation has its own circuit, which is suspended when the organisation is throttled,
/// unauthorized, failing or misdirected. The breaker, which stops all, opens only when failures
/// come from several distinct commands and no organisation is served.
#[derive(Debug)]
pub struct ApiAccess {
    concurrency: usize,
    /// For how long commands of a suspended organisation may be in a delay queue.
    longest_delay: Duration,
    breaker: Breaker,
    organisations: HashMap<OrgId, Organisation>,
    in_flight: usize,
    /// Organisations that have a token now.
    callable: HashSet<OrgId>,
    /// Organisations that commands have come for.
    known: HashSet<OrgId>,
    /// How many known organisations are callable.
    called: usize,
    /// How many of those are suspended.
    suspended: usize,
    last_used: LastUsed,
    limits: RateLimits,
    /// Rate limit tokens for calls of any organisation, from the first call on.
    all_tokens: Option<Bucket>,
}

impl ApiAccess {
    /// Initially every organisation may be called, with slow start. `longest_delay` is that of the
    /// delay queues.
    pub fn new(concurrency: usize, longest_delay: Duration, limits: RateLimits) -> Self {
        Self {
            concurrency,
            longest_delay,
            breaker: Breaker::default(),
            organisations: HashMap::new(),
            in_flight: 0,
            callable: HashSet::new(),
            known: HashSet::new(),
            called: 0,
            suspended: 0,
            last_used: LastUsed::default(),
            limits,
            all_tokens: None,
        }
    }

    /// Forgets organisations that are no longer allowed. Only callable ones, which have a token,
    /// are called from now on.
    ///
    /// # A token that is missing for a moment forgets nothing
    ///
    /// An allowed organisation without a token keeps its circuit: the end of its `Retry-After`, its
    /// calls in flight, its absences without proof.
    pub fn set_organisations<'a>(
        &mut self,
        is_allowed: impl Fn(&OrgId) -> bool,
        callable: impl Iterator<Item = &'a OrgId>,
    ) {
        // If a disallowed organisation still has calls in flight, their answers come back to a new
        // circuit.
        self.organisations.retain(|org, _| is_allowed(org));
        self.known.retain(is_allowed);
        self.callable = callable.cloned().collect();
        self.count();
    }

    /// Forgets organisations that were not used for long.
    pub fn forget_idle(&mut self, now: Instant) {
        let longest_delay = self.longest_delay;
        self.organisations.retain(|_, organisation| {
            let idle = if organisation.is_suspended() { IDLE + longest_delay } else { IDLE };
            organisation.in_flight > 0
                || organisation.has_spent_tokens(now)
                || now.saturating_duration_since(organisation.last_used) < idle
        });
        self.count();
    }

    /// Asks for permission for one call. `was_tried`: a call was made for this command before.
    ///
    /// # Errors
    /// [`Denied`] says why not, and when to ask again.
    pub fn admit(&mut self, org: &OrgId, was_tried: bool, now: Instant) -> Result<Permit, Denied> {
        let every_probe_is_welcome = self.breaker.is_open();
        let is_full = self.in_flight >= self.concurrency;
        self.last_used.note(org, now);
        let limit = self.limit(org, now);
        let organisation = self.organisation(org, now);
        organisation.last_used = now;
        let kind = organisation.permit_kind(every_probe_is_welcome, was_tried, now)?;
        if is_full || organisation.in_flight >= limit {
            return Err(Denied::Busy);
        }
        let retry_in = self.token_in(org, now);
        if !retry_in.is_zero() {
            return Err(Denied::RateLimited { retry_in });
        }
        let organisation = self.organisation(org, now);
        let organisation_has_failed = organisation.is_failing() || organisation.is_suspended();
        let rank = ProbeRank { organisation_has_failed, command_was_tried: was_tried };
        let is_breaker_probe =
            self.breaker.admit(rank, now).map_err(|retry_in| Denied::BreakerOpen { retry_in })?;
        self.organisation(org, now).begin_call(kind, now);
        self.take_token(org, now);
        self.in_flight += 1;
        Ok(Permit { kind, since: now, is_breaker_probe })
    }

    /// A permitted call was not made.
    pub fn release(&mut self, org: &OrgId, permit: Permit, now: Instant) {
        self.end_call(org, permit, None, now);
        self.return_token(org, now);
    }

    /// A permitted call was answered.
    pub fn record(
        &mut self,
        org: &OrgId,
        permit: Permit,
        feedback: Feedback,
        now: Instant,
    ) -> Recorded {
        self.end_call(org, permit, Some(now.saturating_duration_since(permit.since)), now);
        let concurrency = self.concurrency;
        let organisation = self.organisation(org, now);
        let was_suspended = organisation.is_suspended();
        let is_believed =
            feedback.verdict == Verdict::UnverifiedAbsence && organisation.believes_absence();
        let circuit = organisation.record(permit.kind, &feedback, now);
        organisation.lift_window(concurrency);
        let mut changes: Vec<Change> =
            circuit.map(|change| change.to_change(now)).into_iter().collect();
        if is_believed || feedback.verdict != Verdict::UnverifiedAbsence {
            changes.extend(self.record_for_all(&feedback, was_suspended, now));
        }
        self.note(circuit);
        let is_suspended = self.organisation(org, now).is_suspended();
        Recorded { is_outage: !is_believed && (is_suspended || self.breaker.is_open()), changes }
    }

    /// # The breaker opens only when no organisation is served
    ///
    /// The failures of a suspended organisation do not count: it is known to fail. An organisation
    /// whose last answer was good and recent speaks against a general outage.
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
            self.count();
        }
    }

    /// The cause of a suspension may be gone (there is a new token, say), so the organisation's
    /// next call is a probe. But not before the end of a `Retry-After`, which applies to the
    /// organisation and not to the token.
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

    /// Whether failures are not the command's fault at the moment: its organisation is suspended,
    /// or the breaker is open.
    pub fn is_outage(&self, org: &OrgId) -> bool {
        self.breaker.is_open()
            || self.organisations.get(org).is_some_and(Organisation::is_suspended)
    }

    /// Calls in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn organisation(&mut self, org: &OrgId, now: Instant) -> &mut Organisation {
        if !self.organisations.contains_key(org) {
            let rate = self.limits.organisation;
            self.organisations.insert(org.clone(), Organisation::new(rate, now));
            let is_first = self.known.insert(org.clone());
            self.called += usize::from(is_first && self.callable.contains(org));
        }
        self.organisations.get_mut(org).expect("it has just been put there")
    }

    fn end_call(&mut self, org: &OrgId, permit: Permit, took: Option<Duration>, now: Instant) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if permit.is_breaker_probe {
            self.breaker.release_probe();
        }
        self.organisation(org, now).end_call(permit.kind, took, now);
    }

    fn with_token(&self) -> impl Iterator<Item = (&OrgId, &Organisation)> {
        self.organisations.iter().filter(|(org, _)| self.callable.contains(*org))
    }

    fn suspensions(&self) -> impl Iterator<Item = &Suspension> {
        self.with_token().filter_map(|(_, organisation)| organisation.suspension())
    }

    fn count(&mut self) {
        self.called = self.known.intersection(&self.callable).count();
        self.suspended = self.suspensions().count();
    }
}

#[cfg(test)]
mod tests;
