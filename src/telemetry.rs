//! Log lines on standard error: JSON for machines, coloured text for people.

use std::io::{IsTerminal, Write, stderr};

use jiff::Timestamp;
use serde::Serializer;
use serde::ser::SerializeMap;
use tracing::subscriber::set_global_default;
use tracing::{Event, Subscriber};
use tracing_serde::SerdeMapVisitor;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::{EnvFilter, Registry};

/// Bytes that most lines need no more than.
const USUAL_LINE: usize = 512;

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
        LogFormat::Json => set_global_default(Registry::default().with(filter).with(JsonLines)),
        // The library itself honours NO_COLOR.
        LogFormat::Pretty if stderr().is_terminal() => {
            set_global_default(Registry::default().with(filter).with(text))
        }
        LogFormat::Pretty => {
            set_global_default(Registry::default().with(filter).with(text.with_ansi(false)))
        }
    };
}

/// One JSON object a line, written at once. (`tracing-subscriber` has such a layer, which costs three times as much: it
/// checks each piece of text that its serializer writes for being UTF-8.)
struct JsonLines;

impl<S: Subscriber> Layer<S> for JsonLines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        // Names, numbers and text: nothing that JSON could not say. A log that cannot be written is nobody's fault here.
        if let Ok(line) = line(event) {
            let _ = stderr().write_all(&line);
        }
    }
}

fn line(event: &Event<'_>) -> serde_json::Result<Vec<u8>> {
    let mut line = Vec::with_capacity(USUAL_LINE);
    let mut serializer = serde_json::Serializer::new(&mut line);
    let mut members = serializer.serialize_map(None)?;
    members.serialize_entry("timestamp", &format_args!("{:.6}", Timestamp::now()))?;
    members.serialize_entry("level", event.metadata().level().as_str())?;
    let mut fields = SerdeMapVisitor::new(members);
    event.record(&mut fields);
    let mut members = fields.take_serializer()?;
    members.serialize_entry("target", event.metadata().target())?;
    SerializeMap::end(members)?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::Value;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl<S: Subscriber> Layer<S> for Kept {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            self.0.lock().unwrap().extend(line(event).unwrap());
        }
    }

    #[test]
    fn an_event_is_one_line_of_json_whatever_its_values_hold() {
        let kept = Kept::default();
        tracing::subscriber::with_default(Registry::default().with(kept.clone()), || {
            let (absent, org_id) = (None::<&str>, "o\"\n1");
            tracing::warn!(%org_id, attempts = 3, ambiguous = true, absent, "two\nlines and a \"quote\"");
        });
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
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
