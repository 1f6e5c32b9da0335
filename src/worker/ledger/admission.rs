//! The way to a call through the ledger: its pauses, and the guard's permits, which are asked for
//! there and spent with the first call of a command.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, timeout_at};

use super::{Braked, Ledger};
use crate::messages::ledger::{LedgerEntry, Scope};
use crate::policy::guard::reservation;
use crate::worker::ledger_state::Shared;
use crate::worker::stop::Stop;

impl Ledger {
    /// Until when the guard's window is unknown to this worker, if it is.
    pub(in crate::worker) fn unknown_until(&self) -> Option<Timestamp> {
        self.lock().unknown_until(self.limit?, Timestamp::now())
    }
}

/// A command waits no longer for the ledger: then it waits in a delay queue.
const PATIENCE: Duration = Duration::from_secs(5);
/// So long a command waits that has the permission to call already.
const BRIEF: Duration = Duration::from_millis(200);

/// A command on its way to its call. One that was never called for is counted, so that the next
/// reservation is as large as it must be.
pub(in crate::worker) struct Admission<'a> {
    ledger: &'a Ledger,
    scope: &'a Scope,
    stop: &'a Stop,
    /// It needs a permit; what was called for before, and a look, needs none.
    is_counted: bool,
}

impl<'a> Admission<'a> {
    pub(in crate::worker) fn begin(
        ledger: &'a Ledger,
        scope: &'a Scope,
        stop: &'a Stop,
        is_counted: bool,
    ) -> Self {
        if is_counted {
            ledger.lock().scopes.entry(scope.clone()).or_default().waiting += 1;
        }
        Self { ledger, scope, stop, is_counted }
    }

    /// Waits until a permit is at hand, or none is needed. Spends nothing.
    ///
    /// # Errors
    /// [`Braked`]: then no call may be made.
    pub(in crate::worker) async fn wait_for_permit(&self) -> Result<(), Braked> {
        let available = self.within(PATIENCE, |_| ()).await?;
        available.ok_or(Braked::LedgerUnavailable)
    }

    /// Spends a permit, if one is at hand within a moment. Returns whether it has: others may have
    /// been faster.
    ///
    /// # No destructive call without a record of its permit
    ///
    /// What cannot be decided, because the ledger cannot be read or written, is not done. A permit
    /// is spent only when its reservation has come back from the broker, so that every other worker
    /// counts it too.
    ///
    /// # Errors
    /// [`Braked`]: then no call may be made.
    pub(in crate::worker) async fn admit(&self) -> Result<bool, Braked> {
        let admitted = self.within(BRIEF, |unspent| *unspent -= 1).await?;
        Ok(admitted.is_some())
    }

    async fn within(
        &self,
        patience: Duration,
        take: impl Fn(&mut u32),
    ) -> Result<Option<()>, Braked> {
        let deadline = Instant::now() + patience;
        let mut changes = self.ledger.changes();
        loop {
            changes.mark_unchanged();
            if let Some(decided) = self.decide(&take) {
                return decided.map(Some);
            }
            tokio::select! {
                in_time = timeout_at(deadline, changes.changed()) => match in_time {
                    Ok(still_there) => still_there.map_err(|_| Braked::Stopped)?,
                    Err(_) => return Ok(None),
                },
                () = self.stop.requested() => return Err(Braked::Stopped),
            }
        }
    }

    /// `None`: not yet. Without a permit at hand, more are asked for.
    fn decide(&self, take: impl Fn(&mut u32)) -> Option<Result<(), Braked>> {
        let Self { ledger, scope, .. } = self;
        if !ledger.is_kept {
            return Some(Ok(()));
        }
        let mut shared = ledger.lock();
        if !shared.is_current || !shared.is_writable {
            return None;
        }
        if shared.brakes.paused(&scope.org_id).is_some() {
            return Some(Err(Braked::Paused));
        }
        if !self.is_counted {
            return Some(Ok(()));
        }
        if shared.brakes.trip(scope).is_some() {
            return Some(Err(Braked::Held));
        }
        let Some(limit) = ledger.limit else { return Some(Ok(())) };
        if shared.unknown_until(limit, Timestamp::now()).is_some() {
            return Some(Err(Braked::WindowUnknown));
        }
        let permits = shared.scopes.entry((*scope).clone()).or_default();
        if permits.unspent > 0 {
            take(&mut permits.unspent);
            return Some(Ok(()));
        }
        self.ask(&mut shared);
        None
    }

    fn ask(&self, shared: &mut Shared) {
        let Self { ledger, scope, .. } = self;
        let permits = shared.scopes.entry((*scope).clone()).or_default();
        let (None, Some(limit)) = (permits.asked, ledger.limit) else { return };
        let last = permits.last.map(|(granted, at)| (granted, at.elapsed()));
        let left = shared.brakes.left(scope, limit, Timestamp::now());
        let wanted = reservation(permits.waiting, last, left);
        let (number, scope) = (shared.next_number(), (*scope).clone());
        shared.scopes.entry(scope.clone()).or_default().asked = Some(number);
        ledger.write(shared, LedgerEntry::Reserved { number, scope, permits: wanted, limit });
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        if self.is_counted
            && let Some(permits) = self.ledger.lock().scopes.get_mut(self.scope)
        {
            permits.waiting = permits.waiting.saturating_sub(1);
        }
    }
}
