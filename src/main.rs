//! The command line: wires the parts; exit codes.

use std::process::ExitCode;

use anyhow::Context;
use tallyfy_delete_worker::config::{self, EXIT_USAGE, Job};
use tallyfy_delete_worker::delete_list::delete_list;
use tallyfy_delete_worker::messages::{OrgId, TaskId};
use tallyfy_delete_worker::rabbitmq::{BrokerSettings, connection, topology};
use tallyfy_delete_worker::service::{CoreSettings, Service, ServiceSettings};
use tallyfy_delete_worker::{core_dump, shutdown, telemetry};
use tracing::{error, info, warn};

#[tokio::main]
async fn main() -> ExitCode {
    let (job, logging) = match config::read() {
        Ok(read) => read,
        Err(problems) => {
            for problem in problems {
                eprintln!("{problem}");
            }
            return ExitCode::from(EXIT_USAGE);
        }
    };
    telemetry::start(logging.format, logging.filter);
    if let Err(trouble) = core_dump::forbid() {
        warn!("core dumps cannot be forbidden, and one would hold the tokens: {trouble}");
    }
    let done = match job {
        Job::Run(settings) => run(*settings).await,
        Job::Setup(settings) => setup(&settings).await,
        Job::Delete(core, org, tasks) => delete(*core, &org, tasks).await,
    };
    done.unwrap_or_else(|trouble| {
        error!("{trouble:#}");
        ExitCode::FAILURE
    })
}

async fn run(settings: ServiceSettings) -> anyhow::Result<ExitCode> {
    let shutdown = shutdown::on_signal().context("cannot listen for signals")?;
    let base_url = settings.core.api.base_url.clone();
    let broker = connection::address(&settings.broker.uri);
    let service = Service::start(settings).await?;
    info!(version = env!("CARGO_PKG_VERSION"), %base_url, broker, http = %service.http_address()?, "starting");
    service.run(shutdown).await;
    Ok(ExitCode::SUCCESS)
}

async fn setup(settings: &BrokerSettings) -> anyhow::Result<ExitCode> {
    let connection = connection::connect(&settings.uri, "setup").await?;
    topology::ensure(&connection, &settings.topology).await?;
    info!(queues = topology::queue_names(&settings.topology).join(" "), "the topology is declared");
    let _ = connection.close(200, "OK".into()).await;
    Ok(ExitCode::SUCCESS)
}

async fn delete(core: CoreSettings, org: &OrgId, tasks: Vec<TaskId>) -> anyhow::Result<ExitCode> {
    let shutdown = shutdown::on_signal().context("cannot listen for signals")?;
    let tally = delete_list(core, org, tasks, std::io::stdout(), shutdown).await?;
    info!(gone = tally.gone, failed = tally.failed, left = tally.left, "the list is done");
    Ok(if tally.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
