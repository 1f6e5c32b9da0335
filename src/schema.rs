//! JSON Schemas of what other services write and read, made from the very types that parse and print it.

use serde_json::{Value, json};

use crate::kind::Kind;
use crate::messages::{Command, audit, event};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    Command,
    Event,
    /// The body of the event about what operators did with dead letters.
    Audit,
}

/// The schema of one, or of all under their names; of the command, for this kind.
pub fn schema(subject: Option<Subject>, kind: Kind) -> Value {
    match subject {
        Some(Subject::Command) => Command::schema(kind).to_value(),
        Some(Subject::Event) => event::schema().to_value(),
        Some(Subject::Audit) => audit::schema().to_value(),
        None => json!({
            "command": schema(Some(Subject::Command), kind),
            "event": schema(Some(Subject::Event), kind),
            "audit": schema(Some(Subject::Audit), kind),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::event::samples;
    use crate::messages::{EndKind, Outcome, names};
    use jsonschema::Validator;

    /// What a schema cannot say: a member given twice, and how large a body may be.
    const BEYOND_A_SCHEMA: [&str; 1] = ["duplicate"];

    fn validator(subject: Subject) -> Validator {
        jsonschema::options()
            .should_validate_formats(true)
            .build(&schema(Some(subject), Kind::TaskDelete))
            .unwrap()
    }

    #[test]
    fn the_schema_takes_every_body_that_was_ever_accepted() {
        let command = validator(Subject::Command);
        for body in include_str!("../tests/fixtures/accepted_commands.jsonl").lines() {
            // In a member that nobody reads it may be deeper than a value can be.
            let Ok(value) = serde_json::from_str::<Value>(body) else { continue };
            assert!(command.is_valid(&value), "{body}: {:?}", command.validate(&value));
        }
    }

    #[test]
    fn the_schema_refuses_what_is_refused_where_a_schema_can() {
        let command = validator(Subject::Command);
        for body in include_str!("../tests/fixtures/refused_commands.jsonl").lines() {
            let Ok(value) = serde_json::from_str::<Value>(body) else { continue };
            // Read into a value, a member that was given twice is there once.
            let is_given_twice =
                Command::decode(Kind::TaskDelete, value.to_string().as_bytes()).is_ok();
            assert!(is_given_twice || !command.is_valid(&value), "{body} ({BEYOND_A_SCHEMA:?})");
        }
    }

    #[test]
    fn the_schema_takes_every_audit_event_that_we_make() {
        let (audit, now) = (validator(Subject::Audit), "2026-11-24T10:00:00Z".parse().unwrap());
        for (phase, why) in
            [(audit::Phase::Begun, None), (audit::Phase::Ended, Some("x".to_owned()))]
        {
            let (kind, by, selection) =
                (names::DISCARDED_EVENT, "ann".to_owned(), json!({"reason": "expired"}));
            let made =
                audit::Audit { phase, kind, by, why, selection, letters: 1, interrupted: false };
            let body: Value = serde_json::from_slice(&made.event(now, now).body).unwrap();
            assert!(audit.is_valid(&body), "{body}: {:?}", audit.validate(&body));
        }
        assert!(!audit.is_valid(&json!({"specversion": "1.0"})));
    }

    #[test]
    fn the_schema_takes_every_event_that_we_make() {
        let event = validator(Subject::Event);
        let (id, now) =
            ("e4d5c9eb-a07a-5e2b-abda-0cd9ef3924ab", "2026-11-24T10:00:00Z".parse().unwrap());
        for end in [EndKind::Done, EndKind::AlreadyAbsent, EndKind::DeadLettered] {
            let bare = Outcome { target: None, ..samples::outcome(end) };
            for outcome in [samples::outcome(end), bare] {
                let body: Value = serde_json::from_slice(&outcome.event_body(id, now)).unwrap();
                assert!(event.is_valid(&body), "{body}: {:?}", event.validate(&body));
            }
        }
        assert!(!event.is_valid(&json!({"specversion": "1.0"})));
    }
}
