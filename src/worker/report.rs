//! The engine's reports when an answer has changed its state: log lines, metrics and health.

use std::sync::{MutexGuard, PoisonError};

use jiff::Timestamp;
use tracing::{error, info, warn};

use super::engine::{Engine, millis};
use crate::health::Component;
use crate::kind::Kind;
use crate::messages::{OrgId, time};
use crate::metrics::NO_TOKEN;
use crate::policy::answer::Answer;
use crate::policy::api_access::{Change, SuspendReason};
use crate::policy::clock::ClockCheck;
use crate::policy::verdict::Verdict;

impl Engine {
    /// Whether our clock is wrong, so that ages are unknown.
    pub(super) fn is_clock_wrong(&self) -> bool {
        self.lock_clock().is_wrong()
    }

    /// # A worker whose clock is wrong expires nothing by age
    ///
    /// The age of a command depends on the clocks of all workers that have had it. If ours is
    /// minutes from the API's, it is more likely wrong than the API's, and commands would expire at
    /// an age that they do not have.
    pub(super) fn compare_clocks(&self, answer: &Answer, now: Timestamp) {
        let (changed, is_wrong) = {
            let mut clock = self.lock_clock();
            (clock.record(answer, now), clock.is_wrong())
        };
        let Some(skew) = changed else { return };
        let what = "clock differs from the API's by more than five minutes; nothing new is called for while the guard counts, and nothing expires by MAX_AGE";
        if is_wrong {
            warn!(skew_s = skew.as_secs(), "the {what}: set this machine's clock (NTP)");
        } else {
            info!("the clock agrees with the API's again");
        }
        self.health.set(Component::Clock, is_wrong.then(|| format!("the {what}")));
    }

    /// While our clock is wrong there are no calls for new commands whose answers could show that
    /// it is right again, so a look is made.
    pub(super) async fn look_at_the_clock(&self) {
        if !self.is_clock_wrong() {
            return;
        }
        let orgs: Vec<OrgId> = self.credentials.with_orgs(|orgs| orgs.cloned().collect());
        let with_token = orgs.into_iter().find_map(|org| {
            let token = self.credentials.token(&org)?;
            Some((org, token))
        });
        if let Some((org, token)) = with_token {
            let answer = self.api.list_tasks(&org, &token, None).await;
            self.compare_clocks(&answer, Timestamp::now());
        }
    }

    fn lock_clock(&self) -> MutexGuard<'_, ClockCheck> {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports the changes that an answer made: log, metrics, health.
    pub(super) fn report_changes(
        &self,
        org: &OrgId,
        verdict: Verdict,
        answer: &Answer,
        changes: &[Change],
    ) {
        for change in changes {
            match *change {
                Change::Suspended { reason, retry_in } => warn!(
                    org_id = %org,
                    reason = reason.as_str(),
                    http_status = answer.status(),
                    request_id = answer.request_id(),
                    retry_in_ms = millis(retry_in),
                    detail = answer.describe(),
                    hint = hint(reason, verdict),
                    "organisation suspended; its commands wait"
                ),
                Change::Resumed { reason, suspended_for, waited } => info!(
                    org_id = %org,
                    reason = reason.as_str(),
                    suspended_ms = millis(suspended_for),
                    waited,
                    "organisation resumed"
                ),
                Change::BreakerOpened => self.breaker_opened(verdict, answer),
                Change::BreakerClosed { open_for } => {
                    info!(
                        open_ms = millis(open_for),
                        "circuit breaker closed, the API answers again"
                    );
                    self.metrics.breaker_open.set(0);
                    self.health.set(Component::Breaker, None);
                }
            }
        }
        if !changes.is_empty() {
            self.show_suspensions();
        }
        // Once per suspension, however many calls were in flight with the same token.
        let is_suspended = |change: &Change| matches!(change, Change::Suspended { .. });
        if verdict == Verdict::Unauthorized && changes.iter().any(is_suspended) {
            self.reload_credentials();
        }
    }

    fn breaker_opened(&self, verdict: Verdict, answer: &Answer) {
        let why = format!("{}: {}", verdict.as_str(), answer.describe());
        error!(
            http_status = answer.status(),
            request_id = answer.request_id(),
            "circuit breaker open: no organisation is served, only probes are made; last answer was {why}"
        );
        self.metrics.breaker_open.set(1);
        self.metrics.breaker_opened.inc();
        // Without the API's message, which may contain anything.
        let status = answer
            .status()
            .map_or_else(|| answer.class().to_owned(), |status| format!("HTTP {status}"));
        let reason =
            format!("circuit breaker open, last answer was {}: {status}", verdict.as_str());
        self.health.set(Component::Breaker, Some(reason));
    }

    pub(super) fn show_suspensions(&self) {
        let (counts, are_all_suspended, is_open) = self.permits.with(|access, _| {
            (
                SuspendReason::ALL.map(|reason| (reason, access.suspended_for(reason))),
                access.are_all_suspended(),
                access.breaker_open_since().is_some(),
            )
        });
        // Changes are reported outside the lock, so the last report may be of an older change.
        self.metrics.breaker_open.set(i64::from(is_open));
        if !is_open {
            self.health.set(Component::Breaker, None);
        }
        let without_token = self.credentials.without_token();
        let counts = counts.map(|(reason, count)| (reason.as_str(), count));
        let counts = counts.into_iter().chain([(NO_TOKEN, without_token)]);
        let mut words = Vec::new();
        for (reason, count) in counts {
            self.metrics.set_suspended(reason, count);
            if count > 0 {
                words.push(format!("{reason}: {count}"));
            }
        }
        let reason = are_all_suspended.then(|| {
            format!("every organisation that has commands is suspended ({})", words.join(", "))
        });
        match (&reason, self.health.is_ready(Component::Organisations)) {
            (Some(reason), true) => warn!("{reason}"),
            (None, false) => {
                info!("not every organisation that has commands is suspended any more");
            }
            _ => {}
        }
        self.health.set(Component::Organisations, reason);
    }
}

impl Engine {
    /// Reports holds and pauses: metrics and health.
    pub(super) fn show_brakes(&self) {
        let (tripped, paused_orgs, paused_all) = self.ledger.with(|brakes| {
            let tripped: Vec<Kind> = brakes.tripped().map(|(scope, _)| scope.kind).collect();
            (tripped, brakes.paused_organisations().count(), brakes.paused_all().cloned())
        });
        for kind in Kind::ALL {
            self.metrics.set_held(kind, tripped.iter().filter(|held| **held == kind).count());
        }
        self.metrics.set_paused(paused_orgs, paused_all.is_some());
        let reason = paused_all.map(|pause| {
            let why = pause.decision.reason.map(|why| format!(": {why}")).unwrap_or_default();
            format!("paused by {} since {}{why}", pause.decision.by, time::text(pause.since))
        });
        match (&reason, self.health.is_ready(Component::Paused)) {
            (Some(reason), true) => warn!("{reason}; nothing is consumed"),
            (None, false) => info!("resumed"),
            _ => {}
        }
        self.health.set(Component::Paused, reason);
    }
}

fn hint(reason: SuspendReason, verdict: Verdict) -> &'static str {
    match (reason, verdict) {
        (_, Verdict::NotReached) => {
            "the token does not reach this organisation: check its id and the token's user"
        }
        (_, Verdict::UnverifiedAbsence) => {
            "ten times in a row something that need not be the API said that a task is absent: check TALLYFY_BASE_URL and the proxies \
             in front of the API"
        }
        (SuspendReason::Misdirected, _) => {
            "what answers is not the API: check TALLYFY_BASE_URL and the proxies in front of the API"
        }
        (SuspendReason::Unauthorized, _) => "the token is not accepted: replace it",
        (SuspendReason::Throttled, _) => "the API is rate-limiting this organisation",
        (SuspendReason::Failing, _) => "the API fails for this organisation, or cannot be reached",
    }
}
