//! The sandbox API as a process of its own, and what a test says to it.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use super::rabbitmq::http;

pub(crate) const TOKEN: &str = "s3cret-sandbox-token";

/// A running sandbox; ends with its owner, and with the test process (its standard input is ours).
pub(crate) struct Sandbox {
    process: Child,
    url: String,
}

impl Sandbox {
    pub(crate) fn start(orgs: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_tallyfy-sandbox"))
            .args(["--listen", "127.0.0.1:0", "--token", TOKEN, "--exit-with-stdin"])
            .args(orgs.iter().flat_map(|org| ["--org", org]))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the sandbox starts");
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().strip_prefix("listening on ").expect("its address").to_owned();
        Self { process, url }
    }

    pub(crate) fn base_url(&self) -> String {
        format!("{}/api", self.url)
    }

    pub(crate) async fn tasks(&self, org: &str, ids: &[&str], state: &str) {
        self.post("tasks", json!({"org_id": org, "task_ids": ids, "state": state})).await;
    }

    pub(crate) async fn state(&self, org: &str, task: &str) -> String {
        self.get(&format!("tasks/{org}/{task}")).await["state"].as_str().unwrap().to_owned()
    }

    /// The next `times` calls for this task have this effect.
    pub(crate) async fn fault(&self, task: &str, times: u32, effect: Value) {
        self.post("faults", json!({"match": {"task_id": task}, "times": times, "effect": effect}))
            .await;
    }

    /// Every call has this effect, until [`Sandbox::heal`].
    pub(crate) async fn fault_for_all(&self, effect: Value) {
        self.post("faults", json!({"effect": effect})).await;
    }

    /// Every call for this organisation has this effect, until [`Sandbox::heal`].
    pub(crate) async fn fault_for_org(&self, org: &str, effect: Value) {
        self.post("faults", json!({"match": {"org_id": org}, "effect": effect})).await;
    }

    pub(crate) async fn heal(&self) {
        let request = http().delete(format!("{}/_sandbox/faults", self.url));
        request.send().await.unwrap().error_for_status().unwrap();
    }

    pub(crate) async fn set_tokens(&self, tokens: &[&str]) {
        let request =
            http().put(format!("{}/_sandbox/tokens", self.url)).json(&json!({"tokens": tokens}));
        request.send().await.unwrap().error_for_status().unwrap();
    }

    /// All requests of the API so far.
    pub(crate) async fn calls(&self) -> Vec<Value> {
        self.get("ledger").await["requests"].as_array().unwrap().clone()
    }

    pub(crate) async fn calls_for(&self, task: &str) -> Vec<Value> {
        self.calls().await.into_iter().filter(|call| call["task_id"] == task).collect()
    }

    /// Calls that no test asked for: another path, or a task that the sandbox was never told of.
    pub(crate) async fn unexpected(&self) -> Vec<Value> {
        self.get("summary").await["unexpected"].as_array().unwrap().clone()
    }

    /// Forgets the ledger, with the calls that nobody expected.
    pub(crate) async fn forget_unexpected(&self) {
        let request = http().delete(format!("{}/_sandbox/ledger", self.url));
        request.send().await.unwrap().error_for_status().unwrap();
    }

    async fn post(&self, what: &str, body: Value) {
        let answer =
            http().post(format!("{}/_sandbox/{what}", self.url)).json(&body).send().await.unwrap();
        assert!(answer.status().is_success(), "{body}: {}", answer.text().await.unwrap());
    }

    async fn get(&self, what: &str) -> Value {
        http()
            .get(format!("{}/_sandbox/{what}", self.url))
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
