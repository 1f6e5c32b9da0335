//! An upstream failure dead-letters no command: neither by its age, nor for a token that is missing,
//! nor for a clock that is wrong.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::json;
use tallyfy_delete_worker::credentials::CredentialsSource;
use tallyfy_delete_worker::messages::OrgId;
use tempfile::TempDir;

use crate::command_line::binary;
use crate::support::crowd::{
    all_deleted_within, calls_for, commands, commands_for, dead_letter_among_commands_that_succeed,
    world_at,
};
use crate::support::eventually;
use crate::support::process::output;
use crate::support::rabbitmq::broker;
use crate::support::stand_in::{Call, Reply, StandIn};
use crate::support::world::{ORG, OTHER_ORG, World};

/// Longer than the tries of one delivery take.
const MAX_AGE: Duration = Duration::from_secs(4);
const LONGER_THAN_MAX_AGE: Duration = Duration::from_secs(5);
/// Token files are read again every five seconds.
const LONGER_THAN_A_RELOAD: Duration = Duration::from_secs(7);
const A_MINUTE: Duration = Duration::from_mins(1);

/// A worker that is in trouble with the first organisation for longer than commands may live, and
/// then is not any more.
async fn outlives(trouble: impl Fn(&Call) -> Reply + Send + Sync + 'static) {
    let api = StandIn::start(trouble).await;
    let mut world = world_at(&api, |settings| settings.core.schedule.max_age = MAX_AGE).await;
    let waiting = commands(&world, ORG, "task", 20).await;
    world.start_worker().await;
    let others = commands(&world, OTHER_ORG, "other", 5).await;
    calls_for(LONGER_THAN_MAX_AGE, &api, || !world.tester.dead_letters().is_empty()).await;
    api.heal();
    all_deleted_within(A_MINUTE, &world, &waiting).await;
    all_deleted_within(A_MINUTE, &world, &others).await;
    assert_eq!(world.tester.dead_letters().len(), 0);
    world.assert_drained().await;
}

#[tokio::test]
async fn commands_outlive_a_dead_token_of_their_organisation() {
    outlives(|call| Reply::status(if call.org == ORG { 401 } else { 204 })).await;
}

#[tokio::test]
async fn commands_outlive_a_retry_after_that_is_longer_than_their_age_may_be() {
    let throttled = || Reply::status(429).header("retry-after", "6");
    outlives(move |call| if call.org == ORG { throttled() } else { Reply::status(204) }).await;
}

#[tokio::test]
async fn commands_outlive_an_outage() {
    outlives(|_| Reply::status(500)).await;
}

#[tokio::test]
async fn a_command_that_fails_when_it_is_too_old_expires_where_others_are_served() {
    let bad = |call: &Call| call.task == "bad";
    let api = StandIn::start(move |call| Reply::status(if bad(call) { 500 } else { 204 })).await;
    let mut world = world_at(&api, |settings| settings.core.schedule.max_age = MAX_AGE).await;
    world.start_worker().await;
    let dead_letter = dead_letter_among_commands_that_succeed(&world).await;
    assert_eq!(dead_letter.header("x-failure-reason").as_deref(), Some("expired"));
    world.assert_drained().await;
}

/// A directory with a token for each of these organisations.
fn secret(orgs: &[&str]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for org in orgs {
        fs::write(directory.path().join(org), "token").unwrap();
    }
    directory
}

/// A worker with the tokens of a directory.
async fn with_tokens_of(directory: &Path, only: Option<Vec<OrgId>>, api: &StandIn) -> World {
    let path = directory.to_owned();
    let mut world = world_at(api, |settings| {
        settings.core.credentials = CredentialsSource::Directory { only, path };
    })
    .await;
    world.start_worker().await;
    world.is_ready().await;
    world
}

async fn a_token_file_may_be_away_for_a_moment(only: Option<Vec<OrgId>>) {
    let api = StandIn::start(|_| Reply::status(204)).await;
    let secret = secret(&[ORG, OTHER_ORG]);
    let world = with_tokens_of(secret.path(), only, &api).await;
    fs::remove_file(secret.path().join(ORG)).unwrap();
    let waiting = commands_for(LONGER_THAN_A_RELOAD, &world, ORG, "task").await;
    assert_eq!(world.tester.dead_letters().len(), 0);
    fs::write(secret.path().join(ORG), "token").unwrap();
    all_deleted_within(A_MINUTE, &world, &waiting).await;
    world.assert_drained().await;
}

#[tokio::test]
async fn an_organisation_of_the_list_waits_while_its_token_file_is_away() {
    let list = [ORG, OTHER_ORG].map(|org| OrgId::try_from(org.to_owned()).unwrap());
    a_token_file_may_be_away_for_a_moment(Some(list.to_vec())).await;
}

#[tokio::test]
async fn without_a_list_an_organisation_keeps_its_place_while_its_token_file_is_away() {
    a_token_file_may_be_away_for_a_moment(None).await;
}

/// Longer than it takes to see that a token file is gone, and that it is back.
const RETRY_AFTER: Duration = Duration::from_secs(14);

/// An API that throttles the first organisation for so long.
async fn throttling(retry_after: Duration) -> StandIn {
    StandIn::start(move |call| match call.org.as_str() {
        ORG => Reply::status(429).header("retry-after", retry_after.as_secs().to_string()),
        _ => Reply::status(204),
    })
    .await
}

/// Fails if the organisation is called again, after what was called so far, before its
/// `Retry-After` is over.
async fn keeps_its_retry_after(api: &StandIn, retry_after: Duration, calls_so_far: usize) {
    let again = eventually("calls after the pause", async || {
        let calls = api.calls_of(ORG);
        calls.get(calls_so_far).map(|again| again.at - calls[0].at)
    });
    let again = again.await;
    assert!(again >= retry_after, "called again after {again:?}");
}

#[tokio::test]
async fn a_token_file_that_is_away_for_a_moment_ends_no_retry_after() {
    let (api, secret) = (throttling(RETRY_AFTER).await, secret(&[ORG, OTHER_ORG]));
    let world = with_tokens_of(secret.path(), None, &api).await;
    commands(&world, ORG, "task", 20).await;
    eventually("a first call", async || (!api.calls_of(ORG).is_empty()).then_some(())).await;
    fs::remove_file(secret.path().join(ORG)).unwrap();
    let no_token = "tallyfy_delete_worker_organisations_held{reason=\"no_token\"}";
    eventually("a missing token", async || {
        world.metric(no_token).await.filter(|count| *count > 0.0)
    })
    .await;
    fs::write(secret.path().join(ORG), "token").unwrap();
    keeps_its_retry_after(&api, RETRY_AFTER, api.calls_of(ORG).len()).await;
    world.after_shutdown().await;
}

#[tokio::test]
async fn a_restart_does_not_forget_the_pause_of_what_waits_for_a_throttled_organisation() {
    let retry_after = Duration::from_secs(6);
    let api = throttling(retry_after).await;
    let mut world = world_at(&api, |_| {}).await;
    world.start_worker().await;
    let served = commands(&world, OTHER_ORG, "served", 1).await;
    all_deleted_within(A_MINUTE, &world, &served).await;
    commands(&world, ORG, "task", 20).await;
    let postponed =
        "tallyfy_delete_worker_commands_total{kind=\"task.delete\",verdict=\"postponed\"}";
    eventually("all of them waiting", async || {
        world.metric(postponed).await.filter(|count| *count >= 20.0)
    })
    .await;
    world.stop_worker().await;
    let calls_so_far = api.calls_of(ORG).len();
    world.start_worker().await;
    keeps_its_retry_after(&api, retry_after, calls_so_far).await;
    world.after_shutdown().await;
}

/// Everything that the credentials directory holds beside the one token is no organisation.
async fn every_organisation_is_suspended_in_spite_of(stray: &str, content: &str) {
    let api = StandIn::start(|_| Reply::status(401)).await;
    let secret = secret(&[ORG]);
    fs::write(secret.path().join(stray), content).unwrap();
    fs::create_dir(secret.path().join("lost+found")).unwrap();
    let world = with_tokens_of(secret.path(), None, &api).await;
    commands(&world, ORG, "task", 20).await;
    world.is_not_ready_because("every organisation").await;
    world.after_shutdown().await;
}

#[tokio::test]
async fn a_stray_file_with_a_sentence_is_no_organisation() {
    every_organisation_is_suspended_in_spite_of("README", "One file for each organisation.\n")
        .await;
}

#[tokio::test]
async fn a_stray_file_with_one_word_is_no_organisation() {
    every_organisation_is_suspended_in_spite_of("VERSION", "7\n").await;
}

#[tokio::test]
async fn a_request_timeout_of_more_than_five_minutes_is_refused() {
    for (timeout, is_refused) in [("5m", false), ("301s", true), ("1h", true)] {
        let mut command = binary(&["check"]);
        command.env("TALLYFY_ORG_ID", ORG).env("TALLYFY_ACCESS_TOKEN", "token");
        command
            .env("TALLYFY_BASE_URL", "http://127.0.0.1:9/api")
            .env("AMQP_URL", "amqp://127.0.0.1:9/");
        command.env("REQUEST_TIMEOUT", timeout);
        let output = output(command).await;
        let complaint = String::from_utf8(output.stderr).unwrap();
        let names_it = complaint.lines().any(|line| line.starts_with("REQUEST_TIMEOUT: "));
        assert_eq!(
            (output.status.code() == Some(64), names_it),
            (is_refused, is_refused),
            "{timeout}"
        );
    }
}

/// A worker that has met an API whose clock shows yesterday.
async fn a_day_ahead_of(api: &StandIn) -> World {
    let mut world =
        world_at(api, |settings| settings.core.schedule.max_age = Duration::from_hours(1)).await;
    world.start_worker().await;
    let first = commands(&world, ORG, "first", 1).await;
    all_deleted_within(A_MINUTE, &world, &first).await;
    world
}

/// The first calls for some tasks fail.
fn yesterday(call: &Call) -> Reply {
    let yesterday = SystemTime::now() - Duration::from_hours(24);
    let status = if call.task == "late" && call.earlier < 2 { 500 } else { 204 };
    Reply::status(status).header("date", httpdate::fmt_http_date(yesterday))
}

#[tokio::test]
async fn a_worker_whose_clock_is_a_day_off_says_so() {
    let api = StandIn::start(yesterday).await;
    let world = a_day_ahead_of(&api).await;
    eventually("a word about the clock in readiness", async || {
        world.page("/readyz").await.1.contains("clock").then_some(())
    })
    .await;
    world.assert_drained().await;
}

#[tokio::test]
async fn a_worker_whose_clock_is_a_day_off_lets_nothing_expire_by_its_age() {
    let api = StandIn::start(yesterday).await;
    let world = a_day_ahead_of(&api).await;
    let an_hour_and_more_ago = jiff::Timestamp::now() - Duration::from_hours(2);
    let mut headers = FieldTable::default();
    let first_seen = AMQPValue::LongString(an_hour_and_more_ago.to_string().into());
    headers.insert("x-first-seen".into(), first_seen);
    // It was called for before: nothing new is called for.
    headers.insert("x-attempts".into(), AMQPValue::LongInt(1));
    let properties = BasicProperties::default()
        .with_message_id("late".into())
        .with_headers(headers)
        .with_user_id(broker().user().into());
    let body = json!({"org_id": ORG, "task_id": "late"}).to_string();
    world.tester.publish(body.as_bytes(), properties).await;
    all_deleted_within(A_MINUTE, &world, &["late".to_owned()]).await;
    world.assert_drained().await;
}

#[tokio::test]
async fn a_worker_whose_clock_is_wrong_makes_no_calls_for_new_commands() {
    let api = StandIn::start(yesterday).await;
    let world = a_day_ahead_of(&api).await;
    let new = commands(&world, ORG, "new", 1).await;
    let waits = r#"tallyfy_delete_worker_commands_total{kind="task.delete",verdict="postponed"}"#;
    eventually("a new command that waits", async || {
        world.metric(waits).await.filter(|number| *number >= 2.0)
    })
    .await;
    api.now_answers(|call| {
        let right = httpdate::fmt_http_date(SystemTime::now());
        let tasks = Reply::json(200, &json!({"data": []}));
        if call.is_get() { tasks } else { Reply::status(204) }.header("date", right)
    });
    all_deleted_within(A_MINUTE, &world, &new).await;
    world.assert_drained().await;
}
