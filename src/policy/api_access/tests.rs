//! The promises of the whole decision, as tables and against a model. One long file: it contains
//! only tests, and they share the model and its helpers.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

const CONCURRENCY: usize = 8;
const SECOND: Duration = Duration::from_secs(1);

fn org(id: &str) -> OrgId {
    OrgId::try_from(id.to_owned()).unwrap()
}

/// Three organisations that may be called, and a clock.
struct World {
    access: ApiAccess,
    now: Instant,
    next_command: u64,
}

impl World {
    fn new() -> Self {
        let mut access =
            ApiAccess::new(CONCURRENCY, Duration::from_hours(1), RateLimits::default());
        access.set_organisations(|_| true, [org("a"), org("b"), org("c")].iter());
        Self { access, now: Instant::now(), next_command: 0 }
    }

    fn admit(&mut self, id: &str) -> Result<Permit, Denied> {
        self.access.admit(&org(id), false, self.now)
    }

    /// A call with a command of its own.
    fn call(&mut self, id: &str, verdict: Verdict) -> Recorded {
        self.next_command += 1;
        self.call_for(id, self.next_command, verdict, None)
    }

    fn call_for(
        &mut self,
        id: &str,
        command: u64,
        verdict: Verdict,
        retry_after: Option<Duration>,
    ) -> Recorded {
        let permit = self.admit(id).expect("a call may be made");
        let feedback = Feedback { command: CommandKey(command), verdict, retry_after };
        self.access.record(&org(id), permit, feedback, self.now)
    }

    fn calls(&mut self, id: &str, verdict: Verdict, number: usize) {
        for _ in 0..number {
            let _ = self.call(id, verdict);
        }
    }

    fn suspended(&self, id: &str) -> Option<SuspendReason> {
        self.access.standings(self.now).get(&org(id)).and_then(|standing| standing.reason)
    }

    fn retry_in(&mut self, id: &str) -> Duration {
        match self.admit(id) {
            Err(Denied::Suspended { retry_in, .. } | Denied::BreakerOpen { retry_in }) => retry_in,
            other => panic!("{other:?}"),
        }
    }

    fn is_breaker_open(&self) -> bool {
        self.access.breaker_open_since().is_some()
    }
}

#[test]
fn one_tenants_outage_stays_that_tenants() {
    for (verdict, number, reason) in [
        (Verdict::Throttled, 1, SuspendReason::Throttled),
        (Verdict::Unauthorized, 1, SuspendReason::Unauthorized),
        (Verdict::NotReached, 1, SuspendReason::Misdirected),
        (Verdict::Misdirected, 10, SuspendReason::Misdirected),
        (Verdict::Transient, 10, SuspendReason::Failing),
        (Verdict::Unreachable, 10, SuspendReason::Failing),
        (Verdict::UnverifiedAbsence, 10, SuspendReason::Misdirected),
    ] {
        let mut world = World::new();
        world.calls("b", Verdict::Deleted, 1);
        world.calls("a", verdict, number - 1);
        assert_eq!(world.suspended("a"), None, "{verdict:?}");
        let recorded = world.call("a", verdict);
        assert_eq!(world.suspended("a"), Some(reason), "{verdict:?}");
        let suspended = |change: &Change| matches!(change, Change::Suspended { reason: why, .. } if *why == reason);
        assert!(recorded.changes.iter().any(suspended), "{recorded:?}");
        assert_eq!(world.retry_in("a"), SECOND, "{verdict:?}");
        assert_eq!(world.access.intake(world.now), Intake::Bulk, "{verdict:?}");
        assert_eq!(
            world.call("b", Verdict::Deleted),
            Recorded { is_outage: false, changes: vec![] }
        );
    }
}

#[test]
fn an_answer_while_its_organisation_is_suspended_says_nothing_of_the_command() {
    let mut world = World::new();
    world.calls("b", Verdict::Deleted, 1);
    let late = [world.admit("a"), world.admit("a"), world.admit("a")].map(Result::unwrap);
    for _ in 0..9 {
        let recorded = world.call("a", Verdict::Transient);
        assert!(!recorded.is_outage);
    }
    assert!(world.call("a", Verdict::Transient).is_outage, "the one that suspends it too");
    let answers = [Verdict::Transient, Verdict::Throttled, Verdict::Rejected];
    for (permit, verdict) in late.into_iter().zip(answers) {
        let feedback = Feedback { command: CommandKey(99), verdict, retry_after: None };
        let recorded = world.access.record(&org("a"), permit, feedback, world.now);
        assert!(recorded.is_outage, "{verdict:?}");
    }
    assert_eq!(world.suspended("a"), Some(SuspendReason::Throttled));
}

#[test]
fn a_few_commands_that_always_fail_suspend_nobody() {
    let mut world = World::new();
    for answer in 0..400 {
        let recorded = world.call_for("a", answer % 4, Verdict::Transient, None);
        assert_eq!(recorded, Recorded { is_outage: false, changes: vec![] });
    }
}

#[test]
fn a_suspended_organisation_is_probed_alone_and_resumes_by_slow_start() {
    let mut world = World::new();
    world.calls("b", Verdict::Deleted, 1);
    world.calls("a", Verdict::Transient, 10);
    let mut pauses = Vec::new();
    for _ in 0..7 {
        let pause = world.retry_in("a");
        pauses.push(pause.as_secs());
        world.now += pause;
        let probe = world.admit("a").unwrap();
        assert!(matches!(world.admit("a"), Err(Denied::Suspended { .. })), "one probe at a time");
        let feedback =
            Feedback { command: CommandKey(1), verdict: Verdict::Transient, retry_after: None };
        assert!(world.access.record(&org("a"), probe, feedback, world.now).is_outage);
        let _ = world.call("b", Verdict::Deleted);
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60]);
    world.access.count_waiting(&org("a"));
    let pause = world.retry_in("a");
    world.now += pause;
    let recorded = world.call("a", Verdict::Deleted);
    let [Change::Resumed { reason, suspended_for, waited }] = recorded.changes[..] else {
        panic!("{recorded:?}")
    };
    assert_eq!((reason, suspended_for.as_secs(), waited), (SuspendReason::Failing, 183, 1));
    let begun: Vec<_> = (0..6).map(|_| world.admit("a").map(Permit::kind)).collect();
    assert_eq!(begun[..4], [Ok(PermitKind::SlowStart); 4]);
    assert_eq!(begun[4..], [Err(Denied::Busy); 2]);
}

#[test]
fn an_organisation_is_probed_for_what_it_is_suspended_for() {
    let mut world = World::new();
    world.calls("b", Verdict::Deleted, 1);
    world.calls("a", Verdict::Throttled, 1);
    world.now += SECOND;
    assert_eq!(
        world.call("a", Verdict::Transient).changes.len(),
        1,
        "throttled no longer: a bad command is tried on"
    );
    assert_eq!(world.suspended("a"), None);
    world.calls("a", Verdict::UnverifiedAbsence, 10);
    world.now += SECOND;
    let recorded = world.call("a", Verdict::UnverifiedAbsence);
    assert!(
        recorded.is_outage && recorded.changes.is_empty(),
        "an absence without proof proves nothing: {recorded:?}"
    );
    let pause = world.retry_in("a");
    world.now += pause;
    assert_eq!(world.call("a", Verdict::AlreadyAbsent).changes.len(), 1);
    assert_eq!(world.suspended("a"), None);
}

#[test]
fn an_absence_is_believed_ten_times_in_a_row_without_proof_and_not_once_more() {
    let mut world = World::new();
    world.calls("a", Verdict::UnverifiedAbsence, 9);
    world.calls("a", Verdict::Deleted, 1);
    let in_flight: Vec<_> = (0..8).map(|_| world.admit("a").unwrap()).collect();
    for _ in 0..2 {
        let permit = in_flight[0];
        world.access.release(&org("a"), permit, world.now);
    }
    let mut believed = 0;
    let mut record = |world: &mut World, permit| {
        let feedback = Feedback {
            command: CommandKey(1),
            verdict: Verdict::UnverifiedAbsence,
            retry_after: None,
        };
        believed +=
            usize::from(!world.access.record(&org("a"), permit, feedback, world.now).is_outage);
    };
    for permit in in_flight.into_iter().skip(2) {
        record(&mut world, permit);
    }
    while let Ok(permit) = world.admit("a") {
        record(&mut world, permit);
    }
    assert_eq!(believed, 10);
}

#[test]
fn the_breaker_opens_only_when_no_organisation_is_served() {
    let mut world = World::new();
    world.calls("c", Verdict::Deleted, 1);
    for _ in 0..5 {
        world.calls("a", Verdict::Transient, 1);
        world.calls("b", Verdict::Transient, 1);
    }
    assert!(!world.is_breaker_open(), "ten in a row, and another one is served");
    world.now += EVIDENCE;
    assert_eq!(
        world.call("a", Verdict::Transient).changes,
        [Change::BreakerOpened],
        "it has not been for a while"
    );
    assert_eq!(world.access.intake(world.now), Intake::Probing);
    world.now += SECOND;
    let recorded = world.call("c", Verdict::Deleted);
    assert_eq!(recorded.changes, [Change::BreakerClosed { open_for: SECOND }]);
    assert_eq!(world.access.intake(world.now), Intake::Bulk);
}

#[test]
fn the_failures_of_a_suspended_organisation_do_not_open_the_breaker() {
    let mut world = World::new();
    world.calls("b", Verdict::Deleted, 1);
    world.calls("a", Verdict::Transient, 10);
    for _ in 0..20 {
        world.now += Duration::from_mins(1);
        world.calls("a", Verdict::Transient, 1);
        assert!(!world.is_breaker_open());
    }
    world.calls("b", Verdict::Transient, 9);
    assert!(!world.is_breaker_open());
    let recorded = world.call("b", Verdict::Transient);
    assert!(recorded.changes.contains(&Change::BreakerOpened), "{recorded:?}");
}

#[test]
fn a_good_answer_of_a_call_from_before_ends_an_outage_for_the_breaker_and_its_organisation() {
    let mut world = World::new();
    let slow_and_good = world.admit("a").unwrap();
    world.calls("a", Verdict::Transient, 10);
    assert!(world.is_breaker_open() && world.suspended("a").is_some());
    let feedback =
        Feedback { command: CommandKey(99), verdict: Verdict::Deleted, retry_after: None };
    let recorded = world.access.record(&org("a"), slow_and_good, feedback, world.now);
    assert_eq!(recorded.changes.len(), 2, "{recorded:?}");
    assert!(!world.is_breaker_open() && world.suspended("a").is_none());
    assert_eq!(world.admit("a").map(Permit::kind), Ok(PermitKind::SlowStart));
}

#[test]
fn an_absence_that_is_not_believed_does_not_close_the_breaker() {
    let mut world = World::new();
    world.calls("a", Verdict::UnverifiedAbsence, 10);
    world.now += EVIDENCE;
    world.calls("b", Verdict::Transient, 10);
    assert!(world.is_breaker_open());
    world.now += Duration::from_mins(2);
    let recorded = world.call("a", Verdict::UnverifiedAbsence);
    assert_eq!(recorded, Recorded { is_outage: true, changes: vec![] });
    assert!(world.is_breaker_open());
}

#[test]
fn of_a_suspended_organisations_commands_one_that_was_never_tried_is_its_next_probe() {
    let mut world = World::new();
    world.calls("b", Verdict::Deleted, 1);
    world.calls("a", Verdict::Transient, 10);
    let pause = world.retry_in("a");
    world.now += pause;
    assert!(world.access.admit(&org("a"), true, world.now).is_err(), "another one may come");
    assert!(world.access.admit(&org("a"), false, world.now).is_ok());
    let mut world = World::new();
    world.calls("b", Verdict::Deleted, 1);
    world.calls("a", Verdict::Transient, 10);
    world.now += Duration::from_secs(30);
    assert!(world.access.admit(&org("a"), true, world.now).is_ok(), "none has come");
}

#[test]
fn while_the_breaker_is_open_a_throttled_organisation_still_keeps_its_retry_after() {
    let mut world = World::new();
    let _ = world.call_for("a", 1, Verdict::Throttled, Some(Duration::from_mins(5)));
    world.calls("b", Verdict::Transient, 10);
    assert!(world.is_breaker_open());
    world.now += SECOND;
    assert_eq!(world.retry_in("a"), 299 * SECOND);
    assert_eq!(world.admit("b").map(Permit::kind), Ok(PermitKind::HalfOpen));
}

#[test]
fn nothing_is_taken_in_while_every_organisation_that_there_is_waits() {
    let mut world = World::new();
    world.access.set_organisations(|_| true, [org("a"), org("b")].iter());
    let _ = world.call_for("a", 1, Verdict::Throttled, Some(10 * SECOND));
    assert_eq!(world.access.intake(world.now), Intake::Probing, "nobody knows of the other one");
    assert!(world.access.are_all_suspended());
    let _ = world.call_for("b", 1, Verdict::Throttled, Some(5 * SECOND));
    assert_eq!(world.access.intake(world.now), Intake::Paused(world.now + 5 * SECOND));
    assert_eq!(world.access.intake(world.now + 5 * SECOND), Intake::Probing);
    world.access.set_organisations(|_| true, [org("b")].iter());
    assert_eq!(
        (world.access.callable(), world.access.suspended_for(SuspendReason::Throttled)),
        (1, 1)
    );
    assert_eq!(
        world.access.intake(world.now),
        Intake::Paused(world.now + 5 * SECOND),
        "the other has no token"
    );
    world.access.set_organisations(|_| true, [].iter());
    assert!(matches!(world.access.intake(world.now), Intake::Paused(_)), "nobody has a token");
}

#[test]
fn a_token_that_is_away_for_a_moment_or_is_a_new_one_ends_no_retry_after() {
    let mut world = World::new();
    let under_way = world.admit("a").unwrap();
    let _ = world.call_for("a", 1, Verdict::Throttled, Some(60 * SECOND));
    world.access.set_organisations(|_| true, [org("b"), org("c")].iter());
    assert!(
        world.access.standings(world.now).is_empty()
            && world.access.suspended_for(SuspendReason::Throttled) == 0
    );
    assert!(!world.access.are_all_suspended(), "it is not called");
    world.access.set_organisations(|_| true, [org("a"), org("b"), org("c")].iter());
    world.access.probe_now(&org("a"), world.now);
    assert_eq!(world.retry_in("a"), 60 * SECOND);
    assert_eq!(world.access.standings(world.now)[&org("a")].in_flight, 1);
    world.access.release(&org("a"), under_way, world.now);
    world.access.set_organisations(|id| *id != org("a"), [org("b")].iter());
    world.access.set_organisations(|_| true, [org("a"), org("b")].iter());
    assert!(world.admit("a").is_ok(), "what is not allowed any more is forgotten");
}

#[test]
fn a_new_token_is_probed_at_once() {
    let mut world = World::new();
    world.calls("b", Verdict::Deleted, 1);
    world.calls("a", Verdict::Unauthorized, 1);
    assert_eq!(world.retry_in("a"), SECOND);
    world.access.probe_now(&org("a"), world.now);
    assert_eq!(world.admit("a").map(Permit::kind), Ok(PermitKind::HalfOpen));
}

#[test]
fn what_the_api_has_asked_for_is_told_to_those_who_are_denied() {
    let mut world = World::new();
    let _ = world.call_for("a", 1, Verdict::Throttled, Some(60 * SECOND));
    let reason = SuspendReason::Throttled;
    let denied =
        Denied::Suspended { reason, retry_in: 60 * SECOND, retry_after: Some(60 * SECOND) };
    assert_eq!(world.admit("a"), Err(denied));
    world.calls("b", Verdict::Unauthorized, 1);
    let reason = SuspendReason::Unauthorized;
    assert_eq!(
        world.admit("b"),
        Err(Denied::Suspended { reason, retry_in: SECOND, retry_after: None })
    );
}

#[test]
fn an_organisation_whose_failures_alternate_is_reported_once_for_each_reason() {
    let mut world = World::new();
    world.calls("b", Verdict::Deleted, 1);
    world.calls("a", Verdict::Transient, 10);
    let mut changes = Vec::new();
    for probe in 0..6 {
        let pause = world.retry_in("a");
        world.now += pause;
        let verdict = if probe % 2 == 0 { Verdict::Misdirected } else { Verdict::Transient };
        changes.extend(world.call("a", verdict).changes);
        let _ = world.call("b", Verdict::Deleted);
    }
    assert!(
        matches!(changes[..], [Change::Suspended { reason: SuspendReason::Misdirected, .. }]),
        "{changes:?}"
    );
}

#[test]
fn a_slow_organisation_does_not_keep_the_last_permits_from_the_others() {
    let mut world = World::new();
    world.calls("a", Verdict::Deleted, CONCURRENCY);
    let permits: Vec<_> = (0..CONCURRENCY).map(|_| world.admit("a").unwrap()).collect();
    assert_eq!(world.admit("a"), Err(Denied::Busy), "alone it uses all");
    world.now += 3 * SECOND;
    assert!(world.access.is_slow(&org("a"), world.now));
    assert_eq!(world.admit("b"), Err(Denied::Busy));
    for permit in &permits[..4] {
        let feedback =
            Feedback { command: CommandKey(1), verdict: Verdict::Deleted, retry_after: None };
        let _ = world.access.record(&org("a"), *permit, feedback, world.now);
    }
    assert!(world.admit("a").is_ok() && world.admit("a").is_ok());
    assert_eq!(world.admit("a"), Err(Denied::Busy), "six of eight permits");
    let (a, b) = (org("a"), org("b"));
    assert_eq!(world.access.next_in_line([&a, &b].into_iter(), world.now), Some(&b));
    assert!(world.admit("b").is_ok());
}

#[test]
fn what_is_idle_is_forgotten_and_what_is_suspended_not_before_its_commands_are_back() {
    let mut world = World::new();
    world.calls("b", Verdict::Deleted, 1);
    world.calls("a", Verdict::Throttled, 1);
    world.now += IDLE;
    world.access.forget_idle(world.now);
    let standings = world.access.standings(world.now).into_keys().cloned().collect::<Vec<_>>();
    assert_eq!(standings, [org("a")]);
    world.now += Duration::from_hours(1);
    world.access.forget_idle(world.now);
    assert!(world.access.standings(world.now).is_empty());
    assert_eq!(world.access.suspended_for(SuspendReason::Throttled), 0);
}

/// The facts behind the promises, derived from the answers alone.
#[derive(Default)]
struct Model {
    failures: Vec<u64>,
    last_good: Option<Instant>,
    not_before: Option<Instant>,
    unverified: u32,
}

/// Events other than calls and answers.
#[derive(Debug, Clone, Copy)]
enum Event {
    Nothing,
    /// One organisation loses its token.
    TokenGone,
    /// One organisation is no longer allowed.
    Disallowed,
    /// All organisations have tokens.
    AllBack,
    /// One organisation gets a new token.
    NewToken,
    /// Some minutes pass without a command, and idle organisations are forgotten.
    Idle,
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        40 => Just(Event::Nothing),
        1 => Just(Event::TokenGone),
        1 => Just(Event::Disallowed),
        2 => Just(Event::AllBack),
        1 => Just(Event::NewToken),
        1 => Just(Event::Idle),
    ]
}

impl World {
    fn is_suspended(&self, org: &OrgId) -> bool {
        self.access.organisations.get(org).is_some_and(Organisation::is_suspended)
    }

    /// Returns the organisations whose circuits are forgotten.
    fn happens(
        &mut self,
        event: Event,
        orgs: &[OrgId; 3],
        which: usize,
        minutes: u64,
    ) -> Vec<usize> {
        let others = || orgs.iter().filter(|org| **org != orgs[which]);
        match event {
            Event::Nothing => return Vec::new(),
            Event::TokenGone => self.access.set_organisations(|_| true, others()),
            Event::Disallowed => self.access.set_organisations(|org| *org != orgs[which], others()),
            Event::AllBack => self.access.set_organisations(|_| true, orgs.iter()),
            Event::NewToken => self.access.probe_now(&orgs[which], self.now),
            Event::Idle => {
                self.now += Duration::from_mins(minutes);
                self.access.forget_idle(self.now);
            }
        }
        (0..3).filter(|which| !self.access.organisations.contains_key(&orgs[*which])).collect()
    }
}

fn any_verdict() -> impl Strategy<Value = Verdict> {
    let weighted = Verdict::ALL.map(|verdict| match verdict {
        Verdict::Transient => (8, Just(verdict)),
        Verdict::Misdirected | Verdict::UnverifiedAbsence => (3, Just(verdict)),
        _ => (1, Just(verdict)),
    });
    proptest::strategy::Union::new_weighted(weighted.to_vec())
}

proptest! {
    /// Calls begin and end in any order for three organisations: the promises hold for each,
    /// whatever the others do.
    #[test]
    fn the_promises_hold_whatever_happens(
        steps in proptest::collection::vec((
            0_usize..3, (any::<bool>(), any::<bool>()), any_verdict(), 0_u64..30, 0_u64..7, 0_usize..8, any_event(),
        ), 0..400)
    ) {
        let orgs = [org("a"), org("b"), org("c")];
        let mut world = World::new();
        let mut models: [Model; 3] = Default::default();
        let mut in_flight: Vec<(usize, Permit)> = Vec::new();
        let mut breaker_calls: Vec<Instant> = Vec::new();
        for (which, (begins, was_tried), verdict, pause, command, pick, event) in steps {
            world.now += Duration::from_millis(pause * 100);
            for forgotten in world.happens(event, &orgs, which, pause) {
                models[forgotten] = Model::default();
            }
            let now = world.now;
            if begins {
                let was_open = world.is_breaker_open();
                // Like the engine, which asks for a token first.
                if !world.access.callable.contains(&orgs[which]) { continue }
                let Ok(permit) = world.access.admit(&orgs[which], was_tried, now) else { continue };
                prop_assert!(models[which].not_before.is_none_or(|moment| moment <= now), "no Retry-After is undercut");
                if was_open {
                    breaker_calls.push(now);
                    let lately = breaker_calls.iter().filter(|at| now - **at < SECOND).count();
                    prop_assert!(lately <= 2, "two probes a second");
                }
                in_flight.push((which, permit));
                prop_assert!(in_flight.len() <= CONCURRENCY);
            } else if !in_flight.is_empty() {
                let (which, permit) = in_flight.swap_remove(pick % in_flight.len());
                let retry_after = (verdict == Verdict::Throttled).then_some(Duration::from_millis(pause * 300));
                let was_suspended = world.is_suspended(&orgs[which]);
                let was_open = world.is_breaker_open();
                let others_are_served = (0..3).any(|other| other != which
                    && models[other].failures.is_empty()
                    && models[other].last_good.is_some_and(|at| now - at < EVIDENCE)
                    && world.access.standings(now).get(&orgs[other]).is_some_and(|s| s.reason.is_none()));
                let feedback = Feedback { command: CommandKey(command), verdict, retry_after };
                let recorded = world.access.record(&orgs[which], permit, feedback, now);
                let model = &mut models[which];
                let is_suspended = world.is_suspended(&orgs[which]);
                match service(verdict) {
                    Service::Served if verdict == Verdict::UnverifiedAbsence && recorded.is_outage => {}
                    Service::Served => {
                        model.failures.clear();
                        model.last_good = Some(now);
                        let is_proof = matches!(verdict, Verdict::Deleted | Verdict::Present | Verdict::AlreadyAbsent);
                        model.unverified = match verdict {
                            Verdict::UnverifiedAbsence => model.unverified + 1,
                            _ if is_proof => 0,
                            _ => model.unverified,
                        };
                        prop_assert!(model.unverified <= 10, "ten unproven absences in a row at most are believed");
                    }
                    Service::Failed(_) => model.failures.push(command),
                    Service::Denied(_) => {
                        prop_assert!(is_suspended);
                        model.not_before = model.not_before.max(retry_after.map(|wait| now + wait));
                    }
                }
                if is_suspended && !was_suspended && matches!(service(verdict), Service::Failed(_)) {
                    let commands: BTreeSet<_> = model.failures.iter().collect();
                    prop_assert!(model.failures.len() >= 10 && commands.len() >= 5, "{:?}", model.failures);
                }
                if recorded.changes.contains(&Change::BreakerOpened) {
                    prop_assert!(!was_open && !others_are_served, "it opens only when no organisation is served");
                    breaker_calls.clear();
                }
                if !matches!(service(verdict), Service::Served) {
                    prop_assert_eq!(recorded.is_outage, is_suspended || world.is_breaker_open());
                }
            }
        }
        for (which, permit) in in_flight {
            world.access.release(&orgs[which], permit, world.now);
        }
        world.access.set_organisations(|_| true, orgs.iter());
        for org in &orgs {
            world.now += Duration::from_mins(2);
            prop_assert!(world.access.admit(org, false, world.now).is_ok(), "each is called again");
        }
    }
}
