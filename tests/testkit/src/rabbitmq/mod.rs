//! A real RabbitMQ for the tests: one per test process, shared by all its tests, each on its own
//! vhost.
//!
//! `tests/setup --choose` says which: the one that `TEST_AMQP_URL` names, one in Docker, or a
//! private node of this machine's own rabbitmq-server. A broker that we started ends with this
//! process, however it ends (see `guardian`). Each test has a runtime of its own, so only plain
//! data is shared here.

use std::{
    process::{Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};
use url::Url;

mod container;
mod faults;
pub mod guardian;
mod private_node;
mod tls;

use faults::Control;
pub use tls::Certificates;

/// How long a broker may take from its start to its first answer.
const STARTUP: Duration = Duration::from_mins(2);

/// How often the management plugin learns of new connections; its default is five seconds.
const QUICK_STATISTICS: &str = "collect_statistics_interval = 500
management.sample_retention_policies.global.minute = 1
management.sample_retention_policies.basic.minute = 1
management.sample_retention_policies.detailed.minute = 1
";

/// How long a delay queue waits for the confirm of the queue behind it before it sends a message
/// again: three minutes by default, after a kill, too (`docs/deploying.md`).
const QUICK_DEAD_LETTERING: &str = "-rabbit dead_letter_worker_publisher_confirm_timeout 10000";

/// The address of a running broker, and the login of its administrator.
pub struct Broker {
    description: String,
    amqp: Url,
    management: String,
    control: Control,
    tls: Option<(u16, Certificates)>,
}

/// The broker of this process. The first call starts it and blocks until it answers.
///
/// # Panics
/// With one line that says what to do, in every test, if there is no broker.
pub fn broker() -> &'static Broker {
    static BROKER: OnceLock<Result<Broker, String>> = OnceLock::new();
    started_once(&BROKER)
}

/// The broker of this process, for a test that changes its own virtual host in a way that only an
/// administrator may.
///
/// # Panics
/// As [`broker`] does, and if `TEST_AMQP_URL` names one that is not ours.
pub fn own_broker() -> &'static Broker {
    let broker = broker();
    broker.assert_ours();
    broker
}

/// Another broker of this process, into which one test at a time may inject faults (see `faults`).
///
/// # Panics
/// As [`broker`] does, and if `TEST_AMQP_URL` names one that is not ours.
pub async fn broker_to_harm() -> (MutexGuard<'static, ()>, &'static Broker) {
    static BROKER: OnceLock<Result<Broker, String>> = OnceLock::new();
    static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
    let turn = ONE_AT_A_TIME.lock().await;
    let broker = started_once(&BROKER);
    broker.assert_ours();
    (turn, broker)
}

impl Broker {
    fn assert_ours(&self) {
        let is_ours = !matches!(self.control, Control::NotOurs);
        assert!(is_ours, "TEST_AMQP_URL names a broker that is not ours to harm: unset it");
    }
}

fn started_once(cell: &'static OnceLock<Result<Broker, String>>) -> &'static Broker {
    // On a thread of its own: a caller inside a runtime may not start another one.
    let broker = cell.get_or_init(|| {
        std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| error.to_string())?;
            runtime.block_on(start())
        })
        .join()
        .unwrap_or_else(|_| Err("starting RabbitMQ for the tests panicked".into()))
    });
    match broker {
        Ok(broker) => broker,
        Err(reason) => panic!("{reason}"),
    }
}

async fn start() -> Result<Broker, String> {
    let choice = choice()?;
    let mut broker = match choice.split(' ').collect::<Vec<_>>()[..] {
        ["url"] => named_by_the_environment()?,
        ["docker", endpoint, image] => container::start(endpoint, image).await?,
        ["node", server] => private_node::start(server).await?,
        _ => return Err(format!("tests/setup --choose answered {choice:?}")),
    };
    let version = broker.version().await?;
    broker.description = format!("RabbitMQ {version} {}", broker.description);
    eprintln!("tests use {} at {}", broker.description, broker.amqp.host_str().unwrap_or_default());
    Ok(broker)
}

fn choice() -> Result<String, String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../setup");
    let output = Command::new(script)
        .arg("--choose")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{script}: {error}"))?;
    let said = if output.status.success() { output.stdout } else { output.stderr };
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    if output.status.success() { Ok(said) } else { Err(said) }
}

fn named_by_the_environment() -> Result<Broker, String> {
    let named = std::env::var("TEST_AMQP_URL").unwrap_or_default();
    let amqp = Url::parse(&named).map_err(|error| format!("TEST_AMQP_URL: {error}"))?;
    let host = amqp.host_str().ok_or("TEST_AMQP_URL: it names no host")?;
    let management =
        std::env::var("TEST_MANAGEMENT_URL").unwrap_or_else(|_| format!("http://{host}:15672"));
    Ok(Broker {
        description: "named by TEST_AMQP_URL".into(),
        amqp,
        management: management.trim_end_matches('/').to_owned(),
        control: Control::NotOurs,
        tls: None,
    })
}

impl Broker {
    /// Its version, and how it runs, for people.
    pub fn describe(&self) -> &str {
        &self.description
    }

    /// The URL that a client connects to as the broker's administrator.
    pub fn amqp_url(&self, vhost: &str) -> String {
        let mut url = self.amqp.clone();
        url.set_path(&encoded(vhost));
        url.into()
    }

    /// The same for another user (see [`Broker::put_user`]).
    pub fn amqp_url_as(&self, user: &str, password: &str, vhost: &str) -> String {
        let mut url = self.amqp.clone();
        url.set_path(&encoded(vhost));
        let set = url.set_username(user).and_then(|()| url.set_password(Some(password)));
        set.expect("an AMQP URL has room for a user");
        url.into()
    }

    /// Root of the management HTTP API, without a slash at the end.
    pub fn management_url(&self) -> &str {
        &self.management
    }

    /// The port that requires a client certificate, with the certificates to present and to trust.
    ///
    /// # Panics
    /// If `TEST_AMQP_URL` names a broker that is not ours.
    pub fn tls(&self) -> &(u16, Certificates) {
        self.tls.as_ref().expect("TEST_AMQP_URL names a broker without our certificates: unset it")
    }

    /// The host and port for AMQP.
    pub fn host_port(&self) -> (String, u16) {
        (self.amqp.host_str().unwrap_or("127.0.0.1").to_owned(), self.amqp.port().unwrap_or(5672))
    }

    /// Creates a vhost that no other test uses, on which the administrator may do everything.
    pub async fn new_vhost(&self) -> String {
        let vhost = format!("test-{}", uuid::Uuid::new_v4().simple());
        self.must(Method::PUT, &format!("vhosts/{vhost}"), json!({})).await;
        self.set_permissions(&vhost, self.user(), ".*", ".*", ".*").await;
        vhost
    }

    /// Removes a vhost and everything on it; its connections are closed.
    pub async fn delete_vhost(&self, vhost: &str) {
        self.must(Method::DELETE, &format!("vhosts/{}", encoded(vhost)), Value::Null).await;
    }

    /// Creates a user without any permission, or changes its password.
    pub async fn put_user(&self, name: &str, password: &str) {
        let user = json!({"password": password, "tags": ""});
        self.must(Method::PUT, &format!("users/{}", encoded(name)), user).await;
    }

    /// Imports definitions: users, vhosts, topology.
    pub async fn import(&self, definitions: &Value) {
        self.must(Method::POST, "definitions", definitions.clone()).await;
    }

    /// The topology of a vhost.
    pub async fn definitions_of(&self, vhost: &str) -> Value {
        json_of(
            self.must(Method::GET, &format!("definitions/{}", encoded(vhost)), Value::Null).await,
        )
        .await
    }

    /// Sets what a user may do on a vhost, as three regular expressions over names.
    pub async fn set_permissions(
        &self,
        vhost: &str,
        user: &str,
        configure: &str,
        write: &str,
        read: &str,
    ) {
        let path = format!("permissions/{}/{}", encoded(vhost), encoded(user));
        let permissions = json!({"configure": configure, "write": write, "read": read});
        self.must(Method::PUT, &path, permissions).await;
    }

    /// Sets a policy for the queues of a vhost.
    pub async fn put_policy(&self, vhost: &str, pattern: &str, definition: Value) {
        let policy = json!({"pattern": pattern, "definition": definition, "apply-to": "queues"});
        self.must(Method::PUT, &format!("policies/{}/test", encoded(vhost)), policy).await;
    }

    /// The connections to the vhost, as the management API shows them; a new one after a moment.
    pub async fn connections(&self, vhost: &str) -> Vec<Value> {
        let path = format!("vhosts/{}/connections", encoded(vhost));
        json_of(self.must(Method::GET, &path, Value::Null).await).await
    }

    /// Makes the broker close every connection to the vhost. The management API lists a new
    /// connection only after a moment, so this waits until there is one.
    ///
    /// # Panics
    /// If nothing is connected within ten seconds.
    pub async fn close_connections(&self, vhost: &str) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let listed = self.connections(vhost).await;
            let names: Vec<_> = listed.iter().filter_map(|one| one["name"].as_str()).collect();
            for name in &names {
                let path = format!("connections/{}", encoded(name));
                let answer = self.ask(Method::DELETE, &path, Value::Null).await;
                drop(answer); // It may have ended by itself meanwhile.
            }
            if !names.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "nothing is connected to vhost {vhost}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Publishes through the management API, which has no limit of the frame size. `headers` is
    /// JSON as text: it may be nested more deeply than a library would write it.
    pub async fn publish_with_headers(
        &self,
        vhost: &str,
        queue: &str,
        body: &str,
        message_id: &str,
        headers: &str,
    ) {
        let message = json!({"routing_key": queue, "payload": body, "payload_encoding": "string",
            "properties": {"message_id": message_id, "delivery_mode": 2, "headers": "HEADERS"}});
        let request = http()
            .post(format!(
                "{}/api/exchanges/{}/amq.default/publish",
                self.management,
                encoded(vhost)
            ))
            .basic_auth(self.user(), Some(self.amqp.password().unwrap_or("guest")))
            .header("content-type", "application/json")
            .body(message.to_string().replace("\"HEADERS\"", headers));
        let routed: Value = json_of(request.send().await.expect("RabbitMQ's management API")).await;
        assert_eq!(routed, json!({"routed": true}));
    }

    /// The user of all URLs that name no other.
    pub fn user(&self) -> &str {
        if self.amqp.username().is_empty() { "guest" } else { self.amqp.username() }
    }

    /// Waits until the management API answers: it may start later than AMQP.
    async fn version(&self) -> Result<String, String> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let refused = match self.ask(Method::GET, "overview", Value::Null).await {
                Ok(answer) if answer.status() == StatusCode::OK => {
                    let overview: Value = json_of(answer).await;
                    return Ok(overview["rabbitmq_version"].as_str().unwrap_or("?").to_owned());
                }
                Ok(answer) => answer.status().to_string(),
                Err(error) => error.to_string(),
            };
            if Instant::now() > deadline {
                let root = &self.management;
                return Err(format!(
                    "RabbitMQ's management API at {root} does not answer: {refused}"
                ));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn must(&self, method: Method, path: &str, body: Value) -> Response {
        let answer = self.ask(method, path, body).await;
        let answer = answer.and_then(Response::error_for_status);
        answer.unwrap_or_else(|error| panic!("RabbitMQ's management API: {error}"))
    }

    async fn ask(&self, method: Method, path: &str, body: Value) -> reqwest::Result<Response> {
        let request = http()
            .request(method, format!("{}/api/{path}", self.management))
            .basic_auth(self.user(), Some(self.amqp.password().unwrap_or("guest")));
        if body.is_null() { request.send().await } else { request.json(&body).send().await }
    }
}

/// One client for all runtimes. It keeps no connections open, because a connection dies with the
/// runtime that opened it.
pub fn http() -> &'static Client {
    static HTTP: OnceLock<Client> = OnceLock::new();
    HTTP.get_or_init(|| {
        // reqwest needs a provider even for plain HTTP; it is fine if one is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = Client::builder().no_proxy().pool_max_idle_per_host(0);
        builder
            .timeout(Duration::from_secs(30))
            .build()
            .expect("an HTTP client for RabbitMQ's management API")
    })
}

async fn json_of<T: serde::de::DeserializeOwned>(answer: Response) -> T {
    answer.json().await.expect("RabbitMQ's management API answers JSON")
}

/// A name as one segment of a path.
fn encoded(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    name.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}
