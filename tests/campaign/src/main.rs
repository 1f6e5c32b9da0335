//! A campaign of faults: commands are given while workers, broker, network and API are struck by a
//! seeded nemesis; then the books of all parties are held against the promise.

#![allow(clippy::print_stdout, reason = "showing is what it is for")]

mod checker;
mod cluster;
mod decisions;
mod field;
mod ledgers;
mod mutants;
mod nemesis;
mod operator;
mod parts;
mod plan;
mod producer;
mod report;
mod safety;
mod variants;
mod witness;
mod yardstick;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use serde_json::json;

use cluster::{Cluster, FAULTS, Fault};
use field::{Outcome, Scenario};
use mutants::{MUTANTS, Mutant};
use nemesis::Family;
use safety::Brakes;

/// How many commands are given where nothing else is said, and for how long.
const COMMANDS: usize = 2000;
const MINUTES: f64 = 1.5;
/// Longer than a fault of a cluster takes.
const LENGTH_OF_A_FAULT: Duration = Duration::from_mins(1);
/// Longer than the checker lets anyone be delayed by another's trouble.
const TROUBLE_OF_ONE: Duration = Duration::from_secs(30);

/// Strikes workers, broker, network and API while commands are carried out, and balances the books.
///
/// Builds a worker with failpoints (places at which it can be made to die) and starts its own
/// RabbitMQ, sandbox API and workers; ends them all. Exit 0 only if the books balance.
#[derive(Debug, Parser)]
#[command(name = "campaign")]
struct Arguments {
    /// What the commands, and the order and length of the faults, follow from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many commands are given: 2000, and 1000 with --safety, where nothing else is said.
    #[arg(long)]
    commands: Option<usize>,
    /// For how long they are given, evenly; faults go on as long, and until each family had its
    /// turn. 1.5, and 1.25 with --safety, where nothing else is said.
    #[arg(long)]
    minutes: Option<f64>,
    /// How many workers share the queue.
    #[arg(long, default_value_t = 3)]
    workers: usize,
    /// Where to write the report as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Instead: short campaigns against workers with a known fault, each of which must be found;
    /// with a word, only those that have it in their name.
    #[arg(long, num_args = 0..=1, default_missing_value = "", value_name = "WORD")]
    mutants: Option<String>,
    /// Instead: all brakes are on (the guard, archive first), and an operator uses them: decides
    /// about what the guard holds, pauses, resumes, cancels, and restores tasks.
    #[arg(long, conflicts_with_all = ["mutants", "cluster"])]
    safety: bool,
    /// Instead: a cluster of three nodes in containers (a Docker engine must answer), each of which
    /// is killed, stopped, frozen or cut off from the others; with the nodes' addresses in the
    /// workers' URL, then behind a balancer.
    #[arg(long, conflicts_with = "mutants")]
    cluster: bool,
    /// With --cluster: only the faults that have this word in their name, "cut off", say.
    #[arg(long, default_value = "", requires = "cluster", value_name = "WORD")]
    only: String,
    /// With --cluster: this build of the worker, which needs no failpoints.
    #[arg(long, requires = "cluster", value_name = "FILE")]
    program: Option<PathBuf>,
}

impl Arguments {
    fn commands(&self) -> usize {
        self.commands.unwrap_or(if self.safety { safety::COMMANDS } else { COMMANDS })
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.mutants {
        Some(word) => catch_all(arguments.seed, word).await,
        None if arguments.cluster => cluster(&arguments).await,
        None => one(&arguments).await,
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(trouble) => {
            eprintln!("{trouble}");
            ExitCode::FAILURE
        }
    }
}

async fn one(arguments: &Arguments) -> Result<bool, String> {
    println!("building the worker with its failpoints");
    let program = variants::build("tallyfy-delete-worker-with-failpoints", &[])?;
    let scenario = scenario(arguments, program)?;
    let minutes = scenario.time.as_secs_f64() / 60.0;
    let Outcome { balance, ledgers, broker, took } = field::fight(&scenario).await?;
    let about = json!({
        "repeat": format!(
            "cargo run --release --package campaign --{} --seed {} --commands {} --minutes {minutes} --workers {}",
            if arguments.safety { " --safety" } else { "" },
            arguments.seed,
            scenario.commands,
            scenario.workers
        ),
        "seed": arguments.seed,
        "broker": broker,
        "took_s": took.as_secs(),
    });
    report::print(&balance, &ledgers, &about);
    if let Some(path) = &arguments.json {
        let report = report::json(&balance, &ledgers, &about).to_string();
        std::fs::write(path, report).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(balance.findings.is_empty())
}

fn scenario(arguments: &Arguments, program: PathBuf) -> Result<Scenario, String> {
    let commands = arguments.commands();
    let minutes = if arguments.safety { safety::MINUTES } else { MINUTES };
    let minutes = arguments.minutes.unwrap_or(minutes);
    let scenario = Scenario {
        seed: arguments.seed,
        commands,
        time: Duration::try_from_secs_f64(minutes * 60.0).map_err(|e| format!("--minutes: {e}"))?,
        workers: arguments.workers.max(1),
        // What a delay queue had handed to a queue that was still starting, after a kill, RabbitMQ
        // hands over again only after three minutes
        // (`dead_letter_worker_publisher_confirm_timeout`).
        patience: Duration::from_mins(6),
        program,
        brakes: None,
        organisations_time: TROUBLE_OF_ONE,
        organisations: nemesis::ORGANISATIONS.to_vec(),
        world: nemesis::WORLD.to_vec(),
        api: nemesis::API.to_vec(),
    };
    if !arguments.safety {
        return Ok(scenario);
    }
    Ok(Scenario {
        brakes: Some(Brakes::of(commands)),
        organisations: Vec::new(),
        world: safety::WORLD.to_vec(),
        api: safety::API.to_vec(),
        ..scenario
    })
}

async fn cluster(arguments: &Arguments) -> Result<bool, String> {
    println!("building the worker, and starting the cluster");
    let program = match &arguments.program {
        Some(program) => program.clone(),
        None => variants::build("tallyfy-delete-worker-with-failpoints", &[])?,
    };
    let cluster = Cluster::start().await?;
    let faults: Vec<Fault> =
        FAULTS.into_iter().filter(|fault| fault.name().contains(&arguments.only)).collect();
    let mut all_balance = true;
    for is_balanced in [false, true] {
        let scenario = Scenario {
            seed: arguments.seed + u64::from(is_balanced),
            commands: arguments.commands(),
            time: LENGTH_OF_A_FAULT * u32::try_from(faults.len()).unwrap_or(1),
            workers: 2,
            patience: Duration::from_mins(6),
            program: program.clone(),
            brakes: None,
            organisations_time: Duration::ZERO,
            organisations: Vec::new(),
            world: Vec::new(),
            api: Vec::new(),
        };
        let Outcome { balance, ledgers, broker, took } =
            field::fight_cluster(&scenario, (&cluster, &faults), is_balanced).await?;
        let about = json!({"seed": scenario.seed, "broker": broker, "took_s": took.as_secs()});
        report::print(&balance, &ledgers, &about);
        all_balance &= balance.findings.is_empty();
    }
    Ok(all_balance)
}

async fn catch_all(seed: u64, word: &str) -> Result<bool, String> {
    let mut all_caught = true;
    for mutant in MUTANTS.iter().filter(|mutant| mutant.name.contains(word)) {
        all_caught &= catch(mutant, seed).await?;
    }
    Ok(all_caught)
}

async fn catch(mutant: &Mutant, seed: u64) -> Result<bool, String> {
    println!("building {}", mutant.name);
    let of = |all: &[Family]| mutant.families.iter().copied().filter(|f| all.contains(f)).collect();
    let scenario = Scenario {
        seed,
        commands: mutant.commands,
        time: mutant.time,
        organisations_time: TROUBLE_OF_ONE,
        workers: 2,
        patience: if mutant.organisations.is_empty() {
            Duration::from_secs(20)
        } else {
            Duration::from_secs(5)
        },
        program: variants::build(mutant.name, mutant.changes)?,
        brakes: mutant.with_brakes.then(|| Brakes::of(mutant.commands)),
        organisations: mutant.organisations.to_vec(),
        world: of(&nemesis::WORLD),
        api: of(&nemesis::API),
    };
    let Outcome { balance, .. } = field::fight(&scenario).await?;
    let found = |kind| balance.findings.iter().filter(|finding| finding.kind == kind).count();
    let caught: Vec<_> = mutant.found.iter().map(|kind| (*kind, found(*kind))).collect();
    let is_caught = caught.iter().any(|(_, times)| *times > 0);
    println!("{}: {} {caught:?}", mutant.name, if is_caught { "caught" } else { "NOT CAUGHT" });
    Ok(is_caught)
}
