//! The flags that shape the topology: kinds and delays.

use clap::Args;

use super::values::{Setting, checked, delays, kinds};
use crate::kind::Kind;
use crate::policy::retry_schedule::RetryDelays;

#[derive(Args)]
pub(super) struct KindsArgs {
    /// Kinds of deletion that this worker serves, separated by commas: task.delete, task.archive,
    /// process.delete, tag.delete, file.delete. Each has its own queues.
    #[arg(
        long,
        env = "KINDS",
        default_value = "task.delete",
        value_name = "KINDS",
        help_heading = "RabbitMQ",
        value_parser = checked(kinds)
    )]
    pub(super) kinds: Setting<Vec<Kind>>,
}

#[derive(Args)]
pub(super) struct RetryDelayArgs {
    /// The durable waits between deliveries, in rising order, separated by commas; one queue each.
    #[arg(
        long,
        env = "WAIT_LADDER",
        default_value = "5s,30s,2m,10m,1h",
        value_name = "DURATIONS",
        help_heading = "Retries", value_parser = checked(delays))]
    pub(super) wait_ladder: Setting<RetryDelays>,
}
