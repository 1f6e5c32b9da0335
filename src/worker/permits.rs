//! Carries out what `policy::api_access` decides: lends the permits for calls, and lets commands wait for one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use super::stop::Stop;
use super::waiting_lines::WaitingLines;
use crate::messages::OrgId;
use crate::policy::api_access::{ApiAccess, Denied, Feedback, Intake, Recorded, SuspendReason};
use crate::policy::api_access::{Permit, PermitKind};

/// How long a command waits for a place while the calls of its own organisation take long.
const PATIENCE: Duration = Duration::from_secs(2);
/// No wait in memory comes near `RabbitMQ`'s consumer timeout of 30 minutes, nor the alert for a command that is stuck.
const LONGEST_WAIT: Duration = Duration::from_mins(5);
/// How often one who waits looks around.
const LOOK: Duration = Duration::from_millis(500);
/// Commands that wait in memory for a probe, where several organisations may be called.
const WIDE_WINDOW: usize = 512;
/// The same with one organisation: nothing better can be behind them.
const NARROW_WINDOW: usize = 16;

/// The permits of one process.
pub struct Permits {
    shared: Mutex<Shared>,
    changes: watch::Sender<()>,
    held: AtomicUsize,
}

struct Shared {
    access: ApiAccess,
    lines: WaitingLines<oneshot::Sender<PermitGuard>>,
}

/// Why a command got no permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// See [`Stop`].
    Stopped,
    /// Its organisation is suspended.
    Suspended(SuspendReason, Duration),
    /// The breaker is open.
    BreakerOpen(Duration),
    /// It has waited long enough for its organisation's slow calls: what stands behind it shall be seen.
    Crowded,
}

enum Asked {
    Permitted(PermitGuard),
    InLine(oneshot::Receiver<PermitGuard>),
    Refused(Refused),
}

impl Permits {
    /// So many permits; nobody may be called until [`Permits::with`] has set the organisations.
    pub fn new(concurrency: usize, longest_delay: Duration) -> Self {
        let access = ApiAccess::new(concurrency, longest_delay);
        let shared = Shared { access, lines: WaitingLines::new(concurrency) };
        Self {
            shared: Mutex::new(shared),
            changes: watch::Sender::new(()),
            held: AtomicUsize::new(0),
        }
    }

    /// Waits for the permission to call. `was_tried`: the command was called for before.
    ///
    /// # When a session is lost nothing of it begins a new call
    ///
    /// The broker delivers its commands again, perhaps at once: `stop` ends the waiting, and is asked last before a permit is used.
    ///
    /// # Errors
    /// [`Refused`]: then no call may be made.
    pub async fn acquire(
        self: &Arc<Self>,
        org: &OrgId,
        was_tried: bool,
        stop: &Stop,
    ) -> Result<PermitGuard, Refused> {
        let began = Instant::now();
        loop {
            let permitted = match self.ask(org, was_tried) {
                Asked::Permitted(permit) => Some(permit),
                Asked::InLine(receiver) => self.wait_in_line(org, receiver, began, stop).await?,
                Asked::Refused(refused) => {
                    self.wait_for_better(refused, began, stop).await?;
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

    fn ask(self: &Arc<Self>, org: &OrgId, was_tried: bool) -> Asked {
        let (mut shared, now) = (self.lock(), Instant::now());
        let admitted = if shared.lines.is_empty(org) {
            shared.access.admit(org, was_tried, now)
        } else {
            Err(Denied::Busy)
        };
        match admitted {
            Ok(permit) => Asked::Permitted(self.guard(org, permit)),
            Err(Denied::Suspended { reason, retry_in }) => {
                Asked::Refused(Refused::Suspended(reason, retry_in))
            }
            Err(Denied::BreakerOpen { retry_in }) => Asked::Refused(Refused::BreakerOpen(retry_in)),
            Err(Denied::Busy) => {
                let (sender, receiver) = oneshot::channel();
                let may_wait = shared.lines.join(org, sender, now);
                if may_wait { Asked::InLine(receiver) } else { Asked::Refused(Refused::Crowded) }
            }
        }
    }

    /// # No organisation holds up another
    ///
    /// When a command has waited two seconds for a place, while the calls of its own organisation take long, only a few of that
    /// organisation go on waiting, just enough to use its places. The others step aside, so that what stands behind them in the
    /// queue is seen. One that is fast is never sent aside, nor is anyone where there is but one organisation.
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
                // Who is cut off the line asks again, and is refused.
                shared.lines.crowded(org, now, oneshot::Sender::is_closed);
            }
            if waited >= LONGEST_WAIT {
                return Err(Refused::Crowded);
            }
        }
    }

    /// # Nothing cycles through the queues while nothing can be done
    ///
    /// While others are served the command of a suspended organisation steps aside at once. While nobody is, it waits here for its
    /// turn as a probe: a copy would bring nothing. Only where so many wait that others cannot be seen behind them, and others may
    /// fare better, those that have waited longest make room.
    async fn wait_for_better(
        &self,
        refused: Refused,
        began: Instant,
        stop: &Stop,
    ) -> Result<(), Refused> {
        let (Refused::Suspended(_, retry_in) | Refused::BreakerOpen(retry_in)) = refused else {
            return Err(refused);
        };
        let mut changes = self.changes.subscribe();
        let _held = Held::new(&self.held);
        if !self.is_worth_waiting(began) {
            return Err(refused);
        }
        tokio::select! {
            _ = changes.changed() => {}
            () = stop.requested() => {}
            () = tokio::time::sleep(retry_in.clamp(Duration::from_millis(10), LOOK)) => {}
        }
        Ok(())
    }

    fn is_worth_waiting(&self, began: Instant) -> bool {
        let (shared, now) = (self.lock(), Instant::now());
        let access = &shared.access;
        let open_for = access
            .breaker_open_since()
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        // The longer it lasts the less is to be gained by looking further.
        let patience = PATIENCE + (open_for / 20).min(PATIENCE * 10);
        let makes_room =
            access.callable() > 1 && self.held.load(Ordering::SeqCst) >= WIDE_WINDOW * 3 / 4;
        let longest = if makes_room { patience } else { LONGEST_WAIT };
        access.intake(now) != Intake::Bulk && now.saturating_duration_since(began) < longest
    }

    /// Commands that may be unacknowledged while the intake is [`Intake::Probing`].
    pub fn probe_window(&self) -> usize {
        if self.lock().access.callable() > 1 { WIDE_WINDOW } else { NARROW_WINDOW }
    }

    /// How commands may be taken in now.
    pub fn intake(&self) -> Intake {
        self.lock().access.intake(Instant::now())
    }

    /// Notified whenever the intake may have changed.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Looks at the state, or changes what is not about one call.
    pub fn with<T>(&self, look: impl FnOnce(&mut ApiAccess, Instant) -> T) -> T {
        look(&mut self.lock().access, Instant::now())
    }

    /// Lets those who wait ask again, after a change that no answer has made.
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

    /// Hands free places to those who wait, the organisation with the fewest calls first.
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
                // They ask again, and learn why.
                Err(_) => shared.lines.dissolve(&org),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A permit on its way; it comes back by itself where no call comes about.
pub struct PermitGuard {
    permits: Arc<Permits>,
    org: OrgId,
    permit: Option<Permit>,
}

impl PermitGuard {
    /// The call was answered.
    pub(super) fn record(mut self, feedback: Feedback) -> Recorded {
        let Some(permit) = self.permit.take() else { return Recorded::nothing() };
        let mut shared = self.permits.lock();
        let recorded = shared.access.record(&self.org, permit, feedback, Instant::now());
        self.permits.serve_lines(&mut shared);
        drop(shared);
        if !recorded.changes.is_empty() || permit.kind() == PermitKind::HalfOpen {
            self.permits.changes.send_replace(());
        }
        recorded
    }
}

impl Drop for PermitGuard {
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else { return };
        let mut shared = self.permits.lock();
        shared.access.release(&self.org, permit, Instant::now());
        self.permits.serve_lines(&mut shared);
    }
}

struct Held<'a>(&'a AtomicUsize);

impl<'a> Held<'a> {
    fn new(held: &'a AtomicUsize) -> Self {
        held.fetch_add(1, Ordering::SeqCst);
        Self(held)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
