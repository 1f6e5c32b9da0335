//! The whole worker as one service: binds the operator's port, builds the engine, works until told
//! to stop, drains.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry_otlp::ExporterBuildError;
use thiserror::Error;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::credentials::{Credentials, CredentialsError, CredentialsSource};
use crate::health::{Component, Health};
use crate::http::{self, Bound, Pages};
use crate::kind::Kind;
use crate::messages::ledger::GuardLimit;
use crate::metrics::Metrics;
use crate::policy::api_access::rate::RateLimits;
use crate::policy::dry_run::CallMode;
use crate::policy::producers::Producers;
use crate::policy::retry_schedule::RetrySchedule;
use crate::policy::undo::DeleteMode;
use crate::rabbitmq::{BrokerError, BrokerSettings, Connection, topology};
use crate::spans::{OtlpSettings, Spans};
use crate::tallyfy_api::{ApiSettings, TallyfyApi};
use crate::worker::{Engine, EngineSettings, Worker, reload_credentials, status};

const PORT_GRACE: Duration = Duration::from_secs(1);

/// Settings that every use of the engine needs.
#[derive(Clone)]
pub struct CoreSettings {
    pub api: ApiSettings,
    /// Tokens and the allow-list.
    pub credentials: CredentialsSource,
    /// Limits and waits.
    pub schedule: RetrySchedule,
    /// Calls in flight at once.
    pub concurrency: usize,
    /// How often the API may be called.
    pub limits: RateLimits,
    /// Whether anything is destroyed.
    pub mode: CallMode,
    /// The limit of the mass-deletion guard; `None` if it is off.
    pub guard: Option<GuardLimit>,
    /// What `task.delete` does.
    pub delete_mode: DeleteMode,
    /// Which producers may ask for what.
    pub producers: Producers,
    /// Where spans go, if they are made.
    pub otlp: Option<OtlpSettings>,
}

/// What `run` needs.
#[derive(Clone)]
pub struct ServiceSettings {
    pub core: CoreSettings,
    pub broker: BrokerSettings,
    /// Health and metrics.
    pub http_addr: SocketAddr,
    /// How long a drain may take.
    pub shutdown_grace: Duration,
}

/// Why the start failed.
#[derive(Debug, Error)]
pub enum StartError {
    /// A token is missing.
    #[error("{setting}: {source}")]
    Credentials {
        /// The setting that says where it should be.
        setting: &'static str,
        /// What is wrong there.
        source: CredentialsError,
    },
    /// The port cannot be bound.
    #[error("HTTP_ADDR {address}: {source}")]
    Port { address: SocketAddr, source: io::Error },
    #[error("the HTTP client cannot be built: {0}")]
    Client(#[from] reqwest::Error),
    /// The exporter of spans cannot be built.
    #[error("OTEL_EXPORTER_OTLP_ENDPOINT: {0}")]
    Spans(#[from] ExporterBuildError),
}

/// A worker that is ready to run.
pub struct Service {
    settings: ServiceSettings,
    port: Bound,
    engine: Arc<Engine>,
    hangups: Option<Signal>,
}

/// Reads the tokens.
///
/// # Errors
/// [`StartError::Credentials`] names the setting, and what is wrong there.
pub fn credentials(source: &CredentialsSource) -> Result<Arc<Credentials>, StartError> {
    let setting = match source {
        CredentialsSource::Fixed { .. } => "TALLYFY_ACCESS_TOKEN",
        CredentialsSource::File { .. } => "TALLYFY_ACCESS_TOKEN_FILE",
        CredentialsSource::Directory { .. } => "TALLYFY_CREDENTIALS_DIR",
    };
    let credentials = Credentials::load(source.clone());
    credentials.map(Arc::new).map_err(|source| StartError::Credentials { setting, source })
}

/// Builds the engine, from its settings and the credentials.
///
/// # Errors
/// [`StartError`] if the HTTP client cannot be built.
pub fn engine(
    core: &CoreSettings,
    kinds: &[Kind],
    credentials: &Arc<Credentials>,
    is_attended: bool,
) -> Result<Engine, StartError> {
    let settings = EngineSettings {
        api: TallyfyApi::new(&core.api)?,
        credentials: Arc::clone(credentials),
        schedule: core.schedule.clone(),
        concurrency: core.concurrency,
        limits: core.limits,
        mode: core.mode,
        delete_mode: core.delete_mode,
        guard: core.guard,
        is_attended,
        producers: core.producers.clone(),
        spans: core.otlp.as_ref().map_or_else(|| Ok(Spans::default()), Spans::to)?,
    };
    Ok(Engine::new(settings, Arc::new(Metrics::new(kinds)), Arc::new(Health::default())))
}

impl Service {
    /// Reads the credentials and binds the port.
    ///
    /// # Errors
    /// [`StartError`] says which of them failed.
    pub async fn start(settings: ServiceSettings) -> Result<Self, StartError> {
        // From here on, SIGHUP does not end the process.
        let hangups = signal(SignalKind::hangup()).ok();
        let credentials = credentials(&settings.core.credentials)?;
        credentials.warn_of_missing();
        if settings.core.mode == CallMode::Look {
            warn!(
                "DRY_RUN: nothing is deleted, and the commands are used up: each is acknowledged when its dry-run event is confirmed"
            );
        }
        let engine =
            Arc::new(engine(&settings.core, &settings.broker.topology.kinds, &credentials, false)?);
        let address = settings.http_addr;
        let port =
            http::bind(address).await.map_err(|source| StartError::Port { address, source })?;
        Ok(Self { settings, port, engine, hangups })
    }

    /// The address of health and metrics.
    pub fn http_address(&self) -> io::Result<SocketAddr> {
        self.port.address()
    }

    /// Works until `shutdown` fires, then drains.
    pub async fn run(self, shutdown: CancellationToken) {
        let Self { settings, port, engine, hangups } = self;
        let ended = CancellationToken::new();
        let (health, metrics) = (Arc::clone(&engine.health), Arc::clone(&engine.metrics));
        let status = {
            let engine = Arc::clone(&engine);
            Arc::new(move || status(&engine))
        };
        let spans = engine.spans.clone();
        let is_dry_run = engine.mode() == CallMode::Look;
        let pages = Pages { health, metrics, status, is_dry_run };
        let port = tokio::spawn(port.serve(http::routes(pages), ended.clone()));
        let reloading = tokio::spawn(reload_credentials(Arc::clone(&engine)));
        let reloading_at_once = tokio::spawn(reload_on_hangup(hangups, Arc::clone(&engine)));
        tokio::spawn(drain_on(shutdown, Arc::clone(&engine)));
        Worker::new(engine, settings.broker).run(settings.shutdown_grace).await;
        info!("drained");
        let _ = tokio::task::spawn_blocking(move || spans.flush()).await;
        reloading.abort();
        reloading_at_once.abort();
        ended.cancel();
        // A client that never finishes its request does not delay the end.
        let _ = timeout(PORT_GRACE, port).await;
    }
}

/// The `setup` command: declares the topology and ends.
///
/// # Errors
/// [`BrokerError`] says what to check.
pub async fn setup(settings: &BrokerSettings) -> Result<(), BrokerError> {
    let connection = Connection::open(&settings.url, &settings.tls, "setup").await?;
    topology::warn_of_old_queues(&topology::ensure(&connection, &settings.topology).await?.old);
    info!(queues = topology::queue_names(&settings.topology).join(" "), "the topology is declared");
    connection.close().await;
    Ok(())
}

/// SIGHUP reads the credentials again, at once.
async fn reload_on_hangup(hangups: Option<Signal>, engine: Arc<Engine>) {
    let Some(mut hangups) = hangups else { return };
    while hangups.recv().await.is_some() {
        info!("SIGHUP: reading the credentials again");
        engine.reload_credentials();
    }
}

async fn drain_on(shutdown: CancellationToken, engine: Arc<Engine>) {
    shutdown.cancelled().await;
    info!("draining: no new call, what is in flight is finished and settled");
    engine.health.set(Component::Draining, Some("draining".to_owned()));
    engine.draining.cancel();
}
