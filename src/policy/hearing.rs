//! Whether a consumer is deaf: it lives, and does not get what lies ready in its queue. And when a
//! session that does no work is given up for one at another host.
//!
//! # A deaf consumer is told from one that has nothing to do
//!
//! In a cluster whose nodes have lost each other a connection may live on while the queue is
//! elsewhere: its heartbeats come, and no message. So the queue is asked about, over both
//! connections. It is no sign of deafness that messages are ready while there is no room for
//! another one (all that the broker may hand out is in work), nor once in a while: another worker
//! may take them. A session is given up only for a sign at each look, for `DEAF_AFTER`, without one
//! delivery.
//!
//! # A node that has lost the others is no quiet one
//!
//! It goes on to answer, from what it remembers: that nothing is ready, and that we consume. So
//! when nothing comes, it is also asked something that needs a majority of the nodes.

use std::time::{Duration, Instant};

/// From the first sign on.
const DEAF_AFTER: Duration = Duration::from_secs(6);
/// How long trouble must last in a session before it is given up: of the first one, of the second
/// in a row, and on.
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
/// Without a sign of trouble for so long, and for the wait before, the next one is a new one.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30);

/// What one connection was told about a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// Messages that a consumer could have.
    pub ready: u32,
    /// Of this worker and of all others.
    pub consumers: u32,
}

/// One look at a queue that we consume.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// What each connection was told; nothing if there was no answer in time.
    pub told: [Option<Told>; 2],
    /// When the question was asked.
    pub asked: Instant,
    /// Deliveries from the queue until then.
    pub received: u64,
    /// The broker may hand out more than what is unacknowledged.
    pub has_room: bool,
    /// What needs a majority of the nodes has an answer, or was not asked for.
    pub has_majority: bool,
}

/// Why a consumer seems to be deaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// So many messages lie ready.
    Ready(u32),
    /// The broker knows of no consumer.
    NoConsumer,
    /// The broker does not answer.
    NoAnswer,
    /// The broker does not answer what needs a majority of its nodes.
    NoMajority,
}

impl Look {
    fn sign(&self) -> Option<Sign> {
        let [Some(one), Some(other)] = self.told else { return Some(Sign::NoAnswer) };
        if !self.has_majority {
            return Some(Sign::NoMajority);
        }
        let ready = one.ready.max(other.ready);
        if one.consumers.min(other.consumers) == 0 {
            Some(Sign::NoConsumer)
        } else {
            (self.has_room && ready > 0).then_some(Sign::Ready(ready))
        }
    }
}

/// What was seen of one queue so far.
#[derive(Debug, Default)]
pub struct Hearing {
    signs: Option<Signs>,
}

/// A sign at each look.
#[derive(Debug)]
struct Signs {
    first: Instant,
    last: Instant,
    /// What had been received by the first.
    received: u64,
}

impl Hearing {
    /// The sign, where the consumer is deaf. In a while without a look the queue was not consumed,
    /// so the signs before it do not count.
    pub fn look(&mut self, look: &Look, now: Instant) -> Option<Sign> {
        let Some(sign) = look.sign() else {
            self.signs = None;
            return None;
        };
        match &mut self.signs {
            Some(signs)
                if signs.received == look.received
                    && look.asked.saturating_duration_since(signs.last) < DEAF_AFTER =>
            {
                signs.last = look.asked;
                (now.saturating_duration_since(signs.first) >= DEAF_AFTER).then_some(sign)
            }
            _ => {
                let (first, received) = (look.asked, look.received);
                self.signs = Some(Signs { first, last: first, received });
                None
            }
        }
    }
}

/// When a session in which nothing is heard, or nothing can be published, is given up.
///
/// # Moving from host to host wears out no command
///
/// Each session that ends returns what is unacknowledged, and the queue counts that: after 20 times
/// it moves a command to the dead letters. So the first two sessions are given up at once, and each
/// that follows in vain lasts longer: 20 of them take hours.
#[derive(Debug, Default)]
pub struct Moves {
    in_vain: usize,
    since: Option<Instant>,
    last: Option<Instant>,
}

impl Moves {
    /// A sign of trouble has been seen: whether the session shall end for it.
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
        self.in_vain += 1;
        self.since = None;
        true
    }

    /// Whether a session that began then may be asked for a majority.
    ///
    /// # A question without an answer ends the connection
    ///
    /// Half a minute later RabbitMQ closes the connection on which it was asked. So it is not asked
    /// before the session may be given up for it.
    pub fn may_ask(&self, began: Instant, now: Instant) -> bool {
        now.saturating_duration_since(began) >= self.wait(now)
    }

    fn wait(&self, now: Instant) -> Duration {
        let in_vain = if self.is_forgotten(now) { 0 } else { self.in_vain };
        wait_after(in_vain)
    }

    fn is_forgotten(&self, now: Instant) -> bool {
        let after = FORGOTTEN_AFTER + wait_after(self.in_vain);
        self.last.is_none_or(|last| now.saturating_duration_since(last) > after)
    }
}

fn wait_after(in_vain: usize) -> Duration {
    WAITS.get(in_vain).or(WAITS.last()).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(2);

    fn told(ready: u32, consumers: u32) -> Told {
        Told { ready, consumers }
    }

    /// The verdict of the last of some looks, two seconds apart, each of which takes so long.
    fn last_of_slow(looks: &[Look], takes: Duration) -> Option<Sign> {
        let (mut hearing, mut asked) = (Hearing::default(), Instant::now());
        let mut verdict = None;
        for look in looks {
            verdict = hearing.look(&Look { asked, ..*look }, asked + takes);
            asked += EVERY.max(takes);
        }
        verdict
    }

    fn last_of(looks: &[Look]) -> Option<Sign> {
        last_of_slow(looks, Duration::ZERO)
    }

    fn look(told: [Option<Told>; 2], has_room: bool) -> Look {
        Look { told, asked: Instant::now(), received: 5, has_room, has_majority: true }
    }

    #[test]
    fn a_broker_that_does_not_answer_two_questions_is_mute() {
        let (mute, takes) = (look([None; 2], true), Duration::from_secs(3));
        assert_eq!(last_of_slow(&[mute], takes), None);
        assert_eq!(last_of_slow(&[mute; 2], takes), Some(Sign::NoAnswer));
    }

    #[test]
    fn a_deaf_consumer_is_told_from_one_that_has_nothing_to_do() {
        let [idle, ready, gone] = [told(0, 1), told(7, 1), told(0, 0)].map(Some);
        for (what, one, other, has_room, expected) in [
            ("nothing to do", idle, idle, true, None),
            ("messages ready", ready, ready, true, Some(Sign::Ready(7))),
            ("only the other connection sees them", idle, ready, true, Some(Sign::Ready(7))),
            ("only the consuming connection sees them", ready, idle, true, Some(Sign::Ready(7))),
            ("no room: all is in work", ready, ready, false, None),
            ("cut off, idle", gone, gone, true, Some(Sign::NoConsumer)),
            ("cut off, all in work", gone, gone, false, Some(Sign::NoConsumer)),
            ("the queue has forgotten us", idle, gone, true, Some(Sign::NoConsumer)),
            ("mute", None, None, true, Some(Sign::NoAnswer)),
            ("mute, all in work", None, None, false, Some(Sign::NoAnswer)),
            ("one of two mute", idle, None, true, Some(Sign::NoAnswer)),
        ] {
            let look = look([one, other], has_room);
            assert_eq!(last_of(&[look; 4]), expected, "{what}");
            assert_eq!(last_of(&[look; 3]), None, "{what}: too early");
        }
    }

    #[test]
    fn a_node_that_has_lost_the_others_is_no_quiet_one() {
        let idle = look([Some(told(0, 2)); 2], true);
        let alone = Look { has_majority: false, ..idle };
        assert_eq!(last_of(&[alone; 4]), Some(Sign::NoMajority));
        assert_eq!(last_of(&[alone; 3]), None, "too early");
        assert_eq!(last_of(&[alone, alone, idle, alone]), None);
        let busy = Look { has_room: false, ..alone };
        assert_eq!(last_of(&[busy; 4]), Some(Sign::NoMajority), "nor one whose work ends nowhere");
    }

    #[test]
    fn signs_before_a_pause_do_not_count() {
        let (mut hearing, now) = (Hearing::default(), Instant::now());
        let ready = look([Some(told(7, 1)); 2], true);
        let mut at = |seconds| {
            let asked = now + Duration::from_secs(seconds);
            hearing.look(&Look { asked, ..ready }, asked)
        };
        // Turns of a few seconds, each with a look or two, and then a pause of a minute.
        assert_eq!([0, 3, 5].map(&mut at), [None; 3]);
        assert_eq!(at(65), None);
        assert_eq!([68, 71].map(at), [None, Some(Sign::Ready(7))]);
    }

    #[test]
    fn a_delivery_or_one_look_without_a_sign_begins_it_anew() {
        let ready = look([Some(told(7, 1)); 2], true);
        let heard = Look { received: 6, ..ready };
        let idle = Look { told: [Some(told(0, 1)); 2], ..ready };
        let full = Look { has_room: false, ..ready };
        let mute = Look { told: [None; 2], ..ready };
        for (between, expected) in [
            (ready, Some(Sign::Ready(7))),
            (mute, Some(Sign::Ready(7))),
            (idle, None),
            (full, None),
        ] {
            assert_eq!(last_of(&[ready, ready, between, ready]), expected, "{between:?}");
        }
        assert_eq!(last_of(&[ready, ready, heard, heard]), None);
        assert_eq!(last_of(&[ready, ready, heard, heard, heard, heard]), Some(Sign::Ready(7)));
        let each = [5, 6, 7, 8, 9].map(|received| Look { received, ..ready });
        assert_eq!(last_of(&each), None, "a backlog that is being worked off");
    }

    #[test]
    fn moving_from_host_to_host_wears_out_no_command() {
        let (mut moves, mut now) = (Moves::default(), Instant::now());
        let began = now;
        let mut given_up = Vec::new();
        // RabbitMQ's limit: 20 deliveries.
        while given_up.len() < 20 {
            if moves.is_due(now) {
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
        let (mut moves, now) = (Moves::default(), Instant::now());
        assert!(moves.is_due(now) && moves.is_due(now + EVERY));
        assert!(!moves.is_due(now + EVERY * 2));
        assert!(moves.is_due(now + EVERY * 3 + FORGOTTEN_AFTER + WAITS[2]));
    }

    #[test]
    fn a_session_is_asked_for_a_majority_only_when_it_may_be_given_up_for_it() {
        let (mut moves, mut now) = (Moves::default(), Instant::now());
        let (began, mut session, mut given_up) = (now, now, Vec::new());
        // A majority is never there, and nothing else tells of it.
        while given_up.len() < 20 {
            if moves.may_ask(session, now) && moves.is_due(now) {
                given_up.push(now - began);
                session = now;
            }
            now += EVERY;
        }
        assert!(given_up[1] < Duration::from_secs(5), "{given_up:?}");
        assert!(given_up[19] > Duration::from_hours(6), "{given_up:?}");
    }
}
