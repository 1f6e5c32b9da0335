//! `tallyfy-sandbox`: stands in for the Tallyfy API in tests, demos and docker-compose, and misbehaves
//! exactly as told. It deletes nothing but entries of its own memory.

mod answers;
mod api;
mod chance;
mod control;
mod fault_effects;
mod faults;
mod honest;
mod ledger;
mod objects;
mod sandbox;
mod server;
mod state;
mod visit;

use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use clap::builder::FalseyValueParser;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;

use crate::faults::Faults;
use crate::ledger::Ledger;
use crate::sandbox::Sandbox;
use crate::state::{ObjectState, State};

const DEFAULT_ORG: &str = "5a4db0c0ffee5a4db0c0ffee5a4db0c0";

/// A stand-in for the Tallyfy API that does what it is scripted to do under `/_sandbox` (GET / names the endpoints).
#[derive(Debug, Parser)]
#[command(name = "tallyfy-sandbox", version)]
struct Settings {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, env = "SANDBOX_LISTEN", default_value = "127.0.0.1:8080")]
    listen: String,
    /// An organisation that exists from the start; may be repeated, or separated by commas.
    #[arg(long = "org", env = "SANDBOX_ORGS", value_name = "ORG_ID", value_delimiter = ',', default_value = DEFAULT_ORG)]
    orgs: Vec<String>,
    /// The token that reaches every organisation without tokens of its own.
    #[arg(long, env = "SANDBOX_TOKEN", default_value = "sandbox-token")]
    token: String,
    /// How many present one-off tasks each organisation has from the start; their ids count up from 0.
    #[arg(long, env = "SANDBOX_TASKS", value_name = "N", default_value_t = 0)]
    tasks: u64,
    /// The seed of the faults that have a probability.
    #[arg(long, env = "SANDBOX_SEED", default_value_t = 1)]
    seed: u64,
    /// Keep counts only, no entry for each request.
    #[arg(long, env = "SANDBOX_NO_LEDGER", value_parser = FalseyValueParser::new())]
    no_ledger: bool,
    /// End when standard input ends, so that a test that dies takes the sandbox along.
    #[arg(long)]
    exit_with_stdin: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let settings = Settings::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
    match run(settings).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the sandbox cannot run");
            ExitCode::FAILURE
        }
    }
}

async fn run(settings: Settings) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let listener = TcpListener::bind(&settings.listen).await?;
    announce(&listener)?;
    let stdin_ended = if settings.exit_with_stdin { Some(watch_stdin()) } else { None };
    let sandbox = Arc::new(furnish(&settings));
    tokio::select! {
        never = server::serve(listener, sandbox) => match never {},
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = ended(stdin_ended) => {}
    }
    Ok(())
}

fn announce(listener: &TcpListener) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "listening on http://{}", listener.local_addr()?)?;
    stdout.flush()
}

fn furnish(settings: &Settings) -> Sandbox {
    let mut state = State::new(settings.token.clone());
    for org_id in
        settings.orgs.iter().map(|org_id| org_id.trim()).filter(|org_id| !org_id.is_empty())
    {
        state.put_organisation(org_id, None);
        if let Some(organisation) = state.organisation(org_id) {
            organisation.tasks =
                (0..settings.tasks).map(|i| (format!("{i:032x}"), ObjectState::Present)).collect();
        }
    }
    Sandbox::new(state, Faults::new(settings.seed), Ledger::new(!settings.no_ledger))
}

/// On a thread of its own: tokio's stdin would keep the runtime from ending while it waits for input.
fn watch_stdin() -> oneshot::Receiver<()> {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        let mut stdin = io::stdin().lock();
        let mut buffer = [0; 1024];
        while matches!(stdin.read(&mut buffer), Ok(1..)) {}
        // The receiver is gone only when the process ends anyway.
        let _ = sender.send(());
    });
    receiver
}

async fn ended(stdin: Option<oneshot::Receiver<()>>) {
    match stdin {
        Some(receiver) => drop(receiver.await),
        None => std::future::pending().await,
    }
}
