//! `tallyfy-sandbox`: the stand-in for the Tallyfy API as a program.

use std::io::{self, Read, Write};
use std::process::ExitCode;

use clap::Parser;
use tallyfy_sandbox::Contents;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;

/// A stand-in for the Tallyfy API that does what it is scripted to do under `/_sandbox` (GET /
/// names the endpoints).
#[derive(Debug, Parser)]
#[command(name = "tallyfy-sandbox", version)]
struct Settings {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, env = "SANDBOX_LISTEN", default_value = "127.0.0.1:8080")]
    listen: String,
    #[command(flatten)]
    contents: Contents,
    /// End when standard input ends, so that the sandbox ends with a test that dies.
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
    tokio::select! {
        never = tallyfy_sandbox::serve(listener, &settings.contents) => match never {},
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

/// On a thread of its own: tokio's stdin would keep the runtime from ending while it waits for
/// input.
fn watch_stdin() -> oneshot::Receiver<()> {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        let mut stdin = io::stdin().lock();
        let mut buffer = [0; 1024];
        while matches!(stdin.read(&mut buffer), Ok(1..)) {}
        // The receiver is dropped only when the process ends anyway.
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
