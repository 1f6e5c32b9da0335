//! Whether one organisation may be called now. 429 and 401 close its gate; the others' stay open.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::messages::OrgId;

/// The first pause after a 401, or after a 429 without a `Retry-After`; doubled each time a probe fails.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// Calls under way for an organisation that has not been served yet.
const TRIAL_CALLS: u32 = 4;
/// How long commands wait in hand for the first answer of a trial. Longer would keep other organisations' commands out.
const TRIAL_WAIT: Duration = Duration::from_secs(1);
/// A gate that nobody has used for this long is forgotten; what comes after is a trial again.
const IDLE: Duration = Duration::from_mins(10);

/// The gates of the organisations that were called lately.
///
/// # A bad organisation costs few calls
///
/// Nobody knows of a new organisation whether its token is alive, so it begins with a trial: a few calls until the first
/// good answer. And when a closed gate's time is up, one call goes ahead alone and its answer decides.
#[derive(Debug, Default)]
pub struct OrgGates {
    gates: HashMap<OrgId, Gate>,
    swept: Option<Instant>,
}

#[derive(Debug)]
struct Gate {
    state: State,
    last_used: Instant,
}

#[derive(Debug)]
enum State {
    Trial { since: Instant, under_way: u32 },
    Open,
    Closed { until: Instant, pause: Duration, is_probed: bool, why: Why },
}

/// What closes a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// 429.
    Throttled,
    /// 401.
    Unauthorized,
}

impl Why {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Throttled, Self::Unauthorized];

    /// The word that metrics and logs use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Throttled => "throttled",
            Self::Unauthorized => "unauthorized",
        }
    }
}

/// The permission for one call. Each comes back by [`OrgGates::ended`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a permit that does not come back keeps the next trial or probe waiting"]
pub enum Permit {
    /// One of as many as there are commands.
    Free,
    /// One of the few of a trial.
    Trial,
    /// The one that may open a closed gate.
    Probe,
}

/// Why an organisation must not be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Its gate is closed, for this long at least.
    For(Duration),
    /// Its trial has no call left; an answer is worth waiting for in hand, for this long at most.
    Trial(Duration),
}

/// What a call has shown of its organisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lesson {
    /// It is served.
    Works,
    /// It must not be called: for as long as the API says, if it does.
    Held(Why, Option<Duration>),
    /// Nothing: the world failed, or no call came about.
    Nothing,
}

/// A closing that is worth a log line: the gate was open before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed {
    /// For how long.
    pub wait: Duration,
    /// For what.
    pub why: Why,
}

impl OrgGates {
    /// Whether a call may be made for this organisation now.
    ///
    /// # Errors
    /// [`Held`] says why not.
    pub fn may_call(&mut self, org: &OrgId, now: Instant) -> Result<Permit, Held> {
        if !self.gates.contains_key(org) {
            self.sweep(now);
        }
        match &mut self.gate(org, now).state {
            State::Open => Ok(Permit::Free),
            State::Trial { under_way, .. } if *under_way < TRIAL_CALLS => {
                *under_way += 1;
                Ok(Permit::Trial)
            }
            State::Trial { since, .. } => {
                Err(Held::Trial((*since + TRIAL_WAIT).saturating_duration_since(now)))
            }
            State::Closed { until, is_probed, .. } if *until <= now && !*is_probed => {
                *is_probed = true;
                Ok(Permit::Probe)
            }
            State::Closed { until, .. } => Err(Held::For(until.saturating_duration_since(now))),
        }
    }

    /// A permitted call has ended.
    ///
    /// A good answer opens a closed gate only when the time is up, and the probe's only while one is under way: the others
    /// belong to calls from before the gate closed, and must not undercut a `Retry-After`.
    pub fn ended(&mut self, org: &OrgId, permit: Permit, lesson: Lesson, now: Instant) -> Option<Closed> {
        let gate = self.gate(org, now);
        gate.last_used = now;
        let is_probe = permit == Permit::Probe;
        match (&mut gate.state, lesson) {
            (_, Lesson::Held(why, wait)) => return gate.close(permit, Some(why), wait, now),
            (State::Trial { .. }, Lesson::Works) => gate.state = State::Open,
            (State::Trial { under_way, .. }, Lesson::Nothing) if permit == Permit::Trial => {
                *under_way = under_way.saturating_sub(1);
            }
            (State::Closed { until, is_probed, .. }, Lesson::Works) => {
                if *until <= now && (is_probe || !*is_probed) {
                    gate.state = State::Open;
                } else if is_probe {
                    *is_probed = false;
                }
            }
            (State::Closed { .. }, Lesson::Nothing) if is_probe => {
                return gate.close(permit, None, None, now);
            }
            _ => {}
        }
        None
    }

    /// What held an organisation is gone (it has a new token, say): the next call is its probe.
    pub fn probe_now(&mut self, org: &OrgId, now: Instant) {
        if let Some(Gate { state: State::Closed { until, .. }, .. }) = self.gates.get_mut(org) {
            *until = now;
        }
    }

    /// After an outage nobody knows who will be served: all that is open begins anew with a trial.
    pub fn forget_open(&mut self) {
        self.gates.retain(|_, gate| gate.is_closed());
    }

    /// When the first of these organisations may be called again; `None` where one of them may be called now.
    pub fn all_closed_until<'a>(&self, orgs: impl ExactSizeIterator<Item = &'a OrgId>) -> Option<Instant> {
        if orgs.len() > self.gates.len() {
            return None;
        }
        let mut first = None;
        for org in orgs {
            let State::Closed { until, .. } = self.gates.get(org)?.state else { return None };
            first = Some(first.map_or(until, |first: Instant| first.min(until)));
        }
        first
    }

    /// How many gates are closed for this.
    pub fn closed(&self, reason: Why) -> usize {
        let is_it = |gate: &&Gate| matches!(gate.state, State::Closed { why, .. } if why == reason);
        self.gates.values().filter(is_it).count()
    }

    fn gate(&mut self, org: &OrgId, now: Instant) -> &mut Gate {
        if !self.gates.contains_key(org) {
            let state = State::Trial { since: now, under_way: 0 };
            self.gates.insert(org.clone(), Gate { state, last_used: now });
        }
        self.gates.get_mut(org).expect("it has just been put there")
    }

    /// Once a minute at the most, when a new organisation comes.
    fn sweep(&mut self, now: Instant) {
        if self.swept.is_some_and(|swept| now.duration_since(swept) < Duration::from_mins(1)) {
            return;
        }
        self.swept = Some(now);
        self.gates.retain(|_, gate| gate.is_in_use(now));
    }
}

impl Gate {
    /// The answers of calls that were under way together count once; only a probe that fails makes the pause longer.
    fn close(
        &mut self,
        permit: Permit,
        why: Option<Why>,
        wait: Option<Duration>,
        now: Instant,
    ) -> Option<Closed> {
        let (is_news, pause, from, before) = match self.state {
            State::Closed { until, pause, why, .. } if permit == Permit::Probe => {
                (false, (pause * 2).min(LONGEST_PAUSE), until, why)
            }
            State::Closed { until, pause, why, .. } => (false, pause, until, why),
            State::Open | State::Trial { .. } => (true, FIRST_PAUSE, now, Why::Throttled),
        };
        let why = why.unwrap_or(before);
        let is_probed =
            matches!(self.state, State::Closed { is_probed: true, .. }) && permit != Permit::Probe;
        let until = from.max(now + wait.unwrap_or(pause));
        self.state = State::Closed { until, pause, is_probed, why };
        is_news.then(|| Closed { wait: until - now, why })
    }

    fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed { .. })
    }

    fn is_in_use(&self, now: Instant) -> bool {
        let is_held = matches!(self.state, State::Closed { until, .. } if until > now);
        is_held || now.duration_since(self.last_used) < IDLE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WAIT: Duration = Duration::from_secs(3);

    fn org(id: &str) -> OrgId {
        OrgId::try_from(id.to_owned()).unwrap()
    }

    /// With organisation `a` served.
    fn proven(now: Instant) -> OrgGates {
        let mut gates = OrgGates::default();
        answer(&mut gates, Lesson::Works, now).unwrap();
        gates
    }

    /// One call for `a` and its answer; `Err` where none is allowed.
    fn answer(gates: &mut OrgGates, lesson: Lesson, now: Instant) -> Result<Option<Closed>, Held> {
        let permit = gates.may_call(&org("a"), now)?;
        Ok(gates.ended(&org("a"), permit, lesson, now))
    }

    #[test]
    fn a_closed_gate_holds_its_own_organisation_until_the_time_is_up_and_no_other() {
        let now = Instant::now();
        let mut gates = proven(now);
        assert_eq!(
            answer(&mut gates, Lesson::Held(Why::Throttled, Some(WAIT)), now),
            Ok(Some(Closed { wait: WAIT, why: Why::Throttled }))
        );
        assert_eq!(gates.may_call(&org("a"), now), Err(Held::For(WAIT)));
        assert_eq!(gates.may_call(&org("b"), now), Ok(Permit::Trial));
        assert_eq!(gates.closed(Why::Throttled), 1);
        assert_eq!(gates.may_call(&org("a"), now + WAIT), Ok(Permit::Probe));
    }

    #[test]
    fn when_the_time_is_up_one_goes_first_and_its_answer_decides() {
        let now = Instant::now();
        let mut gates = proven(now);
        answer(&mut gates, Lesson::Held(Why::Throttled, Some(WAIT)), now).unwrap();
        let later = now + WAIT;
        assert_eq!(gates.may_call(&org("a"), later), Ok(Permit::Probe));
        assert_eq!(gates.may_call(&org("a"), later), Err(Held::For(Duration::ZERO)));
        assert_eq!(gates.ended(&org("a"), Permit::Probe, Lesson::Works, later), None);
        assert_eq!(gates.may_call(&org("a"), later), Ok(Permit::Free));
        assert_eq!(gates.closed(Why::Throttled), 0);
    }

    #[test]
    fn a_new_organisation_is_called_a_few_times_until_it_is_served() {
        let now = Instant::now();
        let mut gates = OrgGates::default();
        let begun: Vec<_> = (0..6).map(|_| gates.may_call(&org("a"), now)).collect();
        assert_eq!(begun[..4], [Ok(Permit::Trial); 4]);
        assert_eq!(begun[4..], [Err(Held::Trial(TRIAL_WAIT)); 2]);
        gates.ended(&org("a"), Permit::Trial, Lesson::Nothing, now);
        assert_eq!(gates.may_call(&org("a"), now + WAIT), Ok(Permit::Trial), "each answer lets one more go");
        assert_eq!(gates.may_call(&org("a"), now + WAIT), Err(Held::Trial(Duration::ZERO)));
        gates.ended(&org("a"), Permit::Trial, Lesson::Works, now);
        assert_eq!(gates.may_call(&org("a"), now), Ok(Permit::Free));
    }

    #[test]
    fn a_dead_token_costs_few_calls() {
        let (start, mut calls) = (Instant::now(), 0);
        let mut gates = OrgGates::default();
        for second in 0..600 {
            for _ in 0..200 {
                let now = start + Duration::from_secs(second);
                calls += u32::from(answer(&mut gates, Lesson::Held(Why::Throttled, None), now).is_ok());
            }
        }
        assert!(calls <= 16, "{calls} calls in ten minutes");
    }

    #[test]
    fn the_late_success_of_a_call_that_was_under_way_does_not_undercut_a_retry_after() {
        let now = Instant::now();
        let mut gates = proven(now);
        assert_eq!(gates.may_call(&org("a"), now), Ok(Permit::Free));
        answer(&mut gates, Lesson::Held(Why::Throttled, Some(WAIT)), now).unwrap();
        gates.ended(&org("a"), Permit::Free, Lesson::Works, now);
        assert_eq!(gates.may_call(&org("a"), now), Err(Held::For(WAIT)));
    }

    #[test]
    fn a_probe_does_not_undercut_the_retry_after_of_a_later_answer() {
        let now = Instant::now();
        let mut gates = proven(now);
        answer(&mut gates, Lesson::Held(Why::Throttled, Some(Duration::ZERO)), now).unwrap();
        assert_eq!(gates.may_call(&org("a"), now), Ok(Permit::Probe));
        assert_eq!(gates.ended(&org("a"), Permit::Free, Lesson::Held(Why::Throttled, Some(WAIT)), now), None);
        assert_eq!(
            gates.ended(&org("a"), Permit::Probe, Lesson::Held(Why::Throttled, Some(Duration::ZERO)), now),
            None
        );
        assert_eq!(gates.may_call(&org("a"), now), Err(Held::For(WAIT)));
    }

    #[test]
    fn the_pause_grows_with_each_failed_probe_and_not_with_each_call_that_was_under_way() {
        let mut now = Instant::now();
        let mut gates = proven(now);
        for _ in 0..64 {
            let _ = gates.ended(&org("a"), Permit::Free, Lesson::Held(Why::Throttled, None), now);
        }
        let mut pauses = Vec::new();
        for lesson in [Lesson::Held(Why::Throttled, None), Lesson::Nothing].into_iter().cycle().take(8) {
            let Err(Held::For(pause)) = gates.may_call(&org("a"), now) else { panic!("it is closed") };
            pauses.push(pause.as_secs());
            now += pause;
            answer(&mut gates, lesson, now).unwrap();
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn a_closed_gate_is_counted_by_what_closed_it_last() {
        let now = Instant::now();
        let mut gates = proven(now);
        let closed = |gates: &OrgGates| Why::ALL.map(|why| gates.closed(why));
        assert_eq!(Why::ALL.map(Why::as_str), ["throttled", "unauthorized"]);
        answer(&mut gates, Lesson::Held(Why::Unauthorized, None), now).unwrap();
        assert_eq!(closed(&gates), [0, 1]);
        answer(&mut gates, Lesson::Nothing, now + FIRST_PAUSE).unwrap();
        assert_eq!(closed(&gates), [0, 1], "a probe that says nothing changes nothing");
        answer(&mut gates, Lesson::Held(Why::Throttled, None), now + FIRST_PAUSE * 4).unwrap();
        assert_eq!(closed(&gates), [1, 0]);
    }

    #[test]
    fn a_new_token_is_probed_at_once() {
        let now = Instant::now();
        let mut gates = proven(now);
        answer(&mut gates, Lesson::Held(Why::Throttled, Some(WAIT)), now).unwrap();
        gates.probe_now(&org("a"), now);
        assert_eq!(gates.may_call(&org("a"), now), Ok(Permit::Probe));
    }

    #[test]
    fn the_consumer_may_pause_when_all_organisations_are_held_until_the_first_of_them_is_due() {
        let now = Instant::now();
        let mut gates = proven(now);
        let orgs = [org("a"), org("b")];
        answer(&mut gates, Lesson::Held(Why::Throttled, Some(WAIT)), now).unwrap();
        assert_eq!(gates.all_closed_until(orgs.iter()), None);
        assert_eq!(gates.all_closed_until(orgs[..1].iter()), Some(now + WAIT));
        let permit = gates.may_call(&org("b"), now).unwrap();
        gates.ended(&org("b"), permit, Lesson::Held(Why::Throttled, None), now);
        assert_eq!(gates.all_closed_until(orgs.iter()), Some(now + FIRST_PAUSE));
        assert_eq!(gates.all_closed_until(orgs[..1].iter()), Some(now + WAIT));
    }

    #[test]
    fn gates_that_are_open_and_idle_are_forgotten_and_closed_ones_are_not() {
        let now = Instant::now();
        let mut gates = proven(now);
        for number in 0..5000 {
            let id = org(&format!("org-{number}"));
            let permit = gates.may_call(&id, now).unwrap();
            gates.ended(&id, permit, Lesson::Works, now);
        }
        answer(&mut gates, Lesson::Held(Why::Throttled, Some(Duration::from_hours(1))), now).unwrap();
        let later = now + IDLE;
        assert_eq!(gates.may_call(&org("new"), later), Ok(Permit::Trial));
        assert_eq!(gates.gates.len(), 2);
        assert!(matches!(gates.may_call(&org("a"), later), Err(Held::For(_))));
    }

    #[test]
    fn after_an_outage_what_was_open_is_on_trial_again_and_what_was_closed_stays_closed() {
        let now = Instant::now();
        let mut gates = proven(now);
        let permit = gates.may_call(&org("b"), now).unwrap();
        gates.ended(&org("b"), permit, Lesson::Held(Why::Throttled, Some(WAIT)), now);
        assert_eq!(gates.may_call(&org("a"), now), Ok(Permit::Free));
        gates.forget_open();
        assert_eq!(gates.may_call(&org("b"), now), Err(Held::For(WAIT)));
        for _ in 0..TRIAL_CALLS {
            assert_eq!(gates.may_call(&org("a"), now), Ok(Permit::Trial));
        }
        gates.ended(&org("a"), Permit::Free, Lesson::Nothing, now);
        let held = gates.may_call(&org("a"), now);
        assert_eq!(held, Err(Held::Trial(TRIAL_WAIT)), "a call from before gives no place of the trial back");
    }

    #[test]
    fn a_call_from_before_that_says_nothing_does_not_make_the_pause_longer() {
        let now = Instant::now();
        let mut gates = proven(now);
        answer(&mut gates, Lesson::Held(Why::Throttled, None), now).unwrap();
        gates.ended(&org("a"), Permit::Free, Lesson::Nothing, now + FIRST_PAUSE / 2);
        assert_eq!(gates.may_call(&org("a"), now + FIRST_PAUSE), Ok(Permit::Probe));
    }

    #[test]
    fn idle_gates_are_looked_for_once_a_minute() {
        let start = Instant::now();
        let mut gates = proven(start);
        let mut serve = |id: &str, at: Instant| {
            let permit = gates.may_call(&org(id), at).unwrap();
            gates.ended(&org(id), permit, Lesson::Works, at);
            let mut ids: Vec<String> = gates.gates.keys().map(ToString::to_string).collect();
            ids.sort();
            ids.concat()
        };
        let second = Duration::from_secs(1);
        assert_eq!(serve("b", start + 30 * second), "ab");
        let swept = start + IDLE + 10 * second;
        assert_eq!(serve("x", swept), "bx");
        assert_eq!(serve("y", swept + 50 * second), "bxy");
        assert_eq!(serve("z", swept + 60 * second), "xyz");
    }

    proptest! {
        /// Calls are begun and end in any order: the promises hold for each organisation whatever the other does.
        #[test]
        fn no_call_goes_before_its_time_and_every_gate_opens_again(
            steps in proptest::collection::vec((0_u8..2, 0_u8..8, 0_u64..20, 0_usize..8), 0..300)
        ) {
            let mut now = Instant::now();
            let mut gates = OrgGates::default();
            let orgs = [org("a"), org("b")];
            let mut floors = [now, now];
            let mut under_way: [Vec<Permit>; 2] = Default::default();
            for (number, step, pause, which) in steps {
                let (number, org) = (usize::from(number), &orgs[usize::from(number)]);
                now += Duration::from_millis(pause * 100);
                if step < 4 {
                    match gates.may_call(org, now) {
                        Ok(permit) => {
                            prop_assert!(floors[number] <= now, "before its Retry-After");
                            under_way[number].push(permit);
                            let alone = |kind| under_way[number].iter().filter(|p| **p == kind).count();
                            prop_assert!(alone(Permit::Probe) <= 1 && alone(Permit::Trial) <= 4);
                        }
                        Err(Held::For(_) | Held::Trial(_)) => {}
                    }
                } else if !under_way[number].is_empty() {
                    let at = which % under_way[number].len();
                    let permit = under_way[number].swap_remove(at);
                    let lesson = match step {
                        4 | 5 => Lesson::Works,
                        6 => Lesson::Nothing,
                        _ => Lesson::Held(Why::Throttled, Some(Duration::from_millis(pause * 200))),
                    };
                    let _ = gates.ended(org, permit, lesson, now);
                    if let Lesson::Held(_, Some(wait)) = lesson {
                        floors[number] = floors[number].max(now + wait);
                    }
                }
            }
            for (number, org) in orgs.iter().enumerate() {
                for permit in under_way[number].drain(..) {
                    let _ = gates.ended(org, permit, Lesson::Nothing, now);
                }
                prop_assert!(gates.may_call(org, now + Duration::from_mins(2)).is_ok(), "it is called again");
            }
        }
    }
}
