//! Whether one organisation may be called now. 429 and 401 close its gate; the others' stay open.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::messages::OrgId;

/// The first pause after a 401, or after a 429 without a `Retry-After`; doubled each time it happens again.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// The gates of all organisations; only closed ones take memory.
#[derive(Debug, Default)]
pub struct OrgGates(HashMap<OrgId, Closed>);

/// Why an organisation must not be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// For this long.
    For(Duration),
    /// Until the answer to the one call that was let through.
    Probing,
}

/// What closing a gate came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closing {
    /// For how long it is closed now.
    pub wait: Duration,
    /// Whether it was open before.
    pub is_news: bool,
}

#[derive(Debug)]
struct Closed {
    until: Instant,
    pause: Duration,
    probing: bool,
}

impl OrgGates {
    /// Whether a call may be made for this organisation now.
    ///
    /// When the time is up the first caller goes alone and the rest waits for `lease`, until that one's answer opens the
    /// gate or closes it again.
    ///
    /// # Errors
    /// [`Held`] says for how long not.
    pub fn may_call(&mut self, org: &OrgId, now: Instant, lease: Duration) -> Result<(), Held> {
        match self.0.get_mut(org) {
            Some(gate) if now < gate.until && gate.probing => Err(Held::Probing),
            Some(gate) if now < gate.until => Err(Held::For(gate.until - now)),
            Some(gate) => {
                gate.until = now + lease;
                gate.probing = true;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Closes the gate: for `wait` where the API named one, else for a pause that grows with each probe that fails.
    /// The answers of calls that were under way together count once.
    pub fn close(&mut self, org: &OrgId, wait: Option<Duration>, now: Instant) -> Closing {
        let is_news = !self.0.contains_key(org);
        let (pause, until) = match self.0.get(org) {
            None => (FIRST_PAUSE, now),
            Some(gate) if gate.probing => ((gate.pause * 2).min(LONGEST_PAUSE), now),
            Some(gate) => (gate.pause, gate.until),
        };
        let until = until.max(now + wait.unwrap_or(pause));
        self.0.insert(org.clone(), Closed { until, pause, probing: false });
        Closing { wait: until - now, is_news }
    }

    /// A call was answered otherwise. That opens a gate whose time is up; while it is not, the answer belongs to a call that
    /// was under way before the gate closed, and does not undercut a `Retry-After`.
    pub fn open(&mut self, org: &OrgId, now: Instant) {
        if self.0.get(org).is_some_and(|gate| gate.probing || gate.until <= now) {
            self.0.remove(org);
        }
    }

    /// How many gates are closed.
    pub fn closed(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(15);

    fn org(id: &str) -> OrgId {
        OrgId::try_from(id.to_owned()).unwrap()
    }

    #[test]
    fn a_closed_gate_holds_its_own_organisation_until_the_time_is_up_and_no_other() {
        let (now, mut gates) = (Instant::now(), OrgGates::default());
        let wait = Duration::from_secs(3);
        assert_eq!(gates.close(&org("a"), Some(wait), now), Closing { wait, is_news: true });
        assert_eq!(gates.may_call(&org("a"), now, LEASE), Err(Held::For(wait)));
        assert_eq!(gates.may_call(&org("b"), now, LEASE), Ok(()));
        assert_eq!(gates.may_call(&org("a"), now + wait, LEASE), Ok(()));
    }

    #[test]
    fn when_the_time_is_up_one_goes_first_and_its_answer_decides() {
        let (now, mut gates) = (Instant::now(), OrgGates::default());
        let wait = gates.close(&org("a"), None, now).wait;
        assert_eq!(gates.may_call(&org("a"), now + wait, LEASE), Ok(()));
        assert_eq!(gates.may_call(&org("a"), now + wait, LEASE), Err(Held::Probing));
        gates.open(&org("a"), now + wait);
        assert_eq!(gates.may_call(&org("a"), now + wait, LEASE), Ok(()));
        assert_eq!(gates.closed(), 0);
    }

    #[test]
    fn the_late_success_of_a_call_that_was_under_way_does_not_undercut_a_retry_after() {
        let (now, mut gates) = (Instant::now(), OrgGates::default());
        let wait = Duration::from_mins(1);
        gates.close(&org("a"), Some(wait), now);
        gates.open(&org("a"), now);
        assert_eq!(gates.may_call(&org("a"), now, LEASE), Err(Held::For(wait)));
    }

    #[test]
    fn the_pause_grows_with_each_failed_probe_and_not_with_each_call_that_was_under_way() {
        let (mut now, mut gates) = (Instant::now(), OrgGates::default());
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let pause = (0..64).map(|_| gates.close(&org("a"), None, now).wait).last().unwrap();
            pauses.push(pause.as_secs());
            now += pause;
            assert_eq!(gates.may_call(&org("a"), now, LEASE), Ok(()));
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    }
}
