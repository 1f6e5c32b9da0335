//! `make demo`: shows how the worker handles faults, live, with a real RabbitMQ. Starts everything,
//! publishes commands of every kind, shows how each ends, and checks the results.

#![allow(clippy::print_stdout, reason = "showing is what it is for")]

mod commands;
mod inbox;
mod parts;
mod results;
mod show;

use std::io::{IsTerminal, stdin, stdout};
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use testkit::rabbitmq::{self, Broker};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{interval, timeout};

use commands::Command;
use inbox::Inbox;
use parts::Worker;
use results::Results;

const DEADLINE: Duration = Duration::from_secs(90);
/// The time between two commands, so that a person can follow.
const PACE: Duration = Duration::from_millis(60);

fn main() -> ExitCode {
    let runtime = Runtime::new().expect("a runtime");
    let is_right = runtime.block_on(with_a_broker());
    // Not waited for: the thread that reads standard input may never end.
    runtime.shutdown_background();
    if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn with_a_broker() -> bool {
    println!(
        "Services publish task.delete commands; the worker deletes the tasks and publishes the outcome of each.\n"
    );
    let mut interrupted = pin!(interrupted());
    let broker = tokio::select! {
        biased;
        () = &mut interrupted => return false,
        broker = tokio::task::spawn_blocking(rabbitmq::broker) => broker,
    };
    // Its panic has said why there is none.
    let Ok(broker) = broker else { return false };
    let vhost = broker.new_vhost().await;
    let is_right = tokio::select! {
        biased;
        () = &mut interrupted => { println!("\nInterrupted: everything is ended."); false }
        is_right = demo(broker, &vhost) => is_right,
    };
    broker.delete_vhost(&vhost).await;
    is_right
}

async fn interrupted() {
    let listen = |kind| signal(kind).expect("a signal handler");
    let (mut interrupt, mut terminate) =
        (listen(SignalKind::interrupt()), listen(SignalKind::terminate()));
    tokio::select! { _ = interrupt.recv() => {} _ = terminate.recv() => {} }
}

async fn demo(broker: &Broker, vhost: &str) -> bool {
    println!("  broker     {}", broker.describe());
    let sandbox = parts::sandbox();
    println!("  sandbox    {} (stands in for the Tallyfy API)", sandbox.url());
    let mut worker = Worker::start(&broker.amqp_url(vhost), sandbox.url());
    if let Err(problem) = worker.until_ready().await {
        show::verdict(&[problem], &worker.log);
        return false;
    }
    println!("  worker     {} (log: {})\n", worker.port, worker.log.display());

    let mut inbox = Inbox::open(&broker.amqp_url(vhost)).await;
    let commands = commands::all();
    parts::prepare(&sandbox, &commands).await;
    println!(
        "{} commands are published, each confirmed by the broker. The outcomes:\n",
        commands.len()
    );
    show::header();
    let mut results = Results::new(commands.clone());
    let cut_short =
        match timeout(DEADLINE, live(&commands, &mut inbox, &mut results, &mut worker)).await {
            Ok(lived) => lived.err(),
            Err(_) => Some(format!("not everything ended within {DEADLINE:?}")),
        };
    let mut problems = results.problems(&sandbox, &inbox).await;
    problems.extend(cut_short);
    show::summary(&results);
    show::how_to_go_on(broker, vhost, &worker);
    if stdin().is_terminal() && stdout().is_terminal() {
        println!("\nEnter ends the demo.");
        let _ = tokio::task::spawn_blocking(|| stdin().read_line(&mut String::new())).await;
    }
    problems.extend(worker.stop().await);
    show::verdict(&problems, &worker.log);
    problems.is_empty()
}

/// Publishes and shows at the same time, until every command has its end.
async fn live(
    commands: &[Command],
    inbox: &mut Inbox,
    results: &mut Results,
    worker: &mut Worker,
) -> Result<(), String> {
    let (mut published, mut pace) = (0, interval(PACE));
    while !results.complete() {
        tokio::select! {
            arrival = inbox.next() => show::row(&arrival, results.record(&arrival)),
            _ = pace.tick() => match commands.get(published) {
                Some(command) => {
                    inbox.publish(published, command).await;
                    published += 1;
                }
                None => worker.check()?,
            },
        }
    }
    Ok(())
}
