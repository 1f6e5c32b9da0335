//! What an answer means: nothing but a 204, or a 404 or 410 about the task, ever counts as success.
//! The input is `STATUS CONTENT-TYPE`, a line feed and the body.
//!
//!     cargo fuzz run --sanitizer none --fuzz-dir tests/fuzz answer

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
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
    let (status, breaks_off) = status.strip_suffix('!').map_or((status, false), |status| (status, true));
    Some(Input { status: status.parse().ok()?, content_type, body: &bytes[end + 1..], breaks_off })
}

fuzz_target!(|bytes: &[u8]| {
    let Some(input) = input(bytes) else { return };
    let status = input.status;
    let body = if input.breaks_off { Body::Lost } else { Body::recognise(input.content_type, input.body) };
    let answer = Answer::Status(Response { status, body, retry_after: None, date: None, request_id: None });
    let verdict = decide(&answer);

    let is_page = !input.breaks_off && is_page(&input);
    let for_the_endpoint =
        !input.breaks_off && !is_page && codes(input.body).contains(&"ENDPOINT_NOT_FOUND".to_owned());
    let may_speak_of_the_task = !input.breaks_off && !is_page && !for_the_endpoint;
    assert_eq!(verdict == Verdict::Deleted, status == 204, "{verdict:?}");
    assert_eq!(verdict == Verdict::AlreadyAbsent, matches!(status, 404 | 410) && may_speak_of_the_task);
    assert_eq!(verdict == Verdict::Throttled, status == 429);
    assert_eq!(verdict == Verdict::Unauthorized, status == 401);
    let costs_its_place = matches!(verdict, Verdict::Forbidden | Verdict::Rejected);
    assert!(!costs_its_place || (400..500).contains(&status) && !for_the_endpoint, "{status} {verdict:?}");
    assert!(verdict != Verdict::Forbidden || status == 403 && may_speak_of_the_task);
    assert!(verdict != Verdict::Unreachable && !answer.leaves_doubt());
    match status {
        500..=599 | 408 | 421 | 425 => assert_eq!(verdict, Verdict::Transient),
        400..=499 => {}
        204 => {}
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

/// Every code that the body gives, at either place.
fn codes(body: &[u8]) -> Vec<String> {
    let text = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body).trim_ascii();
    let Ok(json) = serde_json::from_slice::<Value>(text) else { return Vec::new() };
    let places = [json.pointer("/code"), json.pointer("/error/code")];
    places.into_iter().flatten().filter_map(|code| code.as_str().map(str::to_owned)).collect()
}
