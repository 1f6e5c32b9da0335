//! Each answer of the API comes to the end that the contract names.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::world::{ORG, OTHER_ORG, World};

fn html() -> Value {
    json!({"status": 404, "content_type": "text/html", "body": "<html>Not here</html>"})
}

#[tokio::test]
async fn a_task_that_is_there_is_deleted_with_one_call() {
    let world = World::start().await;
    let id = world.delete("t1").await;
    let end = world.end_message(&id).await;
    assert_eq!(end.routing_key, "task.deleted");
    let data = &end.json()["data"];
    assert_eq!(
        (&data["outcome"], &data["attempts"], &data["ambiguous"]),
        (&json!("deleted"), &json!(1), &json!(false))
    );
    assert_eq!(world.sandbox.state(ORG, "t1").await, "gone");
    assert_eq!(world.sandbox.calls_for("t1").await.len(), 1);
    world.assert_drained().await;
}

#[tokio::test]
async fn a_404_and_a_410_about_the_task_count_as_success() {
    let world = World::start().await;
    world.sandbox.tasks(ORG, &["gone", "gone410"], "gone").await;
    world.sandbox.fault("gone410", 1, json!({"status": 410})).await;
    for id in ["gone", "gone410"] {
        let end = world.end(&world.command(ORG, id).await).await;
        assert_eq!(
            (&end["outcome"], &end["ambiguous"]),
            (&json!("already_absent"), &json!(false)),
            "{id}"
        );
    }
    world.assert_drained().await;
}

#[tokio::test]
async fn two_transient_answers_then_a_204_are_deleted_on_attempt_3() {
    let world = World::start().await;
    world.sandbox.fault("t1", 1, json!({"status": 503})).await;
    world.sandbox.fault("t1", 1, json!({"status": 500})).await;
    let end = world.end(&world.delete("t1").await).await;
    assert_eq!(
        (&end["outcome"], &end["attempts"], &end["http_status"]),
        (&json!("deleted"), &json!(3), &json!(204))
    );
    world.assert_drained().await;
}

#[tokio::test]
async fn an_answer_lost_after_its_effect_makes_the_404_that_follows_ambiguous() {
    let world = World::start().await;
    world.sandbox.fault("t1", 1, json!({"lose_answer": "after_effect"})).await;
    let end = world.end(&world.delete("t1").await).await;
    assert_eq!((&end["outcome"], &end["ambiguous"]), (&json!("already_absent"), &json!(true)));
    world.assert_drained().await;
}

#[tokio::test]
async fn ambiguity_survives_a_wait_in_a_queue() {
    let world = World::start().await;
    world.sandbox.fault("t1", 1, json!({"lose_answer": "after_effect"})).await;
    world.sandbox.fault("t1", 3, json!({"status": 503})).await;
    let end = world.end(&world.delete("t1").await).await;
    assert_eq!(
        (&end["outcome"], &end["ambiguous"], &end["attempts"]),
        (&json!("already_absent"), &json!(true), &json!(5))
    );
    world.assert_drained().await;
}

#[tokio::test]
async fn max_attempts_of_6_makes_six_calls_and_then_a_dead_letter() {
    let world = World::start_with(|settings| settings.core.schedule.max_attempts = 6).await;
    world.sandbox.fault("t1", 100, json!({"status": 503})).await;
    let id = world.delete("t1").await;
    let dead_letter = world.dead_letter(&id).await;
    assert_eq!(dead_letter.header("x-failure-reason").as_deref(), Some("attempts_exhausted"));
    assert_eq!(
        (dead_letter.header("x-attempts"), dead_letter.header("x-last-status")),
        (Some("6".into()), Some("503".into()))
    );
    assert_eq!(world.end(&id).await["failure"]["reason"], "attempts_exhausted");
    assert_eq!(world.sandbox.calls_for("t1").await.len(), 6);
    world.assert_drained().await;
}

#[tokio::test]
async fn what_the_api_refuses_for_good_is_dead_lettered_at_once() {
    let world = World::start().await;
    world.sandbox.tasks(ORG, &["forbidden"], "forbidden").await;
    world
        .sandbox
        .fault(
            "rejected",
            1,
            json!({"status": 422, "body": {"error": true, "code": "NOT_ONE_OFF"}}),
        )
        .await;
    world.command(ORG, "forbidden").await;
    world.delete("rejected").await;
    for (id, status) in [("forbidden", "403"), ("rejected", "422")] {
        let dead_letter = world.dead_letter(id).await;
        assert_eq!(dead_letter.header("x-failure-reason").as_deref(), Some(id));
        assert_eq!(dead_letter.header("x-last-status").as_deref(), Some(status));
        assert_eq!(world.sandbox.calls_for(id).await.len(), 1);
    }
    assert!(
        world
            .dead_letter("rejected")
            .await
            .header("x-failure-detail")
            .unwrap()
            .contains("NOT_ONE_OFF")
    );
    world.assert_drained().await;
}

#[tokio::test]
async fn a_429_is_called_again_after_its_retry_after_and_not_before() {
    let world = World::start().await;
    world
        .sandbox
        .fault("seconds", 1, json!({"status": 429, "headers": {"Retry-After": "2"}}))
        .await;
    let end = world.end(&world.delete("seconds").await).await;
    assert_eq!((&end["outcome"], &end["attempts"]), (&json!("deleted"), &json!(1)));
    world.sandbox.fault("date", 1, json!({"retry_after_date_ms": 1000})).await;
    world.end(&world.delete("date").await).await;
    for (task, floor_ms) in [("seconds", 2000), ("date", 1000)] {
        let at: Vec<_> = world
            .sandbox
            .calls_for(task)
            .await
            .iter()
            .map(|c| c["at_ms"].as_u64().unwrap())
            .collect();
        assert!(at.len() == 2 && at[1] - at[0] >= floor_ms, "{task}: {at:?}");
    }
    world.assert_drained().await;
}

#[tokio::test]
async fn a_nonsensical_retry_after_neither_crashes_nor_parks_a_command() {
    let world = World::start().await;
    for value in ["-1", "soon", "99999999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT"] {
        world
            .sandbox
            .fault("t1", 1, json!({"status": 429, "headers": {"Retry-After": value}}))
            .await;
    }
    assert_eq!(world.end(&world.delete("t1").await).await["outcome"], "deleted");
    assert_eq!(world.sandbox.calls_for("t1").await.len(), 5);
    world.assert_drained().await;
}

#[tokio::test]
async fn a_throttled_organisation_does_not_hold_up_another() {
    let world = World::start().await;
    world.sandbox.fault_for_org(ORG, json!({"status": 429, "headers": {"Retry-After": "1"}})).await;
    world.delete("held").await;
    world.called("held", 1).await;
    world.sandbox.tasks(OTHER_ORG, &["free"], "present").await;
    assert_eq!(world.end(&world.command(OTHER_ORG, "free").await).await["outcome"], "deleted");
    assert_eq!(world.sandbox.state(ORG, "held").await, "present");
    world.sandbox.heal().await;
    assert_eq!(world.end("held").await["outcome"], "deleted");
    world.assert_drained().await;
}

#[tokio::test]
async fn a_dead_token_makes_commands_wait_and_uses_up_no_attempt() {
    let world = World::start().await;
    world.sandbox.set_tokens(&["another"]).await;
    world.delete("t1").await;
    world.called("t1", 2).await;
    world.sandbox.set_tokens(&[crate::support::sandbox::TOKEN]).await;
    let end = world.end("t1").await;
    assert_eq!((&end["outcome"], &end["attempts"]), (&json!("deleted"), &json!(1)));
    assert_eq!(world.tester.dead_letters().len(), 0);
    world.assert_drained().await;
}

#[tokio::test]
async fn what_is_not_the_apis_word_is_no_success_and_no_dead_letter() {
    let world = World::start().await;
    let page = |status: u16| json!({"status": status, "content_type": "text/html", "body": "<html></html>"});
    let strange = [
        ("html404", html()),
        ("endpoint", json!({"status": 404, "body": {"error": true, "code": "ENDPOINT_NOT_FOUND"}})),
        ("moved", json!({"status": 302, "headers": {"Location": "/api/me"}})),
        ("see_other", json!({"status": 303, "headers": {"Location": "/api/me"}})),
        ("page", page(200)),
        ("accepted", json!({"status": 202, "body": {}})),
        ("challenge", page(403)),
    ];
    for (task, effect) in &strange {
        world.sandbox.fault(task, 1, effect.clone()).await;
        world.delete(task).await;
    }
    for (task, _) in &strange {
        let end = world.end(task).await;
        assert_eq!((&end["outcome"], &end["attempts"]), (&json!("deleted"), &json!(1)), "{task}");
        assert_eq!(world.sandbox.calls_for(task).await.len(), 2, "{task}");
    }
    assert_eq!(world.tester.dead_letters().len(), 0);
    assert!(
        world.sandbox.calls().await.iter().all(|call| call["operation"] == "delete"),
        "no redirect was followed"
    );
    world.assert_drained().await;
}

#[tokio::test]
async fn a_hanging_call_is_cut_at_request_timeout() {
    let world = World::start_with(|s| s.core.api.request_timeout = Duration::from_secs(3)).await;
    world.sandbox.fault("t1", 1, json!({"hang": true})).await;
    world.sandbox.fault("t1", 1, json!({"drip_ms": 50, "status": 404})).await;
    let end = world.end(&world.delete("t1").await).await;
    assert_eq!((&end["outcome"], &end["attempts"]), (&json!("deleted"), &json!(3)));
    world.assert_drained().await;
}

#[tokio::test]
async fn a_huge_answer_and_garbage_cost_neither_memory_nor_the_worker() {
    let world = World::start().await;
    world.sandbox.fault("huge", 1, json!({"endless_body_bytes": 134_217_728, "status": 503})).await;
    world.sandbox.fault("garbage", 1, json!({"garbage": true})).await;
    world.sandbox.fault("cut", 1, json!({"truncate_body": true, "status": 404})).await;
    for task in ["huge", "garbage", "cut"] {
        let end = world.end(&world.delete(task).await).await;
        assert_eq!((&end["outcome"], &end["attempts"]), (&json!("deleted"), &json!(2)), "{task}");
    }
    world.assert_drained().await;
}

#[tokio::test]
async fn an_api_that_cannot_be_reached_uses_up_no_attempt() {
    let mut world =
        World::start_with(|s| s.core.api.base_url = "http://127.0.0.1:1/api".parse().unwrap())
            .await;
    world.delete("t1").await;
    world.has_answers("unreachable").await;
    world.stop_worker().await;
    world.correct_the_base_url();
    world.start_worker().await;
    let end = world.end("t1").await;
    assert_eq!((&end["outcome"], &end["attempts"]), (&json!("deleted"), &json!(1)));
    assert_eq!(world.tester.dead_letters().len(), 0);
    world.assert_drained().await;
}
