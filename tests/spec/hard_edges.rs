//! What an operator or a stranger may do to the running binary, and what must not come of it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::command_line::{binary, signal, with_settings};
use crate::support::eventually;
use crate::support::process::{Running, output};
use crate::support::rabbitmq::broker;
use crate::support::sandbox::TOKEN;
use crate::support::world::{ORG, World};

pub(crate) fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// With so few descriptors that a port without a bound would use them all up.
fn with_few_descriptors(command: &Command, descriptors: u32) -> Command {
    let mut limited = Command::new("/bin/sh");
    limited.arg("-c").arg(format!("ulimit -n {descriptors}; exec \"$0\" \"$@\""));
    limited.arg(command.get_program()).args(command.get_args()).env_clear();
    for (name, value) in command.get_envs() {
        limited.env(name, value.unwrap_or_default());
    }
    limited.stdin(Stdio::null()).stderr(Stdio::null());
    limited
}

#[tokio::test]
async fn half_open_requests_on_the_operators_port_do_not_stop_deletion() {
    let world = World::without_worker(|_| {}).await;
    let address = free_address();
    let mut command = with_settings(&world, &["run"]);
    command.env("HTTP_ADDR", &address);
    let worker = Running::start(&mut with_few_descriptors(&command, 128));
    world.delete("before").await;
    world.end("before").await;
    let half_open: Vec<_> = (0..400)
        .map_while(|_| {
            let mut stream =
                TcpStream::connect_timeout(&address.parse().unwrap(), Duration::from_secs(1))
                    .ok()?;
            std::io::Write::write_all(&mut stream, b"GET /readyz HTTP/1.1\r\nHost: x\r\n").ok()?;
            Some(stream)
        })
        .collect();
    assert!(half_open.len() > 128, "{}", half_open.len());
    let livez = reqwest::get(format!("http://{address}/livez")).await.unwrap();
    assert!(livez.status().is_success(), "a probe of liveness is answered meanwhile");
    // A connection to the API and one of each kind of descriptor more: the pool is empty after a
    // while without calls.
    world.sandbox.fault("after", 1, json!({"garbage": true})).await;
    world.delete("after").await;
    assert_eq!(world.end("after").await["outcome"], "deleted");
    drop(half_open);
    let page = format!("http://{address}/readyz");
    eventually("the port answers again", async || {
        let answer = reqwest::get(&page).await.ok()?;
        answer.status().is_success().then_some(())
    })
    .await;
    drop(worker);
    broker().delete_vhost(&world.vhost).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_worker_takes_as_many_descriptors_as_it_may_have() {
    let world = World::without_worker(|_| {}).await;
    let worker = Running::start(
        Command::new("/bin/sh")
            .args(["-c", "ulimit -S -n 64; ulimit -H -n 900; exec \"$0\" run"])
            .arg(binary(&[]).get_program())
            .env("AMQP_URL", broker().amqp_url(&world.vhost))
            .env("TALLYFY_BASE_URL", world.sandbox.base_url())
            .env("TALLYFY_ORG_ID", ORG)
            .env("TALLYFY_ACCESS_TOKEN", TOKEN)
            .env("HTTP_ADDR", "127.0.0.1:0")
            .stderr(Stdio::null()),
    );
    world.delete("t1").await;
    world.end("t1").await;
    let limits = fs::read_to_string(format!("/proc/{}/limits", worker.id())).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(files.split_whitespace().collect::<Vec<_>>()[3..5], ["900", "900"], "{files}");
    broker().delete_vhost(&world.vhost).await;
}

#[tokio::test]
async fn more_calls_than_there_are_descriptors_for_are_refused_at_the_start() {
    let mut command = binary(&["run", "--concurrency=1000"]);
    command.env("TALLYFY_ORG_ID", ORG).env("TALLYFY_ACCESS_TOKEN", TOKEN);
    let mut limited = with_few_descriptors(&command, 1024);
    limited.stderr(Stdio::piped());
    let output = output(limited).await;
    assert_eq!(output.status.code(), Some(64));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("CONCURRENCY: 1000 calls at once need 1064 open files"), "{said}");
}

#[tokio::test]
async fn a_hangup_reads_the_credentials_again_and_ends_nothing() {
    let world = World::without_worker(|_| {}).await;
    let secret = tempfile::tempdir().unwrap();
    let token = secret.path().join("token");
    fs::write(&token, "wrong").unwrap();
    let mut command = with_settings(&world, &["run"]);
    command.env_remove("TALLYFY_ACCESS_TOKEN").env("TALLYFY_ACCESS_TOKEN_FILE", &token);
    let mut worker = Running::start(command.stderr(Stdio::null()));
    world.delete("t1").await;
    world.called("t1", 1).await;
    fs::write(&token, TOKEN).unwrap();
    signal(&worker, "HUP");
    assert_eq!(world.end("t1").await["outcome"], "deleted");
    assert!(worker.try_wait().unwrap().is_none(), "it goes on");
    signal(&worker, "TERM");
    let status = worker.output().await.status;
    assert_eq!(status.code(), Some(0));
    broker().delete_vhost(&world.vhost).await;
}

#[tokio::test]
async fn an_organisation_of_the_list_without_a_token_file_is_named_at_the_start() {
    let tokens = tempfile::tempdir().unwrap();
    fs::write(tokens.path().join(ORG), TOKEN).unwrap();
    let mut command = binary(&["run"]);
    command.env("TALLYFY_ORG_ID", format!("{ORG},beta")).env("HTTP_ADDR", "127.0.0.1:0");
    command.env("TALLYFY_CREDENTIALS_DIR", tokens.path()).env("AMQP_URL", "amqp://127.0.0.1:1");
    let mut worker = Running::start(&mut command);
    let log = BufReader::new(worker.stderr.take().unwrap());
    let told = tokio::task::spawn_blocking(move || {
        log.lines().map_while(Result::ok).find(|line| line.contains("organisation has no token"))
    });
    let told = told.await.unwrap().expect("a line of the log");
    assert!(told.contains("beta is not there") && !told.contains(ORG), "{told}");
}

#[tokio::test]
async fn a_directory_without_a_token_for_any_organisation_names_them() {
    let tokens = tempfile::tempdir().unwrap();
    let mut command = binary(&["run"]);
    command.env("TALLYFY_ORG_ID", format!("{ORG},beta"));
    command.env("TALLYFY_CREDENTIALS_DIR", tokens.path()).env("AMQP_URL", "amqp://127.0.0.1:1");
    let output = output(command).await;
    assert_eq!(output.status.code(), Some(64));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("may be touched: acme, beta"), "{said}");
}

#[tokio::test]
async fn a_token_that_is_not_there_is_a_wrong_setting_and_exits_64() {
    let nowhere = tempfile::tempdir().unwrap();
    let missing = nowhere.path().join("token");
    let lists = [&["delete", "--org", ORG, "t1"][..], &["undo", "--org", ORG, "t1"]];
    for command in [&["run"][..]].into_iter().chain(lists) {
        let mut command = binary(command);
        command.env("TALLYFY_ORG_ID", ORG).env("TALLYFY_ACCESS_TOKEN_FILE", &missing);
        let output = output(command).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{said}");
        assert!(said.contains("TALLYFY_ACCESS_TOKEN_FILE"), "{said}");
        assert!(said.contains(missing.to_str().unwrap()), "{said}");
    }
}
