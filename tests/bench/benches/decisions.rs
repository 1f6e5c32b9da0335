//! `cargo bench`: the pure functions that every command passes: decoding, deciding, encoding the
//! event.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "made by criterion's macros; a bench that fails says where"
)]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use tallyfy_delete_worker::kind::Kind;
use tallyfy_delete_worker::messages::{
    Command, End, EndKind, EventSubject, Incoming, Outcome, Properties,
};
use tallyfy_delete_worker::policy::answer::{Answer, Body, Response};
use tallyfy_delete_worker::policy::settlement::Settlement;
use tallyfy_delete_worker::policy::verdict::decide;

const BODY: &[u8] = br#"{"org_id":"5a4db0c0ffee5a4db0c0ffee5a4db0c0","task_id":"0123456789abcdef0123456789abcdef","requested_by":"billing","reason":"erasure request 4711"}"#;

fn answer(status: u16, body: Body) -> Answer {
    let (retry_after, date, request_id) = (None, None, None);
    Answer::Status(Response { status, body, retry_after, date, request_id })
}

fn outcome(command: &Command) -> Outcome {
    Outcome {
        command_id: "7b0e6c1e-53a5-4c0c-9a66-1f6a3f4f3c11".to_owned(),
        target: Some(command.target.clone()),
        subject: EventSubject::from(&command.target),
        outcome: End { kind: Kind::TaskDelete, how: EndKind::Done },
        attempts: 1,
        ambiguous: false,
        verified: true,
        http_status: Some(204),
        requested_by: command.requested_by.clone(),
        reason: command.reason.clone(),
        published_by: None,
        duration_ms: 41,
        failure: None,
        cancelled_by: None,
        request_id: None,
    }
}

fn benches(criterion: &mut Criterion) {
    criterion.bench_function("decode a command", |bencher| {
        bencher.iter(|| Command::decode(Kind::TaskDelete, black_box(BODY)).unwrap());
    });
    let not_found = Body::recognise(
        Some("application/json"),
        br#"{"error":true,"message":"Resource not found","code":"RESOURCE_NOT_FOUND"}"#,
    );
    let answers = [answer(204, Body::Empty), answer(404, not_found), answer(503, Body::Html)];
    criterion.bench_function("decide on three answers", |bencher| {
        bencher
            .iter(|| black_box(&answers).each_ref().map(|answer| decide(Kind::TaskDelete, answer)));
    });
    let command = Command::decode(Kind::TaskDelete, BODY).unwrap();
    let (outcome, now) = (outcome(&command), "2026-11-23T10:00:00Z".parse().unwrap());
    criterion.bench_function("derive an event's id", |bencher| {
        bencher.iter(|| black_box(&outcome).event_id());
    });
    criterion.bench_function("encode an event", |bencher| {
        bencher
            .iter(|| black_box(&outcome).event_body("e4d5c9eb-a07a-5e2b-abda-0cd9ef3924ab", now));
    });
    let properties =
        Properties { message_id: Some(outcome.command_id.clone()), ..Properties::default() };
    let incoming = Incoming { body: BODY.to_vec(), properties, ..Incoming::default() };
    let end = Settlement::Finish(outcome);
    criterion.bench_function("publications of an end", |bencher| {
        bencher.iter(|| end.publications(black_box(&incoming), now));
    });
}

criterion_group!(decisions, benches);
criterion_main!(decisions);
