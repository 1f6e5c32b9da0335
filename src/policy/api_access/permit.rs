//! The permission for one call, or why there is none.

use std::time::{Duration, Instant};

use super::SuspendReason;

/// The permission for one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a permit that is not returned stays in use"]
pub struct Permit {
    pub(super) kind: PermitKind,
    pub(super) since: Instant,
    pub(super) is_breaker_probe: bool,
}

impl Permit {
    /// What it rests on.
    pub fn kind(self) -> PermitKind {
        self.kind
    }
}

/// What the permission rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PermitKind {
    /// The organisation is served.
    Unrestricted,
    /// One of the few calls of an organisation that nobody knows to be served.
    SlowStart,
    /// The probe of a suspended organisation.
    HalfOpen,
}

/// Why no call may be made now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// Other calls have all the permits that this organisation may take.
    Busy,
    /// The rate limit has no token for it before this has passed.
    RateLimited { retry_in: Duration },
    /// The organisation is suspended; its next probe is this far away.
    Suspended {
        /// Why.
        reason: SuspendReason,
        /// Until the next probe.
        retry_in: Duration,
        /// Until the end of a `Retry-After`, if that is still ahead.
        retry_after: Option<Duration>,
    },
    /// The breaker is open; a probe with this command may be made after this.
    BreakerOpen {
        /// Until then.
        retry_in: Duration,
    },
}

/// How commands may be consumed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intake {
    /// As many as there are permits for.
    Bulk,
    /// A few, for probes.
    Probing,
    /// None before this moment: all organisations are suspended, and none is due for a probe.
    Paused(Instant),
}
