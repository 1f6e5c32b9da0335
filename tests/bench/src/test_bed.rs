//! The environment that all contestants run in: a vhost with the topology and a queue for all
//! events, and a stub of the API in a process of its own.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lapin::options::{
    BasicCancelOptions, BasicConsumeOptions, BasicPublishOptions, QueueBindOptions,
    QueueDeclareOptions, QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use serde_json::{Value, json};
use tallyfy_delete_worker::kind::Kind;
use tallyfy_delete_worker::rabbitmq::Connection as BrokerConnection;
use tallyfy_delete_worker::rabbitmq::tls::TlsFiles;
use tallyfy_delete_worker::rabbitmq::topology::{self, Provision, Topology};
use tokio::time::{sleep, timeout};

use crate::process::own;
use testkit::rabbitmq::{broker, http};

pub(crate) const EVENTS: &str = "bench.events";
pub(crate) const COMMANDS: &str = "task.delete";
const SETTLING: Duration = Duration::from_secs(30);
const BETWEEN_LOOKS: Duration = Duration::from_millis(250);
const LOOKS: usize = 24;

pub(crate) struct TestBed {
    pub(crate) url: String,
    /// Where the stub answers in plain HTTP.
    pub(crate) stub: String,
    /// Where it answers over TLS, and the file with the authority of its certificate.
    pub(crate) tls: Option<(String, String)>,
    vhost: String,
    stub_process: Child,
    channel: Channel,
    _connection: Connection,
}

/// The format of a command.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum OutputFormat {
    /// As documented, padded to this many bytes with a member that no worker reads.
    Contract { bytes: usize },
    /// As Celery expects it: <https://docs.celeryq.dev/en/stable/internals/protocol.html>, version
    /// 2.
    Celery,
}

impl TestBed {
    pub(crate) async fn new(latency_ms: u64) -> Self {
        Self::answering(204, latency_ms).await
    }

    pub(crate) async fn answering(status: u16, latency_ms: u64) -> Self {
        Self::with_stub(&[&latency_ms.to_string(), &status.to_string()]).await
    }

    /// The API is called over TLS.
    pub(crate) async fn over_tls(latency_ms: u64) -> Self {
        Self::with_stub(&[&latency_ms.to_string(), "204", "--tls"]).await
    }

    async fn with_stub(args: &[&str]) -> Self {
        let vhost = broker().new_vhost().await;
        let mut stub_process =
            own(&[&["stub"], args].concat()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(stub_process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mut words = line.split_whitespace().map(str::to_owned);
        let stub = words.next().unwrap();
        let tls = words.next().zip(words.next());
        let url = broker().amqp_url(&vhost);
        let declaring =
            BrokerConnection::open(&url.parse().unwrap(), &TlsFiles::default(), "bench")
                .await
                .unwrap();
        let topology = Topology {
            audit_retention: Duration::from_hours(24 * 90),
            undo_window: None,
            provision: Provision::Declare,
            kinds: vec![Kind::TaskDelete],
            delays: delays(),
        };
        topology::ensure(&declaring, &topology).await.unwrap();
        let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let mut quorum = FieldTable::default();
        quorum.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        channel.queue_declare(EVENTS.into(), options, quorum).await.unwrap();
        let options = QueueBindOptions::default();
        let binding = channel.queue_bind(
            EVENTS.into(),
            "task.events".into(),
            "#".into(),
            options,
            FieldTable::default(),
        );
        binding.await.unwrap();
        Self { url, stub, tls, vhost, stub_process, channel, _connection: connection }
    }

    /// Publishes one command for each number, and waits until the queue has them.
    pub(crate) async fn fill(&self, org: &str, numbers: Range<usize>, form: OutputFormat) {
        let before = self.depth(COMMANDS).await;
        let expected = before + numbers.len();
        for number in numbers {
            self.publish(org, number, form).await;
        }
        self.becomes(COMMANDS, expected).await;
    }

    /// Publishes one command.
    pub(crate) async fn publish(&self, org: &str, number: usize, form: OutputFormat) {
        let (task, id) = (format!("t{number}"), uuid::Uuid::new_v4().to_string());
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_content_type("application/json".into())
            .with_message_id(id.as_str().into());
        let (body, properties) = match form {
            OutputFormat::Contract { bytes } => {
                let mut body = json!({"org_id": org, "task_id": task, "requested_by": "bench", "reason": "erasure request 4711"});
                if bytes > 0 {
                    body["note"] = "".into();
                    body["note"] = "x".repeat(bytes - body.to_string().len()).into();
                }
                (body, properties)
            }
            OutputFormat::Celery => {
                let mut headers = FieldTable::default();
                for (name, value) in
                    [("lang", "py"), ("task", "tasks.delete"), ("id", &id), ("root_id", &id)]
                {
                    headers.insert(name.into(), AMQPValue::LongString(value.into()));
                }
                let body = json!([[org, task], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]);
                let properties =
                    properties.with_headers(headers).with_correlation_id(id.as_str().into());
                (body, properties.with_content_encoding("utf-8".into()))
            }
        };
        let (exchange, options) = ("task.commands".into(), BasicPublishOptions::default());
        let body = body.to_string();
        let sent = self.channel.basic_publish(
            exchange,
            COMMANDS.into(),
            options,
            body.as_bytes(),
            properties,
        );
        drop(sent.await.unwrap());
    }

    /// Ready messages. The count of a quorum queue lags behind what it has accepted.
    pub(crate) async fn depth(&self, queue: &str) -> usize {
        self.declared(queue).await.0
    }

    /// The number of consumers.
    pub(crate) async fn consumers(&self, queue: &str) -> usize {
        self.declared(queue).await.1
    }

    async fn declared(&self, queue: &str) -> (usize, usize) {
        let options = QueueDeclareOptions { durable: true, passive: true, ..Default::default() };
        let declared =
            self.channel.queue_declare(queue.into(), options, FieldTable::default()).await.unwrap();
        (declared.message_count() as usize, declared.consumer_count() as usize)
    }

    /// Waits for this many messages, with a deadline.
    pub(crate) async fn becomes(&self, queue: &str, expected: usize) {
        let began = Instant::now();
        loop {
            let depth = self.depth(queue).await;
            if depth == expected {
                return;
            }
            assert!(
                began.elapsed() < SETTLING,
                "{depth} messages in {queue} instead of {expected}"
            );
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Takes all events out and checks them against the promise: as many as there were commands,
    /// each of a deletion, each once; and no dead letter.
    pub(crate) async fn each_has_one_end(&self, commands: usize) {
        self.becomes(EVENTS, commands).await;
        let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
        let events =
            self.channel.basic_consume(EVENTS.into(), "".into(), options, FieldTable::default());
        let mut events = events.await.unwrap();
        let mut ids = HashSet::new();
        for _ in 0..commands {
            let event = timeout(SETTLING, events.next()).await.unwrap().unwrap().unwrap();
            assert_eq!(event.routing_key.as_str(), "task.deleted");
            ids.insert(event.properties.message_id().clone());
        }
        assert_eq!(ids.len(), commands, "events with an id of their own");
        self.channel.basic_cancel(events.tag(), BasicCancelOptions::default()).await.unwrap();
        for queue in [COMMANDS, "task.delete.dead"] {
            self.becomes(queue, 0).await;
        }
    }

    /// Checks the promise after a worker was stopped in the middle: each command was called for
    /// once and has one end, or is still in its queue. Empties both.
    pub(crate) async fn each_is_done_or_waits(&self, commands: usize) {
        let calls = self.calls().await;
        assert_eq!(calls["calls"], calls["paths"], "calls, and paths");
        let done = usize::try_from(calls["calls"].as_u64().unwrap()).unwrap();
        self.becomes(COMMANDS, commands - done).await;
        self.purge(COMMANDS).await;
        self.each_has_one_end(done).await;
    }

    /// Checks the promise after no call has succeeded: no command has an end, and all of them are
    /// in the queues. Waits for longer than the first delay, because a message that moves from one
    /// queue to another is in neither for a moment.
    pub(crate) async fn each_waits(&self, commands: usize) {
        let (began, mut all_there) = (Instant::now(), 0);
        while all_there < LOOKS {
            let waiting = self.waiting().await;
            all_there = if waiting == commands { all_there + 1 } else { 0 };
            assert!(began.elapsed() < SETTLING, "{waiting} of {commands} commands wait");
            sleep(BETWEEN_LOOKS).await;
        }
        assert_eq!(self.depth(EVENTS).await, 0, "events");
    }

    async fn waiting(&self) -> usize {
        let mut all = self.depth(COMMANDS).await;
        for queue in delays().iter().map(|(delay, _)| Kind::TaskDelete.delay_queue(delay)) {
            all += self.depth(&queue).await;
        }
        all
    }

    /// Empties a queue.
    pub(crate) async fn purge(&self, queue: &str) {
        self.channel.queue_purge(queue.into(), QueuePurgeOptions::default()).await.unwrap();
    }

    /// The calls that the stub has received since this was last asked.
    pub(crate) async fn calls(&self) -> Value {
        let summary = http().get(&self.stub).send().await.unwrap().text().await.unwrap();
        serde_json::from_str(&summary).unwrap()
    }

    pub(crate) async fn end(mut self) {
        self.stub_process.kill().unwrap();
        self.stub_process.wait().unwrap();
        if let Some((_, authority)) = &self.tls {
            std::fs::remove_file(authority).unwrap();
        }
        broker().delete_vhost(&self.vhost).await;
    }
}

fn delays() -> Vec<(String, u32)> {
    [("5s", 5000), ("30s", 30_000), ("2m", 120_000), ("10m", 600_000), ("1h", 3_600_000)]
        .map(|(name, ms)| (name.to_owned(), ms))
        .to_vec()
}
