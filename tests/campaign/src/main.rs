//! A campaign of faults: commands are sent while a seeded nemesis injects faults into workers,
//! broker, network and API. Then the records of all parties are checked against the promise.

#![allow(clippy::print_stdout, reason = "showing is what it is for")]

mod baseline;
mod checker;
mod cluster;
mod decisions;
mod mutants;
mod nemesis;
mod operator;
mod parts;
mod plan;
mod producer;
mod records;
mod report;
mod run;
mod safety;
mod variants;
mod witness;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use serde_json::json;

use cluster::{Cluster, FAULTS, Fault};
use mutants::{MUTANTS, Mutant};
use nemesis::Family;
use run::{Outcome, Scenario};
use safety::Brakes;

/// How many commands are sent by default, and for how many minutes.
const COMMANDS: usize = 2000;
const MINUTES: f64 = 1.5;
/// Longer than a fault of a cluster lasts.
const LENGTH_OF_A_FAULT: Duration = Duration::from_mins(1);
/// Longer than the checker lets the faults of one organisation delay another.
const ORGANISATION_FAULTS_TIME: Duration = Duration::from_secs(30);
/// Long enough that what is delayed on a slow machine is delayed for too long.
const ORGANISATION_FAULTS_OF_A_MUTANT: Duration = Duration::from_secs(50);

/// Injects faults into workers, broker, network and API while commands are carried out, and checks
/// the records of all parties.
///
/// Builds a worker with failpoints (places at which it can be made to die), starts its own
/// RabbitMQ, sandbox API and workers, and stops them all. Exits 0 only without findings.
#[derive(Debug, Parser)]
#[command(name = "campaign")]
struct Arguments {
    /// The seed that decides the commands, and the order and length of the faults.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many commands are sent [default: 2000, or 1000 with --safety].
    #[arg(long)]
    commands: Option<usize>,
    /// For how many minutes they are sent, evenly [default: 1.5, or 1.25 with --safety]. Faults go
    /// on as long, and until each family had its turn.
    #[arg(long)]
    minutes: Option<f64>,
    /// How many workers share the queue.
    #[arg(long, default_value_t = 3)]
    workers: usize,
    /// Where to write the report as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Instead: short campaigns against workers with a known fault each, which must be found. With
    /// a word: only those that have it in their name.
    #[arg(long, num_args = 0..=1, default_missing_value = "", value_name = "WORD")]
    mutants: Option<String>,
    /// Instead: the workers archive first and have a low guard limit. An operator decides about
    /// held commands, pauses, resumes, cancels, and restores tasks.
    #[arg(long, conflicts_with_all = ["mutants", "cluster"])]
    safety: bool,
    /// Instead: a cluster of three nodes in containers (needs a Docker engine), whose nodes are
    /// killed, stopped, frozen, drained or cut off from the others; first with the nodes' addresses
    /// in the workers' URL, then behind a balancer.
    #[arg(long, conflicts_with = "mutants")]
    cluster: bool,
    /// With --cluster: only the faults that have this word in their name, for example "cut off".
    #[arg(long, default_value = "", requires = "cluster", value_name = "WORD")]
    only: String,
    /// With --cluster: after how many seconds a node notices that another one is silent; the default
    /// is Erlang's own.
    #[arg(long, default_value_t = 60, requires = "cluster", value_name = "SECONDS")]
    net_ticktime: u32,
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
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn one(arguments: &Arguments) -> Result<bool, String> {
    println!("building the worker with its failpoints");
    let program = variants::build("tallyfy-delete-worker-with-failpoints", &[])?;
    let scenario = scenario(arguments, program)?;
    let minutes = scenario.time.as_secs_f64() / 60.0;
    let Outcome { balance, records, broker, took } = run::run(&scenario).await?;
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
    report::print(&balance, &records, &about);
    if let Some(path) = &arguments.json {
        let report = report::json(&balance, &records, &about).to_string();
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
        patience: Duration::from_mins(3),
        program,
        brakes: None,
        organisations_time: ORGANISATION_FAULTS_TIME,
        organisations: nemesis::ORGANISATIONS.to_vec(),
        infrastructure: nemesis::INFRASTRUCTURE.to_vec(),
        api: nemesis::API.to_vec(),
    };
    if !arguments.safety {
        return Ok(scenario);
    }
    Ok(Scenario {
        brakes: Some(Brakes::of(commands)),
        organisations: Vec::new(),
        infrastructure: safety::INFRASTRUCTURE.to_vec(),
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
    let cluster = Cluster::start(arguments.net_ticktime).await?;
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
            infrastructure: Vec::new(),
            api: Vec::new(),
        };
        let Outcome { balance, records, broker, took } =
            run::run_on_cluster(&scenario, (&cluster, &faults), is_balanced).await?;
        let about = json!({"seed": scenario.seed, "broker": broker, "took_s": took.as_secs()});
        report::print(&balance, &records, &about);
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
        organisations_time: ORGANISATION_FAULTS_OF_A_MUTANT,
        workers: 2,
        patience: if mutant.organisations.is_empty() {
            Duration::from_secs(20)
        } else {
            Duration::from_secs(15)
        },
        program: variants::build(mutant.name, mutant.changes)?,
        brakes: mutant.with_brakes.then(|| Brakes::of(mutant.commands)),
        organisations: mutant.organisations.to_vec(),
        infrastructure: of(&nemesis::INFRASTRUCTURE),
        api: of(&nemesis::API),
    };
    let Outcome { balance, .. } = run::run(&scenario).await?;
    let found = |kind| balance.findings.iter().filter(|finding| finding.kind == kind).count();
    let caught: Vec<_> = mutant.found.iter().map(|kind| (*kind, found(*kind))).collect();
    let is_caught = caught.iter().any(|(_, times)| *times > 0);
    println!("{}: {} {caught:?}", mutant.name, if is_caught { "caught" } else { "NOT CAUGHT" });
    Ok(is_caught)
}
