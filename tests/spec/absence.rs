//! What the API really says counts, and what something before it says does not: absence is proven,
//! a refusal is the API's own.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::command_line::with_settings;
use crate::guard::decide;
use crate::support::crowd::{all_deleted_within, calls_for, commands, ends, world_at};
use crate::support::eventually;
use crate::support::process::output;
use crate::support::rabbitmq::broker;
use crate::support::stand_in::{Call, Reply, StandIn, span};
use crate::support::world::{ORG, World};

/// A few probes.
const A_WHILE: Duration = Duration::from_secs(3);
/// Longer than any answer takes that comes at all, however busy the machine.
const LATE: Duration = Duration::from_secs(8);
const A_MINUTE: Duration = Duration::from_mins(1);

/// A worker with this many commands at an API that answers everything so.
async fn working_at(api: &StandIn, number: usize) -> World {
    let mut world = world_at(api, |_| {}).await;
    commands(&world, ORG, "task", number).await;
    world.start_worker().await;
    world
}

/// The ends of 40 commands at something that answers everything so.
async fn believed_absent(reply: Reply) -> Vec<Value> {
    let api = StandIn::start(move |_| reply.clone()).await;
    let world = working_at(&api, 40).await;
    calls_for(A_WHILE, &api, || ends(&world).len() > 10).await;
    assert_eq!(world.tester.dead_letters().len(), 0);
    let ends = ends(&world).into_values().collect();
    world.after_shutdown().await;
    ends
}

#[tokio::test]
async fn a_proxy_without_a_route_is_believed_ten_times_at_most_and_each_end_says_that_it_is_unverified()
 {
    let (go, kubernetes, empty, gateway) = tokio::join!(
        believed_absent(Reply::text(404, "404 page not found\n")),
        believed_absent(Reply::text(404, "default backend - 404")),
        believed_absent(Reply::status(404)),
        believed_absent(Reply::json(404, &json!({"message": "Not Found"}))),
    );
    let ends = [go, kubernetes, empty, gateway];
    let believed = ends.each_ref().map(Vec::len);
    assert!(believed.iter().all(|ends| *ends <= 10), "{believed:?} of 40 each");
    for end in ends.iter().flatten() {
        assert_eq!(
            (&end["outcome"], &end["verified"]),
            (&json!("already_absent"), &json!(false)),
            "{end}"
        );
    }
}

#[tokio::test]
async fn nothing_is_absent_in_an_organisation_that_the_token_does_not_reach() {
    let api = StandIn::start(|_| Reply::no_such_resource()).await;
    let world = working_at(&api, 40).await;
    calls_for(A_WHILE, &api, || !ends(&world).is_empty()).await;
    let ends = ends(&world);
    assert!(ends.is_empty(), "{} of 40 have ended: {:?}", ends.len(), ends.first_key_value());
    world.after_shutdown().await;
}

/// The ends of this many commands for tasks that are not there; the list of the organisation's
/// tasks is answered so.
async fn absent_tasks(number: usize, list: Reply) -> (StandIn, World, Vec<Value>) {
    let answer = move |is_get| if is_get { list.clone() } else { Reply::no_such_resource() };
    let api = StandIn::start(move |call| answer(call.is_get())).await;
    let world = working_at(&api, number).await;
    let ends = world.ended_after(number).await;
    assert!(ends.iter().all(|end| end["outcome"] == "already_absent"), "{ends:?}");
    (api, world, ends)
}

#[tokio::test]
async fn an_absence_is_verified_by_one_call_for_the_organisation_and_none_for_a_command() {
    let (api, world, ends) = absent_tasks(40, Reply::json(200, &json!({"data": []}))).await;
    assert!(ends.iter().all(|end| end.get("verified").is_none()), "{ends:?}");
    let asked = questions(&api);
    assert!(
        (1..=4).contains(&asked),
        "asked {asked} times whether the token reaches the organisation"
    );
    world.assert_drained().await;
}

/// How often the API was asked whether the token reaches an organisation.
fn questions(api: &StandIn) -> usize {
    api.calls().iter().filter(|call| call.is_get()).count()
}

fn absent_but_the_list(list: Reply) -> impl Fn(&Call) -> Reply {
    move |call| if call.is_get() { list.clone() } else { Reply::no_such_resource() }
}

/// Nobody can say at the moment whether the token reaches the organisation: its commands wait until
/// the API can.
async fn waits_for_an_answer(list: Reply) {
    let (what, api) = (format!("{list:?}"), StandIn::start(absent_but_the_list(list)).await);
    let mut world = world_at(&api, |settings| settings.core.api.request_timeout = LATE).await;
    commands(&world, ORG, "task", 20).await;
    world.start_worker().await;
    calls_for(A_WHILE, &api, || !ends(&world).is_empty()).await;
    assert!(ends(&world).is_empty() && world.tester.dead_letters().is_empty(), "{what}");
    api.now_answers(absent_but_the_list(Reply::json(200, &json!({"data": []}))));
    for end in world.ended_after(20).await {
        assert_eq!(
            (&end["outcome"], &end["attempts"]),
            (&json!("already_absent"), &json!(1)),
            "{what}: {end}"
        );
        // It may be ambiguous: what was not begun before the organisation was suspended has gone
        // back to the queue.
        assert!(end.get("verified").is_none(), "{what}: {end}");
    }
    world.assert_drained().await;
}

#[tokio::test]
async fn an_absence_waits_while_the_api_cannot_say_whether_the_token_reaches_the_organisation() {
    tokio::join!(
        waits_for_an_answer(Reply::json(401, &json!({"message": "Unauthenticated"}))),
        waits_for_an_answer(Reply::status(429).header("retry-after", "1")),
        waits_for_an_answer(Reply::html(503)),
        waits_for_an_answer(Reply::status(200).after(Duration::from_mins(1))),
    );
}

#[tokio::test]
async fn a_text_that_says_not_found_ends_nothing_where_the_token_does_not_reach_the_organisation() {
    let list = Reply::no_such_resource();
    let answer = move |is_get| if is_get { list.clone() } else { Reply::text(404, "Not Found") };
    let api = StandIn::start(move |call| answer(call.is_get())).await;
    let world = working_at(&api, 40).await;
    calls_for(A_WHILE, &api, || !ends(&world).is_empty()).await;
    assert_eq!(ends(&world).len(), 0);
    world.after_shutdown().await;
}

#[tokio::test]
async fn that_the_token_reaches_the_organisation_is_asked_again_after_ten_absences() {
    let (api, world, _) = absent_tasks(15, Reply::json(200, &json!({"data": []}))).await;
    api.now_answers(|_| Reply::no_such_resource());
    commands(&world, ORG, "later", 40).await;
    let asked = questions(&api);
    calls_for(api_time(&api) + A_WHILE, &api, || ends(&world).len() > 15 + 10).await;
    let ended = ends(&world).len();
    assert!(ended <= 15 + 10 && questions(&api) > asked, "{ended} have ended");
    world.after_shutdown().await;
}

/// How long the stand-in has been called so far.
fn api_time(api: &StandIn) -> Duration {
    span(&api.calls())
}

#[tokio::test]
async fn an_absence_counts_unverified_where_the_api_has_no_list_of_tasks() {
    for status in [500, 501] {
        let (_api, world, ends) = absent_tasks(5, Reply::status(status)).await;
        assert!(ends.iter().all(|end| end["verified"] == false), "{status}: {ends:?}");
        world.assert_drained().await;
    }
}

#[tokio::test]
async fn delete_fails_for_an_organisation_that_the_token_does_not_reach_and_says_so() {
    let api = StandIn::start(|_| Reply::no_such_resource()).await;
    let world = world_at(&api, |_| {}).await;
    let mut command = with_settings(&world, &["delete", "--org", ORG, "t1", "t2"]);
    command.env("TALLYFY_BASE_URL", api.base_url().as_str());
    let output = output(command).await;
    let [said, complaint] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert_eq!(output.status.code(), Some(1), "{said}{complaint}");
    assert!(
        complaint.contains("does not reach") && !said.contains("already_absent"),
        "{said}{complaint}"
    );
    broker().delete_vhost(&world.vhost).await;
}

#[tokio::test]
async fn delete_tries_a_new_token_once_before_it_gives_the_list_up() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "old").unwrap();
    let path = file.path().to_owned();
    let api = StandIn::start(move |call| {
        if call.task == "t1" && call.earlier == 0 {
            fs::write(&path, "new").unwrap();
            return Reply::status(401);
        }
        Reply::status(204)
    })
    .await;
    let world = world_at(&api, |_| {}).await;
    let mut command = with_settings(&world, &["delete", "--org", ORG, "t1"]);
    command.env_remove("TALLYFY_ACCESS_TOKEN").env("TALLYFY_ACCESS_TOKEN_FILE", file.path());
    command.env("TALLYFY_BASE_URL", api.base_url().as_str());
    let output = output(command).await;
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.contains(r#""outcome":"deleted""#), "{said}");
    broker().delete_vhost(&world.vhost).await;
}

#[tokio::test]
async fn only_the_apis_own_refusal_is_a_refusal() {
    let api = StandIn::start(|call| {
        let (kind, status) = call.task.split_once('-').unwrap();
        let status = status.parse().unwrap();
        match kind {
            _ if call.earlier > 0 => Reply::status(204),
            "html" => Reply::html(status),
            _ => Reply::json(status, &json!({"error": true, "message": "No", "code": "NO"})),
        }
    })
    .await;
    let mut world = world_at(&api, |_| {}).await;
    world.start_worker().await;
    let wait = ["html-400", "html-405", "html-409", "json-402", "json-405", "json-407", "json-419"];
    for task in wait {
        world.command(ORG, task).await;
    }
    let ends = world.ended_after(wait.len()).await;
    let lost: Vec<_> = ends.iter().filter(|end| end["outcome"] != "deleted").collect();
    assert!(lost.is_empty(), "{} of {}: {lost:?}", lost.len(), wait.len());
    for task in ["json-400", "json-422"] {
        let dead_letter = world.dead_letter(&world.command(ORG, task).await).await;
        assert_eq!(dead_letter.header("x-failure-reason").as_deref(), Some("rejected"), "{task}");
    }
    world.assert_drained().await;
}

#[tokio::test]
async fn a_proxy_that_refuses_everything_uses_up_no_attempt() {
    let api = StandIn::start(|_| Reply::html(400)).await;
    let world = working_at(&api, 40).await;
    calls_for(A_WHILE, &api, || !world.tester.dead_letters().is_empty()).await;
    assert_eq!(world.tester.dead_letters().len(), 0);
    api.heal();
    let tasks: Vec<_> = (0..40).map(|number| format!("task-{number}")).collect();
    all_deleted_within(A_MINUTE, &world, &tasks).await;
    world.assert_drained().await;
}

#[tokio::test]
async fn the_record_of_a_call_has_its_own_answer_and_not_that_of_the_question_after_it() {
    let api = StandIn::start(absent_but_the_list(Reply::status(503))).await;
    let mut world = world_at(&api, |_| {}).await;
    commands(&world, ORG, "task", 1).await;
    world.start_worker().await;
    let record = eventually("a record", async || {
        let said = decide(&world, &["audit", "--json"]).await;
        said.lines().next().map(|line| serde_json::from_str::<Value>(line).unwrap())
    })
    .await;
    assert_eq!(record["http_status"], 404, "{record}");
    world.after_shutdown().await;
}
