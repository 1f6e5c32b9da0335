//! Dead letters of several reasons, one that wants to be a script, a guard that has tripped and
//! what it holds, and a pause.

use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tallyfy_delete_worker::kind::Kind;
use tallyfy_delete_worker::messages::ledger::{
    Decision, GuardLimit, LedgerEntry, LedgerRecord, Scope,
};
use tallyfy_delete_worker::messages::{
    DeadLetter, Incoming, OrgId, Properties, Publication, RetryState,
};
use tallyfy_delete_worker::rabbitmq::tls::TlsFiles;
use tallyfy_delete_worker::rabbitmq::topology::{self, Provision, Topology};
use tallyfy_delete_worker::rabbitmq::{Connection, Publisher};

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

pub(crate) async fn fill(url: &str, many: usize) {
    let source = url.parse().unwrap();
    let connection = Connection::open(&source, &TlsFiles::default(), "browser").await.unwrap();
    let delays = [("5s".to_owned(), 5000), ("30s".to_owned(), 30_000), ("2m".to_owned(), 120_000)];
    let delays =
        delays.into_iter().chain([("10m".to_owned(), 600_000), ("1h".to_owned(), 3_600_000)]);
    let kinds = vec![Kind::TaskDelete, Kind::TagDelete];
    let topology = Topology {
        provision: Provision::Declare,
        kinds,
        delays: delays.collect(),
        audit_retention: std::time::Duration::from_hours(24 * 90),
        undo_window: None,
    };
    topology::ensure(&connection, &topology).await.unwrap();
    let publisher = Publisher::new(connection);
    let dead_letters = dead_letters(many);
    for some in dead_letters.chunks(50) {
        join_all(some.iter().map(async |dead_letter| {
            publisher.publish(&dead_letter.again()).await.unwrap();
            publisher.publish(&dead_letter.mirrored()).await.unwrap();
        }))
        .await;
    }
    guard(&publisher).await;
    publisher.connection().close().await;
}

fn dead_letters(many: usize) -> Vec<DeadLetter> {
    let mut dead_letters = Vec::new();
    for number in 0..many {
        dead_letters.push(dead_letter(
            Kind::TaskDelete,
            "acme",
            &format!("{number:032x}"),
            "attempts_exhausted",
            "HTTP 503: upstream connect error",
            30,
        ));
    }
    dead_letters.extend((0..12).map(|n| {
        dead_letter(
            Kind::TaskDelete,
            "beta",
            &format!("beef{n:028x}"),
            "forbidden",
            "HTTP 403: the user may not delete this task",
            200,
        )
    }));
    dead_letters.extend((0..3).map(|n| {
        dead_letter(
            Kind::TagDelete,
            "acme",
            &format!("7a9{n:029x}"),
            "rejected",
            "HTTP 422: the tag is in use",
            5,
        )
    }));
    dead_letters.push(hostile());
    dead_letters
}

fn ago(minutes: i64) -> Timestamp {
    Timestamp::now() - SignedDuration::from_mins(minutes)
}

fn dead_letter(
    kind: Kind,
    org: &str,
    id: &str,
    reason: &str,
    detail: &str,
    minutes: i64,
) -> DeadLetter {
    let body = json!({"org_id": org, kind.spec().id_member: id, "requested_by": "billing", "reason": "erasure request 4711"});
    let properties = Properties {
        message_id: Some(format!("{kind}/{id}")),
        content_type: Some("application/json".to_owned()),
        traceparent: Some(TRACE.to_owned()),
        published_by: Some("tallyfy-producer".to_owned()),
        ..Properties::default()
    };
    let retry_state = RetryState {
        attempts: 20,
        first_seen: Some(ago(minutes + 90)),
        last_status: Some(503),
        history: Some(format!(
            "died {:.0} of expired: it had waited too long; replayed {:.0} by bob",
            ago(minutes + 70),
            ago(minutes + 60)
        )),
        ..RetryState::default()
    };
    DeadLetter {
        kind,
        body: body.to_string().into_bytes(),
        properties,
        retry_state,
        reason: reason.to_owned(),
        detail: detail.to_owned(),
        failed_at: Some(ago(minutes)),
        fault: None,
    }
}

/// Whatever a producer can write stands in it.
fn hostile() -> DeadLetter {
    let script = "<script>window.pwned = 1</script><img src=x onerror='window.pwned = 1'>";
    let body = json!({"org_id": script, "task_id": script}).to_string().into_bytes();
    let properties = Properties { message_id: Some(script.to_owned()), ..Properties::default() };
    let dead_letter = dead_letter(
        Kind::TaskDelete,
        "acme",
        "x",
        "malformed",
        &format!("org_id: not {script}"),
        1,
    );
    DeadLetter { body, properties, ..dead_letter }
}

async fn guard(publisher: &Publisher) {
    let org = OrgId::try_from("gamma".to_owned()).unwrap();
    let scope = Scope { org_id: org.clone(), kind: Kind::TaskDelete };
    let limit = GuardLimit { max_deletes: 500, window_s: 3600 };
    let decision =
        Decision { by: "bob".to_owned(), reason: Some("migration, see 4712".to_owned()) };
    for entry in
        [LedgerEntry::Tripped { scope, limit }, LedgerEntry::Paused { org_id: Some(org), decision }]
    {
        let record = LedgerRecord { at: ago(10), writer: "browser".to_owned(), entry };
        publisher.publish(&Publication::ledger_record(&record)).await.unwrap();
    }
    for number in 0..40 {
        let body = json!({"org_id": "gamma", "task_id": format!("{number:032x}"), "requested_by": "cleanup-job"});
        let incoming = Incoming { body: body.to_string().into_bytes(), ..Incoming::default() };
        let copy = Publication::held_copy(&incoming, &RetryState::default(), ago(12), ago(10));
        publisher.publish(&copy).await.unwrap();
    }
}
