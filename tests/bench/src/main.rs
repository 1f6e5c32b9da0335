//! `make bench`: the cost of the worker per command, compared with the floor (a program that only
//! consumes, publishes and acknowledges with lapin, and one that only makes the calls with
//! reqwest), and with workers in other languages, if `tests/bench/peers/setup` has installed them.
//!
//! The figure is the CPU time of each process from the kernel's accounting, in interleaved rounds,
//! because machines are shared. A run in which a command was lost or repeated is not reported.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench that fails says where")]

mod cost;
mod delays;
mod floor;
mod footprint;
mod picture;
mod process;
mod rounds;
mod scale;
mod stub;
mod test_bed;
mod wire;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use serde_json::{Value, json};
use testkit::rabbitmq::broker;

use process::Contestant;

/// Measures the CPU time per command of the floor, the worker, and its peers.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    part: Option<Part>,
    /// Commands per round; peers get a tenth.
    #[arg(long, default_value_t = 20_000)]
    commands: usize,
    /// Rounds, interleaved.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Calls in flight.
    #[arg(long, default_value_t = 64)]
    concurrency: usize,
    /// How long the API takes, in milliseconds.
    #[arg(long, default_value_t = 0)]
    latency_ms: u64,
    /// Another build of the worker, measured in the same rounds; may be given again.
    #[arg(long, value_name = "PROGRAM")]
    against: Vec<PathBuf>,
    /// Measure the worker as it was built last, even if its sources have changed since.
    #[arg(long)]
    as_built: bool,
    /// Only the floor and the worker with its production settings.
    #[arg(long)]
    brief: bool,
    /// 300 commands, one round: only checks that everything works.
    #[arg(long)]
    smoke: bool,
    /// Write the figures there.
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw them there, as SVG.
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
}

/// Other measurements, and the measured processes that this program starts by running itself.
#[derive(Subcommand)]
enum Part {
    /// Calls per second with a slow API, compared with concurrency ÷ latency.
    Calls,
    /// 1, 2 and 4 workers on one queue.
    Workers,
    /// CPU time with the API over TLS, compared with plain HTTP, and how often a connection is made.
    Tls,
    /// CPU time and memory with 1 to 10,000 organisations.
    Organisations,
    /// How long a command waits inside the worker, at half load.
    Delays,
    /// From exec to the first call.
    Start,
    /// Memory with a long queue, with the largest bodies, and over time.
    Memory {
        /// Commands that wait.
        #[arg(long, default_value_t = 1_000_000)]
        waiting: usize,
        /// Minutes of work during which memory is measured; 0 leaves it out.
        #[arg(long, default_value_t = 0)]
        minutes: u64,
    },
    #[command(hide = true)]
    Stub {
        latency_ms: u64,
        #[arg(default_value_t = 204)]
        status: u16,
        #[arg(long)]
        tls: bool,
    },
    #[command(hide = true)]
    FloorAmqp { url: String, commands: usize },
    #[command(hide = true)]
    FloorBoth { url: String, commands: usize, base_url: String },
    #[command(hide = true)]
    FloorHttp { base_url: String, commands: usize, concurrency: usize },
}

impl Cli {
    fn plan(&self) -> rounds::Plan {
        let (commands, rounds) = if self.smoke { (300, 1) } else { (self.commands, self.rounds) };
        let (concurrency, latency_ms) = (self.concurrency, self.latency_ms);
        rounds::Plan { commands, rounds, concurrency, latency_ms, contestants: self.contestants() }
    }

    fn contestants(&self) -> Vec<Contestant> {
        let worker =
            |program: PathBuf, filter, has_spans| Contestant::Worker { program, filter, has_spans };
        let ours = process::beside_us("tallyfy-delete-worker");
        let mut all = vec![
            Contestant::FloorAmqp,
            Contestant::FloorHttp,
            Contestant::worker(),
            Contestant::FloorBoth,
        ];
        all.extend(self.against.iter().map(|program| worker(program.clone(), "info", false)));
        if !self.brief {
            all.push(worker(ours.clone(), "warn", false));
            all.push(worker(ours, "info", true));
            all.extend(process::peers());
        }
        all
    }
}

/// The floors run on one thread, as the leanest program would.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(part) = &cli.part
        && is_measured_process(part).await
    {
        return ExitCode::SUCCESS;
    }
    if !cli.as_built {
        process::build_the_worker();
    }
    let (text, report) = match cli.part {
        Some(Part::Calls) => shown(scale::calls().await, scale::table_of_calls),
        Some(Part::Workers) => shown(scale::workers(cli.commands).await, scale::table_of_workers),
        Some(Part::Tls) => shown(cost::tls(cli.commands, cli.rounds).await, |r| format!("{r:#}")),
        Some(Part::Organisations) => {
            shown(cost::organisations(cli.commands).await, |report| format!("{report:#}"))
        }
        Some(Part::Delays) => shown(delays::measure().await, delays::text),
        Some(Part::Start) => shown(footprint::start().await, |report| format!("{report:#}")),
        Some(Part::Memory { waiting, minutes }) => {
            shown(footprint::memory(waiting, minutes).await, |report| format!("{report:#}"))
        }
        Some(_) => unreachable!("a process that is measured"),
        None => shown(rounds::measure(&cli.plan()).await, rounds::table),
    };
    println!("{text}");
    if let Some(path) = cli.picture {
        std::fs::write(path, picture::draw(&report)).unwrap();
    }
    if let Some(path) = cli.json {
        let broker = broker().describe();
        let whole = json!({"machine": rounds::machine(), "broker": broker, "figures": report});
        std::fs::write(path, format!("{whole:#}\n")).unwrap();
    }
    ExitCode::SUCCESS
}

/// Runs as one of the measured processes, if that is asked for.
async fn is_measured_process(part: &Part) -> bool {
    match part {
        Part::Stub { latency_ms, status, tls } => {
            stub::serve(Duration::from_millis(*latency_ms), *status, *tls).await;
        }
        Part::FloorAmqp { url, commands } => floor::amqp(url, *commands, None).await,
        Part::FloorBoth { url, commands, base_url } => {
            floor::amqp(url, *commands, Some(base_url)).await;
        }
        Part::FloorHttp { base_url, commands, concurrency } => {
            floor::http(base_url, *commands, *concurrency).await;
        }
        _ => return false,
    }
    true
}

fn shown(report: Value, show: impl Fn(&Value) -> String) -> (String, Value) {
    (show(&report), report)
}
