//! The command as producers write it, and the ids that may stand in a URL. Decoding refuses; it never repairs.

use std::borrow::Cow;
use std::fmt;
use std::str::Utf8Error;

use jiff::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

/// Largest body that can be a command, in bytes.
pub const MAX_BODY_BYTES: usize = 64 * 1024;
const MAX_ID_CHARS: usize = 64;
/// Namespace of the ids that we derive (`UUIDv5`). Changing it would change the id of every redelivered command.
pub const ID_NAMESPACE: Uuid = Uuid::from_u128(0x5c0d_5e6b_8b0e_4f0c_9d5a_7a11_1f1d_e1e7);

/// A request to delete one task for good. JSON, at most 64 KiB; unknown members are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
pub struct Command {
    /// Organisation that owns the task.
    pub org_id: OrgId,
    /// The task.
    pub task_id: TaskId,
    /// Service that asks.
    #[serde(default)]
    pub requested_by: Option<String>,
    /// Why it asks.
    #[serde(default)]
    pub reason: Option<String>,
    /// No call after this moment (RFC 3339).
    #[serde(default)]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub not_after: Option<Timestamp>,
}

/// Why a body is not a command; the text is for the people who wrote it.
#[derive(Debug, Error)]
pub enum Malformed {
    /// The body is larger than [`MAX_BODY_BYTES`].
    #[error("the body has {0} bytes; a command has at most {MAX_BODY_BYTES}")]
    TooLarge(usize),
    /// The body is not a JSON object. (`serde` would take an array for a struct, so this is checked first.)
    #[error("the body is not a JSON object")]
    NotAnObject,
    /// Nor can it be JSON.
    #[error("the body is not UTF-8: {0}")]
    NotUtf8(#[from] Utf8Error),
    /// The body is not JSON, or a member is missing, given twice or of the wrong type or form.
    #[error("not a valid command: {0}")]
    Json(#[from] serde_json::Error),
}

impl Command {
    /// Reads a command from a message body.
    ///
    /// # Errors
    /// [`Malformed`] says what is wrong with the body.
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        if body.len() > MAX_BODY_BYTES {
            return Err(Malformed::TooLarge(body.len()));
        }
        match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
            // First of all UTF-8: serde_json would not look at what stands in a member that nobody reads.
            Some(b'{') => Ok(serde_json::from_str(str::from_utf8(body)?)?),
            _ => Err(Malformed::NotAnObject),
        }
    }

    /// The id of a command without a `message_id`: the same for every redelivery of it.
    pub fn derived_id(&self) -> String {
        Uuid::new_v5(&ID_NAMESPACE, format!("{}/{}", self.org_id, self.task_id).as_bytes())
            .to_string()
    }
}

/// An id is not 1 to 64 of `A-Z a-z 0-9 _ -`.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("an id is 1 to {MAX_ID_CHARS} of A-Z a-z 0-9 _ -")]
pub struct InvalidId;

/// # An id cannot change which call is made
///
/// The archive call's path is the delete call's path without its last segment, so an id with `/`, `?`, `#` or `..`
/// would choose another destructive call. An [`OrgId`] or [`TaskId`] can only be made from characters that mean
/// nothing in a URL; nothing else is ever put into one.
fn is_valid_id(id: &str) -> bool {
    (1..=MAX_ID_CHARS).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

macro_rules! id {
    ($name:ident, $what:literal) => {
        #[doc = $what]
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(String);

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(id: String) -> Result<Self, InvalidId> {
                if is_valid_id(&id) { Ok(Self(id)) } else { Err(InvalidId) }
            }
        }

        impl $name {
            /// The id as it stands in a URL.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$", "description": $what})
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}
id!(OrgId, "Id of an organisation: 1 to 64 of `A-Z a-z 0-9 _ -`.");
id!(TaskId, "Id of a task: 1 to 64 of `A-Z a-z 0-9 _ -`.");

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(body: &str) -> Result<Command, String> {
        Command::decode(body.as_bytes()).map_err(|malformed| malformed.to_string())
    }

    #[test]
    fn every_body_ever_accepted_is_still_accepted() {
        for body in include_str!("../../tests/fixtures/accepted_commands.jsonl").lines() {
            decode(body).unwrap_or_else(|error| panic!("{body}: {error}"));
        }
    }

    #[test]
    fn every_body_ever_refused_is_still_refused() {
        for body in include_str!("../../tests/fixtures/refused_commands.jsonl").lines() {
            assert!(decode(body).is_err(), "{body} was accepted");
        }
    }

    #[test]
    fn a_body_that_is_not_utf_8_is_refused_even_where_nobody_reads_it() {
        let body = b"{\"org_id\":\"o\",\"task_id\":\"t\",\"extra\":\"\xff\"}";
        assert!(Command::decode(body).unwrap_err().to_string().contains("UTF-8"));
    }

    #[test]
    fn a_body_of_64_kib_is_read_and_one_byte_more_is_refused() {
        let body = |bytes: usize| {
            let frame = r#"{"org_id":"o","task_id":"t","reason":""}"#;
            frame.replace(r#""""#, &format!(r#""{}""#, "x".repeat(bytes - frame.len())))
        };
        assert!(decode(&body(MAX_BODY_BYTES)).is_ok());
        assert!(decode(&body(MAX_BODY_BYTES + 1)).unwrap_err().contains("65537 bytes"));
    }

    #[test]
    fn deep_nesting_is_refused_or_ignored_but_never_overflows_the_stack() {
        for depth in [129, 10_000, 30_000] {
            let nest = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            let _ = decode(&format!(r#"{{"org_id":"o","task_id":"t","extra":{nest}}}"#));
            assert!(decode(&format!(r#"{{"org_id":{nest},"task_id":"t"}}"#)).is_err());
        }
    }

    #[test]
    fn the_derived_id_is_the_same_whatever_else_the_command_says() {
        let plain = decode(r#"{"org_id":"o","task_id":"t"}"#).unwrap();
        let wordy = decode(r#"{"task_id":"t","org_id":"o","reason":"r"}"#).unwrap();
        let other = decode(r#"{"org_id":"o","task_id":"u"}"#).unwrap();
        assert_eq!(plain.derived_id(), wordy.derived_id());
        assert_ne!(plain.derived_id(), other.derived_id());
    }

    proptest! {
        #[test]
        fn an_id_cannot_change_which_call_is_made(text in ".*") {
            if let Ok(id) = TaskId::try_from(text.clone()) {
                let mut url = url::Url::parse("https://host/api/organizations/o/tasks").unwrap();
                url.path_segments_mut().unwrap().extend([id.as_str(), "delete"]);
                prop_assert_eq!(url.path(), format!("/api/organizations/o/tasks/{text}/delete"));
                prop_assert!(url.query().is_none() && url.fragment().is_none());
            }
        }

        #[test]
        fn a_command_is_read_as_it_was_written_wherever_its_members_stand(
            org in "[A-Za-z0-9_-]{1,64}", task in "[A-Za-z0-9_-]{1,64}", reason in proptest::option::of(".*"),
        ) {
            let json = |name: &str, value: serde_json::Value| format!("{}:{value}", serde_json::json!(name));
            let mut members = [json("org_id", org.clone().into()), json("reason", reason.clone().into()), json("task_id", task.clone().into())];
            for _ in 0..members.len() {
                members.rotate_left(1);
                let command = decode(&format!("{{{}}}", members.join(","))).unwrap();
                prop_assert_eq!((command.org_id.as_str(), command.task_id.as_str()), (org.as_str(), task.as_str()));
                prop_assert_eq!(&command.reason, &reason);
            }
        }

        #[test]
        fn any_id_but_1_to_64_of_the_allowed_characters_is_refused(id in "[A-Za-z0-9_/.%é-]{0,70}") {
            let is_valid = (1..=64).contains(&id.len()) && !id.contains(['/', '.', '%', 'é']);
            let body = serde_json::json!({"org_id": id, "task_id": "t"}).to_string();
            prop_assert_eq!(decode(&body).is_ok(), is_valid);
        }

        #[test]
        fn decoding_never_panics(body in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = Command::decode(&body);
        }
    }
}
