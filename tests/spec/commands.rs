//! Commands in: what is accepted, what is refused, and what is carried along.

use std::collections::BTreeSet;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldArray, FieldTable};
use serde_json::json;

use crate::support::eventually;
use crate::support::rabbitmq::broker;
use crate::support::world::{ORG, OTHER_ORG, World};

#[tokio::test]
async fn every_refused_body_lies_in_the_dead_letters_unchanged_and_makes_no_call() {
    let world = World::start().await;
    let refused: Vec<_> =
        include_str!("../fixtures/refused_commands.jsonl").lines().map(str::as_bytes).collect();
    let binary: &[&[u8]] = &[b"\xff\xfe\x00", b"{\"org_id\":\"\xc3\x28\",\"task_id\":\"t\"}"];
    let huge = vec![b' '; 64 * 1024 + 1];
    let bodies: Vec<&[u8]> =
        refused.into_iter().chain(binary.iter().copied()).chain([&huge[..]]).collect();
    for (number, body) in bodies.iter().enumerate() {
        world.publish(body, &format!("refused-{number}")).await;
    }
    for (number, body) in bodies.iter().enumerate() {
        let dead_letter = world.dead_letter(&format!("refused-{number}")).await;
        assert_eq!(dead_letter.body, *body, "byte for byte");
        // RabbitMQ itself has moved what the worker does not even take in; `x-death` says so.
        let reason = (*body != huge).then_some("malformed");
        assert_eq!(dead_letter.header("x-failure-reason").as_deref(), reason);
        let end = world.end_message(&format!("refused-{number}")).await;
        assert_eq!(
            (end.routing_key.as_str(), &end.json()["data"]["outcome"]),
            ("task.delete_failed", &json!("dead_lettered"))
        );
    }
    assert_eq!(world.sandbox.calls().await.len(), 0);
    world.assert_drained().await;
}

#[tokio::test]
async fn a_foreign_and_an_expired_command_are_dead_lettered_without_a_call() {
    let world = World::start().await;
    let expired =
        json!({"org_id": ORG, "task_id": "late", "not_after": "2020-01-01T00:00:00Z"}).to_string();
    world.publish(expired.as_bytes(), "expired").await;
    world.publish(br#"{"org_id":"foreign","task_id":"t"}"#, "org_not_allowed").await;
    for reason in ["expired", "org_not_allowed"] {
        assert_eq!(
            world.dead_letter(reason).await.header("x-failure-reason").as_deref(),
            Some(reason)
        );
        assert_eq!(world.end(reason).await["failure"]["reason"], reason);
    }
    assert_eq!(world.sandbox.calls().await.len(), 0);
    world.assert_drained().await;
}

#[tokio::test]
async fn a_command_that_fails_when_it_is_older_than_max_age_is_dead_lettered_as_expired() {
    let world =
        World::start_with(|s| s.core.schedule.max_age = std::time::Duration::from_secs(1)).await;
    world.sandbox.fault("t1", 100, json!({"status": 503})).await;
    world.delete("t1").await;
    assert_eq!(
        world.dead_letter("t1").await.header("x-failure-reason").as_deref(),
        Some("expired")
    );
    world.assert_drained().await;
}

#[tokio::test]
async fn what_a_producer_says_of_a_command_is_carried_to_everything_about_it() {
    let world = World::start_with(|settings| settings.core.schedule.max_attempts = 5).await;
    world.sandbox.tasks(ORG, &["good", "bad"], "present").await;
    world.sandbox.fault("good", 4, json!({"status": 503})).await;
    world.sandbox.fault("bad", 9, json!({"status": 503})).await;
    for task in ["good", "bad"] {
        let mut headers = FieldTable::default();
        headers.insert("traceparent".into(), AMQPValue::LongString("00-trace-01".into()));
        headers.insert("x-death".into(), AMQPValue::LongString("forged".into()));
        let nowhere = FieldArray::from(vec![AMQPValue::LongString("nowhere".into())]);
        headers.insert("CC".into(), AMQPValue::FieldArray(nowhere));
        let properties = BasicProperties::default()
            .with_message_id(task.into())
            .with_correlation_id("corr-1".into())
            .with_content_type("application/json".into())
            .with_user_id("guest".into())
            .with_reply_to("elsewhere".into())
            .with_headers(headers);
        let body =
            json!({"org_id": ORG, "task_id": task, "requested_by": "billing", "reason": "4711"})
                .to_string();
        world.tester.publish_to("", "task.delete", body.as_bytes(), properties).await;
    }
    let (event, dead_letter) = (world.end_message("good").await, world.dead_letter("bad").await);
    for message in [&event, &dead_letter] {
        assert_eq!(message.properties.correlation_id().as_ref().unwrap().as_str(), "corr-1");
        assert_eq!(message.header("traceparent").as_deref(), Some("00-trace-01"));
        assert!(
            !message.header_names().iter().any(|name| name == "x-death" || name == "CC"),
            "{message:?}"
        );
        assert!(message.properties.reply_to().is_none());
    }
    assert!(event.properties.user_id().is_none());
    let json = event.json();
    assert_eq!(json["subject"], "acme/good");
    assert_eq!(event.properties.message_id().as_ref().unwrap().as_str(), json["id"]);
    assert_eq!(
        event.properties.content_type().as_ref().unwrap().as_str(),
        "application/cloudevents+json"
    );
    let data = &json["data"];
    assert_eq!(
        (&data["requested_by"], &data["reason"], &data["published_by"]),
        (&json!("billing"), &json!("4711"), &json!("guest"))
    );
    assert_eq!(
        dead_letter.properties.content_type().as_ref().unwrap().as_str(),
        "application/json"
    );
    world.assert_drained().await;
}

#[tokio::test]
async fn a_command_without_a_message_id_has_the_same_derived_id_every_time() {
    let world = World::start().await;
    world.sandbox.tasks(ORG, &["t1"], "present").await;
    let body = json!({"org_id": ORG, "task_id": "t1"}).to_string();
    for _ in 0..2 {
        world.tester.publish(body.as_bytes(), BasicProperties::default()).await;
    }
    let both = eventually("two events", async || {
        let events = world.tester.events();
        (events.len() == 2).then_some(events)
    });
    let events = both.await;
    assert_eq!(events[0].json()["id"], events[1].json()["id"]);
    assert_eq!(events[0].json()["data"]["command_id"], events[1].json()["data"]["command_id"]);
    world.assert_drained().await;
}

/// Their producers count from one.
#[tokio::test]
async fn two_commands_with_one_message_id_have_events_of_their_own() {
    let world = World::start().await;
    world.sandbox.tasks(ORG, &["t"], "present").await;
    world.sandbox.tasks(OTHER_ORG, &["t"], "present").await;
    let of = |org: &str| json!({"org_id": org, "task_id": "t"}).to_string();
    for body in [of(ORG), of(OTHER_ORG), "one".to_owned(), "other".to_owned()] {
        world.publish(body.as_bytes(), "42").await;
    }
    let events = eventually("four ends", async || {
        Some(world.tester.events()).filter(|events| events.len() == 4)
    })
    .await;
    let ids: BTreeSet<_> = events.iter().map(|event| event.json()["id"].to_string()).collect();
    assert_eq!(ids.len(), 4, "{ids:?}");
    world.assert_drained().await;
}

#[tokio::test]
async fn a_hundred_and_ninety_commands_make_one_call_and_one_event_each() {
    let world = World::start().await;
    let tasks: Vec<String> = (0..190).map(|number| format!("task-{number}")).collect();
    for task in &tasks {
        world.delete(task).await;
    }
    for task in &tasks {
        assert_eq!(world.end(task).await["outcome"], "deleted");
    }
    let (calls, events) = (world.sandbox.calls().await, world.tester.events());
    assert_eq!((calls.len(), events.len()), (190, 190));
    for call in &calls {
        let path =
            format!("/api/organizations/acme/tasks/{}/delete", call["task_id"].as_str().unwrap());
        assert_eq!(
            (&call["method"], &call["path"], &call["body_bytes"]),
            (&json!("DELETE"), &json!(path), &json!(0))
        );
        let headers = &call["headers"];
        assert_eq!(headers["authorization"], "Bearer <ok>");
        assert_eq!(
            (&headers["accept"], &headers["x-tallyfy-client"]),
            (&json!("application/json"), &json!("APIClient"))
        );
    }
    world.assert_drained().await;
}

#[tokio::test]
async fn a_forged_number_of_attempts_neither_wraps_around_nor_panics() {
    let world = World::start().await;
    world.sandbox.fault("t1", 9, json!({"status": 503})).await;
    world.sandbox.tasks(ORG, &["t1"], "present").await;
    let mut headers = FieldTable::default();
    headers.insert("x-attempts".into(), AMQPValue::LongLongInt(i64::MAX));
    let properties = BasicProperties::default()
        .with_message_id("t1".into())
        .with_headers(headers)
        .with_user_id(broker().user().into());
    world
        .tester
        .publish(json!({"org_id": ORG, "task_id": "t1"}).to_string().as_bytes(), properties)
        .await;
    let dead_letter = world.dead_letter("t1").await;
    assert_eq!(dead_letter.header("x-failure-reason").as_deref(), Some("attempts_exhausted"));
    assert_eq!(world.sandbox.calls_for("t1").await.len(), 1);
    world.assert_drained().await;
}
