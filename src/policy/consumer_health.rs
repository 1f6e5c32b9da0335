//! Whether a consumer is deaf: it is alive, but does not receive the ready messages of its queue.
//! And when a session without work is given up for one at another host.
//!
//! # A deaf consumer is not confused with an idle one
//!
//! In a partitioned cluster a connection may stay alive while the queue is elsewhere: heartbeats
//! arrive, but no messages. So the worker asks about the queue over both connections. Ready
//! messages are not a sign of deafness while the prefetch is used up, nor if they are seen only
//! once in a while: another worker may take them. A session is given up only for a sign at every
//! look, for `DEAF_AFTER`, without a single delivery.
//!
//! # A node that has lost the others is not taken for a quiet one
//!
//! It still answers, from its old state: that nothing is ready, and that we consume. So when
//! nothing arrives, the worker also asks something that needs a majority of the nodes.
//!
//! # A queue whose leader is away is not taken for a deaf consumer
//!
//! Until the nodes have noticed that one of them is gone (`net_ticktime`, 60 s), the others report
//! no messages and no consumers for a queue that it led, though another node leads it by then and
//! delivers (measured with `RabbitMQ` 4.0.5). Another session would not help, and would have
//! everything delivered again. So a count of no consumers is not a sign.

use std::time::{Duration, Instant};

/// Counted from the first sign.
const DEAF_AFTER: Duration = Duration::from_secs(6);
/// How long trouble must last before a session is given up: for the first session, for the second
/// in a row, and so on.
const WAITS: [Duration; 8] = [
    Duration::ZERO,
    Duration::ZERO,
    Duration::from_secs(5),
    Duration::from_secs(20),
    Duration::from_mins(1),
    Duration::from_mins(4),
    Duration::from_mins(15),
    Duration::from_mins(30),
];
/// After this long without a sign of trouble, plus the last wait, the next sign starts from the
/// beginning.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30);

/// One look at a queue that we consume.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// Messages that a consumer could have, as each connection reports them; `None` without an
    /// answer in time.
    pub ready: [Option<u32>; 2],
    /// When the question was asked.
    pub asked: Instant,
    /// Deliveries from the queue up to then.
    pub received: u64,
    /// The broker may hand out more than what is unacknowledged.
    pub has_room: bool,
    /// The question that needs a majority of the nodes was answered, or was not asked.
    pub has_majority: bool,
}

/// Why a consumer seems to be deaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StallSign {
    /// This many messages are ready.
    Ready(u32),
    /// The broker does not answer.
    NoAnswer,
    /// The broker does not answer the question that needs a majority of its nodes.
    NoMajority,
}

impl Look {
    fn sign(&self) -> Option<StallSign> {
        let [Some(one), Some(other)] = self.ready else { return Some(StallSign::NoAnswer) };
        if !self.has_majority {
            return Some(StallSign::NoMajority);
        }
        let ready = one.max(other);
        (self.has_room && ready > 0).then_some(StallSign::Ready(ready))
    }
}

/// The observations of one queue.
#[derive(Debug, Default)]
pub struct ConsumerHealth {
    signs: Option<Signs>,
}

/// A sign seen at every look.
#[derive(Debug)]
struct Signs {
    first: Instant,
    /// The end of the last look, which takes long if the broker is slow.
    last: Instant,
    /// Deliveries up to the first sign.
    received: u64,
}

impl ConsumerHealth {
    /// Returns the sign if the consumer is deaf. In a period without looks the queue was not
    /// consumed, so earlier signs do not count.
    pub fn look(&mut self, look: &Look, now: Instant) -> Option<StallSign> {
        let Some(sign) = look.sign() else {
            self.signs = None;
            return None;
        };
        match &mut self.signs {
            Some(signs)
                if signs.received == look.received
                    && look.asked.saturating_duration_since(signs.last) < DEAF_AFTER =>
            {
                signs.last = now;
                (now.saturating_duration_since(signs.first) >= DEAF_AFTER).then_some(sign)
            }
            _ => {
                let (first, received) = (look.asked, look.received);
                self.signs = Some(Signs { first, last: now, received });
                None
            }
        }
    }
}

/// When a session in which nothing arrives or nothing can be published is given up.
///
/// # Moving from host to host does not wear out a command
///
/// Each session that ends requeues what is unacknowledged, and the queue counts that: after 20
/// times it dead-letters a command. So the first two sessions are given up at once, and each
/// further one that fails lasts longer: 20 of them take hours.
#[derive(Debug, Default)]
pub struct HostSwitches {
    failed_switches: usize,
    since: Option<Instant>,
    last: Option<Instant>,
}

impl HostSwitches {
    /// There was a sign of trouble. Returns whether the session should end because of it.
    pub fn is_due(&mut self, now: Instant) -> bool {
        let wait = self.wait(now);
        if self.is_forgotten(now) {
            *self = Self::default();
        }
        self.last = Some(now);
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) < wait {
            return false;
        }
        self.failed_switches += 1;
        self.since = None;
        true
    }

    /// Whether the majority question may be asked in a session that began then.
    ///
    /// # A question without an answer ends the connection
    ///
    /// Half a minute after an unanswered question RabbitMQ closes the connection. So it is not
    /// asked before the session may be given up for it.
    pub fn may_ask(&self, began: Instant, now: Instant) -> bool {
        now.saturating_duration_since(began) >= self.wait(now)
    }

    fn wait(&self, now: Instant) -> Duration {
        let failed_switches = if self.is_forgotten(now) { 0 } else { self.failed_switches };
        wait_after(failed_switches)
    }

    fn is_forgotten(&self, now: Instant) -> bool {
        let after = FORGOTTEN_AFTER + wait_after(self.failed_switches);
        self.last.is_none_or(|last| now.saturating_duration_since(last) > after)
    }
}

fn wait_after(failed_switches: usize) -> Duration {
    WAITS.get(failed_switches).or(WAITS.last()).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(2);

    /// The verdict of the last of these looks, two seconds apart, each taking this long.
    fn last_of_slow(looks: &[Look], takes: Duration) -> Option<StallSign> {
        let (mut health, mut asked) = (ConsumerHealth::default(), Instant::now());
        let mut verdict = None;
        for look in looks {
            verdict = health.look(&Look { asked, ..*look }, asked + takes);
            asked += EVERY.max(takes);
        }
        verdict
    }

    fn last_of(looks: &[Look]) -> Option<StallSign> {
        last_of_slow(looks, Duration::ZERO)
    }

    fn look(ready: [Option<u32>; 2], has_room: bool) -> Look {
        Look { ready, asked: Instant::now(), received: 5, has_room, has_majority: true }
    }

    #[test]
    fn a_broker_that_does_not_answer_two_questions_is_mute() {
        let (mute, takes) = (look([None; 2], true), Duration::from_secs(3));
        assert_eq!(last_of_slow(&[mute], takes), None);
        assert_eq!(last_of_slow(&[mute; 2], takes), Some(StallSign::NoAnswer));
        let takes = Duration::from_secs(14);
        assert_eq!(last_of_slow(&[mute; 2], takes), Some(StallSign::NoAnswer), "several slow ones");
    }

    #[test]
    fn a_deaf_consumer_is_not_confused_with_an_idle_one() {
        let [idle, ready] = [0, 7].map(Some);
        for (what, one, other, has_room, expected) in [
            ("nothing to do", idle, idle, true, None),
            ("messages ready", ready, ready, true, Some(StallSign::Ready(7))),
            ("only the other connection sees them", idle, ready, true, Some(StallSign::Ready(7))),
            (
                "only the consuming connection sees them",
                ready,
                idle,
                true,
                Some(StallSign::Ready(7)),
            ),
            ("no room: all is in work", ready, ready, false, None),
            ("mute", None, None, true, Some(StallSign::NoAnswer)),
            ("mute, all in work", None, None, false, Some(StallSign::NoAnswer)),
            ("one of two mute", idle, None, true, Some(StallSign::NoAnswer)),
        ] {
            let look = look([one, other], has_room);
            assert_eq!(last_of(&[look; 4]), expected, "{what}");
            assert_eq!(last_of(&[look; 3]), None, "{what}: too early");
        }
    }

    #[test]
    fn a_node_that_has_lost_the_others_is_not_taken_for_a_quiet_one() {
        let idle = look([Some(0); 2], true);
        let alone = Look { has_majority: false, ..idle };
        assert_eq!(last_of(&[alone; 4]), Some(StallSign::NoMajority));
        assert_eq!(last_of(&[alone; 3]), None, "too early");
        assert_eq!(last_of(&[alone, alone, idle, alone]), None);
        let busy = Look { has_room: false, ..alone };
        assert_eq!(
            last_of(&[busy; 4]),
            Some(StallSign::NoMajority),
            "nor one whose work ends nowhere"
        );
    }

    #[test]
    fn a_queue_whose_leader_is_away_is_not_taken_for_a_deaf_consumer() {
        let nothing_known = look([Some(0); 2], true);
        assert_eq!(last_of(&[nothing_known; 30]), None);
        let in_work = Look { has_room: false, ..nothing_known };
        assert_eq!(last_of(&[in_work; 30]), None);
    }

    #[test]
    fn signs_before_a_pause_do_not_count() {
        let (mut health, now) = (ConsumerHealth::default(), Instant::now());
        let ready = look([Some(7); 2], true);
        let mut at = |seconds| {
            let asked = now + Duration::from_secs(seconds);
            health.look(&Look { asked, ..ready }, asked)
        };
        // Turns of a few seconds, each with a look or two, and then a pause of a minute.
        assert_eq!([0, 3, 5].map(&mut at), [None; 3]);
        assert_eq!(at(65), None);
        assert_eq!([68, 71].map(at), [None, Some(StallSign::Ready(7))]);
    }

    #[test]
    fn a_delivery_or_one_look_without_a_sign_starts_the_count_again() {
        let ready = look([Some(7); 2], true);
        let heard = Look { received: 6, ..ready };
        let idle = Look { ready: [Some(0); 2], ..ready };
        let full = Look { has_room: false, ..ready };
        let mute = Look { ready: [None; 2], ..ready };
        for (between, expected) in [
            (ready, Some(StallSign::Ready(7))),
            (mute, Some(StallSign::Ready(7))),
            (idle, None),
            (full, None),
        ] {
            assert_eq!(last_of(&[ready, ready, between, ready]), expected, "{between:?}");
        }
        assert_eq!(last_of(&[ready, ready, heard, heard]), None);
        assert_eq!(last_of(&[ready, ready, heard, heard, heard, heard]), Some(StallSign::Ready(7)));
        let each = [5, 6, 7, 8, 9].map(|received| Look { received, ..ready });
        assert_eq!(last_of(&each), None, "a backlog that is being worked off");
    }

    #[test]
    fn moving_from_host_to_host_does_not_wear_out_a_command() {
        let (mut switches, mut now) = (HostSwitches::default(), Instant::now());
        let began = now;
        let mut given_up = Vec::new();
        // RabbitMQ's limit: 20 deliveries.
        while given_up.len() < 20 {
            if switches.is_due(now) {
                given_up.push(now - began);
            }
            now += EVERY;
        }
        assert_eq!(given_up[0], Duration::ZERO);
        assert!(given_up[1] < Duration::from_secs(5) && given_up[3] < Duration::from_secs(40));
        assert!(given_up[19] > Duration::from_hours(6), "{:?}", given_up[19]);
    }

    #[test]
    fn trouble_after_a_good_while_is_new_trouble() {
        let (mut switches, now) = (HostSwitches::default(), Instant::now());
        assert!(switches.is_due(now) && switches.is_due(now + EVERY));
        assert!(!switches.is_due(now + EVERY * 2));
        assert!(switches.is_due(now + EVERY * 3 + FORGOTTEN_AFTER + WAITS[2]));
    }

    #[test]
    fn a_session_is_asked_for_a_majority_only_when_it_may_be_given_up_for_it() {
        let (mut switches, mut now) = (HostSwitches::default(), Instant::now());
        let (began, mut session, mut given_up) = (now, now, Vec::new());
        // There is never a majority, and no other sign.
        while given_up.len() < 20 {
            if switches.may_ask(session, now) && switches.is_due(now) {
                given_up.push(now - began);
                session = now;
            }
            now += EVERY;
        }
        assert!(given_up[1] < Duration::from_secs(5), "{given_up:?}");
        assert!(given_up[19] > Duration::from_hours(6), "{given_up:?}");
    }
}
