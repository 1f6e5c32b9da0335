//! Checks the records against the promise. Pure: no process, no clock, no network.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use tallyfy_delete_worker::kind;

use crate::decisions;
use crate::records::{
    Call, Command, DeadLetter, Event, Expected, Harmless, InjectedFault, Records,
};

/// What can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A confirmed command with no end.
    Lost,
    /// An end of a command that nobody sent.
    UnexpectedEnd,
    /// Two different ends, and no rule that tells a consumer which one holds.
    TwoEnds,
    /// The end is not the expected one.
    WrongEnd,
    /// A success, and the object is still there.
    FalseEnd,
    /// A failure, and the object is gone.
    MissedSuccess,
    /// The same end with two event ids.
    TwoEventIds,
    /// A call for an id that no command names, or on another path.
    UnexpectedCall,
    /// A dead letter because of an upstream failure.
    WronglyDead,
    /// A dead letter without its event, or the other way round.
    HalfDead,
    /// A call before its `Retry-After`.
    EarlyCall,
    /// A command of an organisation that was healthy throughout waited long, without a fault that
    /// affected all organisations.
    Delayed,
    /// A dead letter of an organisation while none of its commands could be served.
    DeadWhileOut,
    /// A token in an output.
    Leak,
    /// Something was left in a queue.
    Left,
    /// A process ended in a way that nobody asked for.
    UnexpectedExit,
    /// A worker did nothing for a long time, while a plain consumer at the same node got messages.
    Stalled,
    /// More was archived or deleted than the guard and its operator allowed.
    GuardOvershot,
    /// A command was held although the guard of its organisation had no reason to trip.
    WronglyHeld,
    /// A destructive call for an organisation that was paused.
    CalledWhilePaused,
    /// A destructive call for a command that had been cancelled.
    CalledThoughCancelled,
    /// A task was deleted although it had been restored in its undo window.
    DeletedThoughRestored,
    /// A restored task was archived again without a fault that explains it.
    ArchivedAgain,
    /// A task was deleted before its undo window had ended, or without having been archived.
    DeletedEarly,
    /// A task was archived and deleted without the event that announces the deletion.
    PendingNotAnnounced,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    pub(crate) kind: Kind,
    pub(crate) what: String,
}

/// The totals, in the terms of the Jepsen reports.
#[derive(Debug, Default)]
pub(crate) struct Balance {
    /// Commands sent, at least once.
    pub(crate) attempted: usize,
    /// Confirmed by the broker.
    pub(crate) acknowledged: usize,
    /// Confirmed, and ended as expected.
    pub(crate) ok: usize,
    /// Confirmed, and without an end.
    pub(crate) lost: usize,
    /// Ends of commands that nobody sent.
    pub(crate) unexpected: usize,
    /// Ends that were reported more than once, with the same event id.
    pub(crate) duplicated: usize,
    /// Never confirmed, but ended all the same.
    pub(crate) recovered: usize,
    /// Failures that a success superseded.
    pub(crate) superseded: usize,
    /// The longest that a command of an organisation that was healthy throughout has waited.
    pub(crate) longest_delay_ms: usize,
    pub(crate) findings: Vec<Finding>,
}

/// How long the faults of other organisations may delay one that is healthy throughout.
const LONGEST_DELAY_MS: i64 = 20_000;

/// How long a fault of a cluster may stop a worker while a plain consumer goes on.
const LONGEST_STALL_MS: i64 = 15_000;

/// # Every worker goes on while a plain consumer does
///
/// `ends`: when a worker logged the ends of commands. `others`: when the reference clients made
/// progress: plain consumers get messages, the producers' commands are confirmed, and so are
/// records in the guard's ledger, without which nothing may be deleted, and in the record of calls,
/// without which nothing may be acknowledged. A pause of theirs excuses a pause of the worker. Returns the longest stall beyond that, and the finding if it is too long.
pub(crate) fn stall(worker: usize, ends: &[i64], others: &[Vec<i64>]) -> (i64, Option<Finding>) {
    let beyond = ends.windows(2).map(|pair| {
        let excused = others.iter().map(|times| longest_pause(times, pair[0], pair[1])).max();
        let gap = pair[1] - pair[0];
        // A gap of theirs that is not longer than usual excuses nothing.
        let excused = excused.filter(|excused| *excused > 1500).unwrap_or_default();
        (gap - excused, gap, pair[0])
    });
    let Some((still, gap, from)) = beyond.max() else {
        let what = format!("worker {worker} has ended no command");
        return (0, Some(finding(Kind::Stalled, what)));
    };
    let what = format!(
        "worker {worker}: {gap} ms from {from} on, {still} ms more than the consumers beside it"
    );
    (still, (still > LONGEST_STALL_MS).then(|| finding(Kind::Stalled, what)))
}

/// The longest time between two of these within the period.
pub(crate) fn longest_pause(times: &[i64], from: i64, to: i64) -> i64 {
    let inside = times.iter().copied().filter(|time| (from..to).contains(time));
    let times: Vec<_> = std::iter::once(from).chain(inside).chain([to]).collect();
    times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

/// Compares all records with each other.
pub(crate) fn check(records: &Records) -> Balance {
    let commands: HashMap<&str, &Command> =
        records.commands.iter().map(|c| (c.id.as_str(), c)).collect();
    let mut ends: HashMap<&str, Vec<&Event>> = HashMap::new();
    for event in &records.events {
        ends.entry(&event.command_id).or_default().push(event);
    }
    let mut balance = Balance::default();
    count(records, &ends, &mut balance);
    let delays = delays_of_the_healthy(records, &ends);
    let longest = delays.iter().map(|(_, delay)| *delay).max().unwrap_or_default();
    balance.longest_delay_ms = usize::try_from(longest).unwrap_or_default();
    let mut findings = Vec::new();
    findings.extend(delays.iter().filter_map(|(command, delay)| delayed(command, *delay)));
    findings.extend(
        records.dead_letters.iter().filter_map(|l| dead_while_out(l, &commands, &records.journal)),
    );
    findings.extend(records.commands.iter().filter_map(|c| lost(c, &ends)));
    findings
        .extend(ends.iter().flat_map(|(id, ends)| ends_of_one(commands.get(id).copied(), ends)));
    findings.extend(unsettled(&records.events));
    findings.extend(false_ends(records, &commands));
    findings
        .extend(records.commands.iter().filter_map(|c| missed_success(c, &ends, &records.calls)));
    findings.extend(unexpected_calls(records));
    findings.extend(
        records
            .dead_letters
            .iter()
            .filter_map(|dead_letter| wrongly_dead(dead_letter, &commands, &ends)),
    );
    findings.extend(half_dead(records));
    findings.extend(early_calls(records, &commands));
    findings.extend(decisions::check(records));
    findings.extend(records.leaks.iter().map(|place| finding(Kind::Leak, place.clone())));
    findings.extend(
        records.unexpected_exits.iter().map(|exit| finding(Kind::UnexpectedExit, exit.clone())),
    );
    let left = records.left.iter().filter(|(_, messages)| **messages > 0);
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

fn count(records: &Records, ends: &HashMap<&str, Vec<&Event>>, balance: &mut Balance) {
    for command in &records.commands {
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
    let given: HashSet<&str> = records.commands.iter().map(|c| c.id.as_str()).collect();
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
/// acknowledgement leaves two copies in the delay queues. If "not found" is a failure for this
/// kind, the second copy fails when the first was carried out, and the success supersedes that
/// failure.
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

/// # A consumer that knows only ids gets one end per command, in any order of the events
///
/// It follows the rule of `docs/messages.md`, once forwards and once backwards. A cancellation does
/// not hold beside a success, although no success names it in `supersedes`.
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

/// A success that was never reported: the object is gone, but its command has only failures.
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
fn false_ends(records: &Records, commands: &HashMap<&str, &Command>) -> Vec<Finding> {
    let did_it = records.calls.iter().filter(|call| call.did_it);
    let done: HashSet<_> = did_it
        .filter_map(|call| Some((call.kind?, call.org.as_str(), call.object.as_str())))
        .collect();
    let mut findings = Vec::new();
    for end in records.events.iter().filter(|end| is_success(end)) {
        let Some(command) = commands.get(end.command_id.as_str()) else { continue };
        let object = format!("{}/{}", end.org, end.object);
        let is_done = done.contains(&(command.kind, end.org.as_str(), end.object.as_str()));
        if records.were_there.contains(&object) && !is_done {
            findings.push(finding(
                Kind::FalseEnd,
                format!("{}: {object} is still there", end.command_id),
            ));
        }
    }
    findings
}

fn unexpected_calls(records: &Records) -> Vec<Finding> {
    let callable = |command: &&Command| match command.expected {
        Expected::DeadLetter(reason) => {
            matches!(reason, "forbidden" | "rejected" | "attempts_exhausted")
        }
        _ => true,
    };
    let is_archived_first = records.decisions.is_some();
    let named: HashSet<(kind::Kind, &str, &str)> = records
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
    records
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

/// The longest period between publication and end without a fault that affected all organisations,
/// less the undo window. A command that always fails is left out: it waits because of its own
/// fault.
fn delays_of_the_healthy<'a>(
    records: &'a Records,
    ends: &HashMap<&str, Vec<&Event>>,
) -> Vec<(&'a Command, i64)> {
    let with_faults: HashSet<&str> = records.journal.iter().filter_map(|fault| fault.org).collect();
    let mut of_all: Vec<_> = records.journal.iter().filter(|fault| fault.org.is_none()).collect();
    of_all.sort_by_key(|fault| fault.from_ms);
    let window_ms = records.decisions.as_ref().map_or(0, |decisions| decisions.undo_window_ms);
    let delay = |command: &'a Command| {
        let end = ends.get(command.id.as_str())?.iter().map(|end| end.at_ms).min()?;
        let (mut since, mut longest) = (command.published_ms?, 0);
        for fault in of_all.iter().take_while(|fault| fault.from_ms <= end) {
            longest = longest.max(fault.from_ms - since);
            since = since.max(fault.to_ms);
        }
        Some((command, longest.max(end - since) - window_ms))
    };
    let healthy =
        records.commands.iter().filter(|command| !with_faults.contains(command.org.as_str()));
    healthy
        .filter(|c| c.expected != Expected::DeadLetter("attempts_exhausted"))
        .filter_map(delay)
        .collect()
}

fn delayed(command: &Command, delay: i64) -> Option<Finding> {
    let what = format!("{} ({}/{}): {delay} ms", command.id, command.org, command.object);
    (delay > LONGEST_DELAY_MS).then(|| finding(Kind::Delayed, what))
}

/// A command that is refused without a call, or for an answer that the API gave just before the
/// outage, is not dead-lettered because of the outage.
fn dead_while_out(
    dead_letter: &DeadLetter,
    commands: &HashMap<&str, &Command>,
    journal: &[InjectedFault],
) -> Option<Finding> {
    const ON_ITS_WAY_MS: i64 = 1000;
    let command = commands.get(dead_letter.command_id.as_str())?;
    let for_an_answer =
        command.expected == Expected::Done || dead_letter.reason == "attempts_exhausted";
    let is_out = |fault: &&InjectedFault| {
        let (from, to) = (fault.from_ms, fault.to_ms + ON_ITS_WAY_MS);
        fault.stops
            && fault.org == Some(command.org.as_str())
            && (from..=to).contains(&dead_letter.at_ms)
    };
    let fault = journal.iter().filter(|_| for_an_answer).find(is_out)?;
    let what =
        format!("{} ({}): {} while {}", command.id, command.org, dead_letter.reason, fault.family);
    Some(finding(Kind::DeadWhileOut, what))
}

/// A worker may die, or lose its session, between a dead letter and its event. If the next worker
/// succeeds, only the success is reported. That happens when a command is refused once, and for
/// kinds that treat "not found" as a failure the first time only: once a command has been delivered
/// before, it is unknown whether that delivery deleted the object (`why_absence_is_a_failure`).
fn half_dead(records: &Records) -> Vec<Finding> {
    let dead_letters: HashSet<&str> =
        records.dead_letters.iter().map(|l| l.command_id.as_str()).collect();
    let (failures, successes): (Vec<_>, Vec<_>) =
        records.events.iter().partition(|e| is_failure(e));
    let failed: HashSet<&str> = failures.iter().map(|event| event.command_id.as_str()).collect();
    let succeeded: HashSet<&str> = successes.iter().map(|e| e.command_id.as_str()).collect();
    let may_succeed_later =
        |c: &&Command| c.expected == Expected::RefusedOnce || c.kind.fails_when_not_found();
    let fails_first = records.commands.iter().filter(may_succeed_later);
    let superseded: HashSet<&str> =
        fails_first.map(|c| c.id.as_str()).filter(|id| succeeded.contains(id)).collect();
    let without_event = dead_letters.difference(&failed).filter(|id| !superseded.contains(*id));
    let without_event = without_event.map(|id| format!("{id}: a dead letter without an event"));
    let without_dead_letter =
        failed.difference(&dead_letters).map(|id| format!("{id}: an event without a dead letter"));
    let apart: BTreeSet<_> = without_dead_letter.chain(without_event).collect();
    apart.into_iter().map(|what| finding(Kind::HalfDead, what)).collect()
}

/// If a worker died, or what it published was lost, between the answer and the next call, the next
/// worker could not know the `Retry-After`. Neither can the second copy of a command that was sent
/// twice.
fn early_calls(records: &Records, commands: &HashMap<&str, &Command>) -> Vec<Finding> {
    const STILL_UNDER_WAY_MS: i64 = 15_000;
    let sent_twice: HashSet<&str> =
        commands.values().filter(|c| c.attempted > 1).map(|c| c.object.as_str()).collect();
    let mut of_object: BTreeMap<(&str, &str), Vec<&Call>> = BTreeMap::new();
    for call in records.calls.iter().filter(|call| call.kind.is_some()) {
        of_object.entry((&call.org, &call.object)).or_default().push(call);
    }
    let mut findings = Vec::new();
    for ((_, object), mut calls) in of_object {
        calls.sort_by_key(|call| call.at_ms);
        for pair in calls.windows(2) {
            let Some(wait) = pair[0].retry_after_ms else { continue };
            let (from, to) = (pair[0].at_ms - STILL_UNDER_WAY_MS, pair[1].at_ms);
            let is_excused =
                records.journal.iter().any(|b| b.hides && b.from_ms <= to && b.to_ms >= from);
            if to - pair[0].at_ms < wait && !is_excused && !sent_twice.contains(object) {
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
    fn balanced() -> Records {
        Records {
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
            ..Records::default()
        }
    }

    fn findings(spoil: impl FnOnce(&mut Records)) -> Vec<Kind> {
        let mut records = balanced();
        spoil(&mut records);
        check(&records).findings.into_iter().map(|finding| finding.kind).collect()
    }

    #[test]
    fn records_that_agree_have_no_findings_and_repeats_with_the_same_id_are_counted() {
        let mut records = balanced();
        records.events.push(event("t1", "already_absent"));
        let balance = check(&records);
        assert_eq!(balance.findings, []);
        assert_eq!((balance.attempted, balance.acknowledged, balance.ok), (2, 2, 2));
        assert_eq!(
            (balance.lost, balance.unexpected, balance.duplicated, balance.recovered),
            (0, 0, 1, 0)
        );
    }

    #[test]
    fn a_command_with_two_copies_may_fail_once_if_not_found_is_a_failure() {
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

    /// Refused, then deleted by the next worker.
    fn refused_then_deleted(l: &mut Records) {
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
    fn a_consumer_can_tell_which_of_two_ends_holds_in_any_order() {
        assert_eq!(findings(refused_then_deleted), []);
        let other_order = |l: &mut Records| {
            refused_then_deleted(l);
            l.events.reverse();
        };
        assert_eq!(findings(other_order), []);
        for supersedes in [None, Some("another".to_owned())] {
            let unsettled = |l: &mut Records| {
                refused_then_deleted(l);
                l.events[1].supersedes = supersedes;
            };
            assert_eq!(findings(unsettled), [Kind::TwoEnds]);
        }
        let is_counted = |l: &Records| check(l).superseded;
        let mut records = balanced();
        assert_eq!(is_counted(&records), 0);
        refused_then_deleted(&mut records);
        assert_eq!(is_counted(&records), 1);
    }

    #[test]
    fn a_dead_letter_without_an_event_is_no_end_beside_a_success() {
        let without_event = |l: &mut Records| {
            refused_then_deleted(l);
            l.events.remove(0);
        };
        assert_eq!(findings(without_event), []);
    }

    #[test]
    fn a_success_that_was_never_reported_is_found() {
        let only_refused = |l: &mut Records| {
            refused_then_deleted(l);
            l.events.remove(1);
        };
        assert_eq!(findings(only_refused), [Kind::MissedSuccess]);
        let was_refused = |l: &mut Records| {
            only_refused(l);
            l.calls[0].did_it = false;
        };
        assert_eq!(findings(was_refused), []);
    }

    #[test]
    fn a_call_of_another_kind_than_the_command_is_found() {
        let other = |l: &mut Records| l.calls[0].kind = Some(kind::Kind::TaskArchive);
        assert_eq!(findings(other), [Kind::FalseEnd, Kind::UnexpectedCall]);
    }

    #[test]
    fn a_cancelled_or_rejected_command_ends_as_the_operator_decided() {
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

    /// The producer sent the command twice, and the session was lost between the dead letter of the
    /// second copy and its event. When that copy is delivered again, it is unknown whether it has
    /// deleted the object.
    #[test]
    fn a_success_supersedes_a_dead_letter_without_an_event_if_not_found_fails_only_once() {
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
    fn each_wrong_record_is_found() {
        let never_sent = |l: &mut Records| l.commands[0].attempted = 0;
        assert_eq!(findings(never_sent), [Kind::UnexpectedEnd, Kind::UnexpectedCall]);
        assert_eq!(
            findings(|l| l.events.push(event("t1", "dead_lettered"))),
            [Kind::WrongEnd, Kind::HalfDead]
        );
        assert_eq!(findings(|l| l.calls[0].did_it = false), [Kind::FalseEnd]);
        let other_id =
            |l: &mut Records| l.events.push(Event { id: "x".into(), ..event("t1", "deleted") });
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
        assert_eq!(findings(|l| l.unexpected_exits.push("1".into())), [Kind::UnexpectedExit]);
    }

    #[test]
    fn a_call_before_its_retry_after_is_found_unless_the_worker_could_not_know() {
        let early = |l: &mut Records| {
            l.calls.push(Call { retry_after_ms: Some(2000), did_it: false, ..call("t1", 100_000) });
            l.calls.push(call("t1", 101_000));
        };
        assert_eq!(findings(early), [Kind::EarlyCall]);
        assert_eq!(
            findings(|l| {
                early(l);
                l.journal.push(InjectedFault {
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
    fn a_call_that_checks_whether_a_token_reaches_its_organisation_is_expected() {
        let asks = |org: &str| Call {
            kind: None,
            harmless: Some(Harmless::Lists),
            org: org.into(),
            ..call("", 0)
        };
        assert_eq!(findings(|l| l.calls.push(asks("a"))), []);
        assert_eq!(findings(|l| l.calls.push(asks("b"))), [Kind::UnexpectedCall]);
    }

    fn injected(org: Option<&'static str>, to_ms: i64) -> InjectedFault {
        let (family, what) = ("API: one organisation out", String::new());
        InjectedFault { from_ms: 0, to_ms, family, org, stops: org.is_some(), hides: false, what }
    }

    #[test]
    fn a_healthy_organisation_is_not_delayed_by_the_faults_of_others() {
        let late = |l: &mut Records| l.events[0].at_ms = LONGEST_DELAY_MS + 1;
        assert_eq!(findings(late), [Kind::Delayed]);
        assert_eq!(findings(|l| l.events[0].at_ms = LONGEST_DELAY_MS), []);
        let with = |org| {
            findings(|l| {
                late(l);
                l.journal.push(injected(org, 1));
            })
        };
        assert_eq!(with(Some("b")), [Kind::Delayed], "another organisation's fault is no excuse");
        assert_eq!(with(Some("a")), [], "its own is");
        assert_eq!(with(None), [], "so is a fault of all");
        let later = |l: &mut Records| {
            l.events[0].at_ms = 2 * LONGEST_DELAY_MS;
            l.journal.push(InjectedFault {
                from_ms: LONGEST_DELAY_MS + 1,
                ..injected(None, 2 * LONGEST_DELAY_MS)
            });
        };
        assert_eq!(findings(later), [Kind::Delayed], "but not a later fault of all");
        let own_fault = |l: &mut Records| {
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
        let found = |ends: &[i64], others: &[Vec<i64>]| stall(0, ends, others).1.is_some();
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
    fn only_commands_that_need_no_answer_are_dead_lettered_during_an_outage() {
        let out = |l: &mut Records| l.journal.push(injected(Some("a"), 10_000));
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
