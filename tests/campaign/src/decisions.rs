//! Checks what the workers did against what an operator decided. Pure, as the checker.

use std::collections::{BTreeMap, BTreeSet};

use tallyfy_delete_worker::kind;

use crate::checker::{Finding, Kind, finding};
use crate::records::{Call, Command, Decisions, Expected, Harmless, InjectedFault, Pause, Records};
use crate::safety::{FLOODED, PAUSED, UNDONE};

/// Why a command is dead-lettered that an operator has rejected.
pub(crate) const REJECTED: &str = "guard_rejected";
/// Permits that a worker may spend beyond the guard's limit.
const LARGEST_RESERVATION: usize = 32;
/// All workers follow a decision within this time.
const FOLLOWED_WITHIN_MS: i64 = 1000;
/// A worker that is thawed or reconnected finishes what it had begun.
const BEGUN_BEFORE_MS: i64 = 2000;
/// Both clocks show whole milliseconds.
const ROUNDING_MS: i64 = 2;

/// What became of a restored task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AfterRestore {
    /// It is there.
    Kept,
    /// It was restored between the look and the call that deletes.
    Raced,
    /// A worker that did not know of its own call has archived it again.
    ArchivedAgain,
    /// Deleted all the same.
    Deleted,
}

type Object<'a> = (&'a str, &'a str);

/// The calls about each object, in their order.
fn by_object(calls: &[Call]) -> BTreeMap<Object<'_>, Vec<&Call>> {
    let mut objects: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for call in calls.iter().filter(|call| !call.object.is_empty()) {
        objects.entry((call.org.as_str(), call.object.as_str())).or_default().push(call);
    }
    objects
}

fn deletes(call: &Call) -> bool {
    call.did_it && call.kind == Some(kind::Kind::TaskDelete)
}

fn archives(call: &Call) -> bool {
    call.did_it && call.kind == Some(kind::Kind::TaskArchive)
}

fn restores(call: &Call) -> bool {
    call.did_it && call.harmless == Some(Harmless::Restores)
}

fn looks(call: &Call) -> bool {
    call.harmless == Some(Harmless::Looks)
}

/// What happened to each task after it was restored.
pub(crate) fn after_restores(records: &Records) -> Vec<(Object<'_>, AfterRestore)> {
    let window_ms = records.decisions.as_ref().map_or(0, |decisions| decisions.undo_window_ms);
    let objects = by_object(&records.calls).into_iter();
    objects
        .filter_map(|(object, calls)| Some((object, after_restore(&calls, window_ms)?)))
        .collect()
}

fn after_restore(calls: &[&Call], window_ms: i64) -> Option<AfterRestore> {
    let restored = calls.iter().rposition(|call| restores(call))?;
    let (before, after) = (&calls[..restored], &calls[restored + 1..]);
    let deleted = after.iter().position(|call| deletes(call));
    let archived = after.iter().position(|call| archives(call));
    let Some(deleted) = deleted else {
        return Some(if archived.is_some() {
            AfterRestore::ArchivedAgain
        } else {
            AfterRestore::Kept
        });
    };
    if archived.is_some_and(|archived| archived < deleted) {
        return Some(AfterRestore::ArchivedAgain);
    }
    // When the worker looked for the last time, the task was archived.
    let archived_at = before.iter().find(|call| archives(call)).map(|call| call.at_ms);
    let in_time =
        |look: &&Call| archived_at.is_some_and(|at| look.at_ms + ROUNDING_MS >= at + window_ms);
    let has_looked = before.iter().copied().filter(|call| looks(call)).any(|look| in_time(&look));
    let looked_again = after[..deleted].iter().any(|call| looks(call));
    Some(if has_looked && !looked_again { AfterRestore::Raced } else { AfterRestore::Deleted })
}

/// Sets the expected end of each command that was cancelled or whose task was restored.
pub(crate) fn settle(records: &mut Records) {
    let Some(decisions) = records.decisions.clone() else { return };
    let restored: BTreeMap<_, _> = after_restores(records)
        .into_iter()
        .map(|((org, object), after_restore)| ((org.to_owned(), object.to_owned()), after_restore))
        .collect();
    let called = |command: &Command| is_called_before_its_cancel(command, &decisions, records);
    let called: BTreeMap<String, bool> = records
        .commands
        .iter()
        .filter_map(|command| Some((command.id.clone(), called(command)?)))
        .collect();
    for command in &mut records.commands {
        let key = (command.org.clone(), command.object.clone());
        command.expected = match (restored.get(&key), called.get(&command.id)) {
            (None, None) => continue,
            (Some(AfterRestore::Kept), _) | (None, Some(false)) => Expected::Cancelled,
            _ => Expected::MayBeCancelled,
        };
    }
}

/// `None` if it was not cancelled.
fn is_called_before_its_cancel(
    command: &Command,
    decisions: &Decisions,
    records: &Records,
) -> Option<bool> {
    let cancel = decisions.cancels.iter().find(|cancel| cancel.command_id == command.id)?;
    let until = cancel.at_ms + FOLLOWED_WITHIN_MS;
    let mut calls = records.calls.iter().filter(|call| is_about(call, command));
    Some(calls.any(|call| call.kind.is_some() && call.at_ms <= until))
}

fn is_about(call: &Call, command: &Command) -> bool {
    call.org == command.org && call.object == command.object
}

/// What the workers did against the guard, pauses, cancellations and undo windows.
pub(crate) fn check(records: &Records) -> Vec<Finding> {
    let Some(decisions) = &records.decisions else { return Vec::new() };
    let objects = by_object(&records.calls);
    let mut findings = Vec::new();
    findings.extend(guard_overshot(decisions, &objects));
    findings.extend(wrongly_held(decisions, &objects));
    findings.extend(called_while_paused(decisions, records));
    findings.extend(called_though_cancelled(decisions, records));
    findings.extend(after_restores(records).into_iter().filter_map(|(object, after_restore)| {
        match after_restore {
            AfterRestore::Deleted => Some(finding(Kind::DeletedThoughRestored, named(object))),
            AfterRestore::ArchivedAgain => archived_again(object, &objects[&object], records),
            AfterRestore::Kept | AfterRestore::Raced => None,
        }
    }));
    findings.extend(deleted_early(decisions, &objects));
    findings.extend(pending_not_announced(records, &objects));
    findings
}

fn named((org, object): Object<'_>) -> String {
    format!("{org}/{object}")
}

/// # A producer's bug destroys no more than the limit and what an operator releases
pub(crate) fn passed(records: &Records) -> usize {
    passed_of(&by_object(&records.calls))
}

fn passed_of(objects: &BTreeMap<Object<'_>, Vec<&Call>>) -> usize {
    let flooded = objects.iter().filter(|((org, _), _)| *org == FLOODED);
    flooded.filter(|(_, calls)| calls.iter().any(|c| c.did_it && c.kind.is_some())).count()
}

/// The most objects of it that may be archived or deleted.
pub(crate) fn may_pass(decisions: &Decisions) -> usize {
    let Decisions { limit, workers, grants, .. } = decisions;
    limit + workers * LARGEST_RESERVATION + grants.iter().sum::<usize>()
}

fn guard_overshot(
    decisions: &Decisions,
    objects: &BTreeMap<Object<'_>, Vec<&Call>>,
) -> Option<Finding> {
    let (passed, may_pass) = (passed_of(objects), may_pass(decisions));
    let what = format!("{passed} objects of {FLOODED}, but at most {may_pass} were allowed");
    (passed > may_pass).then(|| finding(Kind::GuardOvershot, what))
}

/// # Only the organisation and kind whose guard has tripped is held
///
/// An exception: a command whose task is gone before its undo window has ended. Another copy of the
/// command deleted the task, and this copy cannot know that.
fn wrongly_held(
    decisions: &Decisions,
    objects: &BTreeMap<Object<'_>, Vec<&Call>>,
) -> BTreeSet<Finding> {
    let others = decisions.listings.iter().filter(|listing| listing.org != FLOODED);
    let mut findings = BTreeSet::new();
    for listing in others {
        let org = listing.org.as_str();
        if listing.is_tripped {
            findings.insert(finding(Kind::WronglyHeld, format!("the guard of {org} has tripped")));
            continue;
        }
        let is_gone = |task: &&String| {
            let calls = objects.get(&(org, task.as_str()));
            calls.is_some_and(|c| c.iter().any(|c| deletes(c) && c.at_ms <= listing.at_ms))
        };
        let there = listing.samples.iter().filter(|task| !is_gone(task));
        findings.extend(there.map(|task| finding(Kind::WronglyHeld, format!("{org}/{task}"))));
    }
    findings
}

/// # No destructive call begins while its organisation is paused
///
/// All workers follow within a second; one that was frozen or cut off meanwhile finishes what it
/// had begun.
fn called_while_paused(decisions: &Decisions, records: &Records) -> Vec<Finding> {
    let destroys = |call: &&Call| call.org == PAUSED && call.kind.is_some();
    let is_paused = |call: &&Call| {
        let within =
            |pause: &Pause| (pause.from_ms + FOLLOWED_WITHIN_MS..pause.to_ms).contains(&call.at_ms);
        decisions.pauses.iter().any(within) && !was_begun_before(call.at_ms, &records.journal)
    };
    let calls = records.calls.iter().filter(destroys).filter(is_paused);
    calls.map(|call| finding(Kind::CalledWhilePaused, at(call))).collect()
}

fn at(call: &Call) -> String {
    format!("{} at {}", call.path, call.at_ms)
}

/// Whether a worker was frozen or cut off at that time.
fn was_begun_before(at_ms: i64, journal: &[InjectedFault]) -> bool {
    let stops = |fault: &&InjectedFault| {
        fault.family == "worker frozen"
            || ["wire", "broker"].iter().any(|w| fault.family.starts_with(w))
    };
    let mut stops = journal.iter().filter(stops);
    stops.any(|fault| (fault.from_ms..=fault.to_ms + BEGUN_BEFORE_MS).contains(&at_ms))
}

/// # A cancelled command ends without a further call
fn called_though_cancelled(decisions: &Decisions, records: &Records) -> Vec<Finding> {
    let mut findings = Vec::new();
    for cancel in &decisions.cancels {
        let command = records.commands.iter().find(|c| c.id == cancel.command_id);
        let Some(command) = command else { continue };
        let is_late = |call: &&Call| {
            call.kind.is_some()
                && is_about(call, command)
                && call.at_ms > cancel.at_ms + FOLLOWED_WITHIN_MS
                && !was_begun_before(call.at_ms, &records.journal)
        };
        let late = records.calls.iter().filter(is_late);
        findings.extend(late.map(|call| finding(Kind::CalledThoughCancelled, at(call))));
    }
    findings
}

/// A worker that is killed after it has archived a task, or whose answer was lost, archives it
/// again when the command is delivered again, even if somebody restored the task in between.
fn archived_again(object: Object<'_>, calls: &[&Call], records: &Records) -> Option<Finding> {
    let mut archived = calls.iter().filter(|call| archives(call)).map(|call| call.at_ms);
    let (first, last) = (archived.next()?, archived.next_back()?);
    let mut commands = records.commands.iter();
    let was_sent_twice =
        commands.any(|c| c.attempted > 1 && (c.org.as_str(), c.object.as_str()) == object);
    let is_excused = was_sent_twice || may_have_hidden(first, last, &records.journal);
    (!is_excused).then(|| finding(Kind::ArchivedAgain, named(object)))
}

/// A worker may have died, or lost its session or an answer, in this period.
fn may_have_hidden(from_ms: i64, to_ms: i64, journal: &[InjectedFault]) -> bool {
    let mut hiding = journal.iter().filter(|fault| fault.hides);
    hiding.any(|fault| fault.from_ms <= to_ms && fault.to_ms >= from_ms)
}

/// # A task is archived first and deleted when its window has ended
fn deleted_early(
    decisions: &Decisions,
    objects: &BTreeMap<Object<'_>, Vec<&Call>>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (object, calls) in objects {
        let archived = calls.iter().find(|call| archives(call)).map(|call| call.at_ms);
        for call in calls.iter().filter(|call| deletes(call)) {
            let after = archived.map(|archived| call.at_ms - archived);
            if after.is_none_or(|after| after + ROUNDING_MS < decisions.undo_window_ms) {
                let what = format!("{}: {after:?} ms after it was archived", named(*object));
                findings.push(finding(Kind::DeletedEarly, what));
            }
        }
    }
    findings
}

/// # An event announces each task that is archived and then deleted
///
/// An exception: if a worker dies between the copy for the undo window and the event, the command
/// may be delivered again only after the copy has deleted the task.
fn pending_not_announced(
    records: &Records,
    objects: &BTreeMap<Object<'_>, Vec<&Call>>,
) -> Vec<Finding> {
    let pending = records.pending.iter().map(|p| (p.org.as_str(), p.object.as_str()));
    let announced: BTreeSet<Object<'_>> = pending.collect();
    let is_unannounced = |(object, calls): &(&Object<'_>, &Vec<&Call>)| {
        let deleted = calls.iter().find(|call| deletes(call));
        let archived = calls.iter().find(|call| archives(call));
        let between =
            archived.zip(deleted).map(|(archived, deleted)| (archived.at_ms, deleted.at_ms));
        !announced.contains(object)
            && between.is_some_and(|(from, to)| !may_have_hidden(from, to, &records.journal))
    };
    let unannounced = objects.iter().filter(is_unannounced);
    unannounced.map(|(object, _)| finding(Kind::PendingNotAnnounced, named(*object))).collect()
}

/// The rows of the report: a word, a number and its meaning.
pub(crate) fn rows(records: &Records) -> Vec<(&'static str, usize, &'static str)> {
    let Some(decisions) = &records.decisions else { return Vec::new() };
    let after_restores = after_restores(records);
    let with = |wanted: AfterRestore| {
        after_restores.iter().filter(|(_, after_restore)| *after_restore == wanted).count()
    };
    let flooded = decisions.listings.iter().filter(|listing| listing.org == FLOODED);
    let rejected = records.dead_letters.iter().filter(|l| l.reason == REJECTED);
    let rejected: BTreeSet<_> = rejected.map(|l| &l.command_id).collect();
    let cancelled = records.commands.iter().filter(|c| {
        decisions.cancels.iter().any(|cancel| cancel.command_id == c.id)
            && c.expected == Expected::Cancelled
    });
    let given = |org: &str| records.commands.iter().filter(|c| c.org == org).count();
    vec![
        ("flood", given(FLOODED), "commands of an organisation whose producer has a bug"),
        ("passed", passed(records), "objects of it that were archived or deleted"),
        ("may pass", may_pass(decisions), "the guard's limit, 32 for each worker, and the grants"),
        ("granted", decisions.grants.iter().sum(), "by `guard release`"),
        ("held", flooded.map(|l| l.held).max().unwrap_or_default(), "at most, by `guard list`"),
        ("rejected", rejected.len(), "dead letters by `guard reject`"),
        (
            "held as gone",
            decisions.released_as_gone,
            "commands of others, whose task was deleted by another copy",
        ),
        ("paused", decisions.pauses.len(), "times that an organisation was paused and resumed"),
        ("cancelled", cancelled.count(), "by `cancel`, before any call"),
        (
            "restored",
            after_restores.len(),
            "tasks of one organisation, in their undo window, out of:",
        ),
        ("undo total", given(UNDONE), "commands of that organisation"),
        ("by undo", decisions.by_undo, "confirmed by `undo`"),
        ("by hand", decisions.by_hand, "confirmed by the API itself"),
        (
            "kept",
            with(AfterRestore::Kept),
            "restored tasks that are there, and their commands cancelled",
        ),
        (
            "again",
            with(AfterRestore::ArchivedAgain),
            "archived again by a worker that did not know of its first call",
        ),
        ("raced", with(AfterRestore::Raced), "restored between the last look and the call"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{Cancel, Listing, Pending};

    const WINDOW_MS: i64 = 10_000;

    fn call(org: &str, object: &str, what: &str, at_ms: i64) -> Call {
        let (kind, harmless) = match what {
            "archive" => (Some(kind::Kind::TaskArchive), None),
            "delete" => (Some(kind::Kind::TaskDelete), None),
            "restore" => (None, Some(Harmless::Restores)),
            _ => (None, Some(Harmless::Looks)),
        };
        Call {
            at_ms,
            path: format!("{what} {org}/{object}"),
            kind,
            harmless,
            org: org.into(),
            object: object.into(),
            did_it: what != "look",
            retry_after_ms: None,
        }
    }

    /// One task that was archived, looked at and deleted in time.
    fn balanced() -> Records {
        let of = |what, at_ms| call(UNDONE, "t1", what, at_ms);
        let pending = Pending { org: UNDONE.into(), object: "t1".into(), purge_at_ms: 10_010 };
        Records {
            calls: vec![of("archive", 0), of("look", 10_020), of("delete", 10_030)],
            pending: vec![pending],
            decisions: Some(Decisions {
                limit: 1,
                workers: 1,
                undo_window_ms: WINDOW_MS,
                ..Decisions::default()
            }),
            ..Records::default()
        }
    }

    fn findings(spoil: impl FnOnce(&mut Records)) -> Vec<Kind> {
        let mut records = balanced();
        spoil(&mut records);
        check(&records).into_iter().map(|finding| finding.kind).collect()
    }

    fn injected(family: &'static str, from_ms: i64, to_ms: i64) -> InjectedFault {
        let (org, what) = (None, String::new());
        InjectedFault { from_ms, to_ms, family, org, stops: false, hides: true, what }
    }

    fn decide(records: &mut Records) -> &mut Decisions {
        records.decisions.as_mut().unwrap()
    }

    #[test]
    fn a_task_is_archived_announced_looked_at_and_deleted() {
        assert_eq!(findings(|_| ()), []);
        assert_eq!(findings(|l| l.calls[2].at_ms = WINDOW_MS - 10), [Kind::DeletedEarly]);
        assert_eq!(findings(|l| drop(l.calls.remove(0))), [Kind::DeletedEarly]);
        assert_eq!(findings(|l| l.pending.clear()), [Kind::PendingNotAnnounced]);
        assert_eq!(
            findings(|l| {
                l.pending.clear();
                l.journal.push(injected("before_confirm", 100, 200));
            }),
            [],
            "a worker has died"
        );
        assert_eq!(
            findings(|l| {
                l.decisions = None;
                l.calls.remove(0);
            }),
            [],
            "without the guard and undo window it is not promised"
        );
    }

    #[test]
    fn no_more_passes_than_the_limit_the_workers_reservations_and_the_grants() {
        let flood = |l: &mut Records, number: usize| {
            let archived = (0..number).map(|n| call(FLOODED, &n.to_string(), "archive", 0));
            l.calls.extend(archived);
        };
        assert_eq!(findings(|l| flood(l, 33)), []);
        assert_eq!(findings(|l| flood(l, 34)), [Kind::GuardOvershot]);
        let granted = |number| {
            findings(|l| {
                flood(l, number);
                flood(l, 3); // Again: the same objects.
                decide(l).grants = vec![5, 2];
            })
        };
        assert_eq!((granted(40), granted(41)), (vec![], vec![Kind::GuardOvershot]));
    }

    #[test]
    fn only_commands_whose_task_is_gone_are_held_for_another_organisation() {
        let listed = |org: &str, is_tripped, at_ms| {
            findings(|l| {
                let (org, samples) = (org.to_owned(), vec!["t1".to_owned()]);
                decide(l).listings.push(Listing { at_ms, org, held: 1, is_tripped, samples });
            })
        };
        assert_eq!(listed(FLOODED, true, 0), []);
        assert_eq!(listed(UNDONE, true, 20_000), [Kind::WronglyHeld]);
        assert_eq!(listed(UNDONE, false, 20_000), []);
        assert_eq!(listed(UNDONE, false, 5000), [Kind::WronglyHeld], "it was there then");
        assert_eq!(listed(PAUSED, false, 20_000), [Kind::WronglyHeld], "no copy has deleted it");
    }

    #[test]
    fn no_call_begins_while_an_organisation_is_paused() {
        let called = |at_ms, spoil: fn(&mut Records)| {
            findings(|l| {
                decide(l).pauses.push(Pause { from_ms: 1000, to_ms: 9000 });
                l.calls.push(call(PAUSED, "p1", "archive", at_ms));
                spoil(l);
            })
        };
        assert_eq!(called(1999, |_| ()), [], "they follow within a second");
        assert_eq!(called(2000, |_| ()), [Kind::CalledWhilePaused]);
        assert_eq!(called(8999, |_| ()), [Kind::CalledWhilePaused]);
        assert_eq!(called(9000, |_| ()), []);
        assert_eq!(called(5000, |l| l.calls[3].org = FLOODED.into()), [], "another one");
        assert_eq!(called(5000, |l| l.journal.push(injected("worker frozen", 1500, 3000))), []);
        for (family, to_ms) in [("worker frozen", 2999), ("worker killed", 5000)] {
            let spoilt = findings(|l| {
                decide(l).pauses.push(Pause { from_ms: 1000, to_ms: 9000 });
                l.calls.push(call(PAUSED, "p1", "archive", 5000));
                l.journal.push(injected(family, 1500, to_ms));
            });
            assert_eq!(spoilt, [Kind::CalledWhilePaused], "{family}");
        }
    }

    #[test]
    fn a_task_that_is_restored_in_time_is_not_deleted() {
        let after_restore = |at: usize, what: &[(&str, i64)]| {
            let mut records = balanced();
            let calls = what.iter().map(|(what, at_ms)| call(UNDONE, "t1", what, *at_ms));
            records.calls.splice(at.., calls);
            after_restores(&records)
                .into_iter()
                .map(|(_, after_restore)| after_restore)
                .collect::<Vec<_>>()
        };
        assert_eq!(after_restore(3, &[]), []);
        assert_eq!(after_restore(1, &[("restore", 5000), ("look", 10_020)]), [AfterRestore::Kept]);
        let all_the_same = [("restore", 5000), ("look", 10_020), ("delete", 10_030)];
        assert_eq!(after_restore(1, &all_the_same), [AfterRestore::Deleted]);
        assert_eq!(
            after_restore(1, &[("restore", 5000), ("delete", 10_030)]),
            [AfterRestore::Deleted]
        );
        let too_soon = [("look", 9000), ("restore", 9010), ("delete", 10_030)];
        assert_eq!(
            after_restore(1, &too_soon),
            [AfterRestore::Deleted],
            "a look counts when the window has ended"
        );
        assert_eq!(
            after_restore(2, &[("restore", 10_025), ("delete", 10_030)]),
            [AfterRestore::Raced]
        );
        let again = [("restore", 5000), ("archive", 6000), ("look", 10_020), ("delete", 10_030)];
        assert_eq!(after_restore(1, &again), [AfterRestore::ArchivedAgain]);
        let found = |journal: &[InjectedFault]| {
            findings(|l| {
                l.calls.splice(1.., again.iter().map(|(what, at)| call(UNDONE, "t1", what, *at)));
                l.journal = journal.to_vec();
            })
        };
        assert_eq!(found(&[]), [Kind::ArchivedAgain]);
        assert_eq!(found(&[injected("after_call", 500, 1000)]), []);
    }

    fn command(org: &str, object: &str) -> Command {
        Command {
            kind: kind::Kind::TaskDelete,
            id: object.into(),
            org: org.into(),
            object: object.into(),
            expected: Expected::Done,
            attempted: 1,
            acknowledged: 1,
            published_ms: Some(0),
        }
    }

    #[test]
    fn a_restored_task_or_a_cancelled_command_has_its_expected_end() {
        let end = |org: &str, object: &str, calls: &[(&str, i64)]| {
            let mut records = balanced();
            records.commands.push(command(org, object));
            records.calls = calls.iter().map(|(w, at)| call(org, object, w, *at)).collect();
            decide(&mut records).cancels.push(Cancel { command_id: "c1".into(), at_ms: 3000 });
            settle(&mut records);
            records.commands[0].expected
        };
        assert_eq!(end(UNDONE, "t1", &[("archive", 0)]), Expected::Done);
        assert_eq!(end(UNDONE, "t1", &[("archive", 0), ("restore", 1)]), Expected::Cancelled);
        let again = [("archive", 0), ("restore", 1), ("archive", 2)];
        assert_eq!(end(UNDONE, "t1", &again), Expected::MayBeCancelled);
        assert_eq!(end(PAUSED, "c1", &[]), Expected::Cancelled);
        assert_eq!(end(PAUSED, "c1", &[("archive", 4000)]), Expected::MayBeCancelled);
        assert_eq!(end(PAUSED, "c1", &[("archive", 4001)]), Expected::Cancelled);
    }

    #[test]
    fn no_call_begins_after_a_cancellation() {
        let called = |at_ms| {
            findings(|l| {
                l.commands.push(command(PAUSED, "c1"));
                l.calls.push(call(PAUSED, "c1", "archive", at_ms));
                decide(l).cancels.push(Cancel { command_id: "c1".into(), at_ms: 3000 });
            })
        };
        assert_eq!((called(4000), called(4001)), (vec![], vec![Kind::CalledThoughCancelled]));
    }
}
