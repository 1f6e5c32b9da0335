//! What an answer to a `task.delete` means: nothing but a 204, or a 404 or 410 about the task, ever
//! counts as success. The input is `STATUS CONTENT-TYPE`, a line feed and the body.
//!
//!     cargo fuzz run --sanitizer none --fuzz-dir tests/fuzz answer

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tallyfy_delete_worker::kind::Kind;
use tallyfy_delete_worker::policy::answer::{Answer, Body, Response};
use tallyfy_delete_worker::policy::verdict::{Verdict, decide};

struct Input<'a> {
    status: u16,
    content_type: Option<&'a str>,
    body: &'a [u8],
    breaks_off: bool,
}

/// The first line is `STATUS CONTENT-TYPE`; `!` after the status means that the body breaks off.
fn input(bytes: &[u8]) -> Option<Input<'_>> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let line = std::str::from_utf8(&bytes[..end]).ok()?;
    let (status, content_type) =
        line.split_once(' ').map_or((line, None), |(status, kind)| (status, Some(kind)));
    let (status, breaks_off) =
        status.strip_suffix('!').map_or((status, false), |status| (status, true));
    Some(Input { status: status.parse().ok()?, content_type, body: &bytes[end + 1..], breaks_off })
}

fuzz_target!(|bytes: &[u8]| {
    let Some(input) = input(bytes) else { return };
    let status = input.status;
    let body =
        if input.breaks_off { Body::Lost } else { Body::recognise(input.content_type, input.body) };
    let answer =
        Answer::Status(Response { status, body, retry_after: None, date: None, request_id: None });
    let verdict = decide(Kind::TaskDelete, &answer);

    let is_page = !input.breaks_off && is_page(&input);
    let json = if input.breaks_off || is_page { None } else { json(input.body) };
    let code = json.as_ref().and_then(code);
    let is_absent = matches!(status, 404 | 410);
    let speaks_of_the_task = !input.breaks_off && !is_page && code != Some("ENDPOINT_NOT_FOUND");
    let is_proven = code == Some("RESOURCE_NOT_FOUND");
    assert_eq!(verdict == Verdict::Deleted, status == 204, "{verdict:?}");
    assert_eq!(verdict == Verdict::AlreadyAbsent, is_absent && is_proven);
    assert_eq!(
        verdict == Verdict::UnverifiedAbsence,
        is_absent && speaks_of_the_task && !is_proven
    );
    assert_eq!(verdict == Verdict::Throttled, status == 429);
    assert_eq!(verdict == Verdict::Unauthorized, status == 401);
    let is_refusal = matches!(verdict, Verdict::Forbidden | Verdict::Rejected);
    let may_refuse = json.is_some() || status == 403 && is_blank(input.body);
    assert!(
        !is_refusal || (400..500).contains(&status) && speaks_of_the_task && may_refuse,
        "{status} {verdict:?}"
    );
    assert!(verdict != Verdict::Forbidden || status == 403);
    assert!(!matches!(verdict, Verdict::Unreachable | Verdict::NotReached));
    assert!(!answer.is_ambiguous(), "a status is an answer");
    match status {
        500..=599 | 408 | 421 | 425 => assert_eq!(verdict, Verdict::Transient),
        402 | 405 | 407 | 419 => assert_eq!(verdict, Verdict::Misdirected),
        400..=499 | 204 => {}
        _ => assert_eq!(verdict, Verdict::Misdirected),
    }
    assert!(answer.describe().starts_with(&format!("HTTP {status}")));
    assert_eq!(answer.class().as_bytes()[0] == b'4', (400..500).contains(&status));
});

fn is_page(input: &Input) -> bool {
    let says_so = input.content_type.is_some_and(|kind| kind.to_lowercase().contains("html"));
    let text = input.body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(input.body);
    says_so || text.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'<')
}

fn without_bom(body: &[u8]) -> &[u8] {
    body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body)
}

fn is_blank(body: &[u8]) -> bool {
    without_bom(body).trim_ascii().is_empty()
}

fn json(body: &[u8]) -> Option<Value> {
    serde_json::from_slice(without_bom(body).trim_ascii()).ok()
}

/// The first text of the two places for a code.
fn code(json: &Value) -> Option<&str> {
    [json.pointer("/code"), json.pointer("/error/code")]
        .into_iter()
        .flatten()
        .find_map(Value::as_str)
}
