//! The real binary, as a person or a script uses it.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::process::{Running, output};
use crate::support::rabbitmq::broker;
use crate::support::sandbox::TOKEN;
use crate::support::world::{ORG, World};

pub(crate) fn binary(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tallyfy-delete-worker"));
    command
        .args(args)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

pub(crate) fn with_settings(world: &World, args: &[&str]) -> Command {
    let mut command = binary(args);
    command
        .env("AMQP_URL", broker().amqp_url(&world.vhost))
        .env("TALLYFY_BASE_URL", world.sandbox.base_url())
        .env("TALLYFY_ORG_ID", ORG)
        .env("TALLYFY_ACCESS_TOKEN", TOKEN)
        .env("WAIT_LADDER", "200ms,500ms,1s")
        .env("HTTP_ADDR", "127.0.0.1:0");
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub(crate) fn json_lines(bytes: &[u8]) -> Vec<Value> {
    text(bytes).lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

pub(crate) fn signal(child: &Child, name: &str) {
    let killed =
        Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
}

#[test]
fn the_version_names_the_commit_if_the_build_was_told_it() {
    let output = binary(&["--version"]).output().unwrap();
    let commit = option_env!("GIT_COMMIT").filter(|commit| !commit.is_empty());
    let commit = commit.map(|commit| format!(" ({commit})")).unwrap_or_default();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(text(&output.stdout), format!("tallyfy-delete-worker {version}{commit}\n"));
}

#[tokio::test]
async fn run_works_until_a_signal_and_exits_0_without_a_word_of_the_token() {
    for name in ["TERM", "INT"] {
        let world = World::without_worker(|_| {}).await;
        let mut command = with_settings(&world, &["run", "--rust-log=trace"]);
        let child = Running::start_and_listen(&mut command);
        world
            .sandbox
            .fault("t1", 1, json!({"status": 401, "body": {"message": format!("bad {TOKEN}")}}))
            .await;
        world.delete("t1").await;
        assert_eq!(world.end("t1").await["outcome"], "deleted");
        world.publish(b"not a command", "m1").await;
        world.end("m1").await;
        signal(&child, name);
        let output = child.output().await;
        let log = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{log}");
        for line in ["\"command ended\"", "\"command dead-lettered\"", "\"drained\""] {
            assert!(log.contains(line), "{log}");
        }
        assert!(!log.contains(TOKEN), "the token is in the log");
        assert_eq!(text(&output.stdout), "", "logs go to standard error");
        broker().delete_vhost(&world.vhost).await;
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn no_core_dump_of_ours_holds_a_token() {
    let world = World::without_worker(|_| {}).await;
    let child = Running::start(with_settings(&world, &["run"]).stderr(Stdio::null()));
    world.delete("t1").await;
    world.end("t1").await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().collect::<Vec<_>>()[4..6], ["0", "0"], "{core}");
    signal(&child, "ABRT");
    let ended = child.output().await.status;
    assert!(!ended.core_dumped(), "{ended}");
    broker().delete_vhost(&world.vhost).await;
}

#[tokio::test]
async fn a_worker_that_is_killed_loses_nothing_and_repeats_with_the_same_event_id() {
    let world = World::without_worker(|_| {}).await;
    world.sandbox.fault_for_all(json!({"latency_ms": 40})).await;
    let tasks: Vec<String> = (0..120).map(|number| format!("task-{number}")).collect();
    for task in &tasks {
        world.delete(task).await;
    }
    for calls in [20, 60, 100] {
        let mut command = with_settings(&world, &["run", "--concurrency=8"]);
        let child = Running::start(command.stderr(Stdio::null()));
        eventually("some calls", async || {
            (world.sandbox.calls().await.len() >= calls).then_some(())
        })
        .await;
        drop(child);
    }
    let mut last = Running::start(with_settings(&world, &["run"]).stderr(Stdio::null()));
    for task in &tasks {
        let end = world.end(task).await;
        let is_success = end["outcome"] == "deleted"
            || (end["outcome"] == "already_absent" && end["ambiguous"] == true);
        assert!(is_success, "{end}");
        assert_eq!(world.sandbox.state(ORG, task).await, "gone");
    }
    signal(&last, "TERM");
    assert_eq!(last.wait().unwrap().code(), Some(0));
    let of = |event: &Value| (event["data"]["command_id"].to_string(), event["id"].to_string());
    let ids: BTreeSet<_> = world.tester.events().iter().map(|event| of(&event.json())).collect();
    assert_eq!(
        ids.len(),
        tasks.len(),
        "one event id for each command, however often it was published"
    );
    assert_eq!((world.tester.dead_letters().len(), world.sandbox.unexpected().await), (0, vec![]));
}

#[tokio::test]
async fn every_wrong_setting_is_told_at_once_and_nothing_starts() {
    let mut command = binary(&["run", "--concurrency=none"]);
    command
        .env("AMQP_URL", "http://u:p4ss@h")
        .env("TALLYFY_BASE_URL", "http://h")
        .env("MAX_AGE", "old")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4318");
    let output = output(command).await;
    let lines = text(&output.stderr);
    assert_eq!(output.status.code(), Some(64));
    let named: Vec<_> = lines.lines().map(|line| line.split(':').next().unwrap()).collect();
    let expected = [
        "TALLYFY_BASE_URL",
        "TALLYFY_ORG_ID",
        "TALLYFY_ACCESS_TOKEN",
        "CONCURRENCY",
        "MAX_AGE",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "AMQP_URL",
    ];
    assert_eq!(named, expected, "{lines}");
    assert!(!lines.contains("p4ss"));
}

#[tokio::test]
async fn a_file_that_holds_no_token_is_named_with_its_setting_and_nothing_starts() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join(ORG);
    let missing = ("is not there", None, "No such file or directory");
    let wrong = [
        ("empty", ""),
        ("blank", "  \n"),
        ("two lines", "s3cret\ntoken"),
        ("words", "s3cret token"),
    ];
    let wrong = wrong.map(|(what, content)| (what, Some(content), "holds no token"));
    for (what, content, expected) in wrong.into_iter().chain([missing]) {
        let _ = std::fs::remove_file(&file);
        if let Some(content) = content {
            std::fs::write(&file, content).unwrap();
        }
        let mut command = binary(&["run"]);
        command.env("TALLYFY_ORG_ID", ORG).env("TALLYFY_ACCESS_TOKEN_FILE", &file);
        let output = output(command).await;
        let said = text(&output.stderr);
        assert_eq!(
            output.status.code(),
            Some(64),
            "{what}: it may be put right without a new setting"
        );
        assert!(
            said.contains(file.to_str().unwrap()) && !said.contains("s3cret"),
            "{what}: {said}"
        );
        assert_eq!(
            [expected, "TALLYFY_ACCESS_TOKEN_FILE: "].map(|text| said.matches(text).count()),
            [1, 1],
            "{what}: {said}"
        );
    }
}

#[tokio::test]
async fn help_shows_every_setting_and_no_secret() {
    let mut command = binary(&["run", "--help"]);
    command.env("TALLYFY_ACCESS_TOKEN", TOKEN).env("AMQP_URL", "amqp://u:p4ss@h");
    let output = output(command).await;
    let help = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0));
    for name in [
        "AMQP_URL",
        "TALLYFY_BASE_URL",
        "TALLYFY_ORG_ID",
        "TALLYFY_CREDENTIALS_DIR",
        "SHUTDOWN_GRACE",
        "RUST_LOG",
    ] {
        assert!(help.contains(name), "{name}");
    }
    assert!(!help.contains(TOKEN) && !help.contains("p4ss"));
}

#[tokio::test]
async fn an_unknown_flag_and_no_command_exit_64() {
    assert_eq!(output(binary(&["run", "--fast"])).await.status.code(), Some(64));
    assert_eq!(output(binary(&[])).await.status.code(), Some(64));
    assert_eq!(output(binary(&["--version"])).await.status.code(), Some(0));
}

#[tokio::test]
async fn setup_declares_the_topology_and_says_what_is_wrong_when_it_cannot() {
    let vhost = broker().new_vhost().await;
    let setup = |url: String| {
        let mut command = binary(&["setup"]);
        command.env("AMQP_URL", url);
        output(command)
    };
    for _ in 0..2 {
        let done = setup(broker().amqp_url(&vhost)).await;
        assert_eq!(done.status.code(), Some(0), "{}", text(&done.stderr));
    }
    let failed = setup(broker().amqp_url("nowhere")).await;
    assert_eq!(failed.status.code(), Some(1));
    assert!(
        text(&failed.stderr).contains("cannot connect to RabbitMQ"),
        "{}",
        text(&failed.stderr)
    );
    broker().delete_vhost(&vhost).await;
}

#[tokio::test]
async fn delete_prints_one_outcome_a_line_and_exits_0_when_all_are_gone() {
    let world = World::without_worker(|_| {}).await;
    world.sandbox.tasks(ORG, &["t1", "t2"], "present").await;
    world.sandbox.tasks(ORG, &["t3"], "gone").await;
    world.sandbox.fault("t1", 5, json!({"status": 503})).await;
    world.sandbox.fault("t2", 1, json!({"status": 429, "headers": {"Retry-After": "1"}})).await;
    let output = output(with_settings(&world, &["delete", "--org", ORG, "t1", "t2", "t3"])).await;
    let lines = json_lines(&output.stdout);
    for member in ["time", "request_id"] {
        assert!(lines.iter().all(|line| line[member].is_string()), "{member}: {lines:?}");
    }
    let mut ends: Vec<_> = lines
        .into_iter()
        .map(|end| {
            (
                end["task_id"].as_str().unwrap().to_owned(),
                end["outcome"].clone(),
                end["attempts"].clone(),
            )
        })
        .collect();
    ends.sort_by(|a, b| a.0.cmp(&b.0));
    let end = |task: &str, outcome: &str, attempts: u32| {
        (task.to_owned(), json!(outcome), json!(attempts))
    };
    assert_eq!(
        ends,
        [end("t1", "deleted", 6), end("t2", "deleted", 1), end("t3", "already_absent", 1)]
    );
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

#[tokio::test]
async fn delete_reads_ids_from_standard_input_and_exits_1_when_one_failed() {
    let world = World::without_worker(|_| {}).await;
    world.sandbox.tasks(ORG, &["t1"], "present").await;
    world.sandbox.tasks(ORG, &["t2"], "forbidden").await;
    let mut command = with_settings(&world, &["delete", "--org", ORG, "-"]);
    let mut child = Running::start(command.stdin(Stdio::piped()));
    child.stdin.take().unwrap().write_all(b"t1\n\n  t2\n").unwrap();
    let output = child.output().await;
    assert_eq!(output.status.code(), Some(1));
    let failed: Vec<_> =
        json_lines(&output.stdout).into_iter().filter(|end| end["failure"].is_object()).collect();
    assert_eq!((failed.len(), &failed[0]["failure"]["reason"]), (1, &json!("forbidden")));
    assert_eq!(world.sandbox.state(ORG, "t1").await, "gone");
}

#[tokio::test]
async fn delete_with_a_line_that_cannot_be_read_deletes_nothing() {
    let world = World::without_worker(|_| {}).await;
    for (list, said) in
        [(&b"t1\n\xff\nt2\n"[..], "line 2: cannot be read"), (b"\xff\xfet\x001\x00", "line 1:")]
    {
        let mut command = with_settings(&world, &["delete", "--org", ORG, "-"]);
        let mut child = Running::start(command.stdin(Stdio::piped()));
        child.stdin.take().unwrap().write_all(list).unwrap();
        let output = child.output().await;
        assert_eq!(output.status.code(), Some(64));
        assert!(text(&output.stderr).starts_with(said), "{}", text(&output.stderr));
    }
    let output = output(with_settings(&world, &["delete", "--org", ORG, "t1", "-"])).await;
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output.stderr).starts_with("ID 2: \"-\""), "{}", text(&output.stderr));
    assert_eq!(world.sandbox.calls().await.len(), 0);
}

#[tokio::test]
async fn delete_with_one_wrong_id_deletes_nothing() {
    let world = World::without_worker(|_| {}).await;
    world.sandbox.tasks(ORG, &["t1"], "present").await;
    let output = output(with_settings(&world, &["delete", "--org", ORG, "t1", "../t2"])).await;
    assert_eq!(output.status.code(), Some(64));
    assert!(
        text(&output.stderr).starts_with("ID 2: takes the id of a task"),
        "{}",
        text(&output.stderr)
    );
    assert_eq!(world.sandbox.calls().await.len(), 0);
}

/// What it answers is typed at a terminal of its own (`script` of util-linux).
async fn at_a_terminal(command: &Command, answer: &str) -> Output {
    let shown = |text: &std::ffi::OsStr| format!("'{}'", text.to_str().unwrap());
    let line: Vec<_> = [command.get_program()].into_iter().chain(command.get_args()).collect();
    let line: Vec<_> = line.into_iter().map(shown).collect();
    let mut script = Command::new("script");
    script.args(["-qec", &line.join(" "), "/dev/null"]).env_clear().env("PATH", "/usr/bin:/bin");
    script.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // Of util-linux (Debian: bsdutils). Its end would be the end of the terminal, so it is held
    // open.
    let mut child = Running::start(&mut script);
    let mut typed = child.stdin.take().unwrap();
    typed.write_all(answer.as_bytes()).unwrap();
    let output = child.output().await;
    drop(typed);
    output
}

#[tokio::test]
async fn delete_asks_at_a_terminal_before_it_begins() {
    let world = World::without_worker(|_| {}).await;
    world.sandbox.tasks(ORG, &["t1", "t2"], "present").await;
    let delete = with_settings(&world, &["delete", "--org", ORG, "t1", "t2", "t1"]);
    for answer in ["n\n", "\n", "\u{4}"] {
        let refused = at_a_terminal(&delete, answer).await;
        let said = text(&refused.stdout);
        assert!(said.contains("task.delete: 2 ids of organisation acme (1 given more than once"));
        assert!(said.contains("Go on? [y/N]") && said.contains("nothing has begun"), "{said}");
        assert_eq!((refused.status.code(), world.sandbox.calls().await.len()), (Some(1), 0));
    }
    let agreed = at_a_terminal(&delete, "y\n").await;
    assert_eq!(agreed.status.code(), Some(0), "{}", text(&agreed.stdout));
    assert_eq!(world.sandbox.calls().await.len(), 2);
    let unasked = with_settings(&world, &["delete", "--yes", "--org", ORG, "t1"]);
    let unasked = at_a_terminal(&unasked, "").await;
    assert!(unasked.status.success() && !text(&unasked.stdout).contains("Go on?"));
}

#[tokio::test]
async fn an_id_that_is_given_twice_is_taken_once_and_the_summary_tells_the_ends_apart() {
    let world = World::without_worker(|_| {}).await;
    world.sandbox.tasks(ORG, &["t1", "t2"], "present").await;
    world.sandbox.tasks(ORG, &["t3"], "gone").await;
    world.sandbox.tasks(ORG, &["t4"], "forbidden").await;
    let output = deleted(&world, &["t1", "t2", "t1", "t3", "t4", "t1"], &[]).await;
    let summary = json_lines(&output.stderr).pop().unwrap();
    let counts = ["done", "already_absent", "failed", "left", "duplicates"].map(|n| &summary[n]);
    assert_eq!(counts.map(Value::as_u64), [2, 1, 1, 0, 2].map(Some), "{summary}");
    let said = summary["message"].as_str().unwrap();
    assert!(said.starts_with("the list is done: 2 deleted, 1 already_absent, 1 failed"), "{said}");
    assert_eq!((json_lines(&output.stdout).len(), output.status.code()), (4, Some(1)));
    assert_eq!(world.sandbox.calls_for("t1").await.len(), 1);
}

#[tokio::test]
async fn what_an_interruption_leaves_is_told_from_what_is_done_and_can_be_given_again() {
    let world = World::without_worker(|_| {}).await;
    let tasks: Vec<String> = (0..30).map(|number| format!("task-{number}")).collect();
    let tasks: Vec<&str> = tasks.iter().map(String::as_str).collect();
    world.sandbox.tasks(ORG, &tasks, "present").await;
    world.sandbox.fault_for_all(json!({"latency_ms": 100})).await;
    let list = [&["delete", "--concurrency=2", "--org", ORG], &tasks[..]].concat();
    let child = Running::start(&mut with_settings(&world, &list));
    world.called("task-1", 1).await;
    signal(&child, "TERM");
    let output = child.output().await;
    let log = text(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{log}");
    assert!(log.contains("\"interrupted: "), "{log}");
    let lines = json_lines(&output.stdout);
    assert_eq!(lines.len(), tasks.len(), "each has its line");
    let left: Vec<_> = lines.iter().filter(|line| line["outcome"] == "left").collect();
    assert!(
        !left.is_empty() && left.iter().all(|line| line["reason"] == "interrupted"),
        "{left:?}"
    );
    let left: Vec<_> = left.iter().map(|line| line["task_id"].as_str().unwrap()).collect();
    for task in &tasks {
        let state = if left.contains(task) { "present" } else { "gone" };
        assert_eq!(world.sandbox.state(ORG, task).await, state, "{task}");
    }
    let rest = deleted(&world, &left, &[]).await;
    assert_eq!((json_lines(&rest.stdout).len(), rest.status.code()), (left.len(), Some(0)));
}

#[tokio::test]
async fn delete_interrupted_while_it_waits_exits_130() {
    let world = World::without_worker(|_| {}).await;
    world.sandbox.fault_for_all(json!({"status": 429, "headers": {"Retry-After": "600"}})).await;
    world.sandbox.tasks(ORG, &["t1"], "present").await;
    let child = Running::start(&mut with_settings(
        &world,
        &["delete", "--org", ORG, "t1", "--wait-ladder=10m"],
    ));
    world.called("t1", 1).await;
    signal(&child, "INT");
    let output = child.output().await;
    assert_eq!(output.status.code(), Some(130));
    let left = json!({"org_id": ORG, "task_id": "t1", "outcome": "left", "reason": "interrupted", "attempts": 0, "ambiguous": false, "http_status": 429});
    assert_eq!(json_lines(&output.stdout), [left]);
    assert_eq!(world.sandbox.state(ORG, "t1").await, "present");
}

#[tokio::test]
async fn what_a_machine_reads_has_no_colours() {
    for args in [&["--help"][..], &["run", "--help"], &["run", "--fast"], &["run"], &["schema"]] {
        let output = output(binary(args)).await;
        let said = [text(&output.stdout), text(&output.stderr)].concat();
        assert!(!said.is_empty() && !said.contains('\u{1b}'), "{said}");
    }
}

#[tokio::test]
async fn an_event_fits_the_schema_that_the_binary_prints() {
    let schema = output(binary(&["schema", "event"])).await;
    let schema =
        jsonschema::validator_for(&serde_json::from_slice(&schema.stdout).unwrap()).unwrap();
    let world = World::start().await;
    world.publish(b"no JSON", "m1").await;
    for id in [world.delete("t1").await, "m1".to_owned()] {
        let event = world.end_message(&id).await.json();
        assert!(schema.is_valid(&event), "{event}: {:?}", schema.validate(&event));
    }
    world.assert_drained().await;
}

#[tokio::test]
async fn the_completions_name_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let printed = output(binary(&["completions", shell])).await;
        assert_eq!(printed.status.code(), Some(0));
        let printed = text(&printed.stdout).to_lowercase();
        for command in ["run", "check", "setup", "delete", "dead", "schema"] {
            assert!(printed.contains(command), "{shell} lacks {command}");
        }
    }
}

/// `delete` at the sandbox with short waits, for these tasks.
async fn deleted(world: &World, tasks: &[&str], settings: &[(&str, &str)]) -> Output {
    let mut command = with_settings(world, &[&["delete", "--org", ORG], tasks].concat());
    command.env("WAIT_LADDER", "200ms,500ms").envs(settings.iter().copied());
    output(command).await
}

#[tokio::test]
async fn a_list_that_a_person_waits_for_comes_to_an_end() {
    let world = World::without_worker(|_| {}).await;
    let tasks = ["t1", "t2", "t3", "t4", "t5", "t6", "t7"];
    world.sandbox.fault_for_all(json!({"status": 500})).await;
    let output = deleted(&world, &tasks, &[("MAX_ATTEMPTS", "3")]).await;
    let ends = json_lines(&output.stdout);
    assert!(
        ends.len() == 7 && ends.iter().all(|end| end["outcome"] == "dead_lettered"),
        "{ends:?}"
    );
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
}

#[tokio::test]
async fn delete_ends_when_its_token_is_not_accepted() {
    let world = World::without_worker(|_| {}).await;
    let output = deleted(&world, &["t1", "t2"], &[("TALLYFY_ACCESS_TOKEN", "dead")]).await;
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("the token is not accepted"), "{}", text(&output.stderr));
}
