//! The rounds: fills the queue, starts a process, waits until all is done, and reads what it has used.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use comfy_table::Table;
use lapin::options::{BasicPublishOptions, QueueBindOptions, QueueDeclareOptions, QueuePurgeOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use serde_json::{Value, json};
use tallyfy_delete_worker::rabbitmq::connection::{connect, parse_amqp_url};
use tallyfy_delete_worker::rabbitmq::tls::TlsFiles;
use tallyfy_delete_worker::rabbitmq::topology::{self, Provision, Topology};
use tokio::time::sleep;

use crate::rabbitmq::{broker, http};

const EVENTS: &str = "bench.events";
const PATIENCE: Duration = Duration::from_mins(5);
const SETTLING: Duration = Duration::from_secs(10);
/// Linux counts in hundredths of a second (`USER_HZ`).
const TICK_US: f64 = 10_000.0;
const PARTS: [&str; 4] = ["floor: AMQP (lapin)", "floor: HTTP (reqwest)", "worker", "worker, RUST_LOG=warn"];

pub(crate) struct Plan {
    pub(crate) commands: usize,
    pub(crate) rounds: usize,
    pub(crate) concurrency: usize,
    pub(crate) latency_ms: u64,
}

struct Field {
    url: String,
    channel: Channel,
    stub: String,
    _connection: Connection,
}

/// All figures, as JSON.
pub(crate) async fn measure(plan: &Plan) -> Value {
    let vhost = broker().new_vhost().await;
    let mut stub = own(&["stub", &plan.latency_ms.to_string()]).stdout(Stdio::piped()).spawn().unwrap();
    let mut address = String::new();
    BufReader::new(stub.stdout.take().unwrap()).read_line(&mut address).unwrap();
    let field = field(&broker().amqp_url(&vhost), address.trim()).await;
    let mut figures = vec![Vec::new(); PARTS.len()];
    for round in 1..=plan.rounds {
        for (part, figures) in PARTS.iter().zip(&mut figures) {
            let figure = one(part, plan, &field).await;
            eprintln!("round {round}: {part}: {:.1} µs a command", figure.cpu_us);
            figures.push(figure);
        }
    }
    stub.kill().unwrap();
    stub.wait().unwrap();
    broker().delete_vhost(&vhost).await;
    let parts: Vec<Value> =
        PARTS.iter().zip(&figures).map(|(part, figures)| summary(part, figures)).collect();
    let floor =
        parts[0]["cpu_us"]["median"].as_f64().unwrap() + parts[1]["cpu_us"]["median"].as_f64().unwrap();
    let ratio = parts[2]["cpu_us"]["median"].as_f64().unwrap() / floor;
    json!({"broker": broker().describe(), "machine": machine(), "commands": plan.commands, "rounds": plan.rounds,
        "concurrency": plan.concurrency, "latency_ms": plan.latency_ms, "parts": parts,
        "floor_cpu_us": floor, "worker_to_floor": ratio})
}

#[derive(Clone)]
struct Figure {
    cpu_us: f64,
    a_second: f64,
    peak_mib: f64,
}

async fn field(url: &str, stub: &str) -> Field {
    let declaring = connect(&parse_amqp_url(url).unwrap(), &TlsFiles::default(), "bench").await.unwrap();
    let wait_queues = [("5s", 5000), ("30s", 30_000), ("2m", 120_000), ("10m", 600_000), ("1h", 3_600_000)]
        .map(|(name, ms)| (format!("task.delete.wait.{name}"), ms));
    let topology = Topology { provision: Provision::Declare, wait_queues: wait_queues.to_vec() };
    topology::ensure(&declaring, &topology).await.unwrap();
    let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let mut quorum = FieldTable::default();
    quorum.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(EVENTS.into(), options, quorum).await.unwrap();
    let (exchange, key) = ("task.events".into(), "#".into());
    let options = QueueBindOptions::default();
    channel.queue_bind(EVENTS.into(), exchange, key, options, FieldTable::default()).await.unwrap();
    Field { url: url.to_owned(), channel, stub: stub.to_owned(), _connection: connection }
}

/// One process under measurement, from its start until the last command is done.
async fn one(part: &str, plan: &Plan, field: &Field) -> Figure {
    // The floors end by themselves.
    let is_floor = part.starts_with("floor");
    if !part.contains("HTTP") {
        fill(&field.channel, plan.commands).await;
    }
    let began = Instant::now();
    let mut child = command(part, plan, field).stderr(log()).spawn().unwrap();
    let mut used = None;
    loop {
        let is_done = if is_floor {
            child.try_wait().unwrap().is_some()
        } else {
            depth(&field.channel, EVENTS).await >= plan.commands
        };
        if is_done {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{part} is not done");
        used = usage(&child).or(used);
        sleep(Duration::from_millis(10)).await;
    }
    let took = began.elapsed();
    let (ticks, peak_mib) = usage(&child).or(used).unwrap();
    let _ = Command::new("kill").arg(child.id().to_string()).stderr(Stdio::null()).status();
    child.wait().unwrap();
    nothing_lost_or_repeated(part, plan.commands, field).await;
    let commands = f64::from(u32::try_from(plan.commands).unwrap());
    Figure { cpu_us: ticks * TICK_US / commands, a_second: commands / took.as_secs_f64(), peak_mib }
}

fn command(part: &str, plan: &Plan, field: &Field) -> Command {
    let (commands, concurrency) = (plan.commands.to_string(), plan.concurrency.to_string());
    match part {
        _ if part.contains("AMQP") => own(&["floor-amqp", &field.url, &commands]),
        _ if part.contains("HTTP") => own(&["floor-http", &field.stub, &commands, &concurrency]),
        _ => {
            let mut worker = Command::new(beside_us("tallyfy-delete-worker"));
            worker.args([
                "run",
                "--concurrency",
                &concurrency,
                "--http-addr=127.0.0.1:0",
                "--log-format=json",
            ]);
            worker.args(["--rust-log", if part.contains("warn") { "warn" } else { "info" }]);
            worker.env("AMQP_URL", &field.url).env("TALLYFY_BASE_URL", &field.stub);
            worker.env("TALLYFY_ORG_ID", "acme").env("TALLYFY_ACCESS_TOKEN", "token");
            worker
        }
    }
}

async fn nothing_lost_or_repeated(part: &str, commands: usize, field: &Field) {
    let seen = http().get(&field.stub).send().await.unwrap().text().await.unwrap();
    if !part.contains("AMQP") {
        assert_eq!(seen, format!("{commands} {commands}"), "{part}: calls, and different paths");
    }
    if !part.contains("HTTP") {
        becomes(&field.channel, EVENTS, commands).await;
        becomes(&field.channel, "task.delete", 0).await;
    }
    field.channel.queue_purge(EVENTS.into(), QueuePurgeOptions::default()).await.unwrap();
}

/// The count that a quorum queue gives lags behind what it has taken.
async fn becomes(channel: &Channel, queue: &str, expected: usize) {
    let began = Instant::now();
    while depth(channel, queue).await != expected && began.elapsed() < SETTLING {
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(depth(channel, queue).await, expected, "messages in {queue}");
}

fn own(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(args);
    command
}

/// Built in the same profile: examples lie one directory deeper.
fn beside_us(program: &str) -> std::path::PathBuf {
    let us = std::env::current_exe().unwrap();
    us.ancestors().nth(2).unwrap().join(program)
}

fn log() -> Stdio {
    std::fs::File::create(std::env::temp_dir().join("tallyfy-bench.log")).unwrap().into()
}

async fn fill(channel: &Channel, commands: usize) {
    for number in 0..commands {
        let body = json!({"org_id": "acme", "task_id": format!("t{number}"), "requested_by": "bench", "reason": "erasure request 4711"});
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_content_type("application/json".into())
            .with_message_id(uuid::Uuid::new_v4().to_string().into());
        let (exchange, key) = ("task.commands".into(), "task.delete".into());
        let options = BasicPublishOptions::default();
        drop(
            channel
                .basic_publish(exchange, key, options, body.to_string().as_bytes(), properties)
                .await
                .unwrap(),
        );
    }
    while depth(channel, "task.delete").await < commands {
        sleep(Duration::from_millis(20)).await;
    }
}

async fn depth(channel: &Channel, queue: &str) -> usize {
    let options = QueueDeclareOptions { durable: true, passive: true, ..Default::default() };
    let declared = channel.queue_declare(queue.into(), options, FieldTable::default()).await.unwrap();
    declared.message_count() as usize
}

/// Ticks of CPU time, user and system, and the largest resident size in MiB; `None` when it has ended.
fn usage(child: &Child) -> Option<(f64, f64)> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields[11].parse::<f64>().ok()? + fields[12].parse::<f64>().ok()?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse::<f64>().ok())?;
    Some((ticks, peak / 1024.0))
}

fn summary(part: &str, figures: &[Figure]) -> Value {
    let of = |pick: fn(&Figure) -> f64| {
        let mut all: Vec<f64> = figures.iter().map(pick).collect();
        all.sort_by(f64::total_cmp);
        json!({"median": all[all.len() / 2], "least": all[0], "most": all[all.len() - 1]})
    };
    json!({"part": part, "cpu_us": of(|f| f.cpu_us), "a_second": of(|f| f.a_second), "peak_mib": of(|f| f.peak_mib)})
}

fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("?", |m| m.1);
    format!("{} × {model}", std::thread::available_parallelism().map_or(0, usize::from))
}

/// For people.
pub(crate) fn table(plan: &Plan, report: &Value) -> String {
    let mut table = Table::new();
    table.set_header(["", "CPU µs a command", "spread", "a second", "peak MiB"]);
    for part in report["parts"].as_array().unwrap() {
        let figure = |name: &str, which: &str| part[name][which].as_f64().unwrap();
        table.add_row([
            part["part"].as_str().unwrap().to_owned(),
            format!("{:.1}", figure("cpu_us", "median")),
            format!("{:.1} – {:.1}", figure("cpu_us", "least"), figure("cpu_us", "most")),
            format!("{:.0}", figure("a_second", "median")),
            format!("{:.0}", figure("peak_mib", "most")),
        ]);
    }
    format!(
        "{table}\nworker ÷ floor (the sum of both): {:.2}\n{} commands, {} rounds, concurrency {}, API {} ms; {}; {}",
        report["worker_to_floor"].as_f64().unwrap(),
        plan.commands,
        plan.rounds,
        plan.concurrency,
        plan.latency_ms,
        report["broker"].as_str().unwrap(),
        report["machine"].as_str().unwrap(),
    )
}
