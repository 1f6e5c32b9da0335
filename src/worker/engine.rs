//! What all commands share: the API, the credentials, the limits and the permits for calls. Tells of every change of their state.
//!
//! Used by the worker and, without any broker, by the `delete` command.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::permits::Permits;
use super::reach::ReachCache;
use super::stop::Stop;
use crate::credentials::Credentials;
use crate::health::{Component, Health};
use crate::messages::OrgId;
use crate::metrics::{Metrics, NO_TOKEN};
use crate::policy::answer::Answer;
use crate::policy::api_access::{Change, SuspendReason};
use crate::policy::clock;
use crate::policy::retry_schedule::RetrySchedule;
use crate::policy::verdict::Verdict;
use crate::spans::Spans;
use crate::tallyfy_api::TallyfyApi;

const CREDENTIALS_EVERY: Duration = Duration::from_secs(5);

/// What an engine is made of.
pub struct EngineSettings {
    /// The API.
    pub api: TallyfyApi,
    /// Tokens and the allow-list.
    pub credentials: Arc<Credentials>,
    /// Limits and waits.
    pub schedule: RetrySchedule,
    /// Calls in flight at once.
    pub concurrency: usize,
    /// Somebody looks on and waits for the end.
    pub is_attended: bool,
    /// Where spans go.
    pub spans: Spans,
}

/// The shared state of all commands.
pub struct Engine {
    pub(super) api: TallyfyApi,
    pub(super) reach: ReachCache,
    pub(super) credentials: Arc<Credentials>,
    is_clock_wrong: AtomicBool,
    /// Somebody looks on and waits: failures use up attempts in an outage too.
    pub(super) is_attended: bool,
    /// The permission to call.
    pub permits: Arc<Permits>,
    /// Limits and waits.
    pub schedule: RetrySchedule,
    /// The numbers.
    pub metrics: Arc<Metrics>,
    /// The worker's health.
    pub health: Arc<Health>,
    /// Where spans go.
    pub spans: Spans,
    /// Fires when no new call may be made.
    pub draining: CancellationToken,
}

impl Engine {
    /// An engine that has called nobody yet.
    pub fn new(settings: EngineSettings, metrics: Arc<Metrics>, health: Arc<Health>) -> Self {
        let longest_delay = settings.schedule.longest().wait();
        let engine = Self {
            api: settings.api,
            reach: ReachCache::default(),
            credentials: settings.credentials,
            is_clock_wrong: AtomicBool::new(false),
            is_attended: settings.is_attended,
            permits: Arc::new(Permits::new(settings.concurrency, longest_delay)),
            schedule: settings.schedule,
            metrics,
            health,
            spans: settings.spans,
            draining: CancellationToken::new(),
        };
        engine.take_credentials(&[]);
        engine
    }

    /// Whether an organisation may be touched.
    pub fn allows(&self, org: &OrgId) -> bool {
        self.credentials.allow(org)
    }

    /// What stops a command that came from a session, which `session_lost` tells the end of.
    pub fn stop(&self, session_lost: CancellationToken) -> Stop {
        Stop { draining: self.draining.clone(), session_lost }
    }

    /// Reads the credentials again. An organisation that has a new token is probed at once.
    pub fn reload_credentials(&self) {
        self.take_credentials(&self.credentials.reload());
    }

    fn take_credentials(&self, changed: &[OrgId]) {
        self.permits.with(|access, now| {
            let has_token = |org: &&OrgId| self.credentials.token(org).is_some();
            let orgs: Vec<OrgId> = self.credentials.with_orgs(|orgs| orgs.cloned().collect());
            access.set_organisations(orgs.iter().filter(has_token));
            access.forget_idle(now);
            for org in changed {
                access.probe_now(org, now);
            }
        });
        self.reach.keep(|org| self.allows(org));
        self.permits.has_changed();
        self.show_suspensions();
        let written =
            self.credentials.oldest_written().and_then(|time| Timestamp::try_from(time).ok());
        self.metrics
            .oldest_credential
            .set(written.map_or(0.0, |time| time.as_duration().as_secs_f64()));
    }

    /// The organisations that are allowed and have no token.
    pub(super) fn without_token(&self) -> Vec<OrgId> {
        self.credentials.missing().into_iter().map(|missing| missing.org).collect()
    }

    /// Sleeps between two tries; `false` when a drain has cut it short.
    pub async fn sleep(&self, delay: Duration) -> bool {
        tokio::select! {
            () = self.draining.cancelled() => false,
            () = tokio::time::sleep(delay) => true,
        }
    }

    /// Whether an age can be told.
    pub(super) fn is_clock_wrong(&self) -> bool {
        self.is_clock_wrong.load(Ordering::Relaxed)
    }

    /// # A worker whose clock is wrong expires nothing by age
    ///
    /// The age of a command is told by the clocks of all workers that have had it. Where ours is minutes from the API's, it is more
    /// likely wrong than the API's, and a command would expire of an age that it does not have.
    pub(super) fn compare_clocks(&self, answer: &Answer, now: Timestamp) {
        let Some(skew) = clock::skew(answer, now) else { return };
        let is_wrong = skew > clock::WRONG;
        if self.is_clock_wrong.swap(is_wrong, Ordering::Relaxed) == is_wrong {
            return;
        }
        let what =
            "clock differs from the API's by more than five minutes; nothing expires by MAX_AGE";
        if is_wrong {
            warn!(skew_s = skew.as_secs(), "the {what}: set this machine's clock (NTP)");
        } else {
            info!("the clock agrees with the API's again");
        }
        self.health.set(Component::Clock, is_wrong.then(|| format!("the {what}")));
    }

    /// Tells of what an answer has changed: log, metrics, health.
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
        // Once for each suspension, however many calls were in flight with the same token.
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
            "circuit breaker open: no organisation is served, commands are taken in as probes only; last answer was {why}"
        );
        self.metrics.breaker_open.set(1);
        self.metrics.breaker_opened.inc();
        // Without the API's own words, which may name anything.
        let status = answer
            .status()
            .map_or_else(|| answer.class().to_owned(), |status| format!("HTTP {status}"));
        let reason =
            format!("circuit breaker open, last answer was {}: {status}", verdict.as_str());
        self.health.set(Component::Breaker, Some(reason));
    }

    fn show_suspensions(&self) {
        let (counts, are_all_suspended, is_open) = self.permits.with(|access, _| {
            (
                SuspendReason::ALL.map(|reason| (reason, access.suspended_for(reason))),
                access.are_all_suspended(),
                access.breaker_open_since().is_some(),
            )
        });
        // Changes are reported outside the lock, so the last report may be an older one's.
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
            (Some(reason), true) => warn!("{reason}; commands are taken in as probes only"),
            (None, false) => {
                info!("not every organisation that has commands is suspended any more");
            }
            _ => {}
        }
        self.health.set(Component::Organisations, reason);
    }
}

/// Reads the credentials again every few seconds.
pub async fn reload_credentials(engine: Arc<Engine>) {
    loop {
        tokio::time::sleep(CREDENTIALS_EVERY).await;
        engine.reload_credentials();
    }
}

fn hint(reason: SuspendReason, verdict: Verdict) -> &'static str {
    match (reason, verdict) {
        (_, Verdict::NotReached) => {
            "the token does not reach this organisation: look at its id, and at whose token it is"
        }
        (_, Verdict::UnverifiedAbsence) => {
            "ten times in a row something that need not be the API said that a task is absent: look at TALLYFY_BASE_URL and at \
             what stands before the API"
        }
        (SuspendReason::Misdirected, _) => {
            "what answers is not the API: look at TALLYFY_BASE_URL and at what stands before the API"
        }
        (SuspendReason::Unauthorized, _) => "the token is not accepted: put a new one in its place",
        (SuspendReason::Throttled, _) => "it is called too often, by whomever",
        (SuspendReason::Failing, _) => "the API fails for it, or cannot be reached",
    }
}

/// Whole milliseconds, for logs and messages.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
