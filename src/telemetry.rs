//! Log lines on standard error: JSON for machines, coloured text for people.

use std::fmt;
use std::io::{IsTerminal, stderr};

use tracing::subscriber::set_global_default;
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Registry};

use crate::policy::dry_run::CallMode;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// Text for a person.
    Pretty,
}

/// Parses a filter such as `info` or `info,lapin=debug`. lapin is silent unless it is named: its
/// relevant problems reach us as errors and are logged once, where they are handled.
///
/// # Errors
/// The parser's error.
pub fn filter(directives: &str) -> Result<EnvFilter, ParseError> {
    let quiet = if directives.contains("lapin") { "" } else { ",lapin=off" };
    EnvFilter::builder().parse(format!("{directives}{quiet}"))
}

/// Starts logging, unless it has been started already. Records that libraries write through `log`
/// are left out: relevant problems reach us as errors.
pub fn start(format: LogFormat, filter: EnvFilter, mode: CallMode) {
    let marked = |format| Marked { format, mode };
    let text = tracing_subscriber::fmt::layer().with_writer(stderr).with_target(false);
    let is_coloured = stderr().is_terminal();
    let _ = match format {
        LogFormat::Json => {
            set_global_default(Registry::default().with(filter).with(json_lines(stderr, mode)))
        }
        // The library itself honours NO_COLOR.
        LogFormat::Pretty if is_coloured => {
            set_global_default(Registry::default().with(filter).with(text.map_event_format(marked)))
        }
        LogFormat::Pretty => {
            let text = text.with_ansi(false).map_event_format(marked);
            set_global_default(Registry::default().with(filter).with(text))
        }
    };
}

/// One JSON object per line, written in one piece: time, level, the message with the event's own
/// fields, target.
fn json_lines<S, W>(writer: W, mode: CallMode) -> impl Layer<S>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    W: for<'line> MakeWriter<'line> + 'static,
{
    let layer = tracing_subscriber::fmt::layer().json().with_writer(writer);
    let layer = layer.flatten_event(true).with_current_span(false).with_span_list(false);
    layer.map_event_format(|format| MarkedJson(Marked { format, mode }))
}

/// Marks every line of a dry run as such, whichever code writes it.
struct Marked<F> {
    format: F,
    mode: CallMode,
}

/// The same for a line that is a JSON object.
struct MarkedJson<F>(Marked<F>);

impl<S, N, F> FormatEvent<S, N> for Marked<F>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if self.mode == CallMode::Look {
            writer.write_str("dry_run=true ")?;
        }
        self.format.format_event(context, writer, event)
    }
}

impl<S, N, F> FormatEvent<S, N> for MarkedJson<F>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Self(Marked { format, mode }) = self;
        if *mode == CallMode::Destroy {
            return format.format_event(context, writer, event);
        }
        let mut line = String::new();
        format.format_event(context, Writer::new(&mut line), event)?;
        writer.write_str("{\"dry_run\":true,")?;
        writer.write_str(line.strip_prefix('{').unwrap_or(&line))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{pipe, read_to_string};
    use std::sync::Arc;

    use jiff::Timestamp;
    use serde_json::Value;

    use super::*;

    #[test]
    fn every_line_of_a_dry_run_says_so() {
        let (reader, writer) = pipe().unwrap();
        let lines = json_lines(Arc::new(writer), CallMode::Look);
        tracing::subscriber::with_default(Registry::default().with(lines), || {
            tracing::info!(number = 1, "one");
            tracing::info!("two");
        });
        let text = read_to_string(reader).unwrap();
        let lines: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
        let told = lines.iter().map(|line| (&line["dry_run"], line["message"].as_str().unwrap()));
        let expected = [(&Value::Bool(true), "one"), (&Value::Bool(true), "two")];
        assert_eq!(told.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn an_event_is_one_line_of_json_whatever_its_values_hold() {
        let (reader, writer) = pipe().unwrap();
        tracing::subscriber::with_default(
            Registry::default().with(json_lines(Arc::new(writer), CallMode::Destroy)),
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
