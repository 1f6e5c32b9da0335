//! The fields of a form or a query, and the selection of dead letters that they mean. Pure.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use url::form_urlencoded::{self, Serializer};

use crate::dead_letters::{Selection, Successes};
use crate::kind::Kind;
use crate::messages::OrgId;

/// Every field of a filter, in the order of the form.
const FILTER: [&str; 8] =
    ["kind", "reason", "org", "id", "command_id", "older_than", "newer_than", "superseded_by"];
/// The field that picks one dead letter by the id of its failure event.
pub(super) const PICKED: &str = "letter";
/// The field that selects all matches.
pub(super) const ALL: &str = "all";
const MOST_A_SECOND: u32 = 1_000_000;

/// Names and values, as received.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    pub(super) fn read(text: &str) -> Self {
        Self(form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    /// The value of a field, if it is filled in.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(field, _)| field == name);
        found.map(|(_, value)| value.trim()).filter(|value| !value.is_empty())
    }

    pub(super) fn required(&self, name: &str, what: &str) -> Result<String, String> {
        self.get(name).map(str::to_owned).ok_or_else(|| format!("{what} is missing."))
    }

    pub(super) fn kind(&self) -> Result<Kind, String> {
        Kind::named(self.get("kind").unwrap_or_default())
            .ok_or_else(|| "Choose one kind.".to_owned())
    }

    pub(super) fn org(&self) -> Result<Option<OrgId>, String> {
        let org = self.get("org").map(|text| OrgId::try_from(text.to_owned()));
        org.transpose().map_err(|_| "That is not an organisation's id.".to_owned())
    }

    /// A number that is not 0.
    pub(super) fn number(&self, name: &str, what: &str) -> Result<Option<NonZeroU32>, String> {
        let number = self.get(name).map(str::parse::<NonZeroU32>).transpose();
        let number = number.ok().filter(|number| number.is_none_or(|n| n.get() <= MOST_A_SECOND));
        number.ok_or_else(|| format!("{what} takes a number from 1 to {MOST_A_SECOND}."))
    }

    pub(super) fn time(&self, name: &str) -> Option<Timestamp> {
        self.get(name)?.parse().ok()
    }

    /// The picked ids.
    pub(super) fn picked(&self) -> BTreeSet<String> {
        let picked = self.0.iter().filter(|(name, _)| name == PICKED);
        picked.map(|(_, value)| value.clone()).collect()
    }

    /// The filter's fields that are filled in.
    pub(super) fn filter(&self) -> Vec<(&'static str, &str)> {
        FILTER.iter().filter_map(|name| Some((*name, self.get(name)?))).collect()
    }

    /// The filter as a query, with one field changed.
    pub(super) fn query_with(&self, name: &str, value: &str) -> String {
        let mut query = Serializer::new(String::new());
        for (field, text) in self.filter().into_iter().filter(|(field, _)| *field != name) {
            query.append_pair(field, text);
        }
        if !value.is_empty() {
            query.append_pair(name, value);
        }
        query.finish()
    }

    /// The selection that the filter describes.
    pub(super) fn selection(&self) -> Result<Selection, String> {
        let text = |name: &str| self.get(name).map(str::to_owned);
        let age = |name: &str, label: &str| match self.get(name) {
            Some(text) => duration(text).map(Some).ok_or_else(|| {
                format!("{label} takes a duration such as 30m, 24h or 7d, not {text:?}.")
            }),
            None => Ok(None),
        };
        let successes = |text: &str| {
            // A file has one per line; a form field may separate them by spaces.
            let lines = text.split_whitespace().collect::<Vec<_>>().join("\n");
            Successes::read("the console".into(), &lines).map_err(|line| {
                format!("“Superseded by” takes ids of events; number {line} is not one.")
            })
        };
        Ok(Selection {
            reason: text("reason"),
            org: text("org"),
            id: text("id"),
            command_id: text("command_id"),
            older_than: age("older_than", "“Older than”")?,
            newer_than: age("newer_than", "“Newer than”")?,
            event_ids: None,
            superseded_by: self.get("superseded_by").map(successes).transpose()?,
        })
    }

    /// The same, narrowed to the picked ones unless all are selected.
    ///
    /// # A forgotten box removes nothing
    ///
    /// If nothing is picked and *all* is not ticked, nothing is selected.
    pub(super) fn meant(&self) -> Result<Selection, String> {
        let selection = self.selection()?;
        let picked = self.picked();
        match (self.get(ALL).is_some(), picked.is_empty()) {
            (true, _) => Ok(selection),
            (false, false) => Ok(Selection { event_ids: Some(picked), ..selection }),
            (false, true) => Err("Pick at least one dead letter.".to_owned()),
        }
    }
}

/// Days are 24 hours.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let days = text.strip_suffix('d').and_then(|days| days.trim().parse::<u64>().ok());
    if let Some(days) = days {
        return days.checked_mul(86_400).map(Duration::from_secs);
    }
    Duration::try_from(text.parse::<SignedDuration>().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_has_every_field_that_the_command_line_takes() {
        let id = "45ca9d4f-7fd9-50ff-959f-a09c89c4439c";
        let fields = Fields::read(&format!(
            "kind=task.delete&reason=forbidden&org=acme&id=t1&command_id=m1&older_than=1h&newer_than=7d&superseded_by={id}%0A{id}"
        ));
        let selection = fields.selection().unwrap();
        let serde_json::Value::Object(members) = serde_json::to_value(&selection).unwrap() else {
            panic!()
        };
        // `event_ids` come from the picked boxes, and the kind from the queue.
        assert_eq!(members.len() + 1, FILTER.len(), "{members:?}");
        assert_eq!(selection.newer_than, Some(Duration::from_hours(168)));
        assert_eq!(fields.query_with("page", "2").matches('=').count(), FILTER.len() + 1);
        assert_eq!(
            Fields::read(&fields.query_with("kind", "task.delete")).selection(),
            Ok(selection)
        );
    }

    #[test]
    fn a_field_that_makes_no_sense_is_no_wider_filter() {
        for wrong in ["older_than=soon", "newer_than=-1h", "superseded_by=t1"] {
            assert!(Fields::read(wrong).selection().is_err(), "{wrong}");
        }
        assert_eq!(Fields::read("older_than=&org=+").selection(), Ok(Selection::default()));
    }

    #[test]
    fn a_forgotten_box_removes_nothing() {
        assert!(Fields::read("kind=task.delete&reason=expired").meant().is_err());
        let picked = Fields::read("letter=a&letter=b&reason=expired").meant().unwrap();
        assert_eq!(picked.event_ids, Some(["a".to_owned(), "b".to_owned()].into()));
        assert_eq!(picked.reason.as_deref(), Some("expired"));
        assert_eq!(Fields::read("all=1&letter=a").meant().unwrap().event_ids, None);
    }
}
