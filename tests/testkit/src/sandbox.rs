//! The sandbox API on a thread of this process, and the calls that a test makes to it.

use std::thread;

use reqwest::Method;
use serde_json::{Value, json};
use tallyfy_sandbox::Contents;
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::sync::oneshot;

use crate::rabbitmq::http;

/// The default token of a sandbox.
pub const TOKEN: &str = "s3cret-sandbox-token";

/// A running sandbox; ends when it is dropped.
pub struct Sandbox {
    url: String,
    _until_dropped: oneshot::Sender<()>,
}

impl Sandbox {
    /// With these organisations, which [`TOKEN`] reaches.
    pub fn start(orgs: &[&str]) -> Self {
        Self::with_token(TOKEN, orgs)
    }

    /// On a thread of its own, so that it answers in time even if the caller's runtime is busy.
    pub fn with_token(token: &str, orgs: &[&str]) -> Self {
        let contents = Contents::of(orgs, token);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        listener.set_nonblocking(true).expect("a socket that does not block");
        let url = format!("http://{}", listener.local_addr().expect("the address of a listener"));
        let (until_dropped, dropped) = oneshot::channel();
        let serve = async move {
            let listener = TcpListener::from_std(listener).expect("a runtime with I/O");
            tokio::select! {
                never = tallyfy_sandbox::serve(listener, &contents) => match never {},
                _ = dropped => {}
            }
        };
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime for the sandbox");
        thread::spawn(move || runtime.block_on(serve));
        Self { url, _until_dropped: until_dropped }
    }

    /// Where it listens: `http://HOST:PORT`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The base URL for a worker.
    pub fn base_url(&self) -> String {
        format!("{}/api", self.url)
    }

    /// Registers tasks with their state.
    pub async fn tasks(&self, org: &str, ids: &[&str], state: &str) {
        self.post("tasks", json!({"org_id": org, "task_ids": ids, "state": state})).await;
    }

    /// The state of a task.
    pub async fn state(&self, org: &str, task: &str) -> String {
        self.get(&format!("tasks/{org}/{task}")).await["state"].as_str().unwrap().to_owned()
    }

    /// The next `times` calls for this task have this effect.
    pub async fn fault(&self, task: &str, times: u32, effect: Value) {
        self.post("faults", json!({"match": {"task_id": task}, "times": times, "effect": effect}))
            .await;
    }

    /// Every call has this effect, until [`Sandbox::heal`].
    pub async fn fault_for_all(&self, effect: Value) {
        self.post("faults", json!({"effect": effect})).await;
    }

    /// Every call for this organisation has this effect, until [`Sandbox::heal`].
    pub async fn fault_for_org(&self, org: &str, effect: Value) {
        self.post("faults", json!({"match": {"org_id": org}, "effect": effect})).await;
    }

    /// Ends all faults.
    pub async fn heal(&self) {
        self.control(Method::DELETE, "faults", Value::Null).await;
    }

    /// The tokens that are valid from now on.
    pub async fn set_tokens(&self, tokens: &[&str]) {
        self.control(Method::PUT, "tokens", json!({"tokens": tokens})).await;
    }

    /// All requests of the API so far.
    pub async fn calls(&self) -> Vec<Value> {
        self.get("ledger").await["requests"].as_array().unwrap().clone()
    }

    /// Those that name this task.
    pub async fn calls_for(&self, task: &str) -> Vec<Value> {
        self.calls().await.into_iter().filter(|call| call["task_id"] == task).collect()
    }

    /// Calls that no test asked for: another path, or a task that was never registered.
    pub async fn unexpected(&self) -> Vec<Value> {
        self.get("summary").await["unexpected"].as_array().unwrap().clone()
    }

    /// Clears the ledger, including the unexpected calls.
    pub async fn forget_unexpected(&self) {
        self.control(Method::DELETE, "ledger", Value::Null).await;
    }

    /// Asks one of the endpoints under `/_sandbox`.
    pub async fn get(&self, what: &str) -> Value {
        self.control(Method::GET, what, Value::Null).await
    }

    /// Posts to one of them.
    pub async fn post(&self, what: &str, body: Value) -> Value {
        self.control(Method::POST, what, body).await
    }

    /// Calls one of them; `null` means no body.
    pub async fn control(&self, method: Method, what: &str, body: Value) -> Value {
        let request = http().request(method, format!("{}/_sandbox/{what}", self.url));
        let request = if body.is_null() { request } else { request.json(&body) };
        let answer = request.send().await.expect("the sandbox answers");
        assert!(answer.status().is_success(), "{body}: {}", answer.text().await.unwrap());
        answer.json().await.expect("JSON")
    }
}
