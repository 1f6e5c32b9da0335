//! The settings of the engine: the API, tokens, limits. Part of the command line of `run`, `check`
//! and `delete`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use url::Url;

use super::values::{
    ModeName, Setting, base_url, checked, collector, delete_mode, duration, flag, guard_max,
    if_set, number, orgs, proxy, rate,
};
use crate::messages::OrgId;
use crate::policy::api_access::rate::Rate;

const TENTH: Duration = Duration::from_millis(100);
/// All tries of one delivery together must stay far below RabbitMQ's consumer timeout of 30
/// minutes.
const LONGEST_REQUEST: Duration = Duration::from_mins(5);
const WEEK: Duration = Duration::from_hours(24 * 7);
/// Below RabbitMQ's largest TTL, 2^32 milliseconds.
const LONGEST_UNDO: Duration = Duration::from_hours(24 * 45);
const YEAR: Duration = Duration::from_hours(24 * 366);

#[derive(Args)]
pub(super) struct UndoArgs {
    /// What task.delete does: delete at once; archive, which can be undone, and no more; or
    /// `archive_then_delete`, which deletes what is still archived when the undo window has ended.
    #[arg(
        long,
        env = "DELETE_MODE",
        default_value = "delete",
        value_name = "MODE",
        help_heading = "Tallyfy API", value_parser = checked(delete_mode))]
    pub(super) delete_mode: Setting<ModeName>,
    /// How long a task stays archived before it is deleted, with `archive_then_delete`.
    #[arg(
        long,
        env = "UNDO_WINDOW",
        default_value = "7d",
        value_name = "DURATION",
        help_heading = "Tallyfy API", value_parser = checked(duration(Duration::from_secs(1)..=LONGEST_UNDO)))]
    pub(super) undo_window: Setting<Duration>,
}

#[derive(Args)]
pub(super) struct CoreArgs {
    /// Everything before /organizations.
    #[arg(
        long = "tallyfy-base-url",
        env = "TALLYFY_BASE_URL",
        default_value = "https://go.tallyfy.com/api",
        value_name = "URL",
        help_heading = "Tallyfy API", value_parser = checked(base_url))]
    pub(super) base_url: Setting<Url>,
    /// Allow http:// to a host that is not a loopback address.
    #[arg(
        long = "tallyfy-allow-http",
        env = "TALLYFY_ALLOW_HTTP",
        default_value = "false",
        value_name = "BOOL",
        help_heading = "Tallyfy API", value_parser = checked(flag))]
    pub(super) allow_http: Setting<bool>,
    /// HTTP proxy for the calls. Without it none is used, whatever the environment says.
    #[arg(
        long = "tallyfy-proxy",
        env = "TALLYFY_PROXY",
        hide_env_values = true,
        value_name = "URL",
        help_heading = "Tallyfy API", value_parser = if_set(proxy))]
    pub(super) proxy: Option<Setting<Option<Url>>>,
    /// Additional CA certificates (PEM) for the API.
    #[arg(
        long = "tallyfy-ca-file",
        env = "TALLYFY_CA_FILE",
        value_name = "FILE",
        help_heading = "Tallyfy API"
    )]
    pub(super) ca_file: Option<PathBuf>,
    /// Organisations that may be touched, separated by commas; a command for another is
    /// dead-lettered.
    #[arg(long = "tallyfy-org-id", env = "TALLYFY_ORG_ID", value_name = "IDS", help_heading = "Tallyfy API", value_parser = if_set(orgs))]
    pub(super) org_id: Option<Setting<Option<Vec<OrgId>>>>,
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
    /// Directory with one file per organisation, named by its id, that holds its token; it is the
    /// allow-list.
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
        help_heading = "Tallyfy API", value_parser = checked(number(1..=1000)))]
    pub(super) concurrency: Setting<u32>,
    /// Dry run: look at each object with a GET and delete nothing. Commands are still used up: each
    /// is acknowledged when its dry-run event is confirmed.
    #[arg(
        long,
        env = "DRY_RUN",
        default_value = "false",
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true,
        value_name = "BOOL",
        help_heading = "Tallyfy API", value_parser = checked(flag))]
    pub(super) dry_run: Setting<bool>,
    /// Calls per second, minute or hour for each organisation, 600/m say; for this worker alone.
    /// Without it, as many as CONCURRENCY allows.
    #[arg(
        long,
        env = "RATE_LIMIT",
        value_name = "RATE",
        help_heading = "Tallyfy API", value_parser = if_set(rate))]
    pub(super) rate_limit: Option<Setting<Option<Rate>>>,
    /// The same for all organisations together.
    #[arg(
        long,
        env = "RATE_LIMIT_TOTAL",
        value_name = "RATE",
        help_heading = "Tallyfy API", value_parser = if_set(rate))]
    pub(super) rate_limit_total: Option<Setting<Option<Rate>>>,
    /// One call, from connect to the last byte.
    #[arg(
        long,
        env = "REQUEST_TIMEOUT",
        default_value = "15s",
        value_name = "DURATION",
        help_heading = "Tallyfy API", value_parser = checked(duration(TENTH..=LONGEST_REQUEST)))]
    pub(super) request_timeout: Setting<Duration>,
    /// Base URL of a collector of spans (OTLP over HTTP, protobuf). Without one no spans are
    /// created.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL", help_heading = "Operation", value_parser = if_set(collector))]
    pub(super) otel_exporter_otlp_endpoint: Option<Setting<Option<Url>>>,
    /// The name of this service in the spans.
    #[arg(
        long,
        env = "OTEL_SERVICE_NAME",
        default_value = crate::messages::names::SOURCE,
        value_name = "NAME",
        help_heading = "Operation"
    )]
    pub(super) otel_service_name: String,
    #[command(flatten)]
    pub(super) undo: UndoArgs,
    /// Commands of one organisation and kind that may be carried out within the window; further
    /// ones are held until a person decides. off: no limit.
    #[arg(long, env = "GUARD_MAX_DELETES", default_value = "500", value_name = "NUMBER", help_heading = "Mass-deletion guard", value_parser = checked(guard_max))]
    pub(super) guard_max_deletes: Setting<Option<u32>>,
    /// The sliding window of the guard.
    #[arg(long, env = "GUARD_WINDOW", default_value = "1h", value_name = "DURATION", help_heading = "Mass-deletion guard", value_parser = checked(duration(Duration::from_mins(1)..=WEEK)))]
    pub(super) guard_window: Setting<Duration>,
    /// Answered attempts before the dead letter.
    #[arg(long, env = "MAX_ATTEMPTS", default_value = "20", value_name = "NUMBER", help_heading = "Retries", value_parser = checked(number(1..=1_000_000)))]
    pub(super) max_attempts: Setting<u32>,
    /// From the first delivery, waiting included.
    #[arg(long, env = "MAX_AGE", default_value = "24h", value_name = "DURATION", help_heading = "Retries", value_parser = checked(duration(Duration::from_secs(1)..=YEAR)))]
    pub(super) max_age: Setting<Duration>,
}
