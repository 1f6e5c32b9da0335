//! Holds the ledgers against the promise. Pure: no process, no clock, no network.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use tallyfy_delete_worker::kind;

use crate::decisions;
use crate::ledgers::{Blow, Call, Command, DeadLetter, Event, Expected, Harmless, Ledgers};

/// What can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A confirmed command with no end.
    Lost,
    /// An end for a command that nobody gave.
    UnexpectedEnd,
    /// Two different ends, and no rule for a consumer that says which one holds.
    TwoEnds,
    /// The end is not the one that the command had to come to.
    WrongEnd,
    /// A success, and the object is still there.
    FalseEnd,
    /// A failure, and the object is gone.
    MissedSuccess,
    /// The same end with two event ids.
    TwoEventIds,
    /// A call for an id that nobody named, or on another path.
    UnexpectedCall,
    /// A dead letter for the upstream failure.
    WronglyDead,
    /// A dead letter without its event, or the other way round.
    HalfDead,
    /// A call before its `Retry-After`.
    EarlyCall,
    /// A command of an organisation that was healthy throughout waited long, and nothing had
    /// befallen all.
    Delayed,
    /// A dead letter of an organisation while nothing of it could be served.
    DeadWhileOut,
    /// A token in an output.
    Leak,
    /// Something was left in a queue.
    Left,
    /// A process ended otherwise than asked.
    BadExit,
    /// A worker did nothing for long, while a plain consumer beside it got messages.
    StoodStill,
    /// More was archived or deleted than the guard and its operator let pass.
    GuardOvershot,
    /// Something was held of an organisation whose guard had no reason to trip.
    WronglyHeld,
    /// A call that destroys, of an organisation that was paused.
    CalledWhilePaused,
    /// A call that destroys, for a command that was cancelled before.
    CalledThoughCancelled,
    /// A task was deleted that had been restored in its undo window.
    DeletedThoughRestored,
    /// A restored task was archived again, and nothing had befallen anybody.
    ArchivedAgain,
    /// A task was deleted before its undo window had ended, or without having been archived.
    DeletedEarly,
    /// A task was archived and deleted, and no event had told that it would be.
    NotTold,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    pub(crate) kind: Kind,
    pub(crate) what: String,
}

/// The books, in the words of the field.
#[derive(Debug, Default)]
pub(crate) struct Balance {
    /// Commands sent, at least once.
    pub(crate) attempted: usize,
    /// Confirmed by the broker.
    pub(crate) acknowledged: usize,
    /// Confirmed, and come to the end that they had to come to.
    pub(crate) ok: usize,
    /// Confirmed, and without an end.
    pub(crate) lost: usize,
    /// Ends of commands that nobody gave.
    pub(crate) unexpected: usize,
    /// Ends that were told more than once, with the same event id.
    pub(crate) duplicated: usize,
    /// Never confirmed, and come to an end all the same.
    pub(crate) recovered: usize,
    /// Failures that a success superseded.
    pub(crate) superseded: usize,
    /// The longest that a command of an organisation that was healthy throughout has waited.
    pub(crate) longest_delay_ms: usize,
    pub(crate) findings: Vec<Finding>,
}

/// How long another's trouble may delay an organisation that is healthy throughout.
const LONGEST_DELAY_MS: i64 = 20_000;

/// How long a fault of a cluster may stop a worker in which a plain consumer goes on.
const LONGEST_STILL_MS: i64 = 15_000;

/// # Every worker goes on while a plain consumer does
///
/// `ends`: when a worker told of the ends of commands. `others`: what goes on beside it, each at
/// any time (the plain consumers get messages, the producers' commands are confirmed, and so are
/// records in the guard's ledger, without which nothing may be deleted); what stopped them stops a
/// worker, too. Returns the longest time that a worker stood still beyond that, and
/// what is wrong with it.
pub(crate) fn stood_still(
    worker: usize,
    ends: &[i64],
    others: &[Vec<i64>],
) -> (i64, Option<Finding>) {
    let beyond = ends.windows(2).map(|pair| {
        let excused = others.iter().map(|times| longest_pause(times, pair[0], pair[1])).max();
        let gap = pair[1] - pair[0];
        // A gap of theirs that is no longer than usual excuses nothing.
        let excused = excused.filter(|excused| *excused > 1500).unwrap_or_default();
        (gap - excused, gap, pair[0])
    });
    let Some((still, gap, from)) = beyond.max() else {
        let what = format!("worker {worker} has done nothing");
        return (0, Some(finding(Kind::StoodStill, what)));
    };
    let what = format!(
        "worker {worker}: {gap} ms from {from} on, {still} ms more than the consumers beside it"
    );
    (still, (still > LONGEST_STILL_MS).then(|| finding(Kind::StoodStill, what)))
}

/// The longest time between two of these, from then to then.
pub(crate) fn longest_pause(times: &[i64], from: i64, to: i64) -> i64 {
    let inside = times.iter().copied().filter(|time| (from..to).contains(time));
    let times: Vec<_> = std::iter::once(from).chain(inside).chain([to]).collect();
    times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

/// Holds all ledgers against each other.
pub(crate) fn check(ledgers: &Ledgers) -> Balance {
    let commands: HashMap<&str, &Command> =
        ledgers.commands.iter().map(|c| (c.id.as_str(), c)).collect();
    let mut ends: HashMap<&str, Vec<&Event>> = HashMap::new();
    for event in &ledgers.events {
        ends.entry(&event.command_id).or_default().push(event);
    }
    let mut balance = Balance::default();
    count(ledgers, &ends, &mut balance);
    let delays = delays_of_the_healthy(ledgers, &ends);
    let longest = delays.iter().map(|(_, delay)| *delay).max().unwrap_or_default();
    balance.longest_delay_ms = usize::try_from(longest).unwrap_or_default();
    let mut findings = Vec::new();
    findings.extend(delays.iter().filter_map(|(command, delay)| delayed(command, *delay)));
    findings.extend(
        ledgers.dead_letters.iter().filter_map(|l| dead_while_out(l, &commands, &ledgers.journal)),
    );
    findings.extend(ledgers.commands.iter().filter_map(|c| lost(c, &ends)));
    findings
        .extend(ends.iter().flat_map(|(id, ends)| ends_of_one(commands.get(id).copied(), ends)));
    findings.extend(unsettled(&ledgers.events));
    findings.extend(false_ends(ledgers, &commands));
    findings
        .extend(ledgers.commands.iter().filter_map(|c| missed_success(c, &ends, &ledgers.calls)));
    findings.extend(unexpected_calls(ledgers));
    findings.extend(
        ledgers.dead_letters.iter().filter_map(|letter| wrongly_dead(letter, &commands, &ends)),
    );
    findings.extend(half_dead(ledgers));
    findings.extend(early_calls(ledgers, &commands));
    findings.extend(decisions::check(ledgers));
    findings.extend(ledgers.leaks.iter().map(|place| finding(Kind::Leak, place.clone())));
    findings.extend(ledgers.bad_exits.iter().map(|exit| finding(Kind::BadExit, exit.clone())));
    let left = ledgers.left.iter().filter(|(_, messages)| **messages > 0);
    findings.extend(
        left.map(|(queue, messages)| finding(Kind::Left, format!("{messages} in {queue}"))),
    );
    findings.sort_by(|a, b| (a.kind, &a.what).cmp(&(b.kind, &b.what)));
    balance.findings = findings;
    balance
}

pub(crate) fn finding(kind: Kind, what: String) -> Finding {
    Finding { kind, what }
}

fn count(ledgers: &Ledgers, ends: &HashMap<&str, Vec<&Event>>, balance: &mut Balance) {
    for command in &ledgers.commands {
        let ends = ends.get(command.id.as_str());
        balance.attempted += usize::from(command.attempted > 0);
        balance.acknowledged += usize::from(command.acknowledged > 0);
        balance.lost += usize::from(command.acknowledged > 0 && ends.is_none());
        balance.recovered += usize::from(command.acknowledged == 0 && ends.is_some());
        let is_right = ends.is_some_and(|ends| {
            let has_succeeded = has_succeeded(ends);
            ends.iter().all(|end| is_expected(command, end, has_succeeded))
        });
        balance.ok += usize::from(command.acknowledged > 0 && is_right);
        let has =
            |is_it: fn(&Event) -> bool| ends.is_some_and(|ends| ends.iter().any(|e| is_it(e)));
        balance.superseded += usize::from(has(is_failure) && has(is_success));
    }
    let given: HashSet<&str> = ledgers.commands.iter().map(|c| c.id.as_str()).collect();
    balance.unexpected = ends.keys().filter(|id| !given.contains(*id)).count();
    balance.duplicated = ends.values().filter(|ends| ends.len() > 1).count();
}

fn is_expected(command: &Command, end: &Event, has_succeeded: bool) -> bool {
    let is_done = end.outcome == command.kind.spec().outcome
        || end.outcome == "already_absent"
        || is_second_not_found(command, &end.reason, has_succeeded);
    match command.expected {
        Expected::Done => is_done,
        Expected::DeadLetter(reason) => is_failure(end) && end.reason == reason,
        Expected::RefusedOnce => is_success(end) || end.reason == "forbidden",
        Expected::MayBeRejected => is_done || end.reason == decisions::REJECTED,
        Expected::Cancelled => is_cancelled(end),
        Expected::MayBeCancelled => is_done || is_cancelled(end),
    }
}

fn is_failure(event: &Event) -> bool {
    event.outcome == "dead_lettered"
}

fn is_cancelled(event: &Event) -> bool {
    event.outcome == "cancelled"
}

fn is_success(event: &Event) -> bool {
    !is_failure(event) && !is_cancelled(event)
}

/// A producer that has lost a confirm sends the command again; a worker that has lost an
/// acknowledgement leaves two copies in the delay queues. Where "not found" is a failure, the
/// second one fails if the first was carried out, and the success supersedes that.
fn is_second_not_found(command: &Command, reason: &str, has_succeeded: bool) -> bool {
    let is_not_found = matches!(reason, "not_found" | "not_found_or_not_archived");
    let there_are_two = command.attempted > 1 || has_succeeded;
    there_are_two && command.kind.fails_when_not_found() && is_not_found
}

fn has_succeeded(ends: &[&Event]) -> bool {
    ends.iter().any(|end| is_success(end))
}

fn lost(command: &Command, ends: &HashMap<&str, Vec<&Event>>) -> Option<Finding> {
    let is_lost = command.acknowledged > 0 && !ends.contains_key(command.id.as_str());
    is_lost.then(|| {
        finding(Kind::Lost, format!("{} ({}/{})", command.id, command.org, command.object))
    })
}

fn ends_of_one(command: Option<&Command>, ends: &[&Event]) -> Vec<Finding> {
    let id = &ends[0].command_id;
    let Some(command) = command.filter(|command| command.attempted > 0) else {
        return vec![finding(Kind::UnexpectedEnd, id.clone())];
    };
    let mut findings = Vec::new();
    let has_succeeded = has_succeeded(ends);
    let is_second = |end: &Event| is_second_not_found(command, &end.reason, has_succeeded);
    let ends: Vec<_> = ends.iter().filter(|end| !is_second(end)).collect();
    for is_it in [is_failure, is_cancelled, is_success] {
        let alike = ends.iter().filter(|end| is_it(end));
        let event_ids: BTreeSet<&str> = alike.map(|end| end.id.as_str()).collect();
        if event_ids.len() > 1 {
            findings.push(finding(Kind::TwoEventIds, format!("{id}: {event_ids:?}")));
        }
    }
    if let Some(wrong) = ends.iter().find(|end| !is_expected(command, end, has_succeeded)) {
        let what = format!("{id}: {} {}, not {:?}", wrong.outcome, wrong.reason, command.expected);
        findings.push(finding(Kind::WrongEnd, what));
    }
    findings
}

/// # A consumer that knows nothing but ids has one end for each command, in whatever order the events come
///
/// It follows the rule of `docs/messages.md`, once forwards and once backwards. A cancellation, which
/// no success names, does not hold beside one.
fn unsettled(events: &[Event]) -> Vec<Finding> {
    let successes = events.iter().filter(|event| is_success(event));
    let succeeded: HashSet<&str> = successes.map(|event| event.command_id.as_str()).collect();
    let counts =
        |event: &&Event| !is_cancelled(event) || !succeeded.contains(event.command_id.as_str());
    let counting = || events.iter().filter(counts);
    let (forwards, backwards) = (holding(counting()), holding(counting().rev()));
    let ids = events.iter().map(|event| event.command_id.as_str()).collect::<BTreeSet<_>>();
    let is_settled = |id: &&str| {
        let (one, other) = (forwards.get(id), backwards.get(id));
        one == other && one.is_some_and(|ends| ends.len() == 1)
    };
    let unsettled = ids.into_iter().filter(|id| !is_settled(id));
    unsettled.map(|id| finding(Kind::TwoEnds, id.to_owned())).collect()
}

/// The ends that hold, by the command: their event ids.
fn holding<'a>(events: impl Iterator<Item = &'a Event>) -> HashMap<&'a str, BTreeSet<&'a str>> {
    let mut superseded = HashSet::new();
    let mut ends: HashMap<&str, BTreeSet<&str>> = HashMap::new();
    for event in events {
        let ends = ends.entry(&event.command_id).or_default();
        if let Some(failure) = event.supersedes.as_deref() {
            superseded.insert(failure);
            ends.remove(failure);
        }
        if !superseded.contains(event.id.as_str()) {
            ends.insert(&event.id);
        }
    }
    ends
}

/// A success that was told to nobody: the object is gone, and its command has only failed.
fn missed_success(
    command: &Command,
    ends: &HashMap<&str, Vec<&Event>>,
    calls: &[Call],
) -> Option<Finding> {
    let ends = ends.get(command.id.as_str())?;
    let is_it = |call: &Call| call.org == command.org && call.object == command.object;
    let is_done = |call: &Call| call.did_it && call.kind == Some(command.kind) && is_it(call);
    let is_missed = matches!(command.expected, Expected::RefusedOnce | Expected::MayBeRejected)
        && ends.iter().all(|end| is_failure(end))
        && calls.iter().any(is_done);
    is_missed.then(|| finding(Kind::MissedSuccess, command.id.clone()))
}

/// Archived is not deleted.
fn false_ends(ledgers: &Ledgers, commands: &HashMap<&str, &Command>) -> Vec<Finding> {
    let did_it = ledgers.calls.iter().filter(|call| call.did_it);
    let done: HashSet<_> = did_it
        .filter_map(|call| Some((call.kind?, call.org.as_str(), call.object.as_str())))
        .collect();
    let mut findings = Vec::new();
    for end in ledgers.events.iter().filter(|end| is_success(end)) {
        let Some(command) = commands.get(end.command_id.as_str()) else { continue };
        let object = format!("{}/{}", end.org, end.object);
        let is_done = done.contains(&(command.kind, end.org.as_str(), end.object.as_str()));
        if ledgers.were_there.contains(&object) && !is_done {
            findings.push(finding(
                Kind::FalseEnd,
                format!("{}: {object} is still there", end.command_id),
            ));
        }
    }
    findings
}

fn unexpected_calls(ledgers: &Ledgers) -> Vec<Finding> {
    let callable = |command: &&Command| match command.expected {
        Expected::DeadLetter(reason) => {
            matches!(reason, "forbidden" | "rejected" | "attempts_exhausted")
        }
        _ => true,
    };
    let is_archived_first = ledgers.decisions.is_some();
    let named: HashSet<(kind::Kind, &str, &str)> = ledgers
        .commands
        .iter()
        .filter(callable)
        .filter(|command| command.attempted > 0)
        .map(|command| (command.kind, command.org.as_str(), command.object.as_str()))
        .collect();
    let organisations: HashSet<&str> = named.iter().map(|(_, org, _)| *org).collect();
    let is_wrong = |call: &&Call| {
        let is_named = |kind| named.contains(&(kind, call.org.as_str(), call.object.as_str()));
        let is_pending = is_archived_first && is_named(kind::Kind::TaskDelete);
        !match (call.kind, call.harmless) {
            (Some(kind), _) => is_named(kind) || (is_pending && kind == kind::Kind::TaskArchive),
            (None, Some(Harmless::Lists)) => organisations.contains(call.org.as_str()),
            (None, Some(Harmless::Looks | Harmless::Restores)) => is_pending,
            (None, None) => false,
        }
    };
    ledgers
        .calls
        .iter()
        .filter(is_wrong)
        .map(|c| finding(Kind::UnexpectedCall, c.path.clone()))
        .collect()
}

fn wrongly_dead(
    dead_letter: &DeadLetter,
    commands: &HashMap<&str, &Command>,
    ends: &HashMap<&str, Vec<&Event>>,
) -> Option<Finding> {
    let ends = ends.get(dead_letter.command_id.as_str());
    let has_succeeded = ends.is_some_and(|ends| has_succeeded(ends));
    let command = commands.get(dead_letter.command_id.as_str());
    let is_right = command.is_some_and(|command| match command.expected {
        Expected::DeadLetter(reason) => reason == dead_letter.reason,
        Expected::Done => is_second_not_found(command, &dead_letter.reason, has_succeeded),
        Expected::RefusedOnce => dead_letter.reason == "forbidden",
        Expected::MayBeRejected => dead_letter.reason == decisions::REJECTED,
        Expected::Cancelled | Expected::MayBeCancelled => false,
    });
    let reason = if dead_letter.reason.is_empty() {
        "the broker's delivery limit"
    } else {
        &dead_letter.reason
    };
    (!is_right).then(|| finding(Kind::WronglyDead, format!("{}: {reason}", dead_letter.command_id)))
}

/// The longest stretch between publication and end in which nothing befell all, beyond the undo
/// window. What always fails waits for its own fault.
fn delays_of_the_healthy<'a>(
    ledgers: &'a Ledgers,
    ends: &HashMap<&str, Vec<&Event>>,
) -> Vec<(&'a Command, i64)> {
    let struck: HashSet<&str> = ledgers.journal.iter().filter_map(|blow| blow.org).collect();
    let mut of_all: Vec<_> = ledgers.journal.iter().filter(|blow| blow.org.is_none()).collect();
    of_all.sort_by_key(|blow| blow.from_ms);
    let window_ms = ledgers.decisions.as_ref().map_or(0, |decisions| decisions.undo_window_ms);
    let delay = |command: &'a Command| {
        let end = ends.get(command.id.as_str())?.iter().map(|end| end.at_ms).min()?;
        let (mut since, mut longest) = (command.published_ms?, 0);
        for blow in of_all.iter().take_while(|blow| blow.from_ms <= end) {
            longest = longest.max(blow.from_ms - since);
            since = since.max(blow.to_ms);
        }
        Some((command, longest.max(end - since) - window_ms))
    };
    let healthy = ledgers.commands.iter().filter(|command| !struck.contains(command.org.as_str()));
    healthy
        .filter(|c| c.expected != Expected::DeadLetter("attempts_exhausted"))
        .filter_map(delay)
        .collect()
}

fn delayed(command: &Command, delay: i64) -> Option<Finding> {
    let what = format!("{} ({}/{}): {delay} ms", command.id, command.org, command.object);
    (delay > LONGEST_DELAY_MS).then(|| finding(Kind::Delayed, what))
}

/// What is refused without an answer of the API, or for the API's own word that came just before,
/// is its own fault.
fn dead_while_out(
    dead_letter: &DeadLetter,
    commands: &HashMap<&str, &Command>,
    journal: &[Blow],
) -> Option<Finding> {
    const ON_ITS_WAY_MS: i64 = 1000;
    let command = commands.get(dead_letter.command_id.as_str())?;
    let for_an_answer =
        command.expected == Expected::Done || dead_letter.reason == "attempts_exhausted";
    let is_out = |blow: &&Blow| {
        let (from, to) = (blow.from_ms, blow.to_ms + ON_ITS_WAY_MS);
        blow.stops
            && blow.org == Some(command.org.as_str())
            && (from..=to).contains(&dead_letter.at_ms)
    };
    let blow = journal.iter().filter(|_| for_an_answer).find(is_out)?;
    let what =
        format!("{} ({}): {} while {}", command.id, command.org, dead_letter.reason, blow.family);
    Some(finding(Kind::DeadWhileOut, what))
}

/// A worker may die, or lose its session, between a dead letter and its event. If the next one
/// succeeds, there is nothing left to tell but that. It does where a command is refused once, and
/// where "not found" is a failure the first time only: of a command that was delivered before,
/// nobody knows whether that delivery has deleted the object (`why_absence_is_a_failure`).
fn half_dead(ledgers: &Ledgers) -> Vec<Finding> {
    let letters: HashSet<&str> =
        ledgers.dead_letters.iter().map(|l| l.command_id.as_str()).collect();
    let (deaths, successes): (Vec<_>, Vec<_>) = ledgers.events.iter().partition(|e| is_failure(e));
    let told: HashSet<&str> = deaths.iter().map(|event| event.command_id.as_str()).collect();
    let succeeded: HashSet<&str> = successes.iter().map(|e| e.command_id.as_str()).collect();
    let may_succeed_later =
        |c: &&Command| c.expected == Expected::RefusedOnce || c.kind.fails_when_not_found();
    let fails_first = ledgers.commands.iter().filter(may_succeed_later);
    let superseded: HashSet<&str> =
        fails_first.map(|c| c.id.as_str()).filter(|id| succeeded.contains(id)).collect();
    let without_event = letters.difference(&told).filter(|id| !superseded.contains(*id));
    let without_event = without_event.map(|id| format!("{id}: a dead letter without an event"));
    let without_letter =
        told.difference(&letters).map(|id| format!("{id}: an event without a dead letter"));
    let apart: BTreeSet<_> = without_letter.chain(without_event).collect();
    apart.into_iter().map(|what| finding(Kind::HalfDead, what)).collect()
}

/// Where a worker has died, or its words were lost, between the answer and the next call, the next
/// worker could not know; nor can the second copy of a command that was sent twice.
fn early_calls(ledgers: &Ledgers, commands: &HashMap<&str, &Command>) -> Vec<Finding> {
    const STILL_UNDER_WAY_MS: i64 = 15_000;
    let sent_twice: HashSet<&str> =
        commands.values().filter(|c| c.attempted > 1).map(|c| c.object.as_str()).collect();
    let mut of_object: BTreeMap<(&str, &str), Vec<&Call>> = BTreeMap::new();
    for call in ledgers.calls.iter().filter(|call| call.kind.is_some()) {
        of_object.entry((&call.org, &call.object)).or_default().push(call);
    }
    let mut findings = Vec::new();
    for ((_, object), mut calls) in of_object {
        calls.sort_by_key(|call| call.at_ms);
        for pair in calls.windows(2) {
            let Some(wait) = pair[0].retry_after_ms else { continue };
            let (from, to) = (pair[0].at_ms - STILL_UNDER_WAY_MS, pair[1].at_ms);
            let blown =
                ledgers.journal.iter().any(|b| b.hides && b.from_ms <= to && b.to_ms >= from);
            if to - pair[0].at_ms < wait && !blown && !sent_twice.contains(object) {
                findings.push(finding(
                    Kind::EarlyCall,
                    format!("{object}: {} ms of {wait}", to - pair[0].at_ms),
                ));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(id: &str, expected: Expected) -> Command {
        let (attempted, acknowledged, published_ms) = (1, 1, Some(0));
        let (id, org, object) = (id.into(), "a".into(), id.into());
        let kind = kind::Kind::TaskDelete;
        Command { kind, id, org, object, expected, attempted, acknowledged, published_ms }
    }

    fn event(id: &str, outcome: &str) -> Event {
        let reason = if outcome == "dead_lettered" { "malformed" } else { "" };
        Event {
            at_ms: 0,
            id: format!("{id}-{}", outcome == "dead_lettered"),
            command_id: id.into(),
            org: "a".into(),
            object: id.into(),
            outcome: outcome.into(),
            reason: reason.into(),
            supersedes: (outcome != "dead_lettered").then(|| format!("{id}-true")),
        }
    }

    fn call(task: &str, at_ms: i64) -> Call {
        Call {
            at_ms,
            path: format!("/api/organizations/a/tasks/{task}/delete"),
            kind: Some(kind::Kind::TaskDelete),
            harmless: None,
            org: "a".into(),
            object: task.into(),
            did_it: true,
            retry_after_ms: None,
        }
    }

    /// One task deleted, one command malformed: nothing is wrong.
    fn balanced() -> Ledgers {
        Ledgers {
            commands: vec![
                command("t1", Expected::Done),
                command("m1", Expected::DeadLetter("malformed")),
            ],
            events: vec![event("t1", "deleted"), event("m1", "dead_lettered")],
            dead_letters: vec![DeadLetter {
                at_ms: 0,
                command_id: "m1".into(),
                reason: "malformed".into(),
            }],
            calls: vec![call("t1", 0)],
            were_there: HashSet::from(["a/t1".to_owned()]),
            ..Ledgers::default()
        }
    }

    fn findings(spoil: impl FnOnce(&mut Ledgers)) -> Vec<Kind> {
        let mut ledgers = balanced();
        spoil(&mut ledgers);
        check(&ledgers).findings.into_iter().map(|finding| finding.kind).collect()
    }

    #[test]
    fn books_that_balance_have_no_findings_and_repeats_with_the_same_id_are_counted() {
        let mut ledgers = balanced();
        ledgers.events.push(event("t1", "already_absent"));
        let balance = check(&ledgers);
        assert_eq!(balance.findings, []);
        assert_eq!((balance.attempted, balance.acknowledged, balance.ok), (2, 2, 2));
        assert_eq!(
            (balance.lost, balance.unexpected, balance.duplicated, balance.recovered),
            (0, 0, 1, 0)
        );
    }

    #[test]
    fn what_was_sent_twice_or_has_two_copies_may_fail_once_where_not_found_is_a_failure() {
        let second = |attempted, has_succeeded: bool| {
            findings(|l| {
                l.commands[0].kind = kind::Kind::FileDelete;
                l.commands[0].attempted = attempted;
                l.calls[0].kind = Some(kind::Kind::FileDelete);
                l.events.retain(|event| has_succeeded || event.command_id != "t1");
                let reason = "not_found".to_owned();
                l.events.push(Event { reason: reason.clone(), ..event("t1", "dead_lettered") });
                l.dead_letters.push(DeadLetter { at_ms: 0, command_id: "t1".into(), reason });
            })
        };
        assert_eq!([second(2, true), second(1, true)], [[], []]);
        assert_eq!(second(1, false), [Kind::WrongEnd, Kind::WronglyDead]);
    }

    /// Refused, then deleted by the next worker; in this order, or the other one.
    fn refused_then_deleted(l: &mut Ledgers) {
        l.commands[0].expected = Expected::RefusedOnce;
        let reason = "forbidden".to_owned();
        l.dead_letters.push(DeadLetter {
            at_ms: 0,
            command_id: "t1".into(),
            reason: reason.clone(),
        });
        l.events.insert(0, Event { reason, ..event("t1", "dead_lettered") });
    }

    #[test]
    fn of_two_ends_a_consumer_can_tell_which_one_holds_in_whatever_order_they_come() {
        assert_eq!(findings(refused_then_deleted), []);
        let other_order = |l: &mut Ledgers| {
            refused_then_deleted(l);
            l.events.reverse();
        };
        assert_eq!(findings(other_order), []);
        for supersedes in [None, Some("another".to_owned())] {
            let unsettled = |l: &mut Ledgers| {
                refused_then_deleted(l);
                l.events[1].supersedes = supersedes;
            };
            assert_eq!(findings(unsettled), [Kind::TwoEnds]);
        }
        let is_counted = |l: &Ledgers| check(l).superseded;
        let mut ledgers = balanced();
        assert_eq!(is_counted(&ledgers), 0);
        refused_then_deleted(&mut ledgers);
        assert_eq!(is_counted(&ledgers), 1);
    }

    #[test]
    fn a_dead_letter_whose_event_was_never_told_is_no_end_beside_a_success() {
        let without_event = |l: &mut Ledgers| {
            refused_then_deleted(l);
            l.events.remove(0);
        };
        assert_eq!(findings(without_event), []);
    }

    #[test]
    fn a_success_that_was_told_to_nobody_is_found() {
        let only_refused = |l: &mut Ledgers| {
            refused_then_deleted(l);
            l.events.remove(1);
        };
        assert_eq!(findings(only_refused), [Kind::MissedSuccess]);
        let was_refused = |l: &mut Ledgers| {
            only_refused(l);
            l.calls[0].did_it = false;
        };
        assert_eq!(findings(was_refused), []);
    }

    #[test]
    fn a_call_of_another_kind_than_the_command_is_found() {
        let other = |l: &mut Ledgers| l.calls[0].kind = Some(kind::Kind::TaskArchive);
        assert_eq!(findings(other), [Kind::FalseEnd, Kind::UnexpectedCall]);
    }

    #[test]
    fn a_cancelled_or_rejected_command_comes_to_the_end_that_was_decided() {
        let ended = |expected: Expected, outcomes: &[&str]| {
            findings(|l| {
                l.commands[0].expected = expected;
                l.events.retain(|event| event.command_id != "t1");
                for outcome in outcomes {
                    let id = format!("t1-{outcome}");
                    let supersedes = (*outcome == "deleted").then(|| "t1-true".to_owned());
                    l.events.push(Event { id, supersedes, ..event("t1", outcome) });
                }
            })
        };
        assert_eq!(ended(Expected::Cancelled, &["cancelled"]), []);
        assert_eq!(ended(Expected::Cancelled, &["cancelled", "deleted"]), [Kind::WrongEnd]);
        assert_eq!(ended(Expected::MayBeCancelled, &["cancelled", "deleted"]), []);
        assert_eq!(ended(Expected::MayBeCancelled, &["deleted"]), []);
        assert_eq!(ended(Expected::Done, &["cancelled"]), [Kind::WrongEnd]);
        let rejected = |reason: &str, was_deleted: bool| {
            findings(|l| {
                l.commands[0].expected = Expected::MayBeRejected;
                let reason = reason.to_owned();
                l.events[0] = Event { reason: reason.clone(), ..event("t1", "dead_lettered") };
                l.dead_letters.push(DeadLetter { at_ms: 0, command_id: "t1".into(), reason });
                l.calls[0].did_it = was_deleted;
            })
        };
        assert_eq!(rejected(decisions::REJECTED, false), []);
        assert_eq!(rejected(decisions::REJECTED, true), [Kind::MissedSuccess]);
        assert_eq!(rejected("rejected", false), [Kind::WrongEnd, Kind::WronglyDead]);
    }

    #[test]
    fn a_confirmed_command_without_an_end_is_lost_and_an_unconfirmed_one_is_not() {
        assert_eq!(findings(|l| drop(l.events.remove(0))), [Kind::Lost]);
        assert_eq!(
            findings(|l| {
                l.events.remove(0);
                l.commands[0].acknowledged = 0;
            }),
            []
        );
    }

    /// Its producer has sent it twice, and the session was lost between the dead letter of the
    /// second copy and its event; delivered again, nobody knows whether that copy has deleted the
    /// object.
    #[test]
    fn a_success_supersedes_a_dead_letter_that_was_not_told_where_not_found_fails_only_once() {
        let second_copy = |kind| {
            findings(|l| {
                (l.commands[0].kind, l.commands[0].attempted) = (kind, 2);
                l.calls[0].kind = Some(kind);
                l.events.push(event("t1", "already_absent"));
                l.dead_letters.push(DeadLetter {
                    at_ms: 0,
                    command_id: "t1".into(),
                    reason: "not_found".into(),
                });
            })
        };
        assert_eq!(second_copy(kind::Kind::ProcessDelete), []);
        assert_eq!(second_copy(kind::Kind::TaskDelete), [Kind::WronglyDead, Kind::HalfDead]);
    }

    #[test]
    fn each_wrong_ledger_is_found() {
        let never_sent = |l: &mut Ledgers| l.commands[0].attempted = 0;
        assert_eq!(findings(never_sent), [Kind::UnexpectedEnd, Kind::UnexpectedCall]);
        assert_eq!(
            findings(|l| l.events.push(event("t1", "dead_lettered"))),
            [Kind::WrongEnd, Kind::HalfDead]
        );
        assert_eq!(findings(|l| l.calls[0].did_it = false), [Kind::FalseEnd]);
        let other_id =
            |l: &mut Ledgers| l.events.push(Event { id: "x".into(), ..event("t1", "deleted") });
        assert_eq!(findings(other_id), [Kind::TwoEnds, Kind::TwoEventIds]);
        assert_eq!(findings(|l| l.calls.push(call("t2", 0))), [Kind::UnexpectedCall]);
        assert_eq!(findings(|l| l.calls.push(call("m1", 0))), [Kind::UnexpectedCall]);
        assert_eq!(
            findings(|l| l.calls.push(Call { kind: None, ..call("t1", 0) })),
            [Kind::UnexpectedCall]
        );
        let poison = DeadLetter { at_ms: 0, command_id: "t1".into(), reason: String::new() };
        assert_eq!(findings(|l| l.dead_letters.push(poison)), [Kind::WronglyDead, Kind::HalfDead]);
        assert_eq!(findings(|l| l.dead_letters.clear()), [Kind::HalfDead]);
        assert_eq!(findings(|l| l.leaks.push("log".into())), [Kind::Leak]);
        assert_eq!(
            findings(|l| l.left = BTreeMap::from([("task.delete".into(), 1)])),
            [Kind::Left]
        );
        assert_eq!(findings(|l| l.bad_exits.push("1".into())), [Kind::BadExit]);
    }

    #[test]
    fn a_call_before_its_retry_after_is_found_unless_the_worker_could_not_know() {
        let early = |l: &mut Ledgers| {
            l.calls.push(Call { retry_after_ms: Some(2000), did_it: false, ..call("t1", 100_000) });
            l.calls.push(call("t1", 101_000));
        };
        assert_eq!(findings(early), [Kind::EarlyCall]);
        assert_eq!(
            findings(|l| {
                early(l);
                l.journal.push(Blow {
                    from_ms: 100_500,
                    to_ms: 100_600,
                    family: "worker killed",
                    org: None,
                    stops: false,
                    hides: true,
                    what: String::new(),
                });
            }),
            []
        );
    }

    #[test]
    fn the_question_whether_a_token_reaches_its_organisation_is_no_unexpected_call() {
        let asks = |org: &str| Call {
            kind: None,
            harmless: Some(Harmless::Lists),
            org: org.into(),
            ..call("", 0)
        };
        assert_eq!(findings(|l| l.calls.push(asks("a"))), []);
        assert_eq!(findings(|l| l.calls.push(asks("b"))), [Kind::UnexpectedCall]);
    }

    fn blow(org: Option<&'static str>, to_ms: i64) -> Blow {
        let (family, what) = ("API: one organisation out", String::new());
        Blow { from_ms: 0, to_ms, family, org, stops: org.is_some(), hides: false, what }
    }

    #[test]
    fn who_was_healthy_throughout_is_not_delayed_by_anothers_trouble() {
        let late = |l: &mut Ledgers| l.events[0].at_ms = LONGEST_DELAY_MS + 1;
        assert_eq!(findings(late), [Kind::Delayed]);
        assert_eq!(findings(|l| l.events[0].at_ms = LONGEST_DELAY_MS), []);
        let with = |org| {
            findings(|l| {
                late(l);
                l.journal.push(blow(org, 1));
            })
        };
        assert_eq!(with(Some("b")), [Kind::Delayed], "another's trouble is no excuse");
        assert_eq!(with(Some("a")), [], "its own is");
        assert_eq!(with(None), [], "and what befell all");
        let later = |l: &mut Ledgers| {
            l.events[0].at_ms = 2 * LONGEST_DELAY_MS;
            l.journal
                .push(Blow { from_ms: LONGEST_DELAY_MS + 1, ..blow(None, 2 * LONGEST_DELAY_MS) });
        };
        assert_eq!(findings(later), [Kind::Delayed], "but not what befell all later");
        let own_fault = |l: &mut Ledgers| {
            l.commands[1].expected = Expected::DeadLetter("attempts_exhausted");
            l.events[1].reason = "attempts_exhausted".into();
            l.events[1].at_ms = LONGEST_DELAY_MS + 1;
            l.dead_letters[0].reason = "attempts_exhausted".into();
        };
        assert_eq!(findings(own_fault), []);
    }

    #[test]
    fn every_worker_goes_on_while_a_plain_consumer_does() {
        let every = |seconds: std::ops::Range<i64>| seconds.map(|s| s * 1000).collect::<Vec<_>>();
        let with_a_gap = |from: i64, to: i64| [every(0..from), every(to..100)].concat();
        let found = |ends: &[i64], others: &[Vec<i64>]| stood_still(0, ends, others).1.is_some();
        let whole = [every(0..100), every(0..100)];
        assert!(!found(&every(0..100), &whole));
        assert!(!found(&with_a_gap(30, 44), &whole));
        assert!(found(&with_a_gap(30, 47), &whole));
        assert!(
            !found(&with_a_gap(30, 47), &[every(0..100), with_a_gap(32, 40)]),
            "nobody got anything"
        );
        assert!(found(&[], &whole));
    }

    #[test]
    fn nothing_of_an_organisation_that_is_out_is_dead_lettered_but_what_needs_no_answer() {
        let out = |l: &mut Ledgers| l.journal.push(blow(Some("a"), 10_000));
        assert_eq!(findings(out), []);
        let dead = |at_ms| {
            findings(|l| {
                out(l);
                l.commands[1].expected = Expected::DeadLetter("attempts_exhausted");
                l.events[1].reason = "attempts_exhausted".into();
                l.dead_letters[0] = DeadLetter {
                    at_ms,
                    command_id: "m1".into(),
                    reason: "attempts_exhausted".into(),
                };
            })
        };
        assert_eq!(dead(5000), [Kind::DeadWhileOut]);
        assert_eq!(dead(12_000), [], "it may have ended for its own fault");
    }
}
