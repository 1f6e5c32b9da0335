//! What all commands share: the API, the credentials, the limits, the breaker, the gates, and the places for calls.
//!
//! Used by the worker and, without any broker, by the `delete` command.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use secrecy::SecretString;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::credentials::Credentials;
use crate::health::{Health, Part};
use crate::messages::{Command, OrgId};
use crate::metrics::Metrics;
use crate::policy::answer::Answer;
use crate::policy::circuit_breaker::{BreakerSettings, Change, CircuitBreaker};
use crate::policy::org_gate::{Held, OrgGates};
use crate::policy::retry_after;
use crate::policy::retry_schedule::RetrySchedule;
use crate::policy::verdict::{Verdict, decide};
use crate::seams::{self, Seam};
use crate::tallyfy_api::TallyfyApi;

/// What an engine is made of.
pub struct EngineSettings {
    /// The API.
    pub api: TallyfyApi,
    /// Tokens and the allow-list.
    pub credentials: Arc<Credentials>,
    /// Limits and waits.
    pub schedule: RetrySchedule,
    /// When the breaker trips.
    pub breaker: BreakerSettings,
    /// Calls in flight at once.
    pub concurrency: usize,
}

/// The shared state of all commands in hand.
pub struct Engine {
    api: TallyfyApi,
    credentials: Arc<Credentials>,
    breaker: Mutex<CircuitBreaker>,
    gates: Mutex<OrgGates>,
    places: Semaphore,
    probe_lease: Duration,
    /// Limits and waits.
    pub schedule: RetrySchedule,
    /// The numbers.
    pub metrics: Arc<Metrics>,
    /// The worker's health.
    pub health: Arc<Health>,
    /// Fires when no new call may be made.
    pub draining: CancellationToken,
    /// Notified when the breaker opens.
    pub breaker_opened: Notify,
}

/// Why no call may be made now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// The worker is about to end.
    Draining,
    /// The API fails for everybody.
    BreakerOpen,
    /// The organisation is throttled or unauthorized.
    Org(Held),
    /// Its token has just been taken away.
    NoCredential,
}

/// The permission for one call; holds one of the places.
pub struct Call<'a> {
    engine: &'a Engine,
    token: Arc<SecretString>,
    _place: SemaphorePermit<'a>,
}

impl Engine {
    /// An engine with a closed breaker and open gates.
    pub fn new(settings: EngineSettings, metrics: Arc<Metrics>, health: Arc<Health>) -> Self {
        Self {
            api: settings.api,
            credentials: settings.credentials,
            breaker: Mutex::new(CircuitBreaker::new(settings.breaker)),
            gates: Mutex::default(),
            places: Semaphore::new(settings.concurrency),
            probe_lease: settings.breaker.probe_lease,
            schedule: settings.schedule,
            metrics,
            health,
            draining: CancellationToken::new(),
            breaker_opened: Notify::new(),
        }
    }

    /// Whether an organisation may be touched.
    pub fn allows(&self, org: &OrgId) -> bool {
        self.credentials.allow(org)
    }

    /// How old a command may be now.
    ///
    /// # A breaker that is open never dead-letters anything for its age
    ///
    /// The age is the outage's doing then. The command may be the next probe instead; what is too old when the breaker
    /// has closed has outlived its limits.
    pub fn max_age(&self) -> Duration {
        if self.next_probe().is_some() { Duration::MAX } else { self.schedule.max_age }
    }

    /// Waits for a place and asks for permission to call the API for this organisation now.
    ///
    /// # Errors
    /// [`Hold`]: then no call may be made.
    pub async fn may_call(&self, org: &OrgId) -> Result<Call<'_>, Hold> {
        let place = tokio::select! {
            biased;
            () = self.draining.cancelled() => return Err(Hold::Draining),
            place = self.places.acquire() => place.map_err(|_| Hold::Draining)?,
        };
        let token = self.credentials.token(org).ok_or(Hold::NoCredential)?;
        self.ask_breaker_and_gate(org)?;
        Ok(Call { engine: self, token, _place: place })
    }

    // A probe of the breaker must not be spent on a closed gate, nor a gate's on an open breaker.
    fn ask_breaker_and_gate(&self, org: &OrgId) -> Result<(), Hold> {
        let now = Instant::now();
        let mut breaker = lock(&self.breaker);
        if breaker.next_probe().is_some_and(|at| at > now) {
            return Err(Hold::BreakerOpen);
        }
        lock(&self.gates).may_call(org, now, self.probe_lease).map_err(Hold::Org)?;
        if breaker.may_call(now) { Ok(()) } else { Err(Hold::BreakerOpen) }
    }

    /// When the breaker's next probe is due; `None` while it is closed.
    pub fn next_probe(&self) -> Option<Instant> {
        lock(&self.breaker).next_probe()
    }

    /// Sleeps between two tries; `false` when a drain has cut it short.
    pub async fn sleep(&self, delay: Duration) -> bool {
        tokio::select! {
            () = self.draining.cancelled() => false,
            () = tokio::time::sleep(delay) => true,
        }
    }

    fn learn(&self, org: &OrgId, verdict: Verdict, answer: &Answer) {
        self.tell_breaker(verdict, answer);
        match verdict {
            Verdict::Throttled => self.close_gate(org, floor(answer, Timestamp::now()), "throttled"),
            Verdict::Unauthorized => {
                self.credentials.reload();
                self.close_gate(org, None, "unauthorized: its token is not accepted");
            }
            world if world.counts_toward_the_breaker() => {}
            _ => lock(&self.gates).open(org, Instant::now()),
        }
        self.metrics.gates_closed.set(i64::try_from(lock(&self.gates).closed()).unwrap_or(i64::MAX));
    }

    fn tell_breaker(&self, verdict: Verdict, answer: &Answer) {
        let mut breaker = lock(&self.breaker);
        let change = if verdict.counts_toward_the_breaker() {
            breaker.on_failure(Instant::now())
        } else {
            breaker.on_success()
        };
        match change {
            Some(Change::Opened) => {
                let why = format!("{verdict}: {}", answer.describe(), verdict = verdict.as_str());
                error!("circuit breaker open, no more commands are taken in; last answer was {why}");
                self.metrics.breaker_open.set(1);
                self.health.set(Part::Breaker, Some(format!("circuit breaker open, last answer was {why}")));
                self.breaker_opened.notify_one();
            }
            Some(Change::Closed) => {
                info!("circuit breaker closed, the API answers again");
                self.metrics.breaker_open.set(0);
                self.health.set(Part::Breaker, None);
            }
            None => {}
        }
    }

    fn close_gate(&self, org: &OrgId, wait: Option<Duration>, why: &str) {
        let closed = lock(&self.gates).close(org, wait, Instant::now());
        if closed.is_news {
            warn!(org_id = %org, wait_ms = millis(closed.wait), "organisation held: {why}");
        }
    }
}

impl Call<'_> {
    /// Makes the call and lets breaker, gates and metrics learn from its answer.
    pub async fn make(self, command: &Command) -> (Answer, Verdict) {
        let engine = self.engine;
        let in_flight = InFlight::new(engine);
        let started = Instant::now();
        seams::pass(Seam::BeforeCall).await;
        let answer = engine.api.delete(&command.org_id, &command.task_id, &self.token).await;
        seams::pass(Seam::AfterCall).await;
        drop(in_flight);
        let verdict = decide(&answer);
        engine.metrics.count_call(verdict, answer.class(), started.elapsed());
        engine.learn(&command.org_id, verdict, &answer);
        (answer, verdict)
    }
}

struct InFlight<'a>(&'a Engine);

impl<'a> InFlight<'a> {
    fn new(engine: &'a Engine) -> Self {
        engine.metrics.calls_in_flight.inc();
        Self(engine)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.metrics.calls_in_flight.dec();
    }
}

/// The answer's `Retry-After`, where it has one that makes sense.
pub fn floor(answer: &Answer, now: Timestamp) -> Option<Duration> {
    match answer {
        Answer::Status(response) => {
            retry_after::floor(response.retry_after.as_deref(), response.date.as_deref(), now)
        }
        _ => None,
    }
}

/// Whole milliseconds, for logs and messages.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
