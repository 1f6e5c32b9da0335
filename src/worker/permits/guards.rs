//! Guards that return on drop: a permit whose call is not made, and the count of a held command.

use std::sync::Arc;
use std::time::Instant;

use super::Permits;
use crate::messages::OrgId;
use crate::policy::api_access::{Feedback, Permit, PermitKind, Recorded};

/// A lent permit; it is returned on drop if no call is made.
pub struct PermitGuard {
    pub(super) permits: Arc<Permits>,
    pub(super) org: OrgId,
    pub(super) permit: Option<Permit>,
}

impl PermitGuard {
    /// The call was answered.
    pub(in crate::worker) fn record(mut self, feedback: Feedback, now: Instant) -> Recorded {
        let Some(permit) = self.permit.take() else { return Recorded::nothing() };
        let mut shared = self.permits.lock();
        let recorded = shared.access.record(&self.org, permit, feedback, now);
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

/// Counts a command that is held in memory.
pub(super) struct HeldGuard<'a> {
    permits: &'a Permits,
    org: &'a OrgId,
}

impl<'a> HeldGuard<'a> {
    pub(super) fn new(permits: &'a Permits, org: &'a OrgId) -> Self {
        permits.lock().held.add(org);
        Self { permits, org }
    }
}

impl Drop for HeldGuard<'_> {
    fn drop(&mut self) {
        self.permits.lock().held.remove(self.org);
    }
}
