//! The flags of logging, which every command has.

use clap::Args;

use super::values::{Setting, if_set, log_format};
use crate::telemetry::LogFormat;

#[derive(Args)]
pub(super) struct LogArgs {
    /// json or pretty; by default json off a terminal, pretty on one.
    #[arg(global = true, long, env = "LOG_FORMAT", value_name = "FORMAT", help_heading = "Operation", value_parser = if_set(log_format))]
    pub(super) log_format: Option<Setting<Option<LogFormat>>>,
    /// What to log: a level, or target=level pairs, separated by commas.
    #[arg(
        global = true,
        long = "rust-log",
        env = "RUST_LOG",
        default_value = "info",
        value_name = "FILTER",
        help_heading = "Operation"
    )]
    pub(super) log: String,
}
