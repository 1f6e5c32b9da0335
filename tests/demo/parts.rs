//! The parts of the demo: the sandbox and the worker as processes of their own, and the other side of the broker.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command as Process, Stdio};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::commands::{Command, ORG, THROTTLED_ORG};
use crate::rabbitmq::http;

const TOKEN: &str = "demo-token";
const LADDER: &str = "1s,2s,4s";
/// The queues that must be empty at the end.
pub(crate) const QUEUES: [&str; 4] =
    ["task.delete", "task.delete.wait.1s", "task.delete.wait.2s", "task.delete.wait.4s"];

fn program(name: &str) -> Process {
    let own = std::env::current_exe().expect("the demo's own path");
    let directory = own.parent().and_then(|examples| examples.parent()).expect("target/debug");
    Process::new(directory.join(name))
}

/// The sandbox API.
pub(crate) struct Sandbox {
    process: Child,
    /// Where it listens.
    pub(crate) url: String,
}

impl Sandbox {
    pub(crate) fn start() -> Self {
        let mut process = program("tallyfy-sandbox")
            .args(["--listen", "127.0.0.1:0", "--token", TOKEN, "--org", ORG, "--org", THROTTLED_ORG])
            .arg("--exit-with-stdin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("target/debug/tallyfy-sandbox starts");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("its output")).read_line(&mut line).expect("its address");
        let url = line.trim().trim_start_matches("listening on ").to_owned();
        Self { process, url }
    }

    /// Makes the tasks that the commands name, and the faults.
    pub(crate) async fn prepare(&self, commands: &[Command]) {
        for command in commands {
            let Some((org, task, state)) = &command.task else { continue };
            self.post("tasks", json!({"org_id": org, "task_ids": [task], "state": state})).await;
            for fault in &command.faults {
                let mut fault = fault.clone();
                fault["match"] = json!({"task_id": task});
                self.post("faults", fault).await;
            }
        }
    }

    pub(crate) async fn get(&self, what: &str) -> Value {
        let answer =
            http().get(format!("{}/_sandbox/{what}", self.url)).send().await.expect("the sandbox answers");
        answer.json().await.expect("JSON")
    }

    async fn post(&self, what: &str, body: Value) {
        let request = http().post(format!("{}/_sandbox/{what}", self.url)).json(&body);
        request
            .send()
            .await
            .expect("the sandbox answers")
            .error_for_status()
            .expect("the sandbox understands");
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The worker.
pub(crate) struct Worker {
    process: Child,
    /// Its health and metrics.
    pub(crate) port: String,
    /// Where its log is.
    pub(crate) log: PathBuf,
}

impl Worker {
    pub(crate) fn start(amqp_url: &str, sandbox: &str) -> Self {
        let log = std::env::temp_dir().join(format!("tallyfy-delete-worker-demo-{}.log", std::process::id()));
        let free = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
        let process = program("tallyfy-delete-worker")
            .arg("run")
            .env("AMQP_URL", amqp_url)
            .env("TALLYFY_BASE_URL", format!("{sandbox}/api"))
            .env("TALLYFY_ORG_ID", format!("{ORG},{THROTTLED_ORG}"))
            .env("TALLYFY_ACCESS_TOKEN", TOKEN)
            .env("WAIT_LADDER", LADDER)
            .env("MAX_ATTEMPTS", "6")
            .env("HTTP_ADDR", free.to_string())
            .env("LOG_FORMAT", "json")
            .stdin(Stdio::null())
            .stderr(File::create(&log).expect("a log file"))
            .spawn()
            .expect("target/debug/tallyfy-delete-worker starts");
        Self { process, port: format!("http://{free}"), log }
    }

    pub(crate) async fn until_ready(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let answer = http().get(format!("{}/readyz", self.port)).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return;
            }
            let ended = self.process.try_wait().ok().flatten();
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "the worker is not ready; its log: {}",
                self.log.display()
            );
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Sends SIGTERM; returns what is wrong with how it ended.
    pub(crate) async fn stop(&mut self) -> Option<String> {
        let _ = Process::new("kill").args(["-TERM", &self.process.id().to_string()]).status();
        let deadline = Instant::now() + Duration::from_secs(30);
        while Instant::now() < deadline {
            if let Ok(Some(status)) = self.process.try_wait() {
                return (!status.success()).then(|| format!("after SIGTERM the worker ended with {status}"));
            }
            sleep(Duration::from_millis(50)).await;
        }
        Some("the worker did not end within 30 s of SIGTERM".to_owned())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Something that arrived: an outcome event or a dead letter.
pub(crate) enum Arrival {
    /// The event's JSON.
    Event(Value),
    /// The dead letter's message id and body.
    DeadLetter(String, Vec<u8>),
}

/// The producer and the readers.
pub(crate) struct Inbox {
    _connection: Connection,
    channel: Channel,
    arrivals: mpsc::UnboundedReceiver<Arrival>,
}

impl Inbox {
    pub(crate) async fn open(url: &str) -> Self {
        let connection =
            Connection::connect(url, ConnectionProperties::default()).await.expect("a connection");
        let channel = connection.create_channel().await.expect("a channel");
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        let table = FieldTable::default;
        let exclusive = QueueDeclareOptions { exclusive: true, ..Default::default() };
        channel.queue_declare("demo.events".into(), exclusive, table()).await.expect("a queue");
        let bind = QueueBindOptions::default();
        channel
            .queue_bind("demo.events".into(), "task.events".into(), "#".into(), bind, table())
            .await
            .expect("a binding");
        let (sender, arrivals) = mpsc::unbounded_channel();
        read(&channel, "demo.events", sender.clone(), |delivery| {
            Arrival::Event(serde_json::from_slice(&delivery.data).unwrap_or_default())
        })
        .await;
        read(&channel, "task.delete.dead", sender, |delivery| {
            let id = delivery.properties.message_id().as_ref().map(ToString::to_string);
            Arrival::DeadLetter(id.unwrap_or_default(), delivery.data)
        })
        .await;
        Self { _connection: connection, channel, arrivals }
    }

    /// Publishes them, every fourth straight to the queue, and waits for each confirm.
    pub(crate) async fn publish(&self, commands: &[Command]) {
        for (number, command) in commands.iter().enumerate() {
            let exchange = if number % 4 == 3 { "" } else { "task.commands" };
            let properties =
                BasicProperties::default().with_delivery_mode(2).with_message_id(command.id.as_str().into());
            let options = BasicPublishOptions { mandatory: true, ..Default::default() };
            let publish = self.channel.basic_publish(
                exchange.into(),
                "task.delete".into(),
                options,
                &command.body,
                properties,
            );
            let confirmation = publish.await.expect("published").await.expect("confirmed");
            assert_eq!(confirmation, Confirmation::Ack(None), "the broker took it");
        }
    }

    pub(crate) async fn next(&mut self) -> Arrival {
        self.arrivals.recv().await.expect("the broker stays")
    }

    /// Messages ready in a queue.
    pub(crate) async fn ready(&self, queue: &str) -> u32 {
        let options = QueueDeclareOptions { durable: true, passive: true, ..Default::default() };
        let declared = self.channel.queue_declare(queue.into(), options, FieldTable::default()).await;
        declared.expect("the queue is there").message_count()
    }
}

async fn read(
    channel: &Channel,
    queue: &str,
    arrivals: mpsc::UnboundedSender<Arrival>,
    arrival: impl Fn(Delivery) -> Arrival + Send + 'static,
) {
    let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let consumer = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await;
    let mut consumer = consumer.expect("a consumer");
    tokio::spawn(async move {
        while let Some(Ok(delivery)) = consumer.next().await {
            let _ = arrivals.send(arrival(delivery));
        }
    });
}
