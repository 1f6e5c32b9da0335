//! The command as producers write it, and the ids that may stand in a URL. Decoding refuses bad
//! input and never repairs it.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::str::Utf8Error;
use std::sync::Arc;

use jiff::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, json};
use thiserror::Error;

use super::derived_id::derived;
use crate::kind::{Kind, KindSpec};

/// Largest body that can be a command, in bytes.
pub const MAX_BODY_BYTES: usize = 64 * 1024;
const MAX_ID_CHARS: usize = 64;
const ID_FORM: &str = "1 to 64 of A-Z a-z 0-9 _ -";
const ID_PATTERN: &str = "^[A-Za-z0-9_-]{1,64}$";

/// What a command is about: one object of one organisation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// What is to be done with it.
    pub kind: Kind,
    /// Organisation that owns it.
    pub org: OrgId,
    /// The object: a task, a process, a tag or a file.
    pub id: ObjectId,
}

/// A request to delete one object, or to archive one task. JSON, at most 64 KiB; unknown members
/// are ignored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// What it is about.
    pub target: Target,
    /// Service that asks.
    pub requested_by: Option<String>,
    /// Why it asks.
    pub reason: Option<String>,
    /// No call after this moment.
    pub not_after: Option<Timestamp>,
}

/// Why a body is not a command; the text is for the people who wrote it.
#[derive(Debug, Error)]
pub enum Malformed {
    /// The body is larger than [`MAX_BODY_BYTES`].
    #[error("the body has {0} bytes; a command has at most {MAX_BODY_BYTES}")]
    TooLarge(usize),
    /// The body is not a JSON object. (`serde` would take an array for a struct, so this is checked
    /// first.)
    #[error("the body is not a JSON object")]
    NotAnObject,
    /// So it cannot be JSON.
    #[error("the body is not UTF-8: {0}")]
    NotUtf8(#[from] Utf8Error),
    /// The body is not JSON, or a member is missing, given twice or of the wrong type or form.
    #[error("not a valid command: {0}")]
    Json(#[from] serde_json::Error),
}

impl Malformed {
    /// An error if the body is too large.
    pub fn too_large(body: &[u8]) -> Option<Self> {
        (body.len() > MAX_BODY_BYTES).then_some(Self::TooLarge(body.len()))
    }
}

impl Command {
    /// Reads a command of this kind from a message body.
    ///
    /// # Errors
    /// [`Malformed`] says what is wrong with the body.
    pub fn decode(kind: Kind, body: &[u8]) -> Result<Self, Malformed> {
        if let Some(too_large) = Malformed::too_large(body) {
            return Err(too_large);
        }
        match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
            // Check the UTF-8 first: serde_json does not check the content of members that it
            // ignores.
            Some(b'{') => {
                let mut json = serde_json::Deserializer::from_str(str::from_utf8(body)?);
                let command = CommandOf(kind).deserialize(&mut json)?;
                json.end()?;
                Ok(command)
            }
            _ => Err(Malformed::NotAnObject),
        }
    }

    /// The id of a command without a `message_id`: the same for every redelivery of it.
    pub fn derived_id(&self) -> String {
        let Target { kind, org, id } = &self.target;
        let name = match kind {
            // Unchanged from when this was the only kind.
            Kind::TaskDelete => format!("{org}/{id}"),
            kind => format!("{kind}/{org}/{id}"),
        };
        derived(&[name.as_bytes()]).to_string()
    }

    /// The JSON Schema of a command of this kind.
    pub fn schema(kind: Kind) -> Schema {
        let KindSpec { id_member, object, .. } = kind.spec();
        let text = |description| json!({"description": description, "type": ["string", "null"]});
        let id = |description: String| json!({"description": description, "pattern": ID_PATTERN, "type": "string"});
        let mut properties = json!({
            "not_after": text("No call after this moment (RFC 3339)."),
            "org_id": id(format!("Organisation that owns the {object}: {ID_FORM}.")),
            "reason": text("Why it asks."),
            "requested_by": text("Service that asks."),
        });
        properties["not_after"]["format"] = "date-time".into();
        properties[id_member] = id(format!("The {object}: {ID_FORM}."));
        let others: BTreeSet<_> = Kind::ALL.map(|kind| kind.spec().id_member).into();
        let others = others.into_iter().filter(|other| other != id_member);
        let another_kinds_id: Vec<_> = others.map(|other| json!({"required": [other]})).collect();
        json_schema!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": format!("{kind} command"),
            "description": "JSON, at most 64 KiB; unknown members are ignored.",
            "type": "object",
            "properties": properties,
            "required": ["org_id", id_member],
            "not": {"anyOf": another_kinds_id},
        })
    }
}

/// Reads a command of this kind. Written by hand, because the name of the id's member depends on
/// the kind, and the member of another kind is a mistake.
struct CommandOf(Kind);

#[derive(Deserialize)]
struct Member<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> DeserializeSeed<'de> for CommandOf {
    type Value = Command;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Command, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for CommandOf {
    type Value = Command;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a {} command", self.0)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Command, A::Error> {
        let id_member = self.0.spec().id_member;
        let (mut org, mut id) = (None, None);
        let (mut requested_by, mut reason, mut not_after) = (None, None, None);
        while let Some(Member(member)) = map.next_key::<Member<'_>>()? {
            match &*member {
                "org_id" => once(&mut org, "org_id", &mut map)?,
                "requested_by" => once(&mut requested_by, "requested_by", &mut map)?,
                "reason" => once(&mut reason, "reason", &mut map)?,
                "not_after" => once(&mut not_after, "not_after", &mut map)?,
                member if member == id_member => once(&mut id, id_member, &mut map)?,
                member if is_an_id(member) => {
                    let what = format_args!("{member}, but a {} takes {id_member}", self.0);
                    return Err(A::Error::custom(what));
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        let missing = A::Error::missing_field;
        let (org, id) =
            (org.ok_or_else(|| missing("org_id"))?, id.ok_or_else(|| missing(id_member))?);
        Ok(Command {
            target: Target { kind: self.0, org, id },
            requested_by: requested_by.flatten(),
            reason: reason.flatten(),
            not_after: not_after.flatten(),
        })
    }
}

/// A member that is given twice is ambiguous, so it is refused.
fn once<'de, T: Deserialize<'de>, A: MapAccess<'de>>(
    slot: &mut Option<T>,
    member: &'static str,
    map: &mut A,
) -> Result<(), A::Error> {
    if slot.is_some() {
        return Err(A::Error::duplicate_field(member));
    }
    *slot = Some(map.next_value()?);
    Ok(())
}

fn is_an_id(member: &str) -> bool {
    Kind::ALL.iter().any(|kind| kind.spec().id_member == member)
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.org, self.id)
    }
}

/// As members of an event.
impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("org_id", &self.org)?;
        map.serialize_entry(self.kind.spec().id_member, &self.id)?;
        map.end()
    }
}

impl JsonSchema for Target {
    fn schema_name() -> Cow<'static, str> {
        "Target".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let id = |description: String| json!({"description": description, "type": "string"});
        let mut properties = Map::new();
        properties
            .insert("org_id".into(), id("Organisation, if the command could be read.".into()));
        for spec in Kind::ALL.map(Kind::spec) {
            let description = format!("The {}, if the command could be read.", spec.object);
            properties.insert(spec.id_member.into(), id(description));
        }
        json_schema!({"type": "object", "properties": properties})
    }
}

/// An id is not 1 to 64 of `A-Z a-z 0-9 _ -`.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("an id is {ID_FORM}")]
pub struct InvalidId;

/// # An id cannot change which call is made
///
/// The archive call's path is the delete call's path without its last segment, so an id with `/`,
/// `?`, `#` or `..` would choose another destructive call. An [`OrgId`] or [`ObjectId`] can only
/// consist of characters without a meaning in a URL, and nothing else is ever put into one.
fn is_valid_id(id: &str) -> bool {
    (1..=MAX_ID_CHARS).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

macro_rules! id {
    ($name:ident, $what:literal) => {
        #[doc = $what]
        #[doc = "\n\nA clone shares the text."]
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(Arc<str>);

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(id: String) -> Result<Self, InvalidId> {
                if is_valid_id(&id) { Ok(Self(id.into())) } else { Err(InvalidId) }
            }
        }

        impl $name {
            /// The id as it stands in a URL.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
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
id!(ObjectId, "Id of a task, a process, a tag or a file: 1 to 64 of `A-Z a-z 0-9 _ -`.");

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(body: &str) -> Result<Command, String> {
        Command::decode(Kind::TaskDelete, body.as_bytes())
            .map_err(|malformed| malformed.to_string())
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
        assert!(Command::decode(Kind::TaskDelete, body).unwrap_err().to_string().contains("UTF-8"));
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

    #[test]
    fn a_body_with_another_kinds_id_is_malformed() {
        for kind in Kind::ALL {
            for other in Kind::ALL {
                let (own, foreign) = (kind.spec().id_member, other.spec().id_member);
                let body = |members: String| {
                    Command::decode(kind, format!(r#"{{"org_id":"o",{members}}}"#).as_bytes())
                };
                assert_eq!(
                    body(format!(r#""{foreign}":"x""#)).is_ok(),
                    own == foreign,
                    "{kind} {other}"
                );
                if own != foreign {
                    let error =
                        body(format!(r#""{own}":"x","{foreign}":"y""#)).unwrap_err().to_string();
                    assert!(error.contains(own) && error.contains(foreign), "{error}");
                }
            }
        }
    }

    #[test]
    fn a_derived_id_is_of_its_kind() {
        let id = |kind: Kind| {
            let body = format!(r#"{{"org_id":"o","{}":"t"}}"#, kind.spec().id_member);
            Command::decode(kind, body.as_bytes()).unwrap().derived_id()
        };
        let ids: std::collections::HashSet<_> = Kind::ALL.into_iter().map(id).collect();
        assert_eq!(ids.len(), Kind::ALL.len());
        assert_eq!(id(Kind::TaskDelete), derived(&[b"o/t"]).to_string(), "as it always was");
    }

    proptest! {
        #[test]
        fn an_id_cannot_change_which_call_is_made(text in ".*") {
            if let Ok(id) = ObjectId::try_from(text.clone()) {
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
                prop_assert_eq!((command.target.org.as_str(), command.target.id.as_str()), (org.as_str(), task.as_str()));
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
            let _ = Command::decode(Kind::TaskDelete, &body);
        }
    }
}
