//! The console in a real browser: starts a broker, fills it, starts a worker and two consoles (one
//! that may act, one that is read-only), and lets `browse.py` use them as a person would.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "this is a check, and what it prints is for people"
)]

mod fill;

use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use serde_json::Value;
use testkit::rabbitmq::broker;
use testkit::sandbox::{Sandbox, TOKEN};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// Letters of the one group that is replayed.
const MANY: usize = 5000;

#[tokio::main]
async fn main() -> ExitCode {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    if !run(Command::new(here.join("setup"))).await {
        println!("browser: FAILED: no browser, or no Playwright");
        return ExitCode::FAILURE;
    }
    let vhost = broker().new_vhost().await;
    let url = broker().amqp_url(&vhost);
    fill::fill(&url, MANY).await;
    let sandbox = Sandbox::start(&["acme"]);
    let directory = tempfile::tempdir().unwrap();
    let program = |args: &[&str]| program(&url, &sandbox, directory.path(), args);
    let _worker = start(program(&["run", "--http-addr=127.0.0.1:0"])).await;
    let seen = ["console", "--addr=127.0.0.1:0", "--kinds=task.delete,tag.delete"];
    let file = directory.path().join("discarded.jsonl");
    let may = ["--write=true", "--discarded", file.to_str().unwrap(), "--by=ann"];
    let (_acting, acting) = start(program(&[&seen[..], &may].concat())).await;
    let (_looking, looking) = start(program(&[&seen[..], &["--by=eve"]].concat())).await;
    let mut browse = Command::new(target().join("browser/bin/python"));
    browse.arg(here.join("browse.py")).args([&acting, &looking, &MANY.to_string()]);
    browse.args(std::env::args().skip(1)).env("DISCARDED", &file);
    let is_ok = run(browse).await;
    broker().delete_vhost(&vhost).await;
    println!("browser: {}", if is_ok { "all as it should be" } else { "FAILED" });
    if is_ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target")
}

/// The worker's binary with the settings of this place.
fn program(url: &str, sandbox: &Sandbox, directory: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(target().join("debug/tallyfy-delete-worker"));
    command
        .args(args)
        .env_clear()
        .current_dir(directory)
        .env("LOG_FORMAT", "json")
        .env("AMQP_URL", url)
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    if args[0] == "run" {
        command
            .env("KINDS", "tag.delete")
            .env("TALLYFY_BASE_URL", sandbox.base_url())
            .env("TALLYFY_ORG_ID", "acme")
            .env("TALLYFY_ACCESS_TOKEN", TOKEN);
    }
    command
}

/// Starts it and waits until it says where it is.
async fn start(mut command: Command) -> (Child, String) {
    let mut child = command.spawn().expect("target/debug/tallyfy-delete-worker: cargo build");
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        let said: Value = serde_json::from_str(&line).unwrap_or_default();
        let fields = if said["fields"].is_object() { &said["fields"] } else { &said };
        let address = match (fields["http"].as_str(), fields["message"].as_str()) {
            (Some(address), _) => format!("http://{address}"),
            (None, Some(text)) => match text.split_once("the console is at ") {
                Some((_, address)) => address.trim_end_matches('/').to_owned(),
                None => continue,
            },
            _ => continue,
        };
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                if line.contains("\"ERROR\"") {
                    println!("{line}");
                }
            }
        });
        return (child, address);
    }
    panic!("it ended: {:?}", child.wait().await);
}

async fn run(mut command: Command) -> bool {
    command.status().await.is_ok_and(|status| status.success())
}
