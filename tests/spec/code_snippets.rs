//! Shell snippets of the documents, run as they are printed. (The Python ones are run by
//! `tests/producers`.)

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use lapin::BasicProperties;
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use serde_json::Value;

use crate::definitions::definitions;
use crate::pages::{page, snippet, table};
use crate::support::eventually;
use crate::support::process::{Running, output};
use crate::support::rabbitmq::{broker, own_broker};
use crate::support::sandbox::{Sandbox, TOKEN};
use crate::support::world::{ORG, World};

/// A shell with the program on its path and nothing else that the snippet does not set, but where
/// the API is.
fn shell(snippet: &str, home: &Path, base_url: &str) -> Command {
    let program = Path::new(env!("CARGO_BIN_EXE_tallyfy-delete-worker"));
    let path = format!("{}:/usr/bin:/bin", program.parent().unwrap().display());
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", snippet])
        .env_clear()
        .env("PATH", path)
        .env("HOME", home)
        .env("TALLYFY_BASE_URL", base_url)
        .env("HTTP_ADDR", "127.0.0.1:0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    command
}

/// The snippet with a value of its own world in place of the printed one.
fn with(snippet: &str, printed: &str, ours: &str) -> String {
    assert!(snippet.contains(printed), "{snippet:?} has no {printed}");
    snippet.replace(printed, ours)
}

fn lines(output: &Output) -> String {
    let both = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8(both).unwrap()
}

#[tokio::test]
async fn the_first_configuration_of_the_readme_deletes_the_task_of_its_first_command() {
    let readme = page("README.md");
    let body = snippet(&readme, "## One command in, one event out", "json");
    let command: Value = serde_json::from_str(&body).unwrap();
    let id = |member: &str| command[member].as_str().unwrap().to_owned();
    let (org, task) = (id("org_id"), id("task_id"));
    let sandbox = Sandbox::start(&[&org]);
    sandbox.tasks(&org, &[&task], "present").await;
    let world = World::without_worker(|_| {}).await;
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("tallyfy-token"), TOKEN).unwrap();

    let (_, behind_the_build) = readme.split_once("Organisation and token are required").unwrap();
    let printed = snippet(&format!("\n#\n{behind_the_build}"), "#", "sh");
    let url = broker().amqp_url(&world.vhost);
    let ours = with(&printed, "amqp://guest:guest@127.0.0.1:5672/%2f", &url);
    let child = Running::start(&mut shell(&ours, home.path(), &sandbox.base_url()));
    world.tester.publish(body.as_bytes(), BasicProperties::default()).await;
    let event = eventually("the event", async || world.tester.events().into_iter().next()).await;
    let group = format!("-{}", child.id());
    assert!(Command::new("kill").args(["-TERM", "--", &group]).status().unwrap().success());
    let output = child.output().await;

    assert_eq!(event.json()["data"]["outcome"], "deleted", "{}", lines(&output));
    let checked = String::from_utf8(output.stdout).unwrap();
    assert!(checked.contains("ok       broker: "), "{checked}");
    assert!(!checked.contains("FAILED"), "{checked}");
    broker().delete_vhost(&world.vhost).await;
}

#[tokio::test]
async fn the_check_of_the_systemd_recipe_reads_the_settings_of_the_unit() {
    let world = World::without_worker(|_| {}).await;
    let etc = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| fs::write(etc.path().join(name), text).unwrap();
    let shipped = |name: &str| page(&format!("deploy/systemd/{name}"));
    let amqp_url = shipped("amqp-url");
    let (printed, _) = amqp_url.split_once("AMQP_URL='").unwrap().1.split_once('?').unwrap();
    file("amqp-url", &amqp_url.replace(printed, &broker().amqp_url(&world.vhost)));
    let delays = "WAIT_LADDER=200ms,500ms,1s\n";
    file("worker.env", &[&shipped("worker.env"), delays].concat());
    fs::create_dir(etc.path().join("tokens")).unwrap();
    file(&format!("tokens/{ORG}"), TOKEN);

    let printed = snippet(&page("docs/operations.md"), "### Check with systemd", "sh");
    let ours = with(&printed, "/etc/tallyfy-delete-worker", &etc.path().display().to_string());
    let check = shell(&ours, etc.path(), &world.sandbox.base_url());
    let output = output(check).await;
    let said = lines(&output);
    assert!(said.contains("ok       broker: "), "{said}");
    assert!(said.contains(&format!("ok       organisation {ORG}: ")), "{said}");
    assert_eq!(output.status.code(), Some(0), "{said}");
    broker().delete_vhost(&world.vhost).await;
}

/// The work queue without its arguments, with commands in it, in a delay queue, and published while
/// it is moved.
#[tokio::test]
async fn a_queue_with_other_arguments_is_declared_again_with_nothing_lost() {
    const QUEUE: &str = "task.delete";
    let broker = own_broker();
    broker.enable_plugin("rabbitmq_shovel");
    let mut world = World::without_worker(|_| {}).await;
    let channel = &world.tester.channel;
    channel.queue_delete(QUEUE.into(), QueueDeleteOptions::default()).await.unwrap();
    let mut other = FieldTable::default();
    other.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(QUEUE.into(), durable, other).await.unwrap();
    world.bind(QUEUE, "task.commands", QUEUE).await;
    let mut ids = Vec::new();
    for number in 0..50 {
        ids.push(world.delete(&format!("t{number}")).await);
    }

    let page = page("docs/operations.md");
    let printed = snippet(&page, "## A queue has other arguments", "sh");
    let amqp = "amqp://tallyfy-setup:SECRET@127.0.0.1:5672/tallyfy";
    let ours = with(&printed, amqp, &broker.amqp_url(&world.vhost));
    let ours = with(&ours, "http://127.0.0.1:15672", broker.management_url());
    let ours = with(&ours, "admin:SECRET", "guest:guest");
    let ours = with(&ours, "redeclare tallyfy", &format!("redeclare {}", world.vhost));
    let home = tempfile::tempdir().unwrap();
    let mut recipe = shell(&ours, home.path(), &world.sandbox.base_url());
    recipe.env("WAIT_LADDER", "200ms,500ms,1s").current_dir(env!("CARGO_MANIFEST_DIR"));
    let running = tokio::spawn(output(recipe));
    let mut number = 50;
    while !running.is_finished() {
        ids.push(world.delete(&format!("t{number}")).await);
        number += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let output = running.await.unwrap();
    let said = lines(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("task.delete is as it should be"), "{said}");

    world.start_worker().await;
    for id in &ids {
        assert!(
            ["deleted", "already_absent"]
                .contains(&world.end(id).await["outcome"].as_str().unwrap())
        );
    }
    assert!(ids.len() > 60, "{} commands, some of them while it was moved", ids.len());
    world.assert_drained().await;
}

#[tokio::test]
async fn the_files_of_the_systemd_recipe_come_where_the_unit_looks_for_them() {
    let (root, unit) =
        (tempfile::tempdir().unwrap(), "etc/systemd/system/tallyfy-delete-worker.service");
    for directory in ["usr/local/bin", "etc/systemd/system"] {
        fs::create_dir_all(root.path().join(directory)).unwrap();
    }
    let program = Path::new(env!("CARGO_BIN_EXE_tallyfy-delete-worker"));
    let printed = snippet(&page("docs/deploying.md"), "## systemd", "sh");
    let at_root = |directory: &str| format!(" {}{directory}", root.path().display());
    let ours =
        with(&printed, "target/release/tallyfy-delete-worker", &program.display().to_string());
    let ours = with(&ours, " /usr/local/bin/", &at_root("/usr/local/bin/"));
    let ours = with(&ours, " /etc/", &at_root("/etc/"));
    let mut recipe = shell(&format!("set -e\n{ours}"), root.path(), "http://127.0.0.1:9/api");
    recipe.current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = output(recipe).await;
    assert!(output.status.success(), "{}", lines(&output));
    let unit = fs::read_to_string(root.path().join(unit)).unwrap();
    let needed = unit.lines().filter_map(|line| {
        let file = line.strip_prefix("EnvironmentFile=");
        file.or_else(|| line.strip_prefix("ExecStart=")?.split(' ').next())
    });
    let mut count = 0;
    for path in needed.chain(["/etc/tallyfy-delete-worker/tokens"]) {
        assert!(root.path().join(path.trim_start_matches('/')).exists(), "{path}");
        count += 1;
    }
    assert_eq!(count, 4);
}

/// systemd takes off the quotes of an environment file; so what it reads is what the shell reads.
#[test]
fn the_shipped_broker_url_of_systemd_is_one_line_in_single_quotes() {
    let text = page("deploy/systemd/amqp-url");
    let settings: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let [setting] = settings[..] else { panic!("{settings:?}") };
    let url = setting.strip_prefix("AMQP_URL='").and_then(|rest| rest.strip_suffix('\'')).unwrap();
    assert!(!url.contains(['\'', '\\']) && url.contains('&'), "{url}");
}

#[test]
fn the_table_of_users_is_what_the_definitions_grant() {
    let definitions = definitions();
    let of = |list: &str, user: &str| {
        let all = definitions[list].as_array().unwrap();
        all.iter().find(|one| one["user"] == user).cloned().unwrap_or_default()
    };
    let rows = table(&page("docs/deploying.md"), "| user | configure | write | read |");
    let users = definitions["permissions"].as_array().unwrap();
    let word = |granted: &Value, what: &str| format!("`{}`", granted[what].as_str().unwrap());
    let granted: Vec<_> = users
        .iter()
        .map(|granted| {
            let user = granted["user"].as_str().unwrap();
            let topic = of("topic_permissions", user);
            let topic = topic["write"].as_str().map(|key| format!(", topic `{key}`"));
            let write = word(granted, "write") + &topic.unwrap_or_default();
            let user = user.trim_start_matches("tallyfy-");
            vec![format!("`{user}`"), word(granted, "configure"), write, word(granted, "read")]
        })
        .collect();
    assert_eq!(rows, granted);
}
