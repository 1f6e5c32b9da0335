//! Log lines on standard error: JSON for machines, coloured text for people.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// Text for a person.
    Pretty,
}

/// Reads a filter such as `info` or `info,lapin=debug`. lapin is silent unless it is named: what matters of its troubles
/// comes to us as errors, and is logged once, where it is handled.
///
/// # Errors
/// The filter's own word of what is wrong.
pub fn filter(directives: &str) -> Result<EnvFilter, ParseError> {
    let quiet = if directives.contains("lapin") { "" } else { ",lapin=off" };
    EnvFilter::builder().parse(format!("{directives}{quiet}"))
}

/// Starts logging; where it has been started already, that stays.
pub fn start(format: LogFormat, filter: EnvFilter) {
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    let _ = match format {
        LogFormat::Json => {
            subscriber.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
        }
        // The library itself honours NO_COLOR.
        LogFormat::Pretty if stderr().is_terminal() => subscriber.with_target(false).try_init(),
        LogFormat::Pretty => subscriber.with_ansi(false).with_target(false).try_init(),
    };
}
