//! JSON Schemas of the messages that other services write and read, generated from the types that
//! parse and print them.

use serde_json::{Map, Value, json};

use crate::kind::Kind;
use crate::messages::{Command, audit, dry_run, event, held, pending};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    Command,
    Event,
    /// The body of the event of a dry run.
    DryRun,
    /// The body of the event about what operators did with dead letters.
    Audit,
    /// The body of the event about a tripped guard.
    Held,
    /// The body of the event about a task that is archived and not deleted yet.
    Pending,
}

/// The schema of one subject, or all schemas by name. A single command schema is for this kind;
/// with all, there is one per kind.
pub fn schema(subject: Option<Subject>, kind: Kind) -> Value {
    match subject {
        Some(Subject::Command) => Command::schema(kind).to_value(),
        Some(Subject::Event) => event::schema().to_value(),
        Some(Subject::DryRun) => dry_run::schema().to_value(),
        Some(Subject::Audit) => audit::schema().to_value(),
        Some(Subject::Held) => held::schema().to_value(),
        Some(Subject::Pending) => pending::schema().to_value(),
        None => json!({
            "commands": commands(),
            "event": schema(Some(Subject::Event), kind),
            "dry_run": schema(Some(Subject::DryRun), kind),
            "audit": schema(Some(Subject::Audit), kind),
            "held": schema(Some(Subject::Held), kind),
            "pending": schema(Some(Subject::Pending), kind),
        }),
    }
}

/// The command schema of each kind, by its name.
fn commands() -> Map<String, Value> {
    Kind::ALL.map(|kind| (kind.to_string(), Command::schema(kind).to_value())).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::audit::Audit;
    use crate::messages::event::samples;
    use crate::messages::{DryRun, EndKind, FailureReason, Incoming, Outcome, Would, names};
    use jsonschema::Validator;

    /// What a schema cannot express: a member given twice, and the size of a body.
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
            // An ignored member may be nested more deeply than a `Value` can be.
            let Ok(value) = serde_json::from_str::<Value>(body) else { continue };
            assert!(command.is_valid(&value), "{body}: {:?}", command.validate(&value));
        }
    }

    #[test]
    fn the_schema_refuses_what_is_refused_where_a_schema_can() {
        let command = validator(Subject::Command);
        for body in include_str!("../tests/fixtures/refused_commands.jsonl").lines() {
            let Ok(value) = serde_json::from_str::<Value>(body) else { continue };
            // In a `Value`, a member that was given twice occurs only once.
            let is_given_twice =
                Command::decode(Kind::TaskDelete, value.to_string().as_bytes()).is_ok();
            assert!(is_given_twice || !command.is_valid(&value), "{body} ({BEYOND_A_SCHEMA:?})");
        }
    }

    #[test]
    fn each_kind_has_a_schema_that_takes_its_own_commands_and_no_others() {
        for (name, schema) in commands() {
            let command = jsonschema::validator_for(&schema).unwrap();
            let kind = Kind::named(&name).unwrap();
            for other in Kind::ALL {
                let mut body = json!({"org_id": "o", "more": 1});
                for id_member in [other, kind].map(|kind| kind.spec().id_member) {
                    body[id_member] = "x".into();
                    let is_read = Command::decode(kind, body.to_string().as_bytes()).is_ok();
                    assert_eq!(command.is_valid(&body), is_read, "{kind}: {body}");
                    assert_eq!(is_read, other.spec().id_member == kind.spec().id_member);
                }
            }
        }
    }

    #[test]
    fn the_schema_takes_every_audit_event_that_we_make() {
        let (audit, now) = (validator(Subject::Audit), "2026-11-24T10:00:00Z".parse().unwrap());
        for (phase, why) in
            [(audit::Phase::Begun, None), (audit::Phase::Ended, Some("x".to_owned()))]
        {
            let (kind, event_type) = (Kind::TagDelete, names::DISCARDED_EVENT);
            let (by, selection) = ("ann".to_owned(), json!({"reason": "expired"}));
            let (dead_letters, interrupted) = (1, false);
            let made =
                Audit { phase, event_type, kind, by, why, selection, dead_letters, interrupted };
            let body: Value = serde_json::from_slice(&made.event(now, now).body).unwrap();
            assert!(audit.is_valid(&body), "{body}: {:?}", audit.validate(&body));
        }
        assert!(!audit.is_valid(&json!({"specversion": "1.0"})));
    }

    #[test]
    fn the_schema_takes_every_event_of_a_dry_run() {
        let (event, now) = (validator(Subject::DryRun), "2026-11-24T10:00:00Z".parse().unwrap());
        let end = |how| Would::End { how, is_verified: false };
        let dead = Would::DeadLettered(FailureReason::NotFound);
        for would in [end(EndKind::Done), end(EndKind::AlreadyAbsent), dead, Would::Unknown("x")] {
            let dry_run = DryRun::of(samples::outcome(EndKind::Done), would, "HTTP 200");
            let body = dry_run.event(&Incoming::default(), now).body;
            let body: Value = serde_json::from_slice(&body).unwrap();
            assert!(event.is_valid(&body), "{body}: {:?}", event.validate(&body));
            assert_eq!(body["type"], "task.delete_dry_run");
            assert!(body["data"].get("outcome").is_none(), "nothing has become of it: {body}");
        }
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
