//! `Command::decode` against a second, independent reading of the same bytes.
//!
//!     cargo fuzz run --sanitizer none --fuzz-dir tests/fuzz command

#![no_main]

use std::fmt;

use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Value, json};
use tallyfy_delete_worker::kind::Kind;
use tallyfy_delete_worker::messages::Command;
use tallyfy_delete_worker::messages::command::MAX_BODY_BYTES;

fuzz_target!(|body: &[u8]| {
    let decoded = Command::decode(Kind::TaskDelete, body);
    if let Some(expected) = is_a_command(body) {
        assert_eq!(decoded.is_ok(), expected, "{decoded:?}");
    }
    if let Ok(command) = decoded {
        its_ids_mean_nothing_in_a_url(&command);
        it_survives_being_written_again(&command);
    }
});

fn its_ids_mean_nothing_in_a_url(command: &Command) {
    assert!(is_id(command.target.org.as_str()) && is_id(command.target.id.as_str()), "{command:?}");
}

fn it_survives_being_written_again(command: &Command) {
    let ids = json!({"org_id": command.target.org, "task_id": command.target.id});
    let again = Command::decode(Kind::TaskDelete, ids.to_string().as_bytes())
        .expect("the ids alone are a command");
    assert_eq!(again.target, command.target);
    assert_eq!(again.derived_id(), command.derived_id());
    let all = json!({
        "org_id": command.target.org, "task_id": command.target.id, "requested_by": command.requested_by,
        "reason": command.reason, "not_after": command.not_after.map(|moment| moment.to_string()),
    });
    // Escapes may have made it longer than a body may be.
    let all = all.to_string();
    if all.len() <= MAX_BODY_BYTES {
        assert_eq!(
            &Command::decode(Kind::TaskDelete, all.as_bytes()).expect("its own JSON is a command"),
            command
        );
    }
}

/// What the contract says of these bytes; `None` where `serde_json::Value` cannot hold what JSON
/// allows.
fn is_a_command(body: &[u8]) -> Option<bool> {
    let Ok(text) = std::str::from_utf8(body) else { return Some(false) };
    if text.len() > MAX_BODY_BYTES {
        return Some(false);
    }
    match serde_json::from_str::<Members>(text) {
        Ok(members) => Some(members.name_one_task()),
        Err(error) => {
            let error = error.to_string();
            let limits = ["recursion limit", "number out of range", "surrogate", "hex escape"];
            (!limits.iter().any(|limit| error.contains(limit))).then_some(false)
        }
    }
}

fn is_id(text: &str) -> bool {
    const ALLOWED: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-";
    (1..=64).contains(&text.chars().count()) && text.chars().all(|c| ALLOWED.contains(c))
}

/// The members of an object in their order, doubles included: what a map would hide.
struct Members(Vec<(String, Value)>);

impl Members {
    fn name_one_task(&self) -> bool {
        let is_moment = |text: &str| text.parse::<Timestamp>().is_ok();
        self.required("org_id", is_id)
            && self.required("task_id", is_id)
            && self.optional("requested_by", |_| true)
            && self.optional("reason", |_| true)
            && self.optional("not_after", is_moment)
    }

    fn named(&self, name: &str) -> Vec<&Value> {
        self.0.iter().filter(|(member, _)| member == name).map(|(_, value)| value).collect()
    }

    fn required(&self, name: &str, is_valid: impl Fn(&str) -> bool) -> bool {
        matches!(self.named(name)[..], [Value::String(text)] if is_valid(text))
    }

    fn optional(&self, name: &str, is_valid: impl Fn(&str) -> bool) -> bool {
        matches!(self.named(name)[..], [] | [Value::Null]) || self.required(name, is_valid)
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Collect)
    }
}

struct Collect;

impl<'de> Visitor<'de> for Collect {
    type Value = Members;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Members(members))
    }
}
