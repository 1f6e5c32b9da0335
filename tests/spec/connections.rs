//! TLS to the broker, and a proxy on the way to the API: the real binary.

use std::process::{Command, Stdio};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::json;
use tallyfy_delete_worker::rabbitmq::tls::{ClientFiles, TlsFiles};

use crate::command_line::{signal, with_settings};
use crate::support::eventually;
use crate::support::process::{Running, output};
use crate::support::rabbitmq::{broker, http, own_broker};
use crate::support::world::{ORG, World};

struct Files(tempfile::TempDir);

impl Files {
    /// The additional CA, the client's certificate and its key.
    fn write() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (_, certificates) = broker().tls();
        for (name, text) in [
            ("ca.pem", &certificates.ca),
            ("client.pem", &certificates.client),
            ("client.key", &certificates.client_key),
        ] {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        Self(directory)
    }

    fn at(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }
}

fn run_over_tls(world: &World, files: &Files) -> Command {
    over_tls(world, files, &["run"])
}

fn over_tls(world: &World, files: &Files, args: &[&str]) -> Command {
    let plain = broker().amqp_url(&world.vhost);
    let (_, rest) = plain.split_once('@').unwrap();
    let (_, vhost) = rest.split_once('/').unwrap();
    let mut command = with_settings(world, args);
    command.env("AMQP_URL", format!("amqps://guest:guest@127.0.0.1:{}/{vhost}", broker().tls().0));
    command.env("AMQP_CA_FILE", files.at("ca.pem"));
    command
}

fn end(mut worker: Running) {
    signal(&worker, "TERM");
    assert_eq!(worker.wait().unwrap().code(), Some(0));
}

#[tokio::test]
async fn a_broker_with_its_own_ca_that_asks_for_a_certificate_gets_one() {
    let (world, files) = (World::without_worker(|_| {}).await, Files::write());
    let mut command = run_over_tls(&world, &files);
    command.env("AMQP_CLIENT_CERT_FILE", files.at("client.pem"));
    command.env("AMQP_CLIENT_KEY_FILE", files.at("client.key"));
    let worker = Running::start(command.stderr(Stdio::null()));
    world.delete("t1").await;
    assert_eq!(world.end("t1").await["outcome"], "deleted");
    end(worker);
    broker().delete_vhost(&world.vhost).await;
}

#[tokio::test]
async fn without_the_additional_ca_or_the_certificate_the_log_says_that_tls_failed() {
    let (world, files) = (World::without_worker(|_| {}).await, Files::write());
    for without in ["AMQP_CA_FILE", "AMQP_CLIENT_CERT_FILE"] {
        let mut command = run_over_tls(&world, &files);
        if without == "AMQP_CA_FILE" {
            command.env_remove(without);
        }
        let mut worker = Running::start(command.stderr(Stdio::piped()));
        let log = std::io::BufReader::new(worker.stderr.take().unwrap());
        let told = tokio::task::spawn_blocking(move || {
            std::io::BufRead::lines(log)
                .map_while(Result::ok)
                .find(|line| line.contains("cannot connect"))
        });
        let told = told.await.unwrap().expect("the worker says so").to_lowercase();
        assert!(told.contains("certificate") || told.contains("alert"), "{told}");
    }
    broker().delete_vhost(&world.vhost).await;
}

/// The URL names no user, and RabbitMQ knows the worker by its certificate.
#[tokio::test]
async fn a_worker_believes_its_own_copies_from_the_first_delivery_on() {
    const USER: &str = "CN=client";
    let (broker, files) = (own_broker(), Files::write());
    broker.enable_plugin("rabbitmq_auth_mechanism_ssl");
    let mechanisms = "application:set_env(rabbit, auth_mechanisms, ['PLAIN', 'EXTERNAL']).";
    broker.ctl(&["eval", mechanisms]);
    let mut world = World::without_worker(|_| {}).await;
    broker.put_user(USER, "of-no-use").await;
    broker.set_permissions(&world.vhost, USER, ".*", ".*", ".*").await;
    let client = ClientFiles {
        certificate: files.at("client.pem").into(),
        key: files.at("client.key").into(),
    };
    world.settings.broker.tls =
        TlsFiles { ca: Some(files.at("ca.pem").into()), client: Some(client) };
    let (port, vhost) = (broker.tls().0, world.vhost.clone());
    world.settings.broker.url =
        format!("amqps://127.0.0.1:{port}/{vhost}?auth_mechanism=external").parse().unwrap();
    world.sandbox.tasks(ORG, &["t1"], "present").await;
    world.sandbox.fault_for_all(json!({"status": 503})).await;
    world.start_worker().await;
    world.delete("t1").await;
    let copies =
        "tallyfy_delete_worker_commands_total{kind=\"task.delete\",verdict=\"retry_later\"}";
    eventually("a copy", async || world.metric(copies).await.filter(|copies| *copies > 0.0)).await;
    world.stop_worker().await;
    world.sandbox.heal().await;
    world.start_worker().await;
    let end = world.end("t1").await;
    let calls = world.sandbox.calls_for("t1").await.len();
    assert_eq!((&end["outcome"], &end["attempts"]), (&json!("deleted"), &json!(calls)), "{end}");
    assert_eq!(end.get("published_by"), None);
    world.assert_drained().await;
}

#[tokio::test]
async fn check_tells_tls_that_works_from_tls_that_does_not() {
    let (world, files) = (World::without_worker(|_| {}).await, Files::write());
    let mut whole = over_tls(&world, &files, &["check"]);
    whole.env("AMQP_CLIENT_CERT_FILE", files.at("client.pem"));
    whole.env("AMQP_CLIENT_KEY_FILE", files.at("client.key"));
    let mut without_ca = over_tls(&world, &files, &["check"]);
    without_ca.env_remove("AMQP_CA_FILE");
    let without_certificate = over_tls(&world, &files, &["check"]);
    for (command, code, line) in [
        (whole, 0, "ok       TLS: "),
        (without_ca, 1, "AMQP_CA_FILE"),
        (without_certificate, 1, "AMQP_CLIENT_"),
    ] {
        let output = output(command).await;
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(line), "{said}");
    }
    broker().delete_vhost(&world.vhost).await;
}

#[tokio::test]
async fn a_wrong_file_is_named_and_nothing_starts() {
    let (world, files) = (World::without_worker(|_| {}).await, Files::write());
    for (name, file, expected) in [
        ("AMQP_CA_FILE", "/nowhere", "cannot read /nowhere"),
        ("AMQP_CA_FILE", &files.at("client.key"), "holds no certificate"),
        ("AMQP_CLIENT_CERT_FILE", &files.at("client.pem"), "AMQP_CLIENT_KEY_FILE: is needed"),
        ("TALLYFY_CA_FILE", "/nowhere", "TALLYFY_CA_FILE: cannot read /nowhere"),
        ("TALLYFY_PROXY", "proxy:3128", "TALLYFY_PROXY: takes"),
        ("AMQP_URL", &broker().amqp_url(&world.vhost), "must begin with amqps://"),
    ] {
        let mut command = run_over_tls(&world, &files);
        command.env(name, file);
        let output = output(command).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64));
        assert!(said.contains(expected), "{name}: {said}");
    }
    broker().delete_vhost(&world.vhost).await;
}

/// Passes requests on to where their absolute URL says, and tells of each.
async fn pass_on(
    State(seen): State<tokio::sync::mpsc::UnboundedSender<String>>,
    request: Request,
) -> Response {
    let (head, _) = request.into_parts();
    seen.send(head.uri.to_string()).unwrap();
    let answer = http()
        .request(head.method, head.uri.to_string())
        .headers(head.headers)
        .send()
        .await
        .unwrap();
    Response::builder().status(answer.status()).body(Body::empty()).unwrap()
}

#[tokio::test]
async fn calls_go_through_the_proxy_that_is_set_and_through_none_of_the_environments() {
    let (seen, mut urls) = tokio::sync::mpsc::unbounded_channel();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async {
        axum::serve(listener, Router::new().fallback(pass_on).with_state(seen)).await
    });
    let world = World::without_worker(|_| {}).await;
    for (name, task) in [("HTTP_PROXY", "t1"), ("TALLYFY_PROXY", "t2")] {
        let mut command = with_settings(&world, &["run"]);
        let worker = Running::start(command.env(name, &proxy).stderr(Stdio::null()));
        world.delete(task).await;
        assert_eq!(world.end(task).await["outcome"], "deleted");
        end(worker);
    }
    let expected = format!("{}/organizations/acme/tasks/t2/delete", world.sandbox.base_url());
    assert_eq!((urls.recv().await, urls.try_recv().is_err()), (Some(expected), true));
    broker().delete_vhost(&world.vhost).await;
}
