//! The outcome event: one logical end of one command.

use jiff::Timestamp;
use schemars::{JsonSchema, Schema};
use serde::Serialize;
use uuid::Uuid;

use super::cloud_event::{self, CloudEvent, EventSchema};
use super::command::{Command, ID_NAMESPACE};
use super::names;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EndKind {
    /// The API deleted the task on our call.
    Deleted,
    /// The task was not there (any more).
    AlreadyAbsent,
    /// The command lies in the dead letters.
    DeadLettered,
}

/// Why a command was dead-lettered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailureReason {
    /// The body is not a command.
    Malformed,
    /// The command names an organisation that this worker may not touch.
    OrgNotAllowed,
    /// Past `not_after` or `MAX_AGE`.
    Expired,
    /// The API refused with 403.
    Forbidden,
    /// The API refused with another 4xx.
    Rejected,
    /// `MAX_ATTEMPTS` answered attempts have failed.
    AttemptsExhausted,
}

impl FailureReason {
    pub const ALL: [Self; 6] = [
        Self::Malformed,
        Self::OrgNotAllowed,
        Self::Expired,
        Self::Forbidden,
        Self::Rejected,
        Self::AttemptsExhausted,
    ];

    /// The word that headers, events, metrics and logs use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::OrgNotAllowed => "org_not_allowed",
            Self::Expired => "expired",
            Self::Forbidden => "forbidden",
            Self::Rejected => "rejected",
            Self::AttemptsExhausted => "attempts_exhausted",
        }
    }
}

impl EndKind {
    /// The word that events, metrics and logs use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deleted => "deleted",
            Self::AlreadyAbsent => "already_absent",
            Self::DeadLettered => "dead_lettered",
        }
    }

    /// Type of the event, which is its routing key too.
    pub fn event_type(self) -> &'static str {
        match self {
            Self::Deleted | Self::AlreadyAbsent => names::DELETED_EVENT,
            Self::DeadLettered => names::DELETE_FAILED_EVENT,
        }
    }
}

/// The `data` of an outcome event, and the line that the `delete` command prints.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Outcome {
    /// Id of the command: its `message_id`, or derived.
    pub command_id: String,
    /// Organisation, where the command could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub org_id: Option<String>,
    /// Task, where the command could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_id: Option<String>,
    /// How it ended.
    pub outcome: EndKind,
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
        types: &[names::DELETED_EVENT, names::DELETE_FAILED_EVENT],
        subject: Some("`{org_id}/{task_id}`, where the command could be read."),
    })
}

impl Outcome {
    /// # The same end has the same event id, however often it is published
    ///
    /// It is derived from the command's id and the type of the event alone. `deleted` and the `already_absent` of a
    /// repeat after a crash share the type, so a consumer that knows the id has the end, whichever came first.
    pub fn event_id(&self) -> String {
        let name = [&self.command_id, "/", self.outcome.event_type()].concat();
        Uuid::new_v5(&ID_NAMESPACE, name.as_bytes()).to_string()
    }

    pub fn event_body(&self, id: &str, time: Timestamp) -> Vec<u8> {
        let subject = self.org_id.as_ref().zip(self.task_id.as_ref());
        let event = CloudEvent::new(self.outcome.event_type(), id, time, self);
        event.about(subject.map(|(org, task)| [org, "/", task].concat())).body()
    }

    /// The id of a command that has no `message_id`: from organisation and task, or from the body where it has neither.
    pub fn command_id(message_id: Option<&str>, command: Option<&Command>, body: &[u8]) -> String {
        match (message_id, command) {
            (Some(id), _) => id.to_owned(),
            (None, Some(command)) => command.derived_id(),
            (None, None) => Uuid::new_v5(&ID_NAMESPACE, body).to_string(),
        }
    }
}

#[cfg(test)]
pub(crate) mod samples {
    use super::{EndKind, Outcome};

    pub(crate) fn outcome(outcome: EndKind) -> Outcome {
        Outcome {
            command_id: "c1".into(),
            org_id: Some("o".into()),
            task_id: Some("t".into()),
            outcome,
            attempts: 1,
            ambiguous: false,
            verified: true,
            http_status: Some(204),
            requested_by: Some("billing".into()),
            reason: None,
            published_by: None,
            duration_ms: 41,
            failure: None,
            request_id: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::samples::outcome;
    use super::*;
    use FailureReason::{
        AttemptsExhausted, Expired, Forbidden, Malformed, OrgNotAllowed, Rejected,
    };
    use proptest::prelude::*;

    #[test]
    fn the_same_end_has_the_same_event_id_however_often_it_is_published() {
        let deleted = outcome(EndKind::Deleted);
        assert_eq!(deleted.event_id(), Outcome { attempts: 7, ..deleted.clone() }.event_id());
        assert_eq!(deleted.event_id(), outcome(EndKind::AlreadyAbsent).event_id());
        assert_ne!(deleted.event_id(), outcome(EndKind::DeadLettered).event_id());
    }

    #[test]
    fn an_event_reads_as_the_contract_shows_it() {
        let body =
            outcome(EndKind::Deleted).event_body("e1", "2026-11-23T10:00:00Z".parse().unwrap());
        let expected = serde_json::json!({
            "specversion": "1.0", "id": "e1", "source": "tallyfy-delete-worker", "type": "task.deleted",
            "subject": "o/t", "time": "2026-11-23T10:00:00.000Z", "datacontenttype": "application/json",
            "data": {"command_id": "c1", "org_id": "o", "task_id": "t", "outcome": "deleted", "attempts": 1,
                     "ambiguous": false, "http_status": 204, "requested_by": "billing", "duration_ms": 41}
        });
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&body).unwrap(), expected);
    }
    #[test]
    fn a_word_is_the_same_in_a_header_an_event_and_a_metric() {
        let kinds = [EndKind::Deleted, EndKind::AlreadyAbsent, EndKind::DeadLettered];
        assert_eq!(kinds.map(EndKind::as_str), ["deleted", "already_absent", "dead_lettered"]);
        for kind in kinds {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
        for reason in [Malformed, OrgNotAllowed, Expired, Forbidden, Rejected, AttemptsExhausted] {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }

    #[test]
    fn a_command_without_an_id_gets_one_from_what_it_says() {
        let body = br#"{"org_id":"o","task_id":"t"}"#;
        let command = Command::decode(body).unwrap();
        assert_eq!(Outcome::command_id(Some("m1"), Some(&command), body), "m1");
        assert_eq!(Outcome::command_id(None, Some(&command), body), command.derived_id());
        assert_eq!(Outcome::command_id(None, None, b"x"), Outcome::command_id(None, None, b"x"));
        assert_ne!(Outcome::command_id(None, None, b"x"), Outcome::command_id(None, None, b"y"));
    }

    proptest! {
        #[test]
        fn two_events_share_an_id_only_where_command_and_type_are_the_same(
            ids in proptest::array::uniform2("[a-c/.]{0,3}"), ends in proptest::array::uniform2(0_usize..3),
        ) {
            let kinds = [EndKind::Deleted, EndKind::AlreadyAbsent, EndKind::DeadLettered];
            let [one, other] = [0, 1].map(|i| Outcome { command_id: ids[i].clone(), ..outcome(kinds[ends[i]]) });
            let same = ids[0] == ids[1] && one.outcome.event_type() == other.outcome.event_type();
            prop_assert_eq!(one.event_id() == other.event_id(), same);
            prop_assert_eq!(Uuid::parse_str(&one.event_id()).unwrap().get_version_num(), 5);
        }
    }
}
