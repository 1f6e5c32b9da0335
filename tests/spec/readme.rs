//! The table of answers in `docs/behaviour.md`, held against `decide`, so that it cannot rot; and the README's JSON examples.

use tallyfy_delete_worker::messages::Command;
use tallyfy_delete_worker::policy::answer::{Answer, Body, Response};
use tallyfy_delete_worker::policy::verdict::decide;

const README: &str = include_str!("../../README.md");
const BEHAVIOUR: &str = include_str!("../../docs/behaviour.md");
const HEADING: &str = "## What each answer means";

/// The rows: the answers of the first cell, and the verdict of the second.
fn rows() -> Vec<(String, String)> {
    let section = BEHAVIOUR.split(HEADING).nth(1).expect(HEADING);
    let rows = section
        .lines()
        .map(str::trim)
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'));
    rows.skip(2)
        .map(|row| {
            let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
            let verdict = cells[1].split('`').nth(1).expect("a verdict in backticks");
            (cells[0].replace('`', ""), verdict.to_owned())
        })
        .collect()
}

/// The answers that one item of a first cell stands for. `listed` are the statuses that other rows name.
fn answers(item: &str, listed: &[u16]) -> Vec<Answer> {
    let lost = || "reset".to_owned();
    match item {
        "timeout" => return vec![Answer::TimedOut],
        "connection lost after sending" => return vec![Answer::ConnectionLost { detail: lost() }],
        "unreachable" => return vec![Answer::Unreachable { detail: lost() }],
        _ => {}
    }
    let (head, bodies) = split_body(item);
    let statuses: Vec<u16> = match head.split_once('-') {
        Some((from, to)) => (from.parse().unwrap()..=to.parse().unwrap()).collect(),
        None if head == "any other 2xx" => (200..300).filter(|status| !listed.contains(status)).collect(),
        None if head == "any other 4xx" => (400..500).filter(|status| !listed.contains(status)).collect(),
        None => vec![head.parse().unwrap_or_else(|_| panic!("{item:?} is no answer"))],
    };
    let answer = |status, body| {
        Answer::Status(Response { status, body, retry_after: None, date: None, request_id: None })
    };
    statuses.iter().flat_map(|status| bodies.iter().map(move |body| answer(*status, body.clone()))).collect()
}

fn split_body(item: &str) -> (&str, Vec<Body>) {
    let json = |code: &str| Body::Json { code: Some(code.to_owned()), message: None };
    let named = [
        (" with ENDPOINT_NOT_FOUND", json("ENDPOINT_NOT_FOUND")),
        (" with RESOURCE_NOT_FOUND", json("RESOURCE_NOT_FOUND")),
        (" with JSON", json("SOME_CODE")),
        (" with an empty body", Body::Empty),
        (" with HTML", Body::Html),
        (" with text", Body::Other),
        (" cut short", Body::Lost),
    ];
    let found =
        named.iter().find_map(|(suffix, body)| Some((item.strip_suffix(suffix)?, vec![body.clone()])));
    found.unwrap_or_else(|| (item, vec![json("SOME_CODE"), Body::Empty, Body::Other]))
}

#[test]
fn the_table_of_answers_is_what_decide_does() {
    let rows = rows();
    let items = |cell: &str| cell.split(", ").map(str::to_owned).collect::<Vec<_>>();
    let named = |item: &str| item.split(' ').next().and_then(|word| word.parse().ok());
    let listed: Vec<u16> =
        rows.iter().flat_map(|(cell, _)| items(cell)).filter_map(|item| named(&item)).collect();
    let mut checked = 0;
    for (cell, verdict) in &rows {
        for item in items(cell) {
            for answer in answers(&item, &listed) {
                assert_eq!(decide(&answer).as_str(), verdict, "{item}: {answer:?}");
                checked += 1;
            }
        }
    }
    assert!(checked > 300, "only {checked} answers were found in the table");
}

#[test]
fn every_json_example_of_the_readme_is_json_and_every_command_in_it_is_one() {
    let blocks: Vec<_> =
        README.split("```json\n").skip(1).map(|block| block.split("```").next().unwrap()).collect();
    assert!(!blocks.is_empty());
    for block in blocks {
        let json: serde_json::Value =
            serde_json::from_str(block).unwrap_or_else(|error| panic!("{error}: {block}"));
        if json.get("task_id").is_some() && json.get("outcome").is_none() {
            Command::decode(block.as_bytes()).unwrap_or_else(|error| panic!("{error}: {block}"));
        }
    }
}
