//! The log lines about publications that do not get through: one for the start and one for the end,
//! however often they fail and succeed in between, even across sessions.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::{error, info};

use crate::health::{Component, Health};
use crate::metrics::Metrics;

/// After this long without a failure, the outage is over.
const QUIET: Duration = Duration::from_secs(5);
/// The same if nothing was confirmed since: longer than a publish may take.
const QUIET_WITHOUT_PROOF: Duration = Duration::from_secs(20);

/// The state of a worker's publishing.
pub(super) struct PublishOutage {
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Publications that failed and are being retried.
    stuck: usize,
    /// The start has been logged, and the end has not.
    is_logged: bool,
    last_failure: Option<Instant>,
}

impl State {
    /// Whether to log the start.
    fn failed(&mut self, now: Instant) -> bool {
        self.last_failure = Some(now);
        !std::mem::replace(&mut self.is_logged, true)
    }

    fn is_quiet(&self, now: Instant, lasts: Duration) -> bool {
        let since = self.last_failure.map(|last| now.saturating_duration_since(last));
        self.stuck == 0 && since.is_none_or(|since| since >= lasts)
    }

    /// Whether to log the end.
    fn is_over(&mut self, now: Instant) -> bool {
        self.is_logged && self.is_quiet(now, QUIET) && std::mem::take(&mut self.is_logged)
    }
}

/// A publication that does not get through, until it does or is given up.
pub(super) struct Stuck(Arc<PublishOutage>);

impl PublishOutage {
    pub(super) fn new(metrics: &Arc<Metrics>, health: &Arc<Health>) -> Arc<Self> {
        let (metrics, health) = (Arc::clone(metrics), Arc::clone(health));
        Arc::new(Self { metrics, health, state: Mutex::default() })
    }

    /// A session has started: assume that publishing works, unless it did not in the previous one.
    pub(super) fn session_begins(&self) {
        if self.health.is_ready(Component::Publisher) {
            self.metrics.publisher_up.set(1);
        }
    }

    /// The broker is blocking publishers: nothing is published until it stops, and nothing has
    /// failed.
    pub(super) fn blocked(&self) {
        self.metrics.publisher_up.set(0);
    }

    /// A publication has failed for the first time.
    pub(super) fn begin(self: &Arc<Self>, what: &str) -> Stuck {
        self.lock().stuck += 1;
        self.failed(what);
        Stuck(Arc::clone(self))
    }

    fn failed(&self, what: &str) {
        let is_news = self.lock().failed(Instant::now());
        if is_news {
            error!("{what}; nothing is acknowledged until this succeeds");
        }
        if self.health.is_ready(Component::Publisher) {
            self.metrics.publisher_up.set(0);
            self.health.set(Component::Publisher, Some(what.to_owned()));
        }
    }

    /// A publication was confirmed at the first attempt.
    pub(super) fn confirmed(self: &Arc<Self>) {
        if !self.health.is_ready(Component::Publisher) && self.lock().stuck == 0 {
            self.works();
        }
    }

    fn works(self: &Arc<Self>) {
        self.metrics.publisher_up.set(1);
        self.health.set(Component::Publisher, None);
        let outage = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(QUIET).await;
            if outage.lock().is_over(Instant::now()) {
                info!("publishing works again");
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stuck {
    /// It has failed again.
    pub(super) fn failed_again(&self, what: &str) {
        self.0.failed(what);
    }

    /// It got through.
    pub(super) fn confirmed(self) {
        let outage = Arc::clone(&self.0);
        drop(self);
        outage.confirmed();
    }
}

impl Drop for Stuck {
    /// # A worker does not stay unready because of a publication that no longer exists
    ///
    /// If its session was lost, its command may go to another worker. Then there may be nothing
    /// left to prove that publishing works.
    fn drop(&mut self) {
        let outage = Arc::clone(&self.0);
        outage.lock().stuck -= 1;
        tokio::spawn(async move {
            tokio::time::sleep(QUIET_WITHOUT_PROOF).await;
            let is_quiet = outage.lock().is_quiet(Instant::now(), QUIET_WITHOUT_PROOF);
            if is_quiet && !outage.health.is_ready(Component::Publisher) {
                outage.works();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_and_successes_in_turn_are_one_line_and_its_end_another() {
        let (mut state, begin) = (State::default(), Instant::now());
        let at = |tenths: u64| begin + Duration::from_millis(100 * tenths);
        assert!(state.failed(at(0)));
        for tenth in 1..30 {
            assert!(!state.is_over(at(tenth)), "too early");
            assert!(!state.failed(at(tenth)), "logged already");
        }
        assert!(!state.is_over(at(78)));
        state.stuck = 1;
        assert!(!state.is_over(at(200)), "one is still being tried");
        state.stuck = 0;
        assert!(state.is_over(at(200)));
        assert!(!state.is_over(at(300)), "logged already");
        assert!(state.failed(at(301)), "an outage of its own");
    }

    #[tokio::test]
    async fn publishing_works_when_nothing_is_stuck_and_something_was_confirmed() {
        let (metrics, health) = (Arc::new(Metrics::default()), Arc::new(Health::default()));
        let outage = PublishOutage::new(&metrics, &health);
        let stuck = outage.begin("cannot publish to task.events: no confirm");
        stuck.failed_again("cannot publish to task.events: no confirm");
        assert!(!health.is_ready(Component::Publisher));
        let other = outage.begin("cannot publish to task.dlx: no confirm");
        other.confirmed();
        assert!(!health.is_ready(Component::Publisher), "one is still stuck");
        drop(stuck);
        assert!(!health.is_ready(Component::Publisher), "nothing proves that it works");
        outage.confirmed();
        assert!(health.is_ready(Component::Publisher));
    }
}
