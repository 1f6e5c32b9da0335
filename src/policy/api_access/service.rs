//! What an answer says about its organisation, and the consequences.

use std::time::Duration;

use super::CommandKey;
use crate::policy::verdict::Verdict;

/// Why an organisation is suspended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SuspendReason {
    /// 429.
    Throttled,
    /// 401.
    Unauthorized,
    /// 5xx, time-outs, no connection: ten in a row from at least five commands.
    Failing,
    /// As many answers that are not the API's; or the token does not reach the organisation; or
    /// nothing but absences without proof.
    Misdirected,
}

impl SuspendReason {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 4] =
        [Self::Throttled, Self::Unauthorized, Self::Failing, Self::Misdirected];

    /// The word that metrics, logs, readiness and status use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Throttled => "throttled",
            Self::Unauthorized => "unauthorized",
            Self::Failing => "failing",
            Self::Misdirected => "misdirected",
        }
    }

    /// Whether it may be an outage of the API that affects others too.
    pub(super) fn is_outage(self) -> bool {
        matches!(self, Self::Failing | Self::Misdirected)
    }
}

/// What a verdict says about the organisation.
pub(super) enum Service {
    /// The API serves it.
    Served,
    /// It must not be called for a while, whatever the command.
    Denied(SuspendReason),
    /// It failed, not necessarily because of the command.
    Failed(SuspendReason),
}

pub(super) fn service(verdict: Verdict) -> Service {
    match verdict {
        Verdict::Deleted
        | Verdict::Present
        | Verdict::AlreadyAbsent
        | Verdict::UnverifiedAbsence
        | Verdict::Forbidden
        | Verdict::Rejected => Service::Served,
        Verdict::Throttled => Service::Denied(SuspendReason::Throttled),
        Verdict::Unauthorized => Service::Denied(SuspendReason::Unauthorized),
        Verdict::NotReached => Service::Denied(SuspendReason::Misdirected),
        Verdict::Misdirected => Service::Failed(SuspendReason::Misdirected),
        Verdict::Transient | Verdict::Unreachable => Service::Failed(SuspendReason::Failing),
    }
}

/// The result of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feedback {
    /// Which command it was for.
    pub command: CommandKey,
    /// What the answer means.
    pub verdict: Verdict,
    /// How long the API asks to wait.
    pub retry_after: Option<Duration>,
}

/// The consequences of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// The answer came while its organisation is suspended or the breaker is open. It says nothing
    /// about the command, unless it is the requested end.
    pub is_outage: bool,
    /// Worth a log line each.
    pub changes: Vec<Change>,
}

impl Recorded {
    /// Nothing follows.
    pub fn nothing() -> Self {
        Self { is_outage: false, changes: Vec::new() }
    }
}

/// A change that is worth a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The organisation is newly suspended, or already suspended and now for a new reason.
    Suspended {
        /// Why.
        reason: SuspendReason,
        /// Until the first probe.
        retry_in: Duration,
    },
    /// The organisation is served again.
    Resumed {
        /// Why it was suspended.
        reason: SuspendReason,
        /// For how long.
        suspended_for: Duration,
        /// How many of its commands waited.
        waited: u64,
    },
    /// No organisation is served any more.
    BreakerOpened,
    /// An organisation is served again.
    BreakerClosed {
        /// After how long.
        open_for: Duration,
    },
}
