//! What all commands share: the API, the credentials, the limits, the breaker, the gates, and the places for calls.
//!
//! Used by the worker and, without any broker, by the `delete` command.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::call::{Call, Pass};
use crate::credentials::Credentials;
use crate::health::{Health, Part};
use crate::messages::OrgId;
use crate::metrics::Metrics;
use crate::policy::answer::Answer;
use crate::policy::circuit_breaker::{BreakerSettings, Change, CircuitBreaker};
use crate::policy::org_gate::{Closed, Held, Lesson, OrgGates, Permit, Why};
use crate::policy::retry_after;
use crate::policy::retry_schedule::RetrySchedule;
use crate::policy::verdict::Verdict;
use crate::spans::Spans;
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
    /// Where spans go.
    pub spans: Spans,
}

/// The shared state of all commands in hand.
pub struct Engine {
    pub(super) api: TallyfyApi,
    credentials: Arc<Credentials>,
    breaker: Mutex<CircuitBreaker>,
    gates: Mutex<OrgGates>,
    places: Semaphore,
    /// Notified when a trial's call has ended.
    trials: watch::Sender<()>,
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
    /// Notified when no command may be tried for a while: see [`Engine::paused_until`].
    pub pause_begins: Notify,
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

/// One of the places for calls.
pub type Place<'a> = SemaphorePermit<'a>;

impl Engine {
    /// An engine with a closed breaker and open gates.
    pub fn new(settings: EngineSettings, metrics: Arc<Metrics>, health: Arc<Health>) -> Self {
        let engine = Self {
            api: settings.api,
            credentials: settings.credentials,
            breaker: Mutex::new(CircuitBreaker::new(settings.breaker)),
            gates: Mutex::default(),
            places: Semaphore::new(settings.concurrency),
            trials: watch::Sender::new(()),
            schedule: settings.schedule,
            metrics,
            health,
            spans: settings.spans,
            draining: CancellationToken::new(),
            pause_begins: Notify::new(),
        };
        engine.tell_age_of_credentials();
        engine
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

    /// Waits for one of the places for calls.
    ///
    /// # Errors
    /// [`Hold::Draining`].
    pub async fn place(&self) -> Result<Place<'_>, Hold> {
        tokio::select! {
            biased;
            () = self.draining.cancelled() => Err(Hold::Draining),
            place = self.places.acquire() => place.map_err(|_| Hold::Draining),
        }
    }

    /// Asks for permission to call the API for this organisation now.
    ///
    /// # Errors
    /// [`Hold`]: then no call may be made.
    pub fn may_call<'a>(&'a self, org: &'a OrgId, place: Place<'a>) -> Result<Call<'a>, Hold> {
        let token = self.credentials.token(org).ok_or(Hold::NoCredential)?;
        let now = Instant::now();
        let mut breaker = lock(&self.breaker);
        // A probe of the breaker must not be spent on a closed gate, nor a gate's on an open breaker.
        if breaker.next_probe().is_some_and(|at| at > now) {
            return Err(Hold::BreakerOpen);
        }
        let permit = lock(&self.gates).may_call(org, now).map_err(Hold::Org)?;
        let allowed = breaker.may_call(now);
        drop(breaker);
        let pass = Pass { engine: self, org, permit: Some(permit) };
        if allowed { Ok(Call { pass, token, place }) } else { Err(Hold::BreakerOpen) }
    }

    /// Waits until the answer of a trial may have changed what a gate says; `false` when `longest` was not enough.
    pub async fn trial_moves(&self, mut trials: watch::Receiver<()>, longest: Duration) -> bool {
        tokio::select! {
            () = self.draining.cancelled() => true,
            moved = timeout(longest, trials.changed()) => moved.is_ok(),
        }
    }

    /// To be taken before [`Engine::may_call`] is asked, for [`Engine::trial_moves`].
    pub fn trials(&self) -> watch::Receiver<()> {
        self.trials.subscribe()
    }

    /// When a command may be tried again, where now none may: the breaker is open, or every organisation is held.
    pub fn paused_until(&self) -> Option<Instant> {
        self.next_probe()
            .or_else(|| self.credentials.with_orgs(|orgs| lock(&self.gates).all_closed_until(orgs)))
    }

    /// Reads the credentials again. An organisation that has a new token is probed at once.
    pub fn reload_credentials(&self) {
        let now = Instant::now();
        for org in self.credentials.reload() {
            lock(&self.gates).probe_now(&org, now);
        }
        self.tell_age_of_credentials();
    }

    fn tell_age_of_credentials(&self) {
        let written = self.credentials.oldest_written().and_then(|time| Timestamp::try_from(time).ok());
        self.metrics.oldest_credential.set(written.map_or(0.0, |time| time.as_duration().as_secs_f64()));
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

    pub(super) fn learn(&self, mut pass: Pass<'_>, verdict: Verdict, answer: &Answer) {
        self.tell_breaker(pass.org, verdict, answer);
        let has_closed = pass.end(match verdict {
            Verdict::Throttled => Lesson::Held(Why::Throttled, floor(answer, Timestamp::now())),
            Verdict::Unauthorized => Lesson::Held(Why::Unauthorized, None),
            world if world.counts_toward_the_breaker() => Lesson::Nothing,
            _ => Lesson::Works,
        });
        // Once for all the calls that were under way with the same token.
        if verdict == Verdict::Unauthorized && has_closed {
            self.reload_credentials();
        }
    }

    fn tell_breaker(&self, org: &OrgId, verdict: Verdict, answer: &Answer) {
        let (mut breaker, now) = (lock(&self.breaker), Instant::now());
        let change = if verdict.counts_toward_the_breaker() {
            breaker.on_failure(org, now)
        } else {
            breaker.on_success(org, now)
        };
        match change {
            Some(Change::Opened) => {
                let why = format!("{verdict}: {}", answer.describe(), verdict = verdict.as_str());
                error!("circuit breaker open, no more commands are taken in; last answer was {why}");
                self.metrics.breaker_open.set(1);
                self.metrics.breaker_opened.inc();
                self.health.set(Part::Breaker, Some(format!("circuit breaker open, last answer was {why}")));
                lock(&self.gates).forget_open();
                self.pause_begins.notify_one();
            }
            Some(Change::Closed) => {
                info!("circuit breaker closed, the API answers again");
                self.metrics.breaker_open.set(0);
                self.health.set(Part::Breaker, None);
            }
            None => {}
        }
    }

    /// Whether the gate has closed now.
    pub(super) fn take_back(&self, org: &OrgId, permit: Permit, lesson: Lesson) -> bool {
        let closed = lock(&self.gates).ended(org, permit, lesson, Instant::now());
        if let Some(Closed { wait, why }) = closed {
            warn!(org_id = %org, wait_ms = millis(wait), reason = why.as_str(), "organisation held");
            if self.paused_until().is_some() {
                self.pause_begins.notify_one();
            }
        }
        if permit != Permit::Free || closed.is_some() {
            self.trials.send_replace(());
            let gates = lock(&self.gates);
            for why in Why::ALL {
                self.metrics.set_held(why.as_str(), gates.closed(why));
            }
        }
        closed.is_some()
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
