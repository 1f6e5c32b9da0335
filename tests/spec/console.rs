//! The console: the real binary, over plain HTTP. `tests/browser` uses it with a real browser.

use std::process::Stdio;
use std::time::Duration;

use lapin::BasicProperties;
use lapin::options::BasicPublishOptions;
use reqwest::header::{AUTHORIZATION, HOST, ORIGIN};
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, Response};
use serde_json::json;

use crate::command_line::{binary, signal, with_settings};
use crate::dead_letters::{audits, lines};
use crate::hard_edges::free_address;
use crate::support::process::{Running, output};
use crate::support::rabbitmq::broker;
use crate::support::world::{ORG, World};
use crate::support::{eventually, eventually_within};

const DEAD: &str = "task.delete.dead";

/// A console that is up.
struct Open {
    base: String,
    process: Running,
    client: Client,
}

impl Open {
    async fn start(world: &World, args: &[&str]) -> Self {
        let address = free_address();
        let own = ["console", "--addr", &address, "--by=ann"];
        let mut command = with_settings(world, &[&own[..], args].concat());
        let process = Running::start(command.stderr(Stdio::null()));
        let client = Client::builder().redirect(Policy::none()).no_proxy().build().unwrap();
        let open = Self { base: format!("http://{address}"), process, client };
        eventually("the console answers", async || open.get("/").send().await.ok()).await;
        open
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(format!("{}{path}", self.base))
    }

    async fn page(&self, path: &str) -> String {
        self.get(path).send().await.unwrap().text().await.unwrap()
    }

    async fn post(&self, path: &str, form: &str) -> Response {
        self.client.post(format!("{}{path}", self.base)).body(form.to_owned()).send().await.unwrap()
    }

    /// What an action was called, when it has ended.
    async fn done(&self, begun: Response) -> String {
        assert_eq!(begun.status(), 303, "{}", begun.text().await.unwrap());
        let path = begun.headers()["location"].to_str().unwrap().to_owned();
        eventually("its end", async || {
            let page = self.page(&path).await;
            (!page.contains("data-running")).then_some(page)
        })
        .await
    }

    async fn shows(&self, path: &str, words: &str) {
        eventually(&format!("{words} on {path}"), async || {
            self.page(path).await.contains(words).then_some(())
        })
        .await;
    }
}

async fn with_dead_letters(tasks: &[&str]) -> World {
    let world = World::start().await;
    world.tester.leave_dead_letters_alone().await;
    world.sandbox.tasks(ORG, tasks, "forbidden").await;
    for task in tasks {
        world.command(ORG, task).await;
        world.end(task).await;
    }
    world
}

/// The fields of the page that names the number.
fn hidden(page: &str, name: &str) -> String {
    let (_, rest) = page.split_once(&format!("name=\"{name}\" value=\"")).expect(page);
    rest.split('"').next().unwrap().to_owned()
}

#[tokio::test]
async fn a_replay_takes_what_was_agreed_to_and_leaves_the_same_audit_as_the_command_line() {
    let world = with_dead_letters(&["t1", "t2", "t3"]).await;
    let console = Open::start(&world, &["--write=true"]).await;
    console.shows("/dead?kind=task.delete", "3 dead letters").await;
    world.sandbox.tasks(ORG, &["t1", "t2", "t3"], "present").await;
    let preview =
        console.post("/preview/replay", "kind=task.delete&reason=forbidden&id=t1&all=1").await;
    let preview = preview.text().await.unwrap();
    assert!(preview.contains("Replay 1 dead letter<"), "{preview}");
    let (letters, seen_at) = (hidden(&preview, "letters"), hidden(&preview, "seen_at"));
    let form = format!(
        "kind=task.delete&reason=forbidden&id=t1&all=1&letters={letters}&seen_at={seen_at}&rate=5"
    );
    let page = console.done(console.post("/replay", &form).await).await;
    assert!(page.contains("1 of 1 done") && page.contains("Done."), "{page}");
    eventually("it is carried out", async || {
        (world.sandbox.state(ORG, "t1").await == "gone").then_some(())
    })
    .await;
    assert_eq!(world.tester.ready(&[DEAD.to_owned()]).await[DEAD], 2);
    let [begun, ended] = &audits(&world, 2).await[..] else { panic!("two events") };
    assert_eq!(
        (&begun["by"], &ended["letters"], &ended["interrupted"]),
        (&"ann".into(), &1.into(), &false.into())
    );
    assert_eq!(ended["selection"], json!({"reason": "forbidden", "id": "t1"}));
    console.shows("/dead?kind=task.delete", "2 dead letters").await;
    console.shows("/", "replayed 1 of task.delete").await;
    // Looking has cost nothing: the queue has never handed one out.
    let refused = console
        .post("/replay", "kind=task.delete&letters=2&seen_at=2026-01-01T00:00:00Z&all=1")
        .await;
    assert_eq!(refused.status(), 422, "a page that is too old");
    drop(console);
    world.assert_drained().await;
}

#[tokio::test]
async fn an_action_takes_only_the_dead_letters_that_are_shown() {
    let world = World::start().await;
    world.tester.leave_dead_letters_alone().await;
    // One from before there was a mirror, in front of all others.
    let (body, properties) =
        (format!(r#"{{"org_id":"{ORG}","task_id":"t0"}}"#), BasicProperties::default());
    let publish = world.tester.channel.basic_publish(
        "".into(),
        DEAD.into(),
        BasicPublishOptions::default(),
        body.as_bytes(),
        properties.with_message_id("old".into()),
    );
    drop(publish.await.unwrap().await.unwrap());
    world.sandbox.tasks(ORG, &["t1"], "forbidden").await;
    world.command(ORG, "t1").await;
    world.end("t1").await;
    let console = Open::start(&world, &["--write=true"]).await;
    let path = "/dead?kind=task.delete";
    console.shows(path, "has 2 dead letters ready, and 1 are shown").await;
    world.sandbox.tasks(ORG, &["t0", "t1"], "present").await;
    let replay_all = async || {
        let preview = console.post("/preview/replay", "kind=task.delete&all=1").await;
        let preview = preview.text().await.unwrap();
        assert!(preview.contains("Replay 1 dead letter<"), "{preview}");
        let seen_at = hidden(&preview, "seen_at");
        let form = format!("kind=task.delete&all=1&letters=1&seen_at={seen_at}&rate=5");
        console.done(console.post("/replay", &form).await).await
    };
    let gone = async |task: &str| {
        eventually("it is carried out", async || {
            (world.sandbox.state(ORG, task).await == "gone").then_some(())
        })
        .await;
    };
    let page = replay_all().await;
    assert!(page.contains("1 of 1 done"), "{page}");
    gone("t1").await;
    assert_eq!(world.sandbox.state(ORG, "t0").await, "present", "nobody has seen it");
    console.shows(path, "has 1 dead letter ready, and 0 are shown").await;
    assert_eq!(console.post("/look", "kind=task.delete").await.status(), 303);
    console.shows(path, ">t0<").await;
    replay_all().await;
    gone("t0").await;
    drop(console);
    world.assert_drained().await;
}

#[tokio::test]
async fn who_may_only_look_is_refused_by_every_handler_that_acts() {
    let world = with_dead_letters(&["t1"]).await;
    let console = Open::start(&world, &[]).await;
    console.shows("/dead?kind=task.delete", "1 dead letter").await;
    assert!(!console.page("/dead?kind=task.delete").await.contains("Replay…"));
    for path in [
        "/preview/replay",
        "/replay",
        "/preview/discard",
        "/discard",
        "/pause",
        "/resume",
        "/guard/release",
        "/guard/reject",
        "/actions/1/cancel",
    ] {
        let refused =
            console.post(path, "kind=task.delete&all=1&letters=1&everybody=1&reason=x").await;
        assert_eq!(refused.status(), 403, "{path}");
        assert!(refused.text().await.unwrap().contains("read-only"), "{path}");
    }
    let exported = console.post("/export", "kind=task.delete&all=1").await.text().await.unwrap();
    let exported: serde_json::Value = serde_json::from_str(&exported).unwrap();
    assert_eq!(exported, lines(&world, &["export"]).await[0]);
    drop(console);
    world.assert_drained().await;
}

#[tokio::test]
async fn only_requests_of_its_own_pages_by_its_own_name_are_answered() {
    let world = World::without_worker(|_| {}).await;
    let console = Open::start(&world, &["--write=true", "--hosts=console.example"]).await;
    let answer = console.get("/").send().await.unwrap();
    let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    let policy = header("content-security-policy");
    assert!(
        policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"),
        "{policy}"
    );
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(
        (header("x-content-type-options"), header("cache-control")),
        ("nosniff".into(), "no-store".into())
    );
    let status = async |request: RequestBuilder| request.send().await.unwrap().status().as_u16();
    for (host, expected) in [
        ("evil.example", 421),
        ("127.0.0.1.evil.example:9465", 421),
        ("localhost:1", 200),
        ("console.example", 200),
    ] {
        assert_eq!(status(console.get("/").header(HOST, host)).await, expected, "{host}");
    }
    let pause =
        || console.client.post(format!("{}/pause", console.base)).body("everybody=1&reason=x");
    for cross in [
        pause().header("sec-fetch-site", "cross-site"),
        pause().header("sec-fetch-site", "same-site"),
        pause().header(ORIGIN, "http://evil.example"),
        pause().header(ORIGIN, "null"),
    ] {
        assert_eq!(status(cross).await, 403);
    }
    assert!(console.page("/").await.contains("Nothing is paused."));
    let own = pause().header(ORIGIN, &console.base).send().await.unwrap();
    console.done(own).await;
    console.shows("/", "All deletions are paused").await;
    let resumed = console.post("/resume", "everybody=1&reason=over").await;
    console.done(resumed).await;
    console.shows("/", "resumed all").await;
    signal(&console.process, "TERM");
    assert_eq!(console.process.output().await.status.code(), Some(0));
    broker().delete_vhost(&world.vhost).await;
}

#[tokio::test]
async fn the_overview_shows_breaker_and_organisations_as_the_workers_tell_them() {
    let world = World::start().await;
    let console = Open::start(&world, &[]).await;
    console.shows("/", "It is ready.").await;
    console.shows("/", "The breaker is closed.").await;
    world.sandbox.fault_for_all(json!({"status": 503})).await;
    let tasks: Vec<_> = (0..20).map(|number| format!("t{number}")).collect();
    for task in &tasks {
        world.delete(task).await;
    }
    let within = Duration::from_secs(40);
    eventually_within(within, "what the worker tells", async || {
        let page = console.page("/").await;
        let told = page.contains("The breaker is open since") && page.contains("Not ready: ");
        told.then_some(())
    })
    .await;
    world.sandbox.heal().await;
    for task in &tasks {
        world.end(task).await;
    }
    eventually_within(within, "that it is over", async || {
        console.page("/").await.contains("The breaker is closed.").then_some(())
    })
    .await;
    drop(console);
    world.assert_drained().await;
}

#[tokio::test]
async fn nobodys_console_is_open_to_a_network_by_mistake() {
    let world = World::without_worker(|_| {}).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("users");
    let refused = async |args: &[&str]| {
        let mut command = binary(&[&["console", "--by=ann"], args].concat());
        command.env("AMQP_URL", broker().amqp_url(&world.vhost));
        let ended = output(command).await;
        assert_eq!(ended.status.code(), Some(64));
        String::from_utf8(ended.stderr).unwrap()
    };
    assert!(
        refused(&["--addr=0.0.0.0:0"]).await.starts_with("CONSOLE_ADDR: is no loopback address")
    );
    std::fs::write(&file, "ann\n").unwrap();
    let passwords = ["--password-file", file.to_str().unwrap()];
    let said = refused(&[&["--addr=0.0.0.0:0"][..], &passwords].concat()).await;
    assert!(said.starts_with("CONSOLE_PASSWORD_FILE: ") && said.contains("line 1"), "{said}");

    std::fs::write(&file, "bob:first\nann:secret\n").unwrap();
    let console = Open::start(&world, &[&passwords[..], &["--write=true"]].concat()).await;
    let as_user = async |pair: &str| {
        use base64::Engine;
        let coded = base64::engine::general_purpose::STANDARD.encode(pair);
        let answer =
            console.get("/").header(AUTHORIZATION, format!("Basic {coded}")).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    assert_eq!(console.get("/").send().await.unwrap().status(), 401);
    assert_eq!(as_user("ann:first").await.0, 401);
    let (status, page) = as_user("bob:first").await;
    assert!(status == 200 && page.contains("<bdi>bob</bdi>"), "{page}");
    std::fs::write(&file, "ann:secret\n").unwrap();
    assert_eq!(as_user("bob:first").await.0, 401, "read again");
    drop(console);

    let by_proxy = ["--user-header=X-User", "--trusted-proxies"];
    let console = Open::start(&world, &[&by_proxy[..], &["127.0.0.1"]].concat()).await;
    assert_eq!(console.get("/").send().await.unwrap().status(), 403, "no name");
    let named = console.get("/").header("x-user", "carol").send().await.unwrap();
    assert!(named.text().await.unwrap().contains("<bdi>carol</bdi>"));
    let twice = console.get("/").header("x-user", "carol").header("x-user", "root").send().await;
    assert_eq!(twice.unwrap().status(), 403);
    drop(console);
    let console = Open::start(&world, &[&by_proxy[..], &["10.0.0.0/8"]].concat()).await;
    let named = console.get("/").header("x-user", "carol").send().await.unwrap();
    assert_eq!(named.status(), 403, "not from the proxy");
    drop(console);
    broker().delete_vhost(&world.vhost).await;
}

#[tokio::test]
async fn without_a_mirror_one_look_is_shown_with_its_time() {
    let world = with_dead_letters(&["t1", "t2"]).await;
    let name = format!("operator-{}", world.vhost);
    broker().put_user(&name, "pw").await;
    let write = r"^(amq\.default|task\.events)$";
    broker().set_permissions(&world.vhost, &name, "^$", write, r"^task\.delete\.dead$").await;
    let url = format!("--amqp-url={}", broker().amqp_url_as(&name, "pw", &world.vhost));
    let console = Open::start(&world, &["--write=true", &url]).await;
    console.shows("/dead?kind=task.delete", "Nobody has looked yet.").await;
    let looked = console.post("/look", "kind=task.delete&back=/dead?kind=task.delete").await;
    assert_eq!(
        (looked.status().as_u16(), &looked.headers()["location"]),
        (303, &"/dead?kind=task.delete".parse().unwrap())
    );
    let page = console.page("/dead?kind=task.delete").await;
    assert!(page.contains("2 dead letters") && page.contains("This is a snapshot of"), "{page}");
    let away = console.post("/look", "kind=task.delete&back=https://evil.example/").await;
    assert_eq!(away.headers()["location"], "/");
    assert!(console.page("/").await.contains("The ledger cannot be read"));
    eventually("the dead letters are back", async || {
        (world.tester.ready(&[DEAD.to_owned()]).await[DEAD] == 2).then_some(())
    })
    .await;
    drop(console);
    world.assert_drained().await;
}

#[tokio::test]
async fn an_action_ends_with_its_audit_when_the_console_is_told_to_stop() {
    let tasks: Vec<_> = (0..30).map(|number| format!("t{number}")).collect();
    let tasks: Vec<_> = tasks.iter().map(String::as_str).collect();
    let world = with_dead_letters(&tasks).await;
    let console = Open::start(&world, &["--write=true"]).await;
    console.shows("/dead?kind=task.delete", "30 dead letters").await;
    let now = jiff::Timestamp::now();
    let form = format!("kind=task.delete&all=1&letters=30&seen_at={now}&rate=10");
    let begun = console.post("/replay", &form).await;
    assert_eq!(begun.status(), 303);
    let again = console.post("/replay", &form).await;
    assert_eq!(again.status(), 409, "one at a time");
    tokio::time::sleep(Duration::from_millis(500)).await;
    signal(&console.process, "TERM");
    assert_eq!(console.process.output().await.status.code(), Some(0));
    let data = audits(&world, 2).await;
    assert_eq!(data[1]["interrupted"], true);
    assert!(data[1]["letters"].as_u64().unwrap() < 30, "{data:?}");
    world.assert_drained().await;
}
