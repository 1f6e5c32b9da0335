//! Applies the decisions of `policy::api_access`: lends the permits for calls, and lets commands
//! wait for one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::sync::{oneshot, watch};

use super::stop::Stop;
use super::waiting_lines::WaitingLines;
use crate::messages::OrgId;
use crate::metrics::Label;
use crate::policy::api_access::held::{Held, LONGEST_WAIT, LOOK, ask_again_in, probe_window};
use crate::policy::api_access::rate::{RateLimits, TokenWait};
use crate::policy::api_access::{ApiAccess, Denied, Intake, Permit};

mod guards;
mod token_waits;

use self::guards::HeldGuard;
pub use self::guards::PermitGuard;

/// How long a command waits for a permit while the calls of its own organisation take long.
const PATIENCE: Duration = Duration::from_secs(2);

/// The permits of one process.
pub struct Permits {
    shared: Mutex<Shared>,
    changes: watch::Sender<()>,
    holds_all: bool,
    rate_limit_waits: Family<Label, Counter>,
}

struct Shared {
    access: ApiAccess,
    lines: WaitingLines<oneshot::Sender<PermitGuard>>,
    held: Held,
    /// A timer will look when the next token is available.
    is_timed: bool,
}

/// Why a command got no permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// See [`Stop`].
    Stopped,
    /// Its organisation is suspended, or the breaker is open.
    Denied(Denied),
    /// It has waited long enough for its organisation's slow calls: it makes way for the commands
    /// behind it.
    Crowded,
    /// The rate limit allows its call after this time, and it makes way for others meanwhile.
    RateLimited(Duration),
}

/// Facts about the command that asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PermitRequest {
    /// A call was made for it before.
    pub was_tried: bool,
    /// It was sent aside by the rate limit, and its turn has come.
    pub has_slot: bool,
}

/// The reply to a [`PermitRequest`].
enum PermitReply {
    Permitted(PermitGuard),
    InLine(oneshot::Receiver<PermitGuard>),
    Refused(Refused),
}

impl Permits {
    /// Creates this many permits. No organisation may be called until [`Permits::with`] has set
    /// them.
    pub fn new(concurrency: usize, longest_delay: Duration, limits: RateLimits) -> Self {
        let access = ApiAccess::new(concurrency, longest_delay, limits);
        let shared = Shared {
            access,
            lines: WaitingLines::new(concurrency),
            held: Held::default(),
            is_timed: false,
        };
        Self {
            shared: Mutex::new(shared),
            changes: watch::Sender::new(()),
            holds_all: false,
            rate_limit_waits: Family::default(),
        }
    }

    /// The same for a list of one organisation: no other one can be behind the waiting commands.
    #[must_use]
    pub fn holding_all(self) -> Self {
        Self { holds_all: true, ..self }
    }

    /// The same, and counts the commands that wait for a token.
    #[must_use]
    pub fn counting(self, rate_limit_waits: Family<Label, Counter>) -> Self {
        Self { rate_limit_waits, ..self }
    }

    /// Waits for permission to call.
    ///
    /// # After a session is lost, none of its commands starts a new call
    ///
    /// The broker redelivers its commands, perhaps at once. So `stop` ends the wait, and is checked
    /// last before a permit is used.
    ///
    /// # Errors
    /// [`Refused`]: then no call may be made.
    pub async fn acquire(
        self: &Arc<Self>,
        org: &OrgId,
        request: PermitRequest,
        stop: &Stop,
    ) -> Result<PermitGuard, Refused> {
        let began = Instant::now();
        let mut held = None;
        loop {
            let permitted = match self.ask(org, request) {
                PermitReply::Permitted(permit) => Some(permit),
                PermitReply::InLine(receiver) => {
                    held = None;
                    self.wait_in_line(org, receiver, began, stop).await?
                }
                PermitReply::Refused(refused) => {
                    held.get_or_insert_with(|| HeldGuard::new(self, org));
                    self.wait_for_resume(org, refused, began, stop).await?;
                    None
                }
            };
            if stop.is_requested() {
                return Err(Refused::Stopped);
            }
            if let Some(permit) = permitted {
                return Ok(permit);
            }
        }
    }

    fn ask(self: &Arc<Self>, org: &OrgId, request: PermitRequest) -> PermitReply {
        let (mut shared, now) = (self.lock(), Instant::now());
        let admitted = if shared.lines.is_empty(org) {
            shared.access.admit(org, request.was_tried, now)
        } else {
            Err(Denied::Busy)
        };
        match admitted {
            Ok(permit) => PermitReply::Permitted(self.guard(org, permit)),
            Err(Denied::Busy | Denied::RateLimited { .. }) => {
                let line = shared.lines.before(org);
                let wait = shared.access.wait_for_token(org, line, request.has_slot, now);
                self.count_wait(wait);
                if let Some(TokenWait::Aside(turn_in)) = wait {
                    return PermitReply::Refused(Refused::RateLimited(turn_in));
                }
                let (sender, receiver) = oneshot::channel();
                let may_wait = shared.lines.join(org, sender, now);
                self.look_at_the_next_token(&mut shared, now);
                if may_wait {
                    PermitReply::InLine(receiver)
                } else {
                    PermitReply::Refused(Refused::Crowded)
                }
            }
            Err(denied) => PermitReply::Refused(Refused::Denied(denied)),
        }
    }

    /// # No organisation holds up another
    ///
    /// Once a command has waited two seconds for a permit while the calls of its own organisation
    /// take long, only a few of that organisation's commands keep waiting, just enough to use its
    /// permits. The others step aside, so that the commands behind them in the queue are seen.
    /// Commands of a fast organisation are never sent aside, and nor are any if there is only one
    /// organisation.
    async fn wait_in_line(
        &self,
        org: &OrgId,
        mut receiver: oneshot::Receiver<PermitGuard>,
        began: Instant,
        stop: &Stop,
    ) -> Result<Option<PermitGuard>, Refused> {
        loop {
            tokio::select! {
                permit = &mut receiver => return Ok(permit.ok()),
                () = stop.requested() => return Err(Refused::Stopped),
                () = tokio::time::sleep(LOOK) => {}
            }
            let (mut shared, now) = (self.lock(), Instant::now());
            let waited = now.saturating_duration_since(began);
            if waited >= PATIENCE && shared.access.is_slow(org, now) {
                // A command that is cut from the line asks again, and is refused.
                shared.lines.crowded(org, now, oneshot::Sender::is_closed);
            }
            if waited >= LONGEST_WAIT {
                return Err(Refused::Crowded);
            }
        }
    }

    /// # Nothing cycles through the queues while nothing can be done
    ///
    /// While other organisations are served, a suspended organisation's command steps aside at
    /// once. While none is, the command is held here for its turn as a probe, within the bounds of
    /// [`Held`]: a copy would gain nothing. A drain sends it to a delay queue. A command that waits
    /// here is never requeued, because the broker counts that and has a limit.
    async fn wait_for_resume(
        &self,
        org: &OrgId,
        refused: Refused,
        began: Instant,
        stop: &Stop,
    ) -> Result<(), Refused> {
        let Refused::Denied(Denied::Suspended { retry_in, .. } | Denied::BreakerOpen { retry_in }) =
            refused
        else {
            return Err(refused);
        };
        let mut changes = self.changes.subscribe();
        if !self.is_worth_waiting(org, began) {
            return Err(refused);
        }
        tokio::select! {
            _ = changes.changed() => Ok(()),
            () = stop.requested() => Err(refused),
            () = tokio::time::sleep(ask_again_in(retry_in)) => Ok(()),
        }
    }

    fn is_worth_waiting(&self, org: &OrgId, began: Instant) -> bool {
        let (shared, now) = (self.lock(), Instant::now());
        let waited = now.saturating_duration_since(began);
        let callable = if self.holds_all { 1 } else { shared.access.callable() };
        shared.access.intake(now) != Intake::Bulk && shared.held.may_stay(org, waited, callable)
    }

    /// Commands that may be unacknowledged while the intake is [`Intake::Probing`].
    pub fn probe_window(&self) -> usize {
        probe_window(self.lock().access.callable())
    }

    /// How commands may be consumed now.
    pub fn intake(&self) -> Intake {
        self.lock().access.intake(Instant::now())
    }

    /// Notified whenever the intake may have changed.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Reads the state, or changes parts of it that are not about one call.
    pub fn with<T>(&self, look: impl FnOnce(&mut ApiAccess, Instant) -> T) -> T {
        look(&mut self.lock().access, Instant::now())
    }

    /// Lets waiting commands ask again after a change that did not come from an answer.
    pub fn has_changed(self: &Arc<Self>) {
        let mut shared = self.lock();
        shared.lines.forget_idle();
        self.serve_lines(&mut shared);
        drop(shared);
        self.changes.send_replace(());
    }

    fn guard(self: &Arc<Self>, org: &OrgId, permit: Permit) -> PermitGuard {
        PermitGuard { permits: Arc::clone(self), org: org.clone(), permit: Some(permit) }
    }

    /// Gives free permits to waiting commands, the organisation with the fewest calls first.
    fn serve_lines(self: &Arc<Self>, shared: &mut Shared) {
        let now = Instant::now();
        while let Some(org) = shared.access.next_in_line(shared.lines.orgs(), now).cloned() {
            match shared.access.admit(&org, false, now) {
                Ok(permit) => {
                    let handed = match shared.lines.next(&org) {
                        Some(sender) => sender.send(self.guard(&org, permit)),
                        None => Err(self.guard(&org, permit)),
                    };
                    if let Err(mut nobody_took_it) = handed {
                        nobody_took_it.permit = None;
                        shared.access.release(&org, permit, now);
                    }
                }
                // They ask again and learn why.
                Err(_) => shared.lines.dissolve(&org),
            }
        }
        self.look_at_the_next_token(shared, now);
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinHandle;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::policy::api_access::{CommandKey, Feedback, SuspendReason};
    use crate::policy::verdict::Verdict;

    const SETTLED: Duration = Duration::from_millis(100);

    fn org(id: &str) -> OrgId {
        OrgId::try_from(id.to_owned()).unwrap()
    }

    fn stop() -> Stop {
        Stop { draining: CancellationToken::new(), session_lost: CancellationToken::new() }
    }

    /// Permits for eight calls; these organisations may be called, and the first of them is
    /// suspended.
    async fn suspended(callable: &[&str], permits: Permits) -> Arc<Permits> {
        let (permits, callable) =
            (Arc::new(permits), callable.iter().copied().map(org).collect::<Vec<_>>());
        permits.with(|access, _| access.set_organisations(|_| true, callable.iter()));
        let permit =
            permits.acquire(&callable[0], PermitRequest::default(), &stop()).await.ok().unwrap();
        let feedback = Feedback {
            command: CommandKey(1),
            verdict: Verdict::Unauthorized,
            retry_after: Some(A_MINUTE),
        };
        let _ = permit.record(feedback, Instant::now());
        permits
    }

    const A_MINUTE: Duration = Duration::from_mins(1);

    type Waiting = Vec<JoinHandle<Result<(), Refused>>>;

    async fn waiting(
        number: usize,
        id: &'static str,
        permits: &Arc<Permits>,
        stop: &Stop,
    ) -> Waiting {
        let acquire = |_| {
            let (permits, stop) = (Arc::clone(permits), stop.clone());
            tokio::spawn(async move {
                permits.acquire(&org(id), PermitRequest::default(), &stop).await.map(drop)
            })
        };
        let waiting = (0..number).map(acquire).collect();
        tokio::time::sleep(SETTLED).await;
        waiting
    }

    fn still(waiting: &Waiting) -> usize {
        waiting.iter().filter(|waiting| !waiting.is_finished()).count()
    }

    fn is_denied(refused: Result<(), Refused>) -> bool {
        matches!(
            refused,
            Err(Refused::Denied(Denied::Suspended { reason: SuspendReason::Unauthorized, .. }))
        )
    }

    #[tokio::test]
    async fn of_an_organisation_that_may_not_be_called_a_few_are_held_and_the_rest_steps_aside_at_once()
     {
        let (permits, stop) = (
            suspended(&["a", "b"], Permits::new(8, A_MINUTE, RateLimits::default())).await,
            stop(),
        );
        let waiting = waiting(40, "a", &permits, &stop).await;
        assert_eq!(still(&waiting), 16);
        stop.draining.cancel();
        for refused in waiting {
            assert!(is_denied(refused.await.unwrap()), "a drain sends them aside, with the reason");
        }
        assert_eq!(permits.lock().held, Held::default());
    }

    #[tokio::test]
    async fn a_list_of_one_organisation_is_held_as_a_whole() {
        let (permits, stop) = (
            suspended(&["a", "b"], Permits::new(8, A_MINUTE, RateLimits::default()).holding_all())
                .await,
            stop(),
        );
        let waiting = waiting(40, "a", &permits, &stop).await;
        assert_eq!(still(&waiting), 40);
        stop.draining.cancel();
    }

    #[tokio::test]
    async fn while_another_organisation_is_served_nobody_is_held() {
        let (permits, stop) = (
            suspended(&["a", "b"], Permits::new(8, A_MINUTE, RateLimits::default())).await,
            stop(),
        );
        let permit =
            permits.acquire(&org("b"), PermitRequest::default(), &stop).await.ok().unwrap();
        let feedback =
            Feedback { command: CommandKey(2), verdict: Verdict::Deleted, retry_after: None };
        let _ = permit.record(feedback, Instant::now());
        assert_eq!(still(&waiting(40, "a", &permits, &stop).await), 0);
    }

    #[tokio::test]
    async fn one_who_waits_for_a_permit_is_handed_the_next_one_or_stopped() {
        let (permits, stop) = (
            suspended(&["a", "b"], Permits::new(1, A_MINUTE, RateLimits::default())).await,
            stop(),
        );
        let permit =
            permits.acquire(&org("b"), PermitRequest::default(), &stop).await.ok().unwrap();
        let in_line = waiting(3, "b", &permits, &stop).await;
        assert_eq!(still(&in_line), 3);
        drop(permit);
        tokio::time::sleep(SETTLED).await;
        assert_eq!(still(&in_line), 0, "each returns the permit for the next");
        let _permit =
            permits.acquire(&org("b"), PermitRequest::default(), &stop).await.ok().unwrap();
        let in_line = waiting(1, "b", &permits, &stop).await;
        stop.session_lost.cancel();
        for refused in in_line {
            assert_eq!(refused.await.unwrap(), Err(Refused::Stopped));
        }
    }
}
