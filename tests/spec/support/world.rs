//! A worker in its world: its own vhost, its own sandbox, short waits.

use std::time::Duration;

use lapin::BasicProperties;
use lapin::options::QueueBindOptions;
use lapin::types::FieldTable;
use secrecy::SecretString;
use serde_json::{Value, json};
use tallyfy_delete_worker::credentials::CredentialsSource;
use tallyfy_delete_worker::kind::Kind;
use tallyfy_delete_worker::messages::OrgId;
use tallyfy_delete_worker::messages::ledger::GuardLimit;
use tallyfy_delete_worker::policy::api_access::rate::RateLimits;
use tallyfy_delete_worker::policy::dry_run::CallMode;
use tallyfy_delete_worker::policy::producers::Producers;
use tallyfy_delete_worker::policy::retry_schedule::{RetryDelays, RetrySchedule};
use tallyfy_delete_worker::policy::undo::DeleteMode;
use tallyfy_delete_worker::rabbitmq::tls::TlsFiles;
use tallyfy_delete_worker::rabbitmq::topology::{self, Provision, Topology};
use tallyfy_delete_worker::rabbitmq::{BrokerSettings, Connection};
use tallyfy_delete_worker::service::{CoreSettings, Service, ServiceSettings};
use tallyfy_delete_worker::tallyfy_api::ApiSettings;
use tallyfy_delete_worker::telemetry::{self, LogFormat};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::eventually;
use super::rabbitmq::{Broker, broker, http};
use super::sandbox::{Sandbox, TOKEN};
use super::tester::{Message, Tester};

pub(crate) const ORG: &str = "acme";
pub(crate) const OTHER_ORG: &str = "beta";

pub(crate) struct World {
    pub(crate) sandbox: Sandbox,
    pub(crate) tester: Tester,
    pub(crate) vhost: String,
    broker: &'static Broker,
    pub(crate) settings: ServiceSettings,
    /// The one in the settings, as text.
    amqp_url: String,
    worker: Option<RunningWorker>,
}

pub(crate) struct RunningWorker {
    job: JoinHandle<()>,
    shutdown: CancellationToken,
    port: String,
}

async fn run(settings: ServiceSettings) -> RunningWorker {
    let service = Service::start(settings).await.unwrap();
    let port = format!("http://{}", service.http_address().unwrap());
    let shutdown = CancellationToken::new();
    let job = tokio::spawn(service.run(shutdown.clone()));
    RunningWorker { job, shutdown, port }
}

impl RunningWorker {
    /// Ends it as a signal would and waits for it.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.job.await.expect("the worker ends without a panic");
    }
}

impl World {
    /// With a worker that consumes.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// The same, with settings changed.
    pub(crate) async fn start_with(change: impl FnOnce(&mut ServiceSettings)) -> Self {
        let mut world = Self::without_worker(change).await;
        world.start_worker().await;
        world.is_ready().await;
        world
    }

    /// Everything but the worker; the topology is declared.
    pub(crate) async fn without_worker(change: impl FnOnce(&mut ServiceSettings)) -> Self {
        Self::at(broker(), change).await
    }

    /// The same at another broker.
    pub(crate) async fn at(
        broker: &'static Broker,
        change: impl FnOnce(&mut ServiceSettings),
    ) -> Self {
        // `RUST_LOG=debug cargo test --test spec NAME -- --nocapture` shows what the worker thinks.
        if let Ok(filter) = std::env::var("RUST_LOG") {
            let filter = telemetry::filter(&filter).unwrap();
            telemetry::start(LogFormat::Pretty, filter, CallMode::Destroy);
        }
        let vhost = broker.new_vhost().await;
        let sandbox = Sandbox::start(&[ORG, OTHER_ORG]);
        let mut settings = settings(&broker.amqp_url(&vhost), &sandbox.base_url());
        change(&mut settings);
        let topology =
            Topology { provision: Provision::Declare, ..settings.broker.topology.clone() };
        let amqp_url = broker.amqp_url(&vhost);
        let own = amqp_url.parse().unwrap();
        // On a loaded machine RabbitMQ may fail to start a queue ("cluster_not_formed"), and then it
        // closes the connection.
        eventually("the topology", async || {
            let connection = Connection::open(&own, &TlsFiles::default(), "spec").await.unwrap();
            let declared = topology::ensure(&connection, &topology).await;
            declared.inspect_err(|error| eprintln!("{error}")).ok()
        })
        .await;
        let tester = Tester::connect_for(&amqp_url, &topology.kinds).await;
        Self { sandbox, tester, vhost, broker, settings, amqp_url, worker: None }
    }

    pub(crate) async fn start_worker(&mut self) {
        self.worker = Some(run(self.settings.clone()).await);
    }

    /// Another one at the same queues; its owner ends it.
    pub(crate) async fn another_worker(&self) -> RunningWorker {
        run(self.settings.clone()).await
    }

    /// Ends the worker as a signal would and waits for it.
    pub(crate) async fn stop_worker(&mut self) {
        self.worker.take().expect("a worker runs").stop().await;
    }

    /// Tells the worker to end and goes on.
    pub(crate) fn begin_shutdown(&self) {
        self.worker.as_ref().unwrap().shutdown.cancel();
    }

    /// A task that is there, and a command to delete it. Returns the command's id.
    pub(crate) async fn delete(&self, task: &str) -> String {
        self.sandbox.tasks(ORG, &[task], "present").await;
        self.command(ORG, task).await
    }

    /// A task that is there, and a command to archive it. Returns the command's id.
    pub(crate) async fn archive(&self, task: &str) -> String {
        self.sandbox.tasks(ORG, &[task], "present").await;
        let body = json!({"org_id": ORG, "task_id": task}).to_string();
        let properties = BasicProperties::default().with_message_id(task.into());
        let to = ("task.commands", "task.archive");
        self.tester.publish_to(to.0, to.1, body.as_bytes(), properties).await;
        task.to_owned()
    }

    /// A command, whatever the task.
    pub(crate) async fn command(&self, org: &str, task: &str) -> String {
        self.publish(json!({"org_id": org, "task_id": task}).to_string().as_bytes(), task).await
    }

    /// A command of any kind. Returns its id, which is made of kind and object.
    pub(crate) async fn command_of(&self, kind: Kind, id: &str) -> String {
        let body = json!({"org_id": ORG, kind.spec().id_member: id}).to_string();
        let command_id = format!("{kind}/{id}");
        let properties = BasicProperties::default().with_message_id(command_id.as_str().into());
        let key = kind.queue();
        self.tester.publish_to("task.commands", key, body.as_bytes(), properties).await;
        command_id
    }

    /// Any body, with `id` as its message id.
    pub(crate) async fn publish(&self, body: &[u8], id: &str) -> String {
        self.tester.publish(body, BasicProperties::default().with_message_id(id.into())).await;
        id.to_owned()
    }

    /// The event of a command's end.
    pub(crate) async fn end_message(&self, command_id: &str) -> Message {
        let of_it = |message: &Message| {
            let is_end = message.routing_key != "task.delete_pending";
            is_end && message.json()["data"]["command_id"] == command_id
        };
        let what = format!("the end of {command_id}");
        eventually(&what, async || self.tester.events().into_iter().find(of_it)).await
    }

    /// What the event of a command's end says.
    pub(crate) async fn end(&self, command_id: &str) -> Value {
        self.end_message(command_id).await.json()["data"].clone()
    }

    pub(crate) async fn dead_letter(&self, message_id: &str) -> Message {
        let is_it = |message: &Message| {
            message.properties.message_id().as_ref().is_some_and(|id| id.as_str() == message_id)
        };
        let what = format!("the dead letter of {message_id}");
        eventually(&what, async || self.tester.dead_letters().into_iter().find(is_it)).await
    }

    /// Waits until there are this many dead letters.
    pub(crate) async fn dead_letters(&self, number: usize) -> Vec<Message> {
        eventually(&format!("{number} dead letters"), async || {
            Some(self.tester.dead_letters()).filter(|letters| letters.len() == number)
        })
        .await
    }

    /// Waits until this many calls for a task have arrived.
    pub(crate) async fn called(&self, task: &str, times: usize) -> Vec<Value> {
        let what = format!("{times} calls for {task}");
        eventually(&what, async || {
            let calls = self.sandbox.calls_for(task).await;
            (calls.len() >= times).then_some(calls)
        })
        .await
    }

    /// Status and text of a page of the operator's port.
    pub(crate) async fn page(&self, path: &str) -> (u16, String) {
        let url = format!("{}{path}", self.worker.as_ref().expect("a worker runs").port);
        let answer = http().get(url).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// The metrics and their content type, for a client that accepts this.
    pub(crate) async fn metrics_as(&self, accepted: &str) -> (String, String) {
        let url = format!("{}/metrics", self.worker.as_ref().expect("a worker runs").port);
        let answer = http().get(url).header("accept", accepted).send().await.unwrap();
        let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
        (kind, answer.text().await.unwrap())
    }

    /// The value of a metric, given as it stands before the value.
    pub(crate) async fn metric(&self, name: &str) -> Option<f64> {
        let (_, text) = self.page("/metrics").await;
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    }

    pub(crate) async fn is_ready(&self) {
        eventually("readiness", async || (self.page("/readyz").await.0 == 200).then_some(())).await;
    }

    /// Waits until the worker says that it is not ready, for a reason with these words.
    pub(crate) async fn is_not_ready_because(&self, words: &str) -> String {
        let what = format!("unreadiness because of {words:?}");
        eventually(&what, async || {
            let (status, reason) = self.page("/readyz").await;
            (status == 503 && reason.contains(words)).then_some(reason)
        })
        .await
    }

    /// The end of every test: nothing ready, nothing unsettled, nothing waiting, no call that
    /// nobody expected.
    pub(crate) async fn assert_drained(mut self) {
        let queues = self.work_and_wait_queues();
        eventually("empty queues", async || {
            // Before and after: a message may go from the one to the other meanwhile.
            let before: u32 = self.tester.ready(&queues).await.values().sum();
            let unsettled = self.metric("tallyfy_delete_worker_deliveries_unsettled").await;
            let after: u32 = self.tester.ready(&queues).await.values().sum();
            (before + after == 0 && unsettled == Some(0.0)).then_some(())
        })
        .await;
        self.stop_worker().await;
        assert_eq!(
            self.tester.ready(&queues).await.values().sum::<u32>(),
            0,
            "something came back"
        );
        assert_eq!(self.sandbox.unexpected().await, Vec::<Value>::new());
        self.broker.delete_vhost(&self.vhost).await;
    }

    pub(crate) fn work_and_wait_queues(&self) -> Vec<String> {
        let Topology { kinds, delays, .. } = &self.settings.broker.topology;
        let of_a_kind = |kind: &Kind| {
            delays.iter().map(|(delay, _)| kind.delay_queue(delay)).collect::<Vec<_>>()
        };
        let waits = kinds.iter().flat_map(of_a_kind);
        let own = |kind: &Kind| [kind.undeliverable_queue(), kind.queue().to_owned()];
        waits.chain(kinds.iter().flat_map(own)).collect()
    }
}

/// Short waits; everything else as by default, or small enough to be seen at work.
fn settings(amqp_url: &str, base_url: &str) -> ServiceSettings {
    let delays = RetryDelays::new([200, 500, 1000].map(Duration::from_millis).to_vec()).unwrap();
    let durations = delays.all().iter().map(|delay| (delay.name(), delay.ttl_ms())).collect();
    let orgs = [ORG, OTHER_ORG].map(|org| OrgId::try_from(org.to_owned()).unwrap()).to_vec();
    ServiceSettings {
        core: CoreSettings {
            producers: Producers::default(),
            delete_mode: DeleteMode::Delete,
            api: ApiSettings {
                base_url: base_url.parse().unwrap(),
                request_timeout: Duration::from_secs(10),
                proxy: None,
                ca_file: None,
            },
            credentials: CredentialsSource::Fixed { orgs, token: SecretString::from(TOKEN) },
            schedule: RetrySchedule { max_attempts: 20, max_age: Duration::from_hours(24), delays },
            concurrency: 8,
            mode: CallMode::Destroy,
            limits: RateLimits::default(),
            guard: Some(GuardLimit { max_deletes: 1_000_000, window_s: 3600 }),
            otlp: None,
        },
        broker: BrokerSettings {
            tls: TlsFiles::default(),
            url: amqp_url.parse().unwrap(),
            topology: Topology {
                audit_retention: Duration::from_hours(24 * 90),
                undo_window: None,
                provision: Provision::Declare,
                kinds: vec![Kind::TaskDelete],
                delays: durations,
            },
            prefetch: 16,
            trusted_users: Vec::new(),
        },
        http_addr: "127.0.0.1:0".parse().unwrap(),
        shutdown_grace: Duration::from_secs(10),
    }
}

impl World {
    /// For the next worker.
    pub(crate) fn correct_the_base_url(&mut self) {
        self.settings.core.api.base_url = self.sandbox.base_url().parse().unwrap();
    }

    /// Puts a proxy between the worker, which must not run yet, and the broker.
    pub(crate) fn behind_broker_proxy(mut self, proxy: &super::proxy::Proxy) -> Self {
        let mut url = url::Url::parse(&self.amqp_url).unwrap();
        url.set_port(Some(proxy.addr.port())).unwrap();
        self.connect_worker_with(url.as_str());
        self
    }

    /// Waits until some calls were answered with this class.
    pub(crate) async fn has_answers(&self, class: &str) {
        let name =
            format!("tallyfy_delete_worker_api_call_duration_seconds_count{{class=\"{class}\"}}");
        eventually(&name, async || self.metric(&name).await.filter(|count| *count > 0.0)).await;
    }
}

impl World {
    pub(crate) fn mistake_the_base_url(&mut self) {
        let wrong = format!("{}/v9", self.sandbox.base_url());
        self.settings.core.api.base_url = wrong.parse().unwrap();
    }

    /// For the next worker.
    pub(crate) fn connect_worker_with(&mut self, amqp_url: &str) {
        amqp_url.clone_into(&mut self.amqp_url);
        self.settings.broker.url = amqp_url.parse().unwrap();
    }

    /// After the broker was away: the old connection is gone.
    pub(crate) async fn reconnect_the_tester(&mut self) {
        let kinds = &self.settings.broker.topology.kinds;
        self.tester = Tester::connect_for(&self.broker.amqp_url(&self.vhost), kinds).await;
    }

    pub(crate) async fn declare_topology(&self) {
        let topology =
            Topology { provision: Provision::Declare, ..self.settings.broker.topology.clone() };
        let url = self.broker.amqp_url(&self.vhost).parse().unwrap();
        let connection = Connection::open(&url, &TlsFiles::default(), "spec").await.unwrap();
        topology::ensure(&connection, &topology).await.unwrap();
    }

    pub(crate) async fn unbind(&self, queue: &str, exchange: &str, key: &str) {
        let (queue, exchange, key) = (queue.into(), exchange.into(), key.into());
        self.tester
            .channel
            .queue_unbind(queue, exchange, key, FieldTable::default())
            .await
            .unwrap();
    }

    pub(crate) async fn bind(&self, queue: &str, exchange: &str, key: &str) {
        let (queue, exchange, key, options) =
            (queue.into(), exchange.into(), key.into(), QueueBindOptions::default());
        self.tester
            .channel
            .queue_bind(queue, exchange, key, options, FieldTable::default())
            .await
            .unwrap();
    }

    /// Waits for the end of this many commands, and returns all ends so far.
    pub(crate) async fn ended_after(&self, ends: usize) -> Vec<Value> {
        eventually(&format!("{ends} ends"), async || {
            let events = self.tester.events();
            (events.len() >= ends)
                .then(|| events.iter().map(|event| event.json()["data"].clone()).collect())
        })
        .await
    }

    /// Waits for the worker that was told to end.
    pub(crate) async fn after_shutdown(mut self) {
        self.stop_worker().await;
        self.broker.delete_vhost(&self.vhost).await;
    }
}
