//! The sandbox and the worker, as processes of their own.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command as Process, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::commands::{Command, ORG, THROTTLED_ORG};
use crate::rabbitmq::http;

const TOKEN: &str = "demo-token";
const LADDER: &str = "1s,2s,4s";

/// A program of this build, without our environment: nobody's settings or proxies for another worker reach this one.
fn program(name: &str) -> Process {
    let own = std::env::current_exe().expect("the demo's own path");
    let directory = own.parent().and_then(|examples| examples.parent()).expect("target/debug");
    let mut program = Process::new(directory.join(name));
    program.env_clear();
    program
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
            .args([
                "--listen",
                "127.0.0.1:0",
                "--token",
                TOKEN,
                "--org",
                ORG,
                "--org",
                THROTTLED_ORG,
            ])
            .arg("--exit-with-stdin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("target/debug/tallyfy-sandbox starts");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("its output"))
            .read_line(&mut line)
            .expect("its address");
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
        let answer = http()
            .get(format!("{}/_sandbox/{what}", self.url))
            .send()
            .await
            .expect("the sandbox answers");
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
    guardian: Child,
    /// Its health and metrics.
    pub(crate) port: String,
    /// Where its log is.
    pub(crate) log: PathBuf,
}

impl Worker {
    pub(crate) fn start(amqp_url: &str, sandbox: &str) -> Self {
        let log = std::env::temp_dir()
            .join(format!("tallyfy-delete-worker-demo-{}.log", std::process::id()));
        let free =
            TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
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
            // Ctrl-C is for us; we end the worker.
            .process_group(0)
            .spawn()
            .expect("target/debug/tallyfy-delete-worker starts");
        let guardian = guard(process.id());
        Self { process, guardian, port: format!("http://{free}"), log }
    }

    pub(crate) async fn until_ready(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let answer = http().get(format!("{}/readyz", self.port)).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            self.check()?;
            if Instant::now() > deadline {
                return Err("the worker is not ready after 30 s".to_owned());
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Whether it still runs.
    pub(crate) fn check(&mut self) -> Result<(), String> {
        match self.process.try_wait() {
            Ok(Some(status)) => Err(format!("the worker has ended by itself: {status}")),
            _ => Ok(()),
        }
    }

    /// Sends SIGTERM; returns what is wrong with how it ended.
    pub(crate) async fn stop(&mut self) -> Option<String> {
        let _ = Process::new("kill").args(["-TERM", &self.process.id().to_string()]).status();
        let deadline = Instant::now() + Duration::from_secs(30);
        while Instant::now() < deadline {
            if let Ok(Some(status)) = self.process.try_wait() {
                return (!status.success())
                    .then(|| format!("after SIGTERM the worker ended with {status}"));
            }
            sleep(Duration::from_millis(50)).await;
        }
        Some("the worker did not end within 30 s of SIGTERM".to_owned())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The guardian first: it must not outlive the process id that it knows.
        for process in [&mut self.guardian, &mut self.process] {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Ends the process when we are gone, by `kill -9` even: its standard input is a pipe that only we hold.
fn guard(id: u32) -> Child {
    Process::new("sh")
        .args([
            "-c",
            "trap '' HUP INT TERM; cat >/dev/null; kill -9 \"$1\"",
            "guardian",
            &id.to_string(),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("sh")
}
