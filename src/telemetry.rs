//! Log lines on standard error: JSON for machines, coloured text for people.

use std::io::{IsTerminal, stderr};

use tracing::Subscriber;
use tracing::subscriber::set_global_default;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Registry};

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

/// Starts logging; where it has been started already, that stays. What libraries say through `log` stays out: what matters of it
/// comes to us as errors.
pub fn start(format: LogFormat, filter: EnvFilter) {
    let text = tracing_subscriber::fmt::layer().with_writer(stderr).with_target(false);
    let _ = match format {
        LogFormat::Json => {
            set_global_default(Registry::default().with(filter).with(json_lines(stderr)))
        }
        // The library itself honours NO_COLOR.
        LogFormat::Pretty if stderr().is_terminal() => {
            set_global_default(Registry::default().with(filter).with(text))
        }
        LogFormat::Pretty => {
            set_global_default(Registry::default().with(filter).with(text.with_ansi(false)))
        }
    };
}

/// One JSON object a line, written in one piece: time, level, the event's own fields beside the message, target.
fn json_lines<S, W>(writer: W) -> impl Layer<S>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    W: for<'line> MakeWriter<'line> + 'static,
{
    let layer = tracing_subscriber::fmt::layer().json().with_writer(writer);
    layer.flatten_event(true).with_current_span(false).with_span_list(false)
}

#[cfg(test)]
mod tests {
    use std::io::{pipe, read_to_string};
    use std::sync::Arc;

    use jiff::Timestamp;
    use serde_json::Value;

    use super::*;

    #[test]
    fn an_event_is_one_line_of_json_whatever_its_values_hold() {
        let (reader, writer) = pipe().unwrap();
        tracing::subscriber::with_default(
            Registry::default().with(json_lines(Arc::new(writer))),
            || {
                let (absent, org_id) = (None::<&str>, "o\"\n1");
                tracing::warn!(%org_id, attempts = 3, ambiguous = true, absent, "two\nlines and a \"quote\"");
            },
        );
        let text = read_to_string(reader).unwrap();
        assert_eq!((text.matches('\n').count(), text.ends_with('\n')), (1, true), "{text}");
        let mut event: Value = serde_json::from_str(&text).unwrap();
        let time = event["timestamp"].take();
        assert!(time.as_str().unwrap().parse::<Timestamp>().is_ok(), "{time}");
        let expected = serde_json::json!({
            "timestamp": null, "level": "WARN", "message": "two\nlines and a \"quote\"", "org_id": "o\"\n1",
            "attempts": 3, "ambiguous": true, "target": "tallyfy_delete_worker::telemetry::tests",
        });
        assert_eq!(event, expected);
    }
}
