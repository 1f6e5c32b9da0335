//! Which dead letters are selected, and how many there are per group. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::messages::call_record::CallRecord;
use crate::messages::ids::EventIds;
use crate::messages::{DeadLetter, time};

const ONE_MILLISECOND: SignedDuration = SignedDuration::from_millis(1);

/// Selects the dead letters that match every given member.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Selection {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub org: Option<String>,
    /// About the object with this id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command_id: Option<String>,
    /// Died longer ago than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub older_than: Option<Duration>,
    /// Died not longer ago than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newer_than: Option<Duration>,
    /// Picked one by one: the ids of their failure events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_ids: Option<BTreeSet<String>>,
    /// Superseded by one of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub superseded_by: Option<Successes>,
}

/// What shows that commands succeeded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Successes {
    /// The file that it comes from.
    pub file: PathBuf,
    /// Ids of events that a consumer has seen.
    #[serde(skip)]
    events: HashSet<String>,
    /// Ids of the failure events that they supersede.
    #[serde(skip)]
    superseded: HashSet<String>,
    /// When calls succeeded, by the ids of the success events of their commands.
    #[serde(skip)]
    calls: HashMap<String, Timestamp>,
}

impl Successes {
    /// Reads a file with one event per line, as published, or one event id per line, or one record
    /// of a call per line, as `audit --json` prints them.
    ///
    /// # Errors
    /// The number of the line that is none of these.
    pub fn read(file: PathBuf, text: &str) -> Result<Self, usize> {
        let mut successes = Self { file, ..Self::default() };
        for (number, line) in (1_usize..).zip(text.lines().map(str::trim)) {
            if !line.is_empty() {
                successes.add(line).ok_or(number)?;
            }
        }
        Ok(successes)
    }

    fn add(&mut self, line: &str) -> Option<()> {
        let Ok(json) = serde_json::from_str::<Value>(line) else {
            self.events.insert(event_id(line)?);
            return Some(());
        };
        // A record has an `id` as well: the object's.
        if json.get("call").is_some() {
            let call: CallRecord = serde_json::from_value(json).ok()?;
            if let Some(event) = call.success_event() {
                let last = self.calls.entry(event).or_insert(call.at);
                *last = call.at.max(*last);
            }
            return Some(());
        }
        self.events.insert(event_id(json["id"].as_str()?)?);
        self.superseded.extend(json["supersedes"].as_str().and_then(event_id));
        Some(())
    }

    /// Whether this dead letter's command has succeeded after all.
    ///
    /// # A call supersedes a failure only if it came after it and should have its event
    ///
    /// The success event of a call may be missing: its worker died before it published the event,
    /// or lost its session, and another delivery of the command was dead-lettered meanwhile. That
    /// dead letter is usually ambiguous, or RabbitMQ moved it, or the call came before it. It
    /// stays. A record shows a call and not its event, and the clocks of two workers differ: so the
    /// documents say to replay, not to discard, what calls alone have selected.
    fn supersede(&self, dead_letter: &DeadLetter) -> bool {
        let EventIds { failure, success } = dead_letter.event_ids();
        if self.events.contains(&success) || self.superseded.contains(&failure) {
            return true;
        }
        let may_lack_its_event = dead_letter.may_be_done() || dead_letter.is_moved_by_rabbitmq();
        let Some(failed_at) = dead_letter.failed_at.filter(|_| !may_lack_its_event) else {
            return false;
        };
        // The time of the failure is cut to milliseconds.
        let is_later = |call: &Timestamp| call.duration_since(failed_at) >= ONE_MILLISECOND;
        self.calls.get(&success).is_some_and(is_later)
    }
}

fn event_id(text: &str) -> Option<String> {
    Uuid::try_parse(text).ok().map(|id| id.to_string())
}

impl Selection {
    /// Whether a dead letter is selected. One without a time of failure has no age, so a selection
    /// by age leaves it out.
    pub fn takes(&self, dead_letter: &DeadLetter, now: Timestamp) -> bool {
        let age = dead_letter.failed_at.map(|time| now.duration_since(time).unsigned_abs());
        let is = |wanted: &Option<String>, has: Option<String>| wanted.is_none() || *wanted == has;
        is(&self.reason, Some(dead_letter.reason.clone()))
            && is(&self.command_id, dead_letter.properties.message_id.clone())
            && (self.org.is_none() || is(&self.org, dead_letter.org_id()))
            && (self.id.is_none() || is(&self.id, dead_letter.object_id()))
            && self.older_than.is_none_or(|least| age.is_some_and(|age| age > least))
            && self.newer_than.is_none_or(|most| age.is_some_and(|age| age <= most))
            && self.event_ids.as_ref().is_none_or(|ids| ids.contains(&dead_letter.failure_event()))
            && self.superseded_by.as_ref().is_none_or(|events| events.supersede(dead_letter))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Group {
    pub reason: String,
    /// The organisation, if the body names one.
    pub org_id: Option<String>,
    #[serde(rename = "letters")]
    pub dead_letters: usize,
    /// How many may have succeeded: an answer was lost, or they were delivered more than once.
    pub ambiguous: usize,
    /// When the first of them failed.
    #[serde(serialize_with = "time::serialize")]
    pub oldest: Option<Timestamp>,
    /// When the last of them failed.
    #[serde(serialize_with = "time::serialize")]
    pub newest: Option<Timestamp>,
    /// The detail of the last one seen.
    pub detail: String,
}

/// Counts dead letters by reason and organisation.
#[derive(Debug, Default)]
pub struct Groups(BTreeMap<(String, Option<String>), Group>);

impl Groups {
    pub fn add(&mut self, dead_letter: &DeadLetter) {
        let (reason, org_id) = (dead_letter.reason.clone(), dead_letter.org_id());
        let group = self.0.entry((reason.clone(), org_id.clone())).or_insert_with(|| Group {
            reason,
            org_id,
            dead_letters: 0,
            ambiguous: 0,
            oldest: dead_letter.failed_at,
            newest: dead_letter.failed_at,
            detail: String::new(),
        });
        group.dead_letters += 1;
        group.ambiguous += usize::from(dead_letter.may_be_done());
        // `None` is less than any moment.
        group.oldest = [group.oldest, dead_letter.failed_at].into_iter().flatten().min();
        group.newest = group.newest.max(dead_letter.failed_at);
        group.detail.clone_from(&dead_letter.detail);
    }

    /// All of them, by reason, then by organisation.
    pub fn all(self) -> Vec<Group> {
        self.0.into_values().collect()
    }

    /// How many dead letters there are in all.
    pub fn dead_letters(&self) -> usize {
        self.0.values().map(|group| group.dead_letters).sum()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kind::Kind;
    use crate::messages::{Command, Properties, RetryState};

    fn now() -> Timestamp {
        "2026-11-24T10:00:00Z".parse().unwrap()
    }

    fn dead_letter(reason: &str, body: &str, minutes_ago: Option<u64>) -> DeadLetter {
        let failed_at = minutes_ago.map(|minutes| now() - Duration::from_mins(minutes));
        DeadLetter {
            reason: reason.to_owned(),
            body: body.into(),
            failed_at,
            ..DeadLetter::default()
        }
    }

    fn takes(selection: &Selection, dead_letter: &DeadLetter) -> bool {
        selection.takes(dead_letter, now())
    }

    #[test]
    fn a_dead_letter_is_selected_when_it_matches_every_given_member() {
        let dead_letter = dead_letter("forbidden", r#"{"org_id":"o","task_id":"t"}"#, Some(60));
        let text = |text: &str| Some(text.to_owned());
        let nothing = Selection::default();
        assert!(takes(&nothing, &dead_letter));
        assert!(takes(
            &Selection { reason: text("forbidden"), org: text("o"), ..nothing.clone() },
            &dead_letter
        ));
        assert!(!takes(
            &Selection { reason: text("forbidden"), org: text("p"), ..nothing.clone() },
            &dead_letter
        ));
        assert!(!takes(&Selection { id: text("u"), ..nothing.clone() }, &dead_letter));
        assert!(!takes(&Selection { command_id: text("m"), ..nothing }, &dead_letter));
    }

    #[test]
    fn an_age_leaves_out_what_is_of_no_known_age() {
        let (hour, day) = (Some(Duration::from_mins(59)), Some(Duration::from_hours(24)));
        let older = Selection { older_than: hour, ..Selection::default() };
        let newer = Selection { newer_than: day, ..Selection::default() };
        for (minutes, is_older, is_newer) in [
            (Some(60), true, true),
            (Some(10), false, true),
            (Some(3000), true, false),
            (None, false, false),
        ] {
            let dead_letter = dead_letter("expired", "{}", minutes);
            assert_eq!(
                (older.takes(&dead_letter, now()), newer.takes(&dead_letter, now())),
                (is_older, is_newer)
            );
        }
    }

    #[test]
    fn a_dead_letter_is_superseded_by_the_success_of_its_own_command_only() {
        let command = |kind, id: &str| DeadLetter {
            kind,
            properties: Properties { message_id: Some(id.into()), ..Properties::default() },
            ..dead_letter("forbidden", r#"{"org_id":"o","task_id":"t"}"#, Some(1))
        };
        let (mine, other) = (command(Kind::TaskDelete, "m1"), command(Kind::TaskDelete, "m2"));
        let success = mine.event_ids().success;
        let as_published = format!(r#"{{"id":"{success}","type":"task.deleted"}}"#);
        let archived =
            format!(r#"{{"id":"{}","supersedes":"{}"}}"#, Uuid::nil(), mine.failure_event());
        for text in [&success, &as_published, &format!("\n{as_published}\n"), &archived] {
            let events = Successes::read("events".into(), text).unwrap();
            let selection = Selection { superseded_by: Some(events), ..Selection::default() };
            assert!(takes(&selection, &mine) && !takes(&selection, &other), "{text}");
            assert!(!takes(&selection, &command(Kind::TaskArchive, "m1")));
        }
        let own_failure = Successes::read("events".into(), &mine.failure_event()).unwrap();
        let selection = Selection { superseded_by: Some(own_failure), ..Selection::default() };
        assert!(!takes(&selection, &mine), "a failure supersedes nothing");
        for (text, line) in [("m1", 1), ("\n{}", 2), (r#"{"id":"m1"}"#, 1)] {
            assert_eq!(Successes::read("events".into(), text), Err(line));
        }
    }

    #[test]
    fn a_call_supersedes_a_failure_only_if_it_came_after_it_and_should_have_its_event() {
        let failed_with = |reason| DeadLetter {
            properties: Properties { message_id: Some("m1".into()), ..Properties::default() },
            ..dead_letter(reason, r#"{"org_id":"o","task_id":"t"}"#, Some(10))
        };
        let failed = failed_with("forbidden");
        let failed_at = failed.failed_at.unwrap();
        let record = |at: Timestamp, command: &str, call: &str, verdict: &str| {
            json!({"at": at, "kind": "task.delete", "org_id": "o", "id": "t", "command_id": command,
                "call": call, "verdict": verdict, "answer": "", "worker": "w"})
            .to_string()
        };
        let supersedes = |text: &str, dead_letter: &DeadLetter| {
            let calls = Successes::read("calls".into(), text).unwrap();
            let selection = Selection { superseded_by: Some(calls), ..Selection::default() };
            takes(&selection, dead_letter)
        };
        let (before, after) =
            (failed_at - Duration::from_secs(1), failed_at + Duration::from_secs(1));
        let deleted = record(after, "m1", "delete", "deleted");
        let among_others = [
            record(before, "m1", "delete", "deleted"),
            deleted.clone(),
            record(after, "m1", "delete", "forbidden"),
            record(before, "m1", "delete", "deleted"),
        ];
        let at_once = failed_at + Duration::from_millis(1);
        assert!(supersedes(&record(at_once, "m1", "delete", "deleted"), &failed));
        assert!(supersedes(&deleted, &failed) && supersedes(&among_others.join("\n"), &failed));
        for other in [
            record(before, "m1", "delete", "deleted"),
            record(failed_at + Duration::from_micros(999), "m1", "delete", "deleted"),
            record(after, "m2", "delete", "deleted"),
            record(after, "m1", "archive", "deleted"),
            record(after, "m1", "delete", "forbidden"),
        ] {
            assert!(!supersedes(&other, &failed), "{other}");
        }
        let ambiguous = RetryState { ambiguous: true, ..RetryState::default() };
        for other in [
            DeadLetter { failed_at: None, ..failed.clone() },
            DeadLetter { retry_state: ambiguous, ..failed.clone() },
            failed_with("expired_in_queue"),
            failed_with("poison"),
            failed_with("a reason of another build"),
        ] {
            assert!(!supersedes(&deleted, &other), "{other:?}");
        }
        assert_eq!(Successes::read("calls".into(), r#"{"call":"delete","id":"t"}"#), Err(1));
    }

    #[test]
    fn the_record_of_a_call_and_the_dead_letter_of_its_command_name_the_same_success_event() {
        for (kind, message_id) in
            Kind::ALL.into_iter().flat_map(|kind| [(kind, None), (kind, Some("m1"))])
        {
            let body = json!({"org_id": "o", kind.spec().id_member: "x"}).to_string();
            let properties =
                Properties { message_id: message_id.map(Into::into), ..Properties::default() };
            let failed =
                DeadLetter { kind, properties, ..dead_letter("forbidden", &body, Some(1)) };
            let command = Command::decode(kind, body.as_bytes()).unwrap();
            let command_id = message_id.map_or_else(|| command.derived_id(), Into::into);
            let record: CallRecord = serde_json::from_value(json!({
                "at": now(), "kind": kind, "org_id": "o", "id": "x", "command_id": command_id,
                "call": "delete", "verdict": "deleted", "answer": "", "worker": "w"
            }))
            .unwrap();
            assert_eq!(record.success_event(), Some(failed.event_ids().success), "{kind}");
        }
    }

    #[test]
    fn dead_letters_are_counted_by_reason_and_organisation_with_the_first_and_the_last() {
        let mut groups = Groups::default();
        for (reason, body, minutes) in [
            ("rejected", r#"{"org_id":"b"}"#, Some(5)),
            ("rejected", r#"{"org_id":"b"}"#, None),
            ("rejected", r#"{"org_id":"b"}"#, Some(9)),
            ("malformed", "no JSON", Some(1)),
        ] {
            groups.add(&dead_letter(reason, body, minutes));
        }
        let retry_state = RetryState { ambiguous: true, ..RetryState::default() };
        let ambiguous = dead_letter("rejected", r#"{"org_id":"b"}"#, Some(7));
        groups.add(&DeadLetter { retry_state, ..ambiguous });
        assert_eq!(groups.dead_letters(), 5);
        let [malformed, rejected] = &groups.all()[..] else { panic!("two groups") };
        assert_eq!((malformed.org_id.as_deref(), malformed.dead_letters), (None, 1));
        assert_eq!((rejected.org_id.as_deref(), rejected.dead_letters), (Some("b"), 4));
        assert_eq!((malformed.ambiguous, rejected.ambiguous), (0, 1));
        let ago = |minutes| Some(now() - Duration::from_mins(minutes));
        assert_eq!((rejected.oldest, rejected.newest), (ago(9), ago(5)));
    }
}
