//! What the worker costs for each command, beside the floor: a program that only consumes, publishes and acknowledges with lapin, and one that
//! only makes the calls with reqwest. `cargo build --release --bins && cargo run --release --example bench`.
//!
//! CPU time of each process from the kernel's accounting, start-up included; in interleaved rounds, because machines are shared. A run in
//! which a command was lost or repeated is not reported.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench that fails says where")]

#[path = "../spec/support/rabbitmq/mod.rs"]
#[allow(dead_code, reason = "shared with the tests, which need more of it")]
mod rabbitmq;

mod floor;
mod rounds;
mod stub;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures CPU time for each command: the floor, and the worker.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    part: Option<Part>,
    /// Commands in each round.
    #[arg(long, default_value_t = 20_000)]
    commands: usize,
    /// Rounds, interleaved.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Calls in flight.
    #[arg(long, default_value_t = 64)]
    concurrency: usize,
    /// How long the API takes, in milliseconds.
    #[arg(long, default_value_t = 0)]
    latency_ms: u64,
    /// 300 commands, one round: does it all still work?
    #[arg(long)]
    smoke: bool,
    /// Write the figures there.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// The processes that are measured; started by this very program.
#[derive(Subcommand)]
enum Part {
    #[command(hide = true)]
    Stub { latency_ms: u64 },
    #[command(hide = true)]
    FloorAmqp { url: String, commands: usize },
    #[command(hide = true)]
    FloorHttp { base_url: String, commands: usize, concurrency: usize },
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut cli = Cli::parse();
    match cli.part {
        Some(Part::Stub { latency_ms }) => stub::serve(latency_ms).await,
        Some(Part::FloorAmqp { url, commands }) => floor::amqp(&url, commands).await,
        Some(Part::FloorHttp { base_url, commands, concurrency }) => {
            floor::http(&base_url, commands, concurrency).await;
        }
        None => {
            if cli.smoke {
                (cli.commands, cli.rounds) = (300, 1);
            }
            let plan = rounds::Plan {
                commands: cli.commands,
                rounds: cli.rounds,
                concurrency: cli.concurrency,
                latency_ms: cli.latency_ms,
            };
            let report = rounds::measure(&plan).await;
            println!("{}", rounds::table(&plan, &report));
            if let Some(path) = cli.json {
                std::fs::write(path, format!("{report:#}\n")).unwrap();
            }
        }
    }
    ExitCode::SUCCESS
}
