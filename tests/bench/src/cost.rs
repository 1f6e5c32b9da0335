//! What TLS costs, and what the number of organisations costs: CPU time and memory per command.

use serde_json::{Value, json};

use crate::process::Contestant;
use crate::rounds::{number, spread};
use crate::scale::{Done, empty, work_off};
use crate::test_bed::{COMMANDS, OutputFormat, TestBed};

const CONCURRENCY: usize = 64;
const ORGANISATIONS: [usize; 4] = [1, 10, 1_000, 10_000];

/// The API in plain HTTP and over TLS, in interleaved rounds.
pub(crate) async fn tls(commands: usize, rounds: usize) -> Value {
    let beds = [TestBed::new(0).await, TestBed::over_tls(0).await];
    let mut figures = [Vec::new(), Vec::new()];
    for round in 1..=rounds {
        for (bed, figures) in beds.iter().zip(&mut figures) {
            let done = work_off(bed, 1, commands, CONCURRENCY).await;
            let figure = (done.workers.cpu_us / number(commands), done);
            eprintln!("round {round}: {:.1} µs a command", figure.0);
            figures.push(figure);
        }
    }
    for bed in beds {
        bed.end().await;
    }
    let [plain, over_tls] = &figures;
    let ratios = plain.iter().zip(over_tls).map(|(plain, tls)| tls.0 / plain.0).collect();
    let of = |figures: &[(f64, Done)], pick: fn(&(f64, Done)) -> f64| {
        spread(figures.iter().map(pick).collect())
    };
    let a_thousand = over_tls.iter().map(|(_, done)| done.handshakes * 1000.0 / number(commands));
    json!({
        "commands": commands, "rounds": rounds, "concurrency": CONCURRENCY,
        "plain_cpu_us": of(plain, |f| f.0), "tls_cpu_us": of(over_tls, |f| f.0), "tls_to_plain": spread(ratios),
        "plain_a_second": of(plain, |f| f.1.a_second), "tls_a_second": of(over_tls, |f| f.1.a_second),
        "handshakes_a_thousand_commands": spread(a_thousand.collect()),
        "plain_peak_mib": of(plain, |f| f.1.workers.peak_mib), "tls_peak_mib": of(over_tls, |f| f.1.workers.peak_mib),
    })
}

/// The same commands, spread over more and more organisations.
pub(crate) async fn organisations(commands: usize) -> Value {
    let bed = TestBed::new(0).await;
    let mut rows = Vec::new();
    for organisations in ORGANISATIONS {
        let org = |number: usize| format!("o{}", number % organisations);
        for number in 0..commands {
            bed.publish(&org(number), number, OutputFormat::Contract { bytes: 0 }).await;
        }
        bed.becomes(COMMANDS, commands).await;
        let mut worker = Contestant::worker().command(&bed, commands, CONCURRENCY);
        let all: Vec<String> = (0..organisations).map(org).collect();
        worker.env("TALLYFY_ORG_ID", all.join(","));
        let Done { a_second, workers, .. } = empty(&bed, vec![worker], commands).await;
        rows.push(json!({
            "organisations": organisations, "cpu_us": workers.cpu_us / number(commands), "a_second": a_second,
            "resident_mib": workers.resident_mib, "peak_mib": workers.peak_mib,
        }));
    }
    bed.end().await;
    rows.into()
}
