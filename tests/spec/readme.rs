//! The tables of `docs/behaviour.md` and `docs/messages.md`, held against the code, so that they
//! cannot rot; and all JSON examples.

use std::time::Duration;

use tallyfy_delete_worker::kind::{Kind, KindSpec};
use tallyfy_delete_worker::messages::{Command, EndKind};
use tallyfy_delete_worker::metrics::NO_TOKEN;
use tallyfy_delete_worker::policy::absence::{Reach, believe, reach};
use tallyfy_delete_worker::policy::answer::{Answer, Body, Response};
use tallyfy_delete_worker::policy::api_access::SuspendReason;
use tallyfy_delete_worker::policy::next_step::{Facts, NextStep, next_step};
use tallyfy_delete_worker::policy::retry_schedule::{RetryDelays, RetrySchedule};
use tallyfy_delete_worker::policy::verdict::{Verdict, decide};

use crate::pages::{pages, table};

const BEHAVIOUR: &str = include_str!("../../docs/behaviour.md");
const MESSAGES: &str = include_str!("../../docs/messages.md");

/// What an answer may carry, in the table's words.
const BODIES: [&str; 8] = [
    " with RESOURCE_NOT_FOUND",
    " with ENDPOINT_NOT_FOUND",
    " with another code",
    " without a code",
    " with an empty body",
    " with text",
    " with HTML",
    " cut short",
];

fn first_word_in_backticks(cell: &str) -> &str {
    cell.split('`').nth(1).unwrap_or_else(|| panic!("no word in backticks: {cell}"))
}

/// One item of the first cell, and the verdict of its row.
struct Item {
    answer: String,
    verdict: String,
}

fn items() -> Vec<Item> {
    let rows = table(BEHAVIOUR, "| answer | verdict | then |").into_iter();
    rows.flat_map(|row| {
        let verdict = first_word_in_backticks(&row[1]).to_owned();
        let answers: Vec<_> = row[0].split(", ").map(str::to_owned).collect();
        answers.into_iter().map(move |answer| Item { answer, verdict: verdict.clone() })
    })
    .collect()
}

/// Status or range of statuses that an item names itself.
fn named(item: &str) -> Option<(u16, u16)> {
    let word = item.split(' ').next()?;
    let (from, to) = word.split_once('-').unwrap_or((word, word));
    Some((from.parse().ok()?, to.parse().ok()?))
}

/// How well an item fits an answer: one that names the body before one that says JSON, and that
/// before one that names no body.
fn fit(item: &str, status: u16, body: &str, is_named: bool) -> Option<u8> {
    let is_other = !is_named && item.starts_with(&format!("any other {}xx", status / 100));
    let is_this = named(item).is_some_and(|(from, to)| (from..=to).contains(&status));
    if !is_other && !is_this {
        return None;
    }
    let is_json = [
        " with RESOURCE_NOT_FOUND",
        " with ENDPOINT_NOT_FOUND",
        " with another code",
        " without a code",
    ]
    .contains(&body);
    match item {
        _ if item.ends_with(body) => Some(2),
        _ if item.ends_with(" with JSON") => is_json.then_some(1),
        _ if BODIES.iter().any(|other| item.ends_with(other)) => None,
        _ => Some(0),
    }
}

fn answer(status: u16, body: &str) -> Answer {
    let json = |code: Option<&str>| Body::Json {
        code: code.map(str::to_owned),
        message: Some("no".to_owned()),
    };
    let body = match body {
        " with RESOURCE_NOT_FOUND" => json(Some("RESOURCE_NOT_FOUND")),
        " with ENDPOINT_NOT_FOUND" => json(Some("ENDPOINT_NOT_FOUND")),
        " with another code" => json(Some("SOME_CODE")),
        " without a code" => json(None),
        " with an empty body" => Body::Empty,
        " with text" => Body::Other,
        " with HTML" => Body::Html,
        _ => Body::Lost,
    };
    Answer::Status(Response { status, body, retry_after: None, date: None, request_id: None })
}

#[test]
fn the_table_of_answers_says_of_every_status_with_every_body_what_decide_does() {
    let items = items();
    for status in 200..600 {
        let is_named = items.iter().filter_map(|item| named(&item.answer));
        let is_named = is_named.into_iter().any(|(from, to)| (from..=to).contains(&status));
        for body in BODIES {
            let fits = items
                .iter()
                .filter_map(|item| Some((fit(&item.answer, status, body, is_named)?, item)));
            let best = fits.max_by_key(|(fit, _)| *fit);
            let (_, item) = best.unwrap_or_else(|| panic!("no row for {status}{body}"));
            assert_eq!(
                decide(Kind::TaskDelete, &answer(status, body)).as_str(),
                item.verdict,
                "{status}{body}: {}",
                item.answer
            );
        }
    }
}

#[test]
fn every_row_of_the_table_of_answers_is_of_use() {
    let items = items();
    for (at, item) in items.iter().enumerate() {
        assert!(
            items[..at].iter().all(|before| before.answer != item.answer),
            "{} is there twice",
            item.answer
        );
        let lost = || "reset".to_owned();
        let answer = match item.answer.as_str() {
            "timeout" => Answer::TimedOut,
            "connection lost after sending" => Answer::ConnectionLost { detail: lost() },
            "unreachable" => Answer::Unreachable { detail: lost() },
            other => {
                assert!(
                    named(other).is_some() || other.starts_with("any other "),
                    "{other:?} is no answer"
                );
                continue;
            }
        };
        assert_eq!(decide(Kind::TaskDelete, &answer).as_str(), item.verdict, "{}", item.answer);
    }
    let without_status = ["timeout", "connection lost after sending", "unreachable"];
    assert!(without_status.iter().all(|answer| items.iter().any(|item| item.answer == *answer)));
}

#[test]
fn the_table_of_answers_says_what_uses_up_an_attempt_and_what_is_dead_lettered_at_once() {
    for row in table(BEHAVIOUR, "| answer | verdict | then |") {
        let word = first_word_in_backticks(&row[1]);
        let verdict =
            Verdict::ALL.into_iter().find(|verdict| verdict.as_str() == word).expect(word);
        assert_eq!(row[2].contains("uses up no attempt"), !verdict.spends_an_attempt(), "{row:?}");
        let is_dead_at_once = matches!(verdict, Verdict::Forbidden | Verdict::Rejected);
        assert_eq!(row[2].starts_with("dead letter"), is_dead_at_once, "{row:?}");
    }
    for verdict in Verdict::ALL.map(Verdict::as_str) {
        assert!(BEHAVIOUR.contains(&format!("| `{verdict}`")), "{verdict} is in no table");
    }
}

#[test]
fn the_table_of_absences_is_what_believe_does() {
    let rows = table(BEHAVIOUR, "| does the token reach the organisation? |");
    let reaches = [
        ("yes", Reach::Reached),
        ("no", Reach::NotReached),
        ("not answered", reach(&answer(401, " without a code"))),
        ("not answered", reach(&answer(429, " without a code"))),
        ("not answered", reach(&Answer::TimedOut)),
        ("unknown", Reach::Inconclusive),
    ];
    assert_eq!(rows.len(), reaches.len());
    for (row, (word, reach)) in rows.iter().zip(reaches) {
        assert!(row[0].starts_with(&format!("{word}:")), "{row:?}");
        assert_eq!(
            believe(Verdict::AlreadyAbsent, reach).as_str(),
            first_word_in_backticks(&row[1]),
            "{row:?}"
        );
    }
}

#[test]
fn every_reason_of_a_suspension_is_explained() {
    let suspensions = table(BEHAVIOUR, "| reason | when |");
    let explained: Vec<_> =
        suspensions.iter().map(|row| first_word_in_backticks(&row[0])).collect();
    assert_eq!(
        explained,
        [&SuspendReason::ALL.map(SuspendReason::as_str)[..], &[NO_TOKEN]].concat()
    );
    let (_, waits) = MESSAGES.split_once("| `x-wait-reason` |").unwrap();
    let waits = waits.lines().next().unwrap();
    for reason in explained {
        assert!(waits.contains(&format!("`{reason}`")), "x-wait-reason: {reason}");
    }
}

#[test]
fn the_table_of_kinds_is_that_of_the_code() {
    let rows = table(MESSAGES, "| kind | call, below `{base}/organizations/{org_id}` |");
    let row = |kind: Kind| {
        let KindSpec { name, id_member, outcome, done_event, failed_event, .. } = kind.spec();
        let call = kind.path(&format!("{{{id_member}}}")).collect::<Vec<_>>().join("/");
        let call = format!("DELETE {call}");
        [name, call.as_str(), id_member, outcome, done_event, failed_event]
            .map(|word| format!("`{word}`"))
            .to_vec()
    };
    assert_eq!(rows, Kind::ALL.map(row));
    for kind in Kind::ALL {
        assert!(kind.dead_letter_queue() == format!("{kind}.dead"));
        assert!(kind.delay_queue("5s") == format!("{kind}.wait.5s"));
    }
}

/// Whether a cell such as `204, 200 with JSON` names this answer.
fn names(cell: &str, status: u16, body: &str) -> bool {
    let is_the_apis_json = [" with RESOURCE_NOT_FOUND", " with another code", " without a code"];
    cell.split(", ").any(|item| {
        item == status.to_string()
            || item == format!("{status}{body}")
            || (item == format!("{status} with JSON") && is_the_apis_json.contains(&body))
    })
}

/// What follows, in the table's words.
fn follows(kind: Kind, verdict: Verdict, may_be_done: bool) -> String {
    let facts = Facts {
        kind,
        may_be_done,
        spent: 1,
        age: Duration::ZERO,
        retry_after: None,
        is_outage: false,
        is_draining: false,
        is_clock_wrong: false,
        next_delay: None,
    };
    let schedule = RetrySchedule {
        max_attempts: 20,
        max_age: Duration::from_hours(24),
        delays: RetryDelays::new(vec![Duration::from_secs(5)]).unwrap(),
    };
    match next_step(verdict, &facts, &schedule) {
        NextStep::Finish { end: EndKind::AlreadyAbsent, .. } => "`already_absent`".to_owned(),
        NextStep::DeadLetter(reason) => format!("dead letter `{}`", reason.as_str()),
        NextStep::Postpone(_) => format!("`{}`", verdict.as_str()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_table_of_what_differs_between_the_kinds_is_what_the_code_does() {
    let rows = table(BEHAVIOUR, "| kind | done | not found, in the API's own words |");
    let kinds: Vec<_> = rows.iter().map(|row| row[0].trim_matches('`')).collect();
    assert_eq!(kinds, Kind::ALL.map(Kind::as_str));
    for (row, kind) in rows.iter().zip(Kind::ALL) {
        for status in 200..300 {
            for body in BODIES {
                let is_done = decide(kind, &answer(status, body)) == Verdict::Deleted;
                assert_eq!(names(&row[1], status, body), is_done, "{kind}: {status}{body}");
            }
        }
        for (cell, body) in [(2, " with RESOURCE_NOT_FOUND"), (3, " with text")] {
            for status in [404, 410] {
                let verdict = decide(kind, &answer(status, body));
                assert_eq!(row[cell], follows(kind, verdict, false), "{kind}: {status}{body}");
                let afterwards = follows(kind, verdict, true);
                let is_the_exception = kind == Kind::TagDelete;
                assert_eq!(afterwards == "`already_absent`", !is_the_exception, "{kind}");
            }
        }
    }
}

#[test]
fn every_json_example_is_json_and_every_command_in_it_is_one() {
    let pages = pages();
    let blocks = pages.values().flat_map(|text| text.split("```json\n").skip(1));
    let blocks: Vec<_> = blocks.map(|block| block.split("```").next().unwrap()).collect();
    assert!(blocks.len() >= 3, "{blocks:?}");
    for block in blocks {
        let json: serde_json::Value =
            serde_json::from_str(block).unwrap_or_else(|error| panic!("{error}: {block}"));
        if json.get("task_id").is_some() && json.get("outcome").is_none() {
            Command::decode(Kind::TaskDelete, block.as_bytes())
                .unwrap_or_else(|error| panic!("{error}: {block}"));
        }
    }
}
