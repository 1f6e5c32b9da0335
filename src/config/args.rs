//! The command line: every setting as a flag and a variable, all as text, so that `read` can tell every mistake at once.

use clap::{Args, Parser, Subcommand};

/// Deletes Tallyfy tasks for good: takes `task.delete` commands from RabbitMQ, calls the API, publishes what came of it.
#[derive(Parser)]
#[command(version, arg_required_else_help = true, after_help = EXIT_CODES)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Sub,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 failed (for delete: a task could not be deleted); 64 a wrong setting or flag.
Every setting is a flag and an environment variable; flags win. `COMMAND --help` lists them.";

#[derive(Subcommand)]
pub(super) enum Sub {
    /// Work: consume commands until SIGTERM or SIGINT, then drain and exit 0.
    Run(Box<RunArgs>),
    /// Declare exchanges, queues and bindings, and end.
    Setup(SetupArgs),
    /// Delete tasks without a broker: same engine, one JSON outcome a line on standard output.
    #[command(after_help = "Example: printf '%s\\n' ID1 ID2 | tallyfy-delete-worker delete --org ORG -")]
    Delete(Box<DeleteArgs>),
}

#[derive(Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    pub(super) broker: BrokerArgs,
    #[command(flatten)]
    pub(super) core: CoreArgs,
    #[command(flatten)]
    pub(super) ladder: LadderArgs,
    /// Declare the topology at start, or (false) only check that it is there.
    #[arg(
        long,
        env = "DECLARE_TOPOLOGY",
        default_value = "true",
        value_name = "BOOL",
        help_heading = "RabbitMQ"
    )]
    pub(super) declare_topology: String,
    /// Address of /livez, /readyz and /metrics.
    #[arg(
        long,
        env = "HTTP_ADDR",
        default_value = "127.0.0.1:9464",
        value_name = "IP:PORT",
        help_heading = "Operation"
    )]
    pub(super) http_addr: String,
    /// How long a drain may take after SIGTERM.
    #[arg(
        long,
        env = "SHUTDOWN_GRACE",
        default_value = "25s",
        value_name = "DURATION",
        help_heading = "Operation"
    )]
    pub(super) shutdown_grace: String,
    #[command(flatten)]
    pub(super) log: LogArgs,
}

#[derive(Args)]
pub(super) struct SetupArgs {
    #[command(flatten)]
    pub(super) broker: BrokerArgs,
    #[command(flatten)]
    pub(super) ladder: LadderArgs,
    #[command(flatten)]
    pub(super) log: LogArgs,
}

#[derive(Args)]
pub(super) struct DeleteArgs {
    /// Organisation that the tasks belong to.
    #[arg(long)]
    pub(super) org: String,
    /// Ids of the tasks, or - to read them from standard input, one a line.
    #[arg(required = true, value_name = "TASK")]
    pub(super) tasks: Vec<String>,
    #[command(flatten)]
    pub(super) core: CoreArgs,
    #[command(flatten)]
    pub(super) ladder: LadderArgs,
    #[command(flatten)]
    pub(super) log: LogArgs,
}

#[derive(Args)]
pub(super) struct BrokerArgs {
    /// Broker, credentials and virtual host; amqps:// for TLS.
    #[arg(
        long,
        env = "AMQP_URL",
        hide_env_values = true,
        value_name = "URL",
        help_heading = "RabbitMQ",
        default_value = "amqp://guest:guest@127.0.0.1:5672/%2f"
    )]
    pub(super) amqp_url: String,
}

#[derive(Args)]
pub(super) struct LadderArgs {
    /// The durable waits between deliveries, rising, separated by commas; one queue each.
    #[arg(
        long,
        env = "WAIT_LADDER",
        default_value = "5s,30s,2m,10m,1h",
        value_name = "DURATIONS",
        help_heading = "Retries"
    )]
    pub(super) wait_ladder: String,
}

#[derive(Args)]
pub(super) struct CoreArgs {
    /// Everything before /organizations.
    #[arg(
        long = "tallyfy-base-url",
        env = "TALLYFY_BASE_URL",
        default_value = "https://go.tallyfy.com/api",
        value_name = "URL",
        help_heading = "Tallyfy API"
    )]
    pub(super) base_url: String,
    /// Allow http:// to a host that is not a loopback address.
    #[arg(
        long = "tallyfy-allow-http",
        env = "TALLYFY_ALLOW_HTTP",
        default_value = "false",
        value_name = "BOOL",
        help_heading = "Tallyfy API"
    )]
    pub(super) allow_http: String,
    /// Organisations that may be touched, separated by commas; a command for another is dead-lettered.
    #[arg(long = "tallyfy-org-id", env = "TALLYFY_ORG_ID", value_name = "IDS", help_heading = "Tallyfy API")]
    pub(super) org_id: Option<String>,
    /// The token for all of them.
    #[arg(
        long = "tallyfy-access-token",
        env = "TALLYFY_ACCESS_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN",
        help_heading = "Tallyfy API"
    )]
    pub(super) access_token: Option<String>,
    /// File with the token; read again when it changes.
    #[arg(
        long = "tallyfy-access-token-file",
        env = "TALLYFY_ACCESS_TOKEN_FILE",
        value_name = "FILE",
        help_heading = "Tallyfy API"
    )]
    pub(super) access_token_file: Option<String>,
    /// Directory with one file for each organisation, named by its id, holding its token; it is the allow-list.
    #[arg(
        long = "tallyfy-credentials-dir",
        env = "TALLYFY_CREDENTIALS_DIR",
        value_name = "DIR",
        help_heading = "Tallyfy API"
    )]
    pub(super) credentials_dir: Option<String>,
    /// Calls in flight at once.
    #[arg(
        long,
        env = "CONCURRENCY",
        default_value = "64",
        value_name = "NUMBER",
        help_heading = "Tallyfy API"
    )]
    pub(super) concurrency: String,
    /// One call, from connect to the last byte.
    #[arg(
        long,
        env = "REQUEST_TIMEOUT",
        default_value = "15s",
        value_name = "DURATION",
        help_heading = "Tallyfy API"
    )]
    pub(super) request_timeout: String,
    /// Answered attempts before the dead letter.
    #[arg(long, env = "MAX_ATTEMPTS", default_value = "20", value_name = "NUMBER", help_heading = "Retries")]
    pub(super) max_attempts: String,
    /// From the first delivery, waiting included.
    #[arg(long, env = "MAX_AGE", default_value = "24h", value_name = "DURATION", help_heading = "Retries")]
    pub(super) max_age: String,
}

#[derive(Args)]
pub(super) struct LogArgs {
    /// json or pretty; by default json off a terminal, pretty on one.
    #[arg(long, env = "LOG_FORMAT", value_name = "FORMAT", help_heading = "Operation")]
    pub(super) log_format: Option<String>,
    /// What to log: a level, or target=level pairs, separated by commas.
    #[arg(
        long = "rust-log",
        env = "RUST_LOG",
        default_value = "info",
        value_name = "FILTER",
        help_heading = "Operation"
    )]
    pub(super) log: String,
}
