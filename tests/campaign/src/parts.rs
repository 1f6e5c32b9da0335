//! The sandbox, on a thread of this process, and the workers, as processes that are restarted when
//! they die, each with proxies of its own to the broker and the API.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};
use tallyfy_delete_worker::kind::Kind;
use testkit::proxy::Proxy;
use testkit::rabbitmq::guardian::guard;
use testkit::rabbitmq::http;
use testkit::sandbox;

use crate::plan::{Answers, ORGS, Planned};
use crate::records::{Call, Harmless, InjectedFault};

/// Every token of a campaign contains it; nothing else does.
pub(crate) const TOKEN_MARK: &str = "s3cret-campaign-token";
const FAILPOINTS: [&str; 6] =
    ["after_receive", "before_call", "after_call", "before_confirm", "before_ack", "after_ack"];

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

/// The sandbox API.
pub(crate) struct Sandbox(sandbox::Sandbox);

impl Sandbox {
    pub(crate) fn start() -> Self {
        Self(sandbox::Sandbox::with_token(TOKEN_MARK, &ORGS))
    }

    /// Host and port.
    pub(crate) fn address(&self) -> &str {
        self.0.url().trim_start_matches("http://")
    }

    /// Registers the tasks, processes, tags and files, and scripts the faults of single commands.
    pub(crate) async fn register_objects(&self, plan: &[Planned]) {
        for Planned { command, answers, .. } in plan {
            let scope = json!({"org_id": command.org, "task_id": command.object});
            let refusal =
                json!({"status": 403, "body": {"message": "Not yet", "code": "FORBIDDEN"}});
            let fault = match answers {
                Answers::Normal => continue,
                Answers::AlwaysFails => json!({"match": scope, "effect": {"status": 500}}),
                Answers::RefusesOnce => json!({"match": scope, "times": 1, "effect": refusal}),
            };
            self.fault(fault).await;
        }
        for org in ORGS {
            for state in ["present", "archived", "gone", "forbidden"] {
                let wanted = plan.iter().filter(|p| p.command.org == org && p.state == Some(state));
                let mut by_type = BTreeMap::<_, Vec<&str>>::new();
                for Planned { command, .. } in wanted {
                    by_type.entry(command.kind.spec().object).or_default().push(&command.object);
                }
                for (object, ids) in by_type {
                    self.register(org, object, &ids, state).await;
                }
            }
        }
    }

    async fn register(&self, org: &str, object: &str, ids: &[&str], state: &str) {
        if object == "task" {
            self.0.tasks(org, ids, state).await;
        } else {
            let body = json!({"org_id": org, "type": object, "ids": ids, "state": state});
            self.0.post("objects", body).await;
        }
    }

    /// Scripts a fault; returns its number.
    pub(crate) async fn fault(&self, fault: Value) -> u64 {
        self.0.post("faults", fault).await["id"].as_u64().expect("a fault's number")
    }

    /// Restores a task as a user does. Returns whether the API confirms it.
    pub(crate) async fn restore(&self, org: &str, task: &str) -> bool {
        let url = format!("{}/organizations/{org}/tasks/{task}/restore", self.0.base_url());
        let request = http().put(url).bearer_auth(TOKEN_MARK);
        let answer = request.header("X-Tallyfy-Client", "APIClient").send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    pub(crate) async fn set_token(&self, org: &str, token: &str) {
        let body = json!({"org_id": org, "tokens": [token]});
        self.0.control(Method::PUT, "tokens", body).await;
    }

    /// Every call, with the `Retry-After` in milliseconds of the fault that answered it.
    pub(crate) async fn calls(&self, retry_after: impl Fn(u64) -> Option<i64>) -> Vec<Call> {
        let ledger = self.0.get("ledger").await;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let entries = ledger["requests"].as_array().expect("requests");
        let calls = entries.iter().map(|entry| Call {
            at_ms: entry["at_ms"].as_i64().unwrap_or_default(),
            path: format!("{} {}", text(&entry["method"]), text(&entry["path"])),
            kind: (entry["method"] == "DELETE").then(|| kind_of(&entry["operation"])).flatten(),
            harmless: harmless(&entry["operation"]),
            org: text(&entry["org_id"]),
            object: text(&entry["task_id"]),
            did_it: entry["effect"].is_string(),
            retry_after_ms: entry["fault"].as_u64().and_then(&retry_after),
        });
        calls.collect()
    }
}

/// The kind that belongs to the sandbox's name of a call.
fn kind_of(operation: &Value) -> Option<Kind> {
    match operation.as_str()? {
        "delete" => Some(Kind::TaskDelete),
        "archive" => Some(Kind::TaskArchive),
        "delete_process" => Some(Kind::ProcessDelete),
        "delete_tag" => Some(Kind::TagDelete),
        "delete_file" => Some(Kind::FileDelete),
        _ => None,
    }
}

fn harmless(operation: &Value) -> Option<Harmless> {
    match operation.as_str()? {
        "list" => Some(Harmless::Lists),
        "get_task" => Some(Harmless::Looks),
        "restore" => Some(Harmless::Restores),
        _ => None,
    }
}

/// A slot for one worker, with its proxies to the broker and to the API.
pub(crate) struct Slot {
    number: usize,
    program: PathBuf,
    directory: PathBuf,
    pub(crate) to_broker: Proxy,
    pub(crate) to_api: Proxy,
    /// The `AMQP_URL` to use instead of the proxy.
    cluster: Option<String>,
    /// Settings in addition to, or instead of, the usual ones.
    own_settings: Vec<(&'static str, String)>,
    worker: Mutex<Worker>,
}

#[derive(Default)]
struct Worker {
    process: Option<Child>,
    starts: usize,
    /// Whether it should run.
    is_wanted: bool,
    /// The signal that it was sent to end it.
    ended_by: Option<&'static str>,
    started: Option<Instant>,
    /// How old it was when it was sent SIGTERM.
    age_at_term: Option<Duration>,
    /// The failpoint at which it is to die.
    failpoint: Option<&'static str>,
}

impl Slot {
    /// The proxies forward to `broker` and `api`.
    pub(crate) async fn new(
        number: usize,
        program: &Path,
        directory: &Path,
        broker: String,
        api: &str,
    ) -> Self {
        Self {
            number,
            program: program.to_owned(),
            directory: directory.to_owned(),
            to_broker: Proxy::start(broker).await,
            to_api: Proxy::start(api.to_owned()).await,
            cluster: None,
            own_settings: Vec::new(),
            worker: Mutex::default(),
        }
    }

    /// The same, with this `AMQP_URL`.
    pub(crate) fn at(self, url: &str) -> Self {
        Self { cluster: Some(url.to_owned()), ..self }
    }

    /// The same, with these settings.
    pub(crate) fn with(self, own_settings: Vec<(&'static str, String)>) -> Self {
        Self { own_settings, ..self }
    }

    /// When it logged the end of a command (ms since 1970).
    pub(crate) fn ends(&self) -> Vec<i64> {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines = log.lines().filter(|line| line.contains("\"command ended\""));
        let lines = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let time = |line: Value| line["timestamp"].as_str()?.parse::<Timestamp>().ok();
        lines.filter_map(time).map(Timestamp::as_millisecond).collect()
    }

    fn log(&self) -> PathBuf {
        self.directory.join(format!("worker-{}.log", self.number))
    }

    pub(crate) fn want(&self, is_wanted: bool) {
        self.lock().is_wanted = is_wanted;
    }

    /// Sends a signal, if a worker runs.
    pub(crate) fn signal(&self, name: &'static str) {
        let mut worker = self.lock();
        if matches!(name, "KILL" | "TERM")
            && worker.process.is_some()
            && worker.ended_by != Some("KILL")
        {
            worker.ended_by = Some(name);
        }
        if name == "TERM" {
            worker.age_at_term = worker.started.map(|started| started.elapsed());
        }
        if let Some(process) = &worker.process {
            let _ = Command::new("kill")
                .args([&format!("-{name}"), &process.id().to_string()])
                .status();
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.lock().process.is_some()
    }

    /// Reports its death, and starts it when it is wanted. `dies_at_pass`: the pass of a failpoint
    /// at which it is to die.
    pub(crate) fn supervise(
        &self,
        vhost_url: &str,
        dies_at_pass: Option<u32>,
    ) -> Option<Result<InjectedFault, String>> {
        let mut worker = self.lock();
        if let Some(status) =
            worker.process.as_mut().and_then(|process| process.try_wait().ok().flatten())
        {
            worker.process = None;
            return Some(self.death(&mut worker, status));
        }
        if worker.is_wanted && worker.process.is_none() {
            self.start(&mut worker, vhost_url, dies_at_pass);
        }
        None
    }

    fn death(&self, worker: &mut Worker, status: ExitStatus) -> Result<InjectedFault, String> {
        const LATELY_MS: i64 = 500;
        // How long it may take until it handles signals.
        const YOUNG: Duration = Duration::from_secs(1);
        let (was_terminated, was_young) =
            (worker.age_at_term.is_some(), worker.age_at_term.is_some_and(|age| age < YOUNG));
        let family =
            match (worker.ended_by.take(), worker.failpoint, status.signal(), status.code()) {
                (Some("KILL"), _, Some(9), _) => "worker killed",
                (Some("TERM"), _, _, Some(0)) => "worker terminated",
                (Some("TERM"), _, Some(15), _) if was_young => "worker terminated",
                // It had ended after SIGTERM before it was killed.
                (Some("KILL"), _, _, Some(0)) if was_terminated => "worker terminated",
                (_, Some(failpoint), Some(6), _) => failpoint,
                (by, ..) => return Err(format!("worker {}: {status} after {by:?}", self.number)),
            };
        let what = format!("worker {} ended: {status}", self.number);
        let (from_ms, to_ms) = (now_ms() - LATELY_MS, now_ms());
        Ok(InjectedFault { from_ms, to_ms, family, org: None, stops: false, hides: true, what })
    }

    fn start(&self, worker: &mut Worker, vhost_url: &str, dies_at_pass: Option<u32>) {
        worker.starts += 1;
        (worker.started, worker.age_at_term) = (Some(Instant::now()), None);
        worker.failpoint =
            dies_at_pass.map(|_| FAILPOINTS[(self.number + worker.starts) % FAILPOINTS.len()]);
        let log =
            OpenOptions::new().create(true).append(true).open(self.log()).expect("a log file");
        let mut command = Command::new(&self.program);
        command
            .arg("run")
            .env_clear()
            .envs(self.settings(vhost_url))
            .envs(self.own_settings.iter().cloned())
            .stdin(Stdio::null())
            .stderr(log);
        if let (Some(failpoint), Some(pass)) = (worker.failpoint, dies_at_pass) {
            command.env("DIE_AT", format!("{failpoint}:{pass}"));
        }
        let process = command.process_group(0).spawn().expect("the worker starts");
        let pid_file = self.directory.join(format!("worker-{}.pid", self.number));
        fs::write(pid_file, process.id().to_string()).expect("a pid file");
        worker.process = Some(process);
    }

    fn settings(&self, vhost_url: &str) -> Vec<(&'static str, String)> {
        let through_the_proxy = || {
            let mut url = url::Url::parse(vhost_url).expect("a URL");
            url.set_port(Some(self.to_broker.addr.port())).expect("a port");
            url.set_query(Some("heartbeat=3"));
            url.into()
        };
        vec![
            ("AMQP_URL", self.cluster.clone().unwrap_or_else(through_the_proxy)),
            ("TALLYFY_BASE_URL", format!("http://{}/api", self.to_api.addr)),
            ("TALLYFY_CREDENTIALS_DIR", self.directory.join("tokens").display().to_string()),
            ("KINDS", Kind::ALL.map(Kind::as_str).join(",")),
            ("GUARD_MAX_DELETES", "1000000".to_owned()),
            ("WAIT_LADDER", "500ms,1s,2s,4s".to_owned()),
            ("REQUEST_TIMEOUT", "4s".to_owned()),
            ("CONCURRENCY", "16".to_owned()),
            ("HTTP_ADDR", "127.0.0.1:0".to_owned()),
            ("LOG_FORMAT", "json".to_owned()),
        ]
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Worker> {
        self.worker.lock().expect("a lock that is not poisoned")
    }
}

/// Ends the workers of this directory when this process ends, however it ends.
pub(crate) fn guard_workers(directory: &Path) -> Result<(), String> {
    let end = r#"for file in "$1"/worker-*.pid; do kill -9 "$(cat "$file")"; done"#;
    guard("", end, &[&directory.to_string_lossy()])
}
