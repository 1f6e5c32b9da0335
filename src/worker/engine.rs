//! The state that all commands share: the API, the credentials, the limits and the permits for
//! calls. Reports every change of that state.
//!
//! Used by the worker and, without any broker, by the `delete` command.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use secrecy::SecretString;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use super::audit_log::AuditLog;
use super::ledger::Ledger;
use super::permits::Permits;
use super::reach::ReachCache;
use super::stop::Stop;
use crate::credentials::Credentials;
use crate::health::Health;
use crate::messages::OrgId;
use crate::messages::ledger::GuardLimit;
use crate::metrics::Metrics;
use crate::policy::api_access::rate::RateLimits;
use crate::policy::clock::ClockCheck;
use crate::policy::dry_run::CallMode;
use crate::policy::producers::Producers;
use crate::policy::retry_schedule::RetrySchedule;
use crate::policy::undo::DeleteMode;
use crate::spans::Spans;
use crate::tallyfy_api::{DestructiveApi, TallyfyApi};

/// How often the worker's loop reports that it is alive.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(1);
const CREDENTIALS_EVERY: Duration = Duration::from_secs(5);

/// The parts of an engine.
pub struct EngineSettings {
    /// The API.
    pub api: TallyfyApi,
    /// Tokens and the allow-list.
    pub credentials: Arc<Credentials>,
    /// Limits and waits.
    pub schedule: RetrySchedule,
    /// Calls in flight at once.
    pub concurrency: usize,
    /// How often the API may be called.
    pub limits: RateLimits,
    /// Whether anything is destroyed.
    pub mode: CallMode,
    /// What `task.delete` does.
    pub delete_mode: DeleteMode,
    /// The limit of the mass-deletion guard; `None` if it is off.
    pub guard: Option<GuardLimit>,
    /// A person is waiting for the end; there is no broker, and so no ledger.
    pub is_attended: bool,
    /// Which producers may ask for what.
    pub producers: Producers,
    /// Where spans go.
    pub spans: Spans,
}

/// The shared state of all commands.
pub struct Engine {
    pub(super) api: TallyfyApi,
    /// None in a dry run.
    pub(super) destructive_api: Option<DestructiveApi>,
    pub(super) reach: ReachCache,
    pub(super) ledger: Ledger,
    pub(super) audit: AuditLog,
    pub(super) credentials: Arc<Credentials>,
    pub(super) delete_mode: DeleteMode,
    pub(super) producers: Producers,
    pub(super) clock: Mutex<ClockCheck>,
    /// A person is waiting: failures use up attempts even in an outage.
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
    /// An engine that has made no call yet.
    pub fn new(settings: EngineSettings, metrics: Arc<Metrics>, health: Arc<Health>) -> Self {
        let longest_delay = settings.schedule.longest().wait();
        let permits = Permits::new(settings.concurrency, longest_delay, settings.limits)
            .counting(metrics.rate_limit_waits.clone());
        let engine = Self {
            destructive_api: settings.api.destructive(settings.mode),
            api: settings.api,
            reach: ReachCache::default(),
            ledger: if settings.is_attended { Ledger::none() } else { Ledger::new(settings.guard) },
            audit: AuditLog::default(),
            credentials: settings.credentials,
            delete_mode: settings.delete_mode,
            producers: settings.producers,
            clock: Mutex::default(),
            is_attended: settings.is_attended,
            permits: Arc::new(if settings.is_attended { permits.holding_all() } else { permits }),
            schedule: settings.schedule,
            metrics,
            health,
            spans: settings.spans,
            draining: CancellationToken::new(),
        };
        engine.metrics.set_server(engine.api.base_url().into());
        engine.metrics.dry_run.set(i64::from(engine.mode() == CallMode::Look));
        engine.take_credentials(&[]);
        engine
    }

    /// Whether anything is destroyed.
    pub fn mode(&self) -> CallMode {
        if self.destructive_api.is_some() { CallMode::Destroy } else { CallMode::Look }
    }

    /// Whether an organisation may be touched.
    pub fn allows(&self, org: &OrgId) -> bool {
        self.credentials.allow(org)
    }

    /// The current token for an organisation, to compare with a later one.
    pub fn token(&self, org: &OrgId) -> Option<Arc<SecretString>> {
        self.credentials.token(org)
    }

    /// The stop signals for a command from a session, whose end `session_lost` announces.
    pub fn stop(&self, session_lost: CancellationToken) -> Stop {
        Stop { draining: self.draining.clone(), session_lost }
    }

    /// The waiting person has interrupted the list, or none of it can succeed.
    pub(super) fn is_attended_and_draining(&self) -> bool {
        self.is_attended && self.draining.is_cancelled()
    }

    /// Reads the credentials again. An organisation with a new token is probed at once.
    pub fn reload_credentials(&self) {
        self.take_credentials(&self.credentials.reload());
    }

    fn take_credentials(&self, changed: &[OrgId]) {
        self.permits.with(|access, now| {
            let has_token = |org: &&OrgId| self.credentials.token(org).is_some();
            let orgs: Vec<OrgId> = self.credentials.with_orgs(|orgs| orgs.cloned().collect());
            access.set_organisations(|org| self.allows(org), orgs.iter().filter(has_token));
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

    /// The allowed organisations without a token.
    pub(super) fn without_token(&self) -> Vec<OrgId> {
        self.credentials.missing().into_iter().map(|missing| missing.org).collect()
    }

    /// Keeps the heartbeat going while the worker's loop waits for work that consists of bounded
    /// steps: a loop is not hanging just because the broker answers many requests slowly.
    pub(super) async fn alive_while<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        let mut heartbeats = interval(HEARTBEAT);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                _ = heartbeats.tick() => self.health.heartbeat(),
            }
        }
    }

    /// Sleeps between two tries; `false` if a drain cut it short.
    pub async fn sleep(&self, delay: Duration) -> bool {
        tokio::select! {
            () = self.draining.cancelled() => false,
            () = tokio::time::sleep(delay) => true,
        }
    }
}

/// Reads the credentials again every few seconds.
pub async fn reload_credentials(engine: Arc<Engine>) {
    loop {
        tokio::time::sleep(CREDENTIALS_EVERY).await;
        engine.reload_credentials();
        engine.look_at_the_clock().await;
    }
}

/// Whole milliseconds, for logs and messages.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(super) mod samples {
    use super::*;
    use crate::credentials::CredentialsSource;
    use crate::policy::retry_schedule::RetryDelays;
    use crate::tallyfy_api::ApiSettings;

    /// An engine for the organisations `a` and `b`, with an unreachable API.
    pub(crate) fn engine() -> Engine {
        crate::tls_provider::install();
        let base_url = "http://127.0.0.1:9/api".parse().unwrap();
        let request_timeout = Duration::from_secs(1);
        let api =
            TallyfyApi::new(&ApiSettings { base_url, request_timeout, proxy: None, ca_file: None });
        let orgs = ["a", "b"].map(|org| OrgId::try_from(org.to_owned()).unwrap()).to_vec();
        let source = CredentialsSource::Fixed { orgs, token: "t".into() };
        let delays =
            RetryDelays::new(vec![Duration::from_secs(5), Duration::from_mins(1)]).unwrap();
        let settings = EngineSettings {
            api: api.unwrap(),
            credentials: Arc::new(Credentials::load(source).unwrap()),
            schedule: RetrySchedule { max_attempts: 20, max_age: Duration::from_hours(24), delays },
            concurrency: 1,
            limits: RateLimits::default(),
            mode: CallMode::Destroy,
            delete_mode: DeleteMode::Delete,
            guard: None,
            is_attended: false,
            producers: Producers::default(),
            spans: Spans::default(),
        };
        Engine::new(settings, Arc::new(Metrics::default()), Arc::new(Health::default()))
    }
}
