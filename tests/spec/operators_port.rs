//! What an operator sees on the port.

use serde_json::{Value, json};

use crate::support::world::{ORG, World};

#[tokio::test]
async fn readiness_is_the_consumer_the_publisher_and_the_breaker() {
    let mut world = World::without_worker(|_| {}).await;
    world.start_worker().await;
    world.is_ready().await;
    assert_eq!(world.page("/livez").await, (200, "ok\n".to_owned()));
    assert_eq!(world.page("/readyz").await.1, "ready\n");
    world.sandbox.fault("t1", 1, json!({"latency_ms": 1000})).await;
    world.delete("t1").await;
    world.called("t1", 1).await;
    world.begin_shutdown();
    world.is_not_ready_because("draining").await;
    world.end("t1").await;
    world.after_shutdown().await;
}

#[tokio::test]
async fn metrics_come_in_the_format_that_is_asked_for() {
    let world = World::start().await;
    let (kind, text) = world.metrics_as("text/plain").await;
    assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
    assert!(text.contains("# TYPE tallyfy_delete_worker_reconnects_total counter\n"), "{text}");
    assert!(text.contains("# TYPE process_cpu_seconds_total counter\n"), "{text}");
    assert!(!text.contains("# EOF"), "{text}");
    let (kind, text) = world.metrics_as("application/openmetrics-text;q=0.6,*/*;q=0.2").await;
    assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(text.ends_with("# EOF\n"), "{text}");
    world.assert_drained().await;
}

/// The deliveries and requests of one command that waits once, by the standard's own names.
#[tokio::test]
async fn the_standards_histograms_count_deliveries_and_requests() {
    let world = World::start().await;
    world.sandbox.tasks(ORG, &["gone"], "gone").await;
    world.sandbox.fault("late", 1, json!({"status": 429, "headers": {"Retry-After": "0"}})).await;
    world.end(&world.command(ORG, "gone").await).await;
    world.end(&world.delete("late").await).await;
    let request = |labels: &str| {
        format!(
            "http_client_request_duration_seconds_count{{http_request_method={labels},server_address=\"127.0.0.1\""
        )
    };
    let process = "messaging_process_duration_seconds_count{messaging_system=\"rabbitmq\",messaging_operation_name=\"process\",messaging_destination_template=\"task.delete\"}";
    let expected = [
        (request(r#""DELETE",http_response_status_code="204""#), 1),
        (request(r#""DELETE",http_response_status_code="404""#), 1),
        (request(r#""GET",http_response_status_code="200""#), 1),
        (request(r#""DELETE",http_response_status_code="429",error_type="429""#), 1),
        (process.to_owned(), 3),
    ];
    for (series, number) in expected {
        crate::support::eventually(&format!("{series} {number}"), async || {
            let (_, text) = world.page("/metrics").await;
            let line = text.lines().find(|line| line.starts_with(&series))?;
            line.ends_with(&format!(" {number}")).then_some(())
        })
        .await;
    }
    world.assert_drained().await;
}

#[tokio::test]
async fn the_metrics_tell_what_has_happened() {
    let world = World::start().await;
    world.sandbox.fault("t1", 1, json!({"status": 503})).await;
    world.sandbox.fault("t2", 1, json!({"status": 429, "headers": {"Retry-After": "0"}})).await;
    world.end(&world.delete("t1").await).await;
    world.end(&world.delete("t2").await).await;
    world.publish(b"nonsense", "m1").await;
    world.end("m1").await;
    let expected = [
        ("commands_total{kind=\"task.delete\",verdict=\"deleted\"}", 2.0),
        ("commands_total{kind=\"task.delete\",verdict=\"malformed\"}", 1.0),
        ("commands_total{kind=\"task.delete\",verdict=\"postponed\"}", 1.0),
        ("api_answers_total{kind=\"task.delete\",verdict=\"transient\"}", 1.0),
        ("api_answers_total{kind=\"task.delete\",verdict=\"throttled\"}", 1.0),
        ("api_call_duration_seconds_count{class=\"2xx\"}", 2.0),
        ("api_call_duration_seconds_count{class=\"5xx\"}", 1.0),
        ("command_latency_seconds_count{kind=\"task.delete\"}", 3.0),
        // Three events, a dead letter and a waiting copy; and in the ledger its opening and a
        // reservation for each first call.
        ("publishes_total{result=\"confirmed\"}", 8.0),
        ("first_answers_total{kind=\"task.delete\",verdict=\"transient\"}", 1.0),
        ("first_answers_total{kind=\"task.delete\",verdict=\"throttled\"}", 1.0),
        ("first_answers_total{kind=\"task.delete\",verdict=\"deleted\"}", 0.0),
        ("ambiguous_answers_total", 0.0),
        ("organisations_held{reason=\"throttled\"}", 0.0),
        ("organisations_held{reason=\"unauthorized\"}", 0.0),
        ("oldest_delivery_age_seconds", 0.0),
        ("breaker_opened_total", 0.0),
        ("ready", 1.0),
        ("build_info{version=\"0.1.0\"}", 1.0),
        ("calls_in_flight", 0.0),
        ("breaker_open", 0.0),
        ("consumer_attached", 1.0),
        ("publisher_up", 1.0),
        ("waiting_commands{kind=\"task.delete\",rung=\"200ms\"}", 0.0),
    ];
    for (name, value) in expected {
        let name = format!("tallyfy_delete_worker_{name}");
        crate::support::eventually(&format!("{name} {value}"), async || {
            (world.metric(&name).await == Some(value)).then_some(())
        })
        .await;
    }
    let (_, text) = world.page("/metrics").await;
    assert!(!text.contains("acme") && !text.contains("t1\""), "no ids in labels");
    world.assert_drained().await;
}

#[tokio::test]
async fn status_tells_each_organisation_by_its_id_and_readiness_names_reasons_only() {
    let world = World::start().await;
    world
        .sandbox
        .fault_for_org(ORG, json!({"status": 429, "headers": {"Retry-After": "600"}}))
        .await;
    world.delete("t1").await;
    let reason = world.is_not_ready_because("(throttled: 1)").await;
    assert!(!reason.contains(ORG), "{reason}");
    let (status, page) = world.page("/status").await;
    let page: Value = serde_json::from_str(&page).unwrap();
    assert_eq!((status, &page["breaker"]["state"]), (200, &json!("closed")), "{page}");
    let acme = &page["organisations"][0];
    let said = ["org_id", "state", "reason", "waiting"].map(|member| acme[member].clone());
    assert_eq!(said, [json!(ORG), json!("suspended"), json!("throttled"), json!(1)], "{page}");
    let time = |member: &str| acme[member].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert_eq!(time("next_probe").duration_since(time("since")).as_secs(), 600);
    let shown = page_of_the_document();
    let members = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(members(&page), members(&shown));
    assert_eq!(members(&page["breaker"]), members(&shown["breaker"]));
    assert_eq!(
        members(acme),
        members(&shown["organisations"][1]),
        "docs/operations.md shows one that is suspended"
    );
    world.after_shutdown().await;
}

/// The example of `/status` in the runbook.
fn page_of_the_document() -> Value {
    let (_, section) = include_str!("../../docs/operations.md").split_once("## Status").unwrap();
    let example = section.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
    serde_json::from_str(example).unwrap()
}
