//! The outcome event: one logical end of one command.

use std::borrow::Cow;
use std::collections::BTreeSet;

use jiff::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

use super::Incoming;
use super::cloud_event::{self, CloudEvent, EventSchema};
use super::command::{Command, Target};
use super::failure_reason::FailureReason;
use super::ids::{self, EventSubject};
use crate::kind::Kind;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// The command's kind.
    pub kind: Kind,
    /// What became of it.
    pub how: EndKind,
}

/// How a command ended, whatever its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndKind {
    /// The API did it, on our call.
    Done,
    /// The object was not there (any more).
    AlreadyAbsent,
    /// The command is among the dead letters.
    DeadLettered,
    /// It was cancelled.
    Cancelled,
    /// The task is archived, and that was all that was requested.
    Archived,
}

impl End {
    /// The word that events, metrics and logs use.
    pub fn as_str(self) -> &'static str {
        match self.how {
            EndKind::Done => self.kind.spec().outcome,
            EndKind::AlreadyAbsent => "already_absent",
            EndKind::DeadLettered => "dead_lettered",
            EndKind::Cancelled => "cancelled",
            EndKind::Archived => Kind::TaskArchive.spec().outcome,
        }
    }

    /// Type of the event, which is its routing key too.
    pub fn event_type(self) -> &'static str {
        match self.how {
            EndKind::Done | EndKind::AlreadyAbsent => self.kind.spec().done_event,
            EndKind::DeadLettered => self.kind.spec().failed_event,
            EndKind::Cancelled => self.kind.spec().cancelled_event,
            EndKind::Archived => Kind::TaskArchive.spec().done_event,
        }
    }

    /// Every possible end.
    fn all() -> impl Iterator<Item = Self> {
        let how =
            [EndKind::Done, EndKind::AlreadyAbsent, EndKind::DeadLettered, EndKind::Cancelled];
        let of_each = Kind::ALL.into_iter().flat_map(move |kind| how.map(|how| Self { kind, how }));
        of_each.chain([Self { kind: Kind::TaskDelete, how: EndKind::Archived }])
    }
}

/// As its word.
impl Serialize for End {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl JsonSchema for End {
    fn schema_name() -> Cow<'static, str> {
        "End".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let words: BTreeSet<_> = End::all().map(End::as_str).collect();
        json_schema!({"type": "string", "description": "How a command ended.", "enum": words})
    }
}

fn event_types() -> Vec<&'static str> {
    Kind::ALL
        .map(Kind::spec)
        .into_iter()
        .flat_map(|spec| [spec.done_event, spec.failed_event, spec.cancelled_event])
        .collect()
}

/// The `data` of an outcome event, and the line that the `delete` command prints.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Outcome {
    /// Id of the command: its `message_id`, or derived.
    pub command_id: String,
    /// Organisation and object, if the command could be read.
    #[serde(flatten)]
    pub target: Option<Target>,
    /// What it is about, in the ids of its events.
    #[serde(skip)]
    pub subject: EventSubject,
    /// How it ended.
    pub outcome: End,
    /// Attempts spent, the last one included.
    pub attempts: u32,
    /// An earlier attempt's answer was lost, so `already_absent` probably means "by us".
    pub ambiguous: bool,
    /// `false` where `already_absent` rests on an answer that need not be the API's own.
    #[serde(skip_serializing_if = "Clone::clone")]
    pub verified: bool,
    /// Status of the last answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
    /// From the command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requested_by: Option<String>,
    /// From the command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// `user_id` that the broker validated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub published_by: Option<String>,
    /// Milliseconds from this delivery's arrival to its end.
    pub duration_ms: u64,
    /// Only of dead letters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Only of what was cancelled: who has done so, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cancelled_by: Option<String>,
    /// `X-Request-Id` of the last answer: for the log only.
    #[serde(skip)]
    pub request_id: Option<String>,
}

/// Why a command was dead-lettered, in the event.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Failure {
    /// One of the contract's reasons.
    pub reason: FailureReason,
    /// For a person.
    pub detail: String,
}

pub(crate) fn schema() -> Schema {
    cloud_event::schema::<Outcome>(&EventSchema {
        title: "CloudEvent",
        description: "How a command ended: a `CloudEvents` 1.0 event in structured JSON.",
        types: &event_types(),
        subject: Some(
            "`{org_id}/{task_id}`, or the id of another object; absent if the command could not be read.",
        ),
        supersedes: Some(
            "Of a success: id of the failure event that no longer holds, whether or not there is one, and whichever comes first.",
        ),
    })
}

impl Outcome {
    /// # The same end has the same event id, however often it is published
    ///
    /// It is derived from the event's type, the target and the command's id alone. `deleted` and
    /// the `already_absent` of a repeat after a crash share the type, so a consumer that knows the
    /// id has the end, whichever came first.
    ///
    /// # Two commands never share an event id
    ///
    /// Two producers may use the same `message_id` (a counter, say), so the target is part of it,
    /// or the body of a command that could not be read. Type, organisation and object have no
    /// slash, and the command's id, which may, stands last.
    pub fn event_id(&self) -> String {
        let event_type = match self.outcome.how {
            // Not that of the command `task.archive`.
            EndKind::Archived => "task.delete_archived",
            _ => self.outcome.event_type(),
        };
        self.subject.event_id(event_type, &self.command_id)
    }

    /// Id of the failure event that this success supersedes; `None` of a failure.
    ///
    /// # A success is final, whatever is published before or after it
    ///
    /// A command can come to two ends: it is dead-lettered, the acknowledgement is lost, and the
    /// next worker succeeds; or the other way round; or an operator replays it. The first end is
    /// published and cannot be taken back, and the worker with the second end does not know of it.
    /// But the object is gone, so the success holds. Each success names the one failure event that
    /// the command can have, whether or not it exists. So a consumer needs only the ids to tell
    /// which end holds, in any order of arrival.
    pub fn supersedes(&self) -> Option<String> {
        let is_success =
            matches!(self.outcome.how, EndKind::Done | EndKind::AlreadyAbsent | EndKind::Archived);
        let failed_event = self.outcome.kind.spec().failed_event;
        is_success.then(|| self.subject.event_id(failed_event, &self.command_id))
    }

    pub fn event_body(&self, id: &str, time: Timestamp) -> Vec<u8> {
        let event = CloudEvent::new(self.outcome.event_type(), id, time, self);
        event
            .about(self.target.as_ref().map(ToString::to_string))
            .superseding(self.supersedes())
            .body()
    }

    /// The id of a command: its `message_id`; otherwise derived from its target; if it could not be
    /// read, from its kind and body.
    pub fn command_id(incoming: &Incoming, command: Option<&Command>) -> String {
        let Incoming { kind, properties, body, .. } = incoming;
        ids::command_id(*kind, properties.message_id.as_deref(), command, body)
    }
}

#[cfg(test)]
pub(crate) mod samples {
    use super::{End, EndKind, EventSubject, Outcome};
    use crate::kind::Kind;
    use crate::messages::{ObjectId, OrgId, Target};

    pub(crate) fn outcome(how: EndKind) -> Outcome {
        let kind = Kind::TaskDelete;
        let id = |id: &str| id.to_owned();
        let target = Target {
            kind,
            org: OrgId::try_from(id("o")).unwrap(),
            id: ObjectId::try_from(id("t")).unwrap(),
        };
        Outcome {
            command_id: "c1".into(),
            subject: EventSubject::from(&target),
            target: Some(target),
            outcome: End { kind, how },
            attempts: 1,
            ambiguous: false,
            verified: true,
            http_status: Some(204),
            requested_by: Some("billing".into()),
            reason: None,
            published_by: None,
            duration_ms: 41,
            failure: None,
            cancelled_by: None,
            request_id: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::samples::outcome;
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    #[test]
    fn the_same_end_has_the_same_event_id_however_often_it_is_published() {
        let deleted = outcome(EndKind::Done);
        assert_eq!(deleted.event_id(), Outcome { attempts: 7, ..deleted.clone() }.event_id());
        assert_eq!(deleted.event_id(), outcome(EndKind::AlreadyAbsent).event_id());
        assert_ne!(deleted.event_id(), outcome(EndKind::DeadLettered).event_id());
    }

    #[test]
    fn a_success_is_final_whatever_is_published_before_or_after_it() {
        let failure = outcome(EndKind::DeadLettered);
        for success in [outcome(EndKind::Done), outcome(EndKind::AlreadyAbsent)] {
            assert_eq!(success.supersedes(), Some(failure.event_id()));
        }
        assert_eq!(failure.supersedes(), None);
        let body = br#"{"org_id":"o","task_id":"t"}"#;
        let success = outcome(EndKind::Done).event_id();
        let ids = ids::EventIds { failure: failure.event_id(), success };
        assert_eq!(
            ids::EventIds::of(Kind::TaskDelete, Some("c1"), body),
            ids,
            "a dead letter knows it"
        );
        let body = failure.event_body("e1", "2026-11-23T10:00:00Z".parse().unwrap());
        let event: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(event.get("supersedes"), None);
    }

    #[test]
    fn an_event_reads_as_the_contract_shows_it() {
        let body = outcome(EndKind::Done).event_body("e1", "2026-11-23T10:00:00Z".parse().unwrap());
        let expected = serde_json::json!({
            "specversion": "1.0", "id": "e1", "source": "tallyfy-delete-worker", "type": "task.deleted",
            "supersedes": outcome(EndKind::DeadLettered).event_id(),
            "subject": "o/t", "time": "2026-11-23T10:00:00.000Z", "datacontenttype": "application/json",
            "data": {"command_id": "c1", "org_id": "o", "task_id": "t", "outcome": "deleted", "attempts": 1,
                     "ambiguous": false, "http_status": 204, "requested_by": "billing", "duration_ms": 41}
        });
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&body).unwrap(), expected);
    }
    #[test]
    fn a_word_is_the_same_in_a_header_an_event_and_a_metric() {
        let words: BTreeSet<_> = End::all().map(End::as_str).collect();
        let expected = [
            "already_absent",
            "archived",
            "cancelled",
            "dead_lettered",
            "deleted",
            "deleted_or_absent",
        ];
        assert_eq!(words.into_iter().collect::<Vec<_>>(), expected);
        for end in End::all() {
            assert_eq!(serde_json::to_value(end).unwrap(), end.as_str());
        }
        for reason in FailureReason::ALL {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }

    #[test]
    fn a_command_without_an_id_gets_one_from_what_it_says() {
        let body = br#"{"org_id":"o","task_id":"t"}"#;
        let command = Command::decode(Kind::TaskDelete, body).unwrap();
        let incoming =
            |kind, body: &[u8]| Incoming { kind, body: body.into(), ..Incoming::default() };
        let id = |kind, body: &[u8], command: Option<&Command>| {
            Outcome::command_id(&incoming(kind, body), command)
        };
        let mut named = incoming(Kind::TaskDelete, body);
        named.properties.message_id = Some("m1".into());
        assert_eq!(Outcome::command_id(&named, Some(&command)), "m1");
        assert_eq!(id(Kind::TaskDelete, body, Some(&command)), command.derived_id());
        let unreadable = |kind, body: &[u8]| id(kind, body, None);
        assert_eq!(unreadable(Kind::TaskDelete, b"x"), unreadable(Kind::TaskDelete, b"x"));
        assert_ne!(unreadable(Kind::TaskDelete, b"x"), unreadable(Kind::TaskDelete, b"y"));
        assert_ne!(unreadable(Kind::TaskDelete, b"x"), unreadable(Kind::TagDelete, b"x"));
    }

    #[test]
    fn an_event_of_another_kind_names_its_own_object() {
        let kind = Kind::ProcessDelete;
        let deleted = outcome(EndKind::Done);
        let target = deleted.target.clone().map(|target| Target { kind, ..target });
        let of_a_process =
            Outcome { target, outcome: End { kind, how: EndKind::Done }, ..deleted.clone() };
        let body = of_a_process.event_body("e1", "2026-11-23T10:00:00Z".parse().unwrap());
        let event: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((&event["type"], &event["subject"]), (&"process.deleted".into(), &"o/t".into()));
        assert_eq!(
            (&event["data"]["process_id"], &event["data"]["task_id"]),
            (&"t".into(), &serde_json::Value::Null)
        );
        assert_ne!(of_a_process.event_id(), deleted.event_id());
    }

    /// Of a command for one of some objects, or one that cannot be read.
    fn body() -> impl Strategy<Value = String> {
        let readable = ("[ab]", "[ab]{1,2}")
            .prop_map(|(org, id)| serde_json::json!({"org_id": org, "task_id": id}).to_string());
        prop_oneof![readable, "[ab]{1,2}"]
    }

    proptest! {
        #[test]
        fn two_commands_never_share_an_event_id(
            ids in proptest::array::uniform2("[a-c/.]{0,3}"), ends in proptest::array::uniform2(0_usize..4),
            bodies in proptest::array::uniform2(body()),
        ) {
            let kinds = [EndKind::Done, EndKind::AlreadyAbsent, EndKind::DeadLettered, EndKind::Archived];
            let [one, other] = [0, 1].map(|i| {
                let command = Command::decode(Kind::TaskDelete, bodies[i].as_bytes()).ok();
                let subject = EventSubject::of(Kind::TaskDelete, command.as_ref(), bodies[i].as_bytes());
                Outcome { command_id: ids[i].clone(), subject, ..outcome(kinds[ends[i]]) }
            });
            let is_same = ids[0] == ids[1] && bodies[0] == bodies[1] && one.outcome.event_type() == other.outcome.event_type();
            prop_assert_eq!(one.event_id() == other.event_id(), is_same);
            prop_assert_eq!(Uuid::parse_str(&one.event_id()).unwrap().get_version_num(), 5);
        }
    }
}
