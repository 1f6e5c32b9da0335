//! The command line: wires the parts together and maps results to exit codes.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use tallyfy_delete_worker::audit_tool;
use tallyfy_delete_worker::check::check;
use tallyfy_delete_worker::config::{self, EXIT_USAGE, Job};
use tallyfy_delete_worker::console::{Console, ConsoleSettings};
use tallyfy_delete_worker::dead_letters::{self, ActionResult, DeadJob};
use tallyfy_delete_worker::delete_list::{ListEnd, ListSettings, Tally, delete_list};
use tallyfy_delete_worker::guard_tool;
use tallyfy_delete_worker::kind::Kind;
use tallyfy_delete_worker::messages::{End, EndKind};
use tallyfy_delete_worker::policy::dry_run::CallMode;
use tallyfy_delete_worker::rabbitmq::AmqpSource;
use tallyfy_delete_worker::rabbitmq::tls::TlsFiles;
use tallyfy_delete_worker::service::{Service, ServiceSettings, StartError, setup};
use tallyfy_delete_worker::undo_list::undo;
use tallyfy_delete_worker::{core_dump, descriptors, shutdown, telemetry, tls_provider};
use tokio::runtime::{Builder, Runtime};
use tracing::{error, info, warn};

/// Exit code of `delete` after a signal: what shells report for SIGINT.
const EXIT_INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let (job, logging) = match config::read() {
        Ok(read) => read,
        Err(problems) => {
            for problem in problems {
                eprintln!("{problem}");
            }
            return ExitCode::from(EXIT_USAGE);
        }
    };
    telemetry::start(logging.format, logging.filter, logging.mode);
    tls_provider::install();
    if let Err(trouble) = core_dump::forbid() {
        warn!("core dumps cannot be forbidden, and one would hold the tokens: {trouble}");
    }
    if let Err(trouble) = descriptors::take_all() {
        warn!("the limit of open files stays where it is: {trouble}");
    }
    runtime(&job).block_on(execute(job)).unwrap_or_else(|trouble| {
        error!("{}", error_chain(&trouble));
        // A wrong setting, like those that `config` finds: a supervisor need not try again.
        let is_wrong_setting = trouble
            .chain()
            .any(|cause| matches!(cause.downcast_ref(), Some(StartError::Credentials { .. })));
        if is_wrong_setting { ExitCode::from(EXIT_USAGE) } else { ExitCode::FAILURE }
    })
}

/// One thread for the worker: calls mostly wait, and lapin has its own threads. Commands that write
/// to standard output get more threads: a slow reader (`dead show | less`) must not delay the
/// broker's heartbeats.
fn runtime(job: &Job) -> Runtime {
    let mut threads = match job {
        Job::Run(_) => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    threads.enable_all().build().expect("a runtime, which needs but a thread and a few descriptors")
}

async fn execute(job: Job) -> anyhow::Result<ExitCode> {
    match job {
        Job::Run(settings) => run(*settings).await,
        Job::Print(text) => {
            io::stdout().write_all(&text).map(|()| ExitCode::SUCCESS).context("standard output")
        }
        Job::Check(settings, purpose, form) => {
            let ServiceSettings { core, broker, .. } = &*settings;
            check(core, broker, purpose, form).await.map(code).map_err(Into::into)
        }
        Job::Setup(settings) => {
            setup(&settings).await.map(|()| ExitCode::SUCCESS).map_err(Into::into)
        }
        Job::Undo(job) => undo(*job, io::stdout()).await.map(code).map_err(Into::into),
        Job::Delete(list) => delete(*list).await,
        Job::Dead(kind, url, tls, job) => dead(kind, &url, &tls, job).await,
        Job::Audit(url, tls, job) => {
            audit_tool::run(&job, &url, &tls).await.map(|()| ExitCode::SUCCESS).map_err(Into::into)
        }
        Job::Console(settings) => console(*settings).await,
        Job::Decide(url, tls, job) => {
            let stop = shutdown::on_signal().context("cannot listen for signals")?;
            guard_tool::run(job, &url, &tls, stop).await.map(code).map_err(Into::into)
        }
    }
}

/// The error with its causes, each once: most errors already name their cause.
fn error_chain(trouble: &anyhow::Error) -> String {
    let texts = trouble.chain().map(ToString::to_string);
    texts
        .reduce(|said, cause| if said.contains(&cause) { said } else { format!("{said}: {cause}") })
        .unwrap_or_default()
}

async fn run(settings: ServiceSettings) -> anyhow::Result<ExitCode> {
    let shutdown = shutdown::on_signal().context("cannot listen for signals")?;
    let base_url = settings.core.api.base_url.clone();
    let broker = settings.broker.url.to_string();
    let service = Service::start(settings).await?;
    info!(version = config::version(), %base_url, broker, http = %service.http_address()?, "starting");
    service.run(shutdown).await;
    Ok(ExitCode::SUCCESS)
}

async fn console(settings: ConsoleSettings) -> anyhow::Result<ExitCode> {
    let stop = shutdown::on_signal().context("cannot listen for signals")?;
    let address = settings.address;
    let console =
        Console::start(settings).await.with_context(|| format!("CONSOLE_ADDR {address}"))?;
    info!(version = env!("CARGO_PKG_VERSION"), "the console is at http://{}/", console.address()?);
    console.run(stop).await;
    Ok(ExitCode::SUCCESS)
}

async fn dead(
    kind: Kind,
    url: &AmqpSource,
    tls: &TlsFiles,
    job: DeadJob,
) -> anyhow::Result<ExitCode> {
    let stop = shutdown::on_signal().context("cannot listen for signals")?;
    Ok(code(dead_letters::run(kind, job, url, tls, stop).await? == ActionResult::Completed))
}

async fn delete(list: ListSettings) -> anyhow::Result<ExitCode> {
    let shutdown = shutdown::on_signal().context("cannot listen for signals")?;
    let (kind, org_id) = (list.kind, list.org.to_string());
    let is_dry_run = list.core.mode == CallMode::Look;
    let tally = delete_list(list, io::stdout(), shutdown).await?;
    let Tally { done, already_absent, failed, unknown, left, duplicates, end } = tally;
    let word = End { kind, how: EndKind::Done }.as_str();
    let counts = format!(
        "{done} {word}, {already_absent} already_absent, {failed} failed, {left} left; {duplicates} duplicates ignored"
    );
    let what = match end {
        ListEnd::Through if is_dry_run => "dry run, nothing was deleted; it would be",
        ListEnd::Through => "the list is done",
        ListEnd::Interrupted => "interrupted",
        ListEnd::NotAgreed => "not agreed to, nothing has begun",
    };
    let unknown = is_dry_run.then_some(unknown);
    info!(%kind, org_id, done, already_absent, failed, unknown, left, duplicates, "{what}: {counts}");
    let is_interrupted = end == ListEnd::Interrupted;
    Ok(if is_interrupted { ExitCode::from(EXIT_INTERRUPTED) } else { code(tally.is_complete()) })
}

fn code(is_ok: bool) -> ExitCode {
    if is_ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
