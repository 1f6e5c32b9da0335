//! The log lines about the session with the broker: one line per failure. Writes nothing itself.

use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What has been logged.
pub(super) struct SessionLog(Mutex<LastLogged>);

enum LastLogged {
    Consuming,
    /// This end of a session is not logged yet: the fate of the next one belongs in the same line.
    Lost(String),
    NotConsuming(&'static str),
}

impl SessionLog {
    pub(super) fn new() -> Self {
        Self(Mutex::new(LastLogged::NotConsuming("none yet")))
    }

    /// Why the previous session was lost, if that is not logged yet.
    pub(super) fn consuming(&self) -> Option<String> {
        match mem::replace(&mut *self.lock(), LastLogged::Consuming) {
            LastLogged::Lost(why) => Some(why),
            _ => None,
        }
    }

    /// A session has ended. Returns the line to log, if any.
    pub(super) fn lost(&self, why: &str) -> Option<String> {
        let mut last = self.lock();
        if matches!(*last, LastLogged::Consuming) {
            *last = LastLogged::Lost(why.to_owned());
            return None;
        }
        drop(last);
        self.not_connected("lost", why)
    }

    /// No session could be opened. Returns the line to log if this is a new kind of problem.
    pub(super) fn not_connected(&self, kind: &'static str, why: &str) -> Option<String> {
        match mem::replace(&mut *self.lock(), LastLogged::NotConsuming(kind)) {
            LastLogged::NotConsuming(before) if before == kind => None,
            LastLogged::Lost(lost) => Some(format!("{why} (before that: {lost})")),
            _ => Some(why.to_owned()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, LastLogged> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_broker_is_one_line_however_it_goes_on() {
        let log = SessionLog::new();
        assert_eq!(log.consuming(), None);
        assert_eq!(log.lost("reset"), None);
        assert_eq!(log.consuming().as_deref(), Some("reset"), "back at once: last then");
        assert_eq!(log.lost("reset"), None);
        assert_eq!(
            log.not_connected("connect", "refused").as_deref(),
            Some("refused (before that: reset)")
        );
        assert_eq!(log.not_connected("connect", "refused"), None);
        assert_eq!(
            log.not_connected("topology", "gone").as_deref(),
            Some("gone"),
            "another failure"
        );
        assert_eq!(log.consuming(), None);
    }

    #[test]
    fn a_session_that_never_consumes_is_reported_once() {
        let log = SessionLog::new();
        assert_eq!(log.lost("no permission").as_deref(), Some("no permission"));
        assert_eq!(log.lost("no permission"), None);
    }
}
