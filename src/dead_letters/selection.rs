//! Which dead letters are selected, and how many there are per group. Pure.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::messages::{DeadLetter, time};

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

/// Success events, seen by a consumer, that supersede dead letters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Successes {
    /// The file that they come from.
    pub file: PathBuf,
    #[serde(skip)]
    ids: HashSet<String>,
}

impl Successes {
    /// Reads a file with one event per line, as published, or one event id per line.
    ///
    /// # Errors
    /// The number of the line that is neither.
    pub fn read(file: PathBuf, text: &str) -> Result<Self, usize> {
        let id = |line: &str| {
            let event = serde_json::from_str::<Value>(line).ok();
            let id = event.as_ref().map_or(Some(line), |event| event["id"].as_str());
            id.and_then(|id| Uuid::try_parse(id).ok()).map(|id| id.to_string())
        };
        let lines =
            (1_usize..).zip(text.lines().map(str::trim)).filter(|(_, line)| !line.is_empty());
        let ids = lines.map(|(number, line)| id(line).ok_or(number)).collect::<Result<_, _>>()?;
        Ok(Self { file, ids })
    }

    /// Whether this dead letter's command has succeeded after all.
    fn supersede(&self, dead_letter: &DeadLetter) -> bool {
        self.ids.contains(&dead_letter.event_ids().success)
    }
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
    use super::*;
    use crate::kind::Kind;
    use crate::messages::{Properties, RetryState};

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
        for text in [&success, &as_published, &format!("\n{as_published}\n")] {
            let events = Successes::read("events".into(), text).unwrap();
            let selection = Selection { superseded_by: Some(events), ..Selection::default() };
            assert!(takes(&selection, &mine) && !takes(&selection, &other), "{text}");
            assert!(!takes(&selection, &command(Kind::TaskArchive, "m1")));
        }
        for (text, line) in [("m1", 1), ("\n{}", 2), (r#"{"id":"m1"}"#, 1)] {
            assert_eq!(Successes::read("events".into(), text), Err(line));
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
