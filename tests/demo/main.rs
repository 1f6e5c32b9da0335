//! `make demo`: a bad day of the worker, live, on a real RabbitMQ. Starts everything, publishes commands of every kind,
//! shows how each ends, and balances the books.

#![allow(clippy::print_stdout, reason = "showing is what it is for")]

mod books;
mod commands;
mod parts;
#[path = "../spec/support/rabbitmq/mod.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod rabbitmq;
mod show;

use std::io::{IsTerminal, stdin, stdout};
use std::process::ExitCode;
use std::time::Duration;

use books::Books;
use parts::{Inbox, Sandbox, Worker};

const DEADLINE: Duration = Duration::from_secs(90);

#[tokio::main]
async fn main() -> ExitCode {
    tokio::select! {
        balanced = demo() => if balanced { ExitCode::SUCCESS } else { ExitCode::FAILURE },
        _ = tokio::signal::ctrl_c() => ExitCode::FAILURE,
    }
}

async fn demo() -> bool {
    println!(
        "Services publish task.delete commands; the worker deletes the tasks and says what came of each.\n"
    );
    let broker = tokio::task::spawn_blocking(rabbitmq::broker).await.expect("a broker");
    println!("  RabbitMQ   {}", broker.describe());
    let vhost = broker.new_vhost().await;
    let sandbox = Sandbox::start();
    println!("  sandbox    {} (stands in for the Tallyfy API)", sandbox.url);
    let mut worker = Worker::start(&broker.amqp_url(&vhost), &sandbox.url);
    worker.until_ready().await;
    println!("  worker     {} (log: {})\n", worker.port, worker.log.display());

    let mut inbox = Inbox::open(&broker.amqp_url(&vhost)).await;
    let commands = commands::all();
    sandbox.prepare(&commands).await;
    println!(
        "{} commands are published, each confirmed by the broker. What comes of each:\n",
        commands.len()
    );
    show::header();
    inbox.publish(&commands).await;
    let mut books = Books::new(commands);
    let in_time = tokio::time::timeout(DEADLINE, async {
        while !books.complete() {
            let arrival = inbox.next().await;
            show::row(&arrival, books.enter(&arrival));
        }
    });
    let late = in_time.await.is_err();
    let mut problems = books.problems(&sandbox, &inbox).await;
    show::summary(&books);
    show::how_to_go_on(broker, &vhost, &worker);
    if stdin().is_terminal() && stdout().is_terminal() {
        println!("\nEnter ends the demo.");
        let _ = tokio::task::spawn_blocking(|| stdin().read_line(&mut String::new())).await;
    }
    problems.extend(late.then(|| format!("not everything ended within {DEADLINE:?}")));
    problems.extend(worker.stop().await);
    broker.delete_vhost(&vhost).await;
    show::verdict(&problems, &worker.log);
    problems.is_empty()
}
