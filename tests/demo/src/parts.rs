//! The sandbox, on a thread of this process, and the worker, as a process of its own.

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command as Process, Stdio};
use std::time::Duration;

use serde_json::json;
use testkit::rabbitmq::http;
use testkit::sandbox::Sandbox;
use tokio::time::{Instant, sleep};

use crate::commands::{Command, ORG, THROTTLED_ORG};

const TOKEN: &str = "demo-token";
const DELAYS: &str = "1s,2s,4s";

/// The worker of this build, without our environment, which may have settings or proxies for
/// another worker.
fn worker() -> Process {
    let own = std::env::current_exe().expect("the demo's own path");
    let mut worker = Process::new(own.with_file_name("tallyfy-delete-worker"));
    worker.env_clear();
    worker
}

/// The sandbox API.
pub(crate) fn sandbox() -> Sandbox {
    Sandbox::with_token(TOKEN, &[ORG, THROTTLED_ORG])
}

/// Registers the tasks that the commands name, and the faults.
pub(crate) async fn prepare(sandbox: &Sandbox, commands: &[Command]) {
    for command in commands {
        let Some((org, task, state)) = &command.task else { continue };
        sandbox.post("tasks", json!({"org_id": org, "task_ids": [task], "state": state})).await;
        for fault in &command.faults {
            let mut fault = fault.clone();
            fault["match"] = json!({"task_id": task});
            sandbox.post("faults", fault).await;
        }
    }
}

/// The worker.
pub(crate) struct Worker {
    process: Child,
    guardian: Child,
    /// The URL of its health and metrics.
    pub(crate) port: String,
    /// The file of its log.
    pub(crate) log: PathBuf,
}

impl Worker {
    pub(crate) fn start(amqp_url: &str, sandbox: &str) -> Self {
        let log = std::env::temp_dir()
            .join(format!("tallyfy-delete-worker-demo-{}.log", std::process::id()));
        let free =
            TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
        let process = worker()
            .arg("run")
            .env("AMQP_URL", amqp_url)
            .env("TALLYFY_BASE_URL", format!("{sandbox}/api"))
            .env("TALLYFY_ORG_ID", format!("{ORG},{THROTTLED_ORG}"))
            .env("TALLYFY_ACCESS_TOKEN", TOKEN)
            .env("WAIT_LADDER", DELAYS)
            .env("MAX_ATTEMPTS", "6")
            .env("HTTP_ADDR", free.to_string())
            .env("LOG_FORMAT", "json")
            .stdin(Stdio::null())
            .stderr(File::create(&log).expect("a log file"))
            // Ctrl-C must end only the demo, which ends the worker.
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

    /// Sends SIGTERM; returns what was wrong with its end.
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
        // The guardian first: later the process id that it knows could belong to another process.
        for process in [&mut self.guardian, &mut self.process] {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Ends the process when this one has ended, even by `kill -9`: the guardian's standard input is a
/// pipe that only this process holds.
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
