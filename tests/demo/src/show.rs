//! The output of the demo.

use std::io::{IsTerminal, stdout};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Instant;

use comfy_table::Table;
use serde_json::Value;
use testkit::rabbitmq::Broker;

use crate::inbox::Arrival;
use crate::parts::Worker;
use crate::results::Results;

/// What fits on one line.
const WIDTH: usize = 100;

/// The names of the columns.
pub(crate) fn header() {
    clock();
    println!(
        "{:>7}  {:<13} {:<16} {:<15} {:>8} {:>6}  note",
        "time", "kind", "command", "outcome", "attempts", "status"
    );
    println!("{}", "-".repeat(WIDTH));
}

/// One arrival.
pub(crate) fn row(arrival: &Arrival, kind: &str) {
    let time = format!("{:.2}s", clock().elapsed().as_secs_f64());
    match arrival {
        Arrival::Event(event) => {
            let data = &event["data"];
            let outcome = data["outcome"].as_str().unwrap_or("?");
            let (id, attempts) = (text(&data["command_id"]), text(&data["attempts"]));
            let (status, note) = (text(&data["http_status"]), note(data));
            let outcome = paint(outcome, &format!("{outcome:<15}"));
            println!("{time:>7}  {kind:<13} {id:<16} {outcome} {attempts:>8} {status:>6}  {note}");
        }
        Arrival::DeadLetter(dead_letter) => {
            let why = cut(&dead_letter.why, WIDTH - 56);
            println!("{time:>7}  {kind:<13} {:<16} -> dead letter: {why}", dead_letter.id);
        }
    }
}

/// The totals.
pub(crate) fn summary(results: &Results) {
    let mut table = Table::new();
    table.set_header(["published", "deleted", "already_absent", "dead_lettered"]);
    let ends = ["deleted", "already_absent", "dead_lettered"].map(|outcome| results.count(outcome));
    table.add_row([results.published(), ends[0], ends[1], ends[2]].map(|count| count.to_string()));
    println!("\n{table}\n{} = {} + {} + {}", results.published(), ends[0], ends[1], ends[2]);
}

/// Where to look, and what to type next.
pub(crate) fn how_to_go_on(broker: &Broker, vhost: &str, worker: &Worker) {
    println!("\nHow to go on:");
    let login = if broker.amqp_url(vhost).contains("//guest:guest@") {
        "guest/guest"
    } else {
        "your own login"
    };
    println!("  management   {} ({login})", broker.management_url());
    println!("  virtual host {vhost}");
    println!("  worker       {0}/readyz  {0}/metrics", worker.port);
    println!(
        "  queues       task.delete, task.delete.wait.*, task.delete.dead (holds the dead letters)"
    );
    println!("  make up      the same system in containers, to stay; make test runs every test");
}

/// The final verdict.
pub(crate) fn verdict(problems: &[String], log: &Path) {
    if problems.is_empty() {
        let _ = std::fs::remove_file(log);
        println!(
            "\n{}",
            paint(
                "deleted",
                "All results are right: every command has exactly one end, and each end is true."
            )
        );
        return;
    }
    println!(
        "\n{} The worker's log: {}",
        paint("dead_lettered", "The results are wrong."),
        log.display()
    );
    for problem in problems {
        println!("  - {problem}");
    }
}

fn note(data: &Value) -> String {
    let failure = data["failure"]["reason"].as_str();
    let ambiguous = (data["ambiguous"] == true).then_some("answer lost: likely by us");
    cut(failure.or(ambiguous).unwrap_or_default(), WIDTH - 73)
}

/// Shortens a text to this many characters, with an ellipsis if there were more.
fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(
        || if value.is_null() { "-".to_owned() } else { value.to_string() },
        str::to_owned,
    )
}

fn clock() -> &'static Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now)
}

fn paint(outcome: &str, words: &str) -> String {
    static COLOURS: OnceLock<bool> = OnceLock::new();
    let colours = COLOURS.get_or_init(|| {
        stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty())
    });
    let colour = match outcome {
        "deleted" => 32,
        "already_absent" => 36,
        _ => 31,
    };
    if *colours { format!("\x1b[{colour}m{words}\x1b[0m") } else { words.to_owned() }
}
