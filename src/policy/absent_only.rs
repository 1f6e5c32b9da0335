//! Organisations whose new commands find nothing to delete, one after another. Pure.
//!
//! A ratio over all commands would not show them: organisations with many more commands would hide
//! them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::verdict::Verdict;
use crate::kind::Kind;
use crate::messages::OrgId;

/// This many in a row are no accident.
const MANY: u32 = 20;
/// Old answers say nothing about now.
const FORGET_AFTER: Duration = Duration::from_hours(1);

/// The unbroken runs of absences.
#[derive(Debug, Default)]
pub(crate) struct AbsentOnly(BTreeMap<(OrgId, Kind), Row>);

#[derive(Debug)]
struct Row {
    length: u32,
    last: Instant,
}

impl AbsentOnly {
    /// Records the answer to the first call of a new command. Returns whether its organisation has
    /// just started to see absences only.
    pub(crate) fn record(
        &mut self,
        org: &OrgId,
        kind: Kind,
        verdict: Verdict,
        now: Instant,
    ) -> bool {
        let key = (org.clone(), kind);
        match verdict {
            Verdict::AlreadyAbsent | Verdict::UnverifiedAbsence => {
                self.forget(now);
                let row = self.0.entry(key).or_insert(Row { length: 0, last: now });
                row.length = row.length.saturating_add(1);
                row.last = now;
                row.length == MANY
            }
            Verdict::Deleted | Verdict::Present => {
                self.0.remove(&key);
                false
            }
            _ => false,
        }
    }

    /// How many organisations see absences only.
    pub(crate) fn count(&mut self, kind: Kind, now: Instant) -> usize {
        self.forget(now);
        self.0.iter().filter(|((_, of), row)| *of == kind && row.length >= MANY).count()
    }

    fn forget(&mut self, now: Instant) {
        self.0.retain(|_, row| now.saturating_duration_since(row.last) < FORGET_AFTER);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Kind = Kind::TaskDelete;

    fn org(id: &str) -> OrgId {
        OrgId::try_from(id.to_owned()).unwrap()
    }

    #[test]
    fn twenty_absences_in_a_row_count_however_many_others_are_deleted() {
        let (mut orgs, now) = (AbsentOnly::default(), Instant::now());
        for number in 1..=MANY {
            assert_eq!(orgs.count(KIND, now), 0);
            assert!(!orgs.record(&org("well"), KIND, Verdict::Deleted, now));
            let is_news = orgs.record(&org("ill"), KIND, Verdict::AlreadyAbsent, now);
            assert_eq!(is_news, number == MANY);
        }
        assert_eq!((orgs.count(KIND, now), orgs.count(Kind::TagDelete, now)), (1, 0));
        assert!(!orgs.record(&org("ill"), KIND, Verdict::UnverifiedAbsence, now), "said once");
        orgs.record(&org("ill"), KIND, Verdict::Transient, now);
        assert_eq!(orgs.count(KIND, now), 1, "an outage proves nothing");
        orgs.record(&org("ill"), KIND, Verdict::Deleted, now);
        assert_eq!(orgs.count(KIND, now), 0);
    }

    #[test]
    fn a_row_that_ended_an_hour_ago_is_forgotten() {
        let (mut orgs, now) = (AbsentOnly::default(), Instant::now());
        for _ in 0..MANY {
            orgs.record(&org("ill"), KIND, Verdict::AlreadyAbsent, now);
        }
        assert_eq!(orgs.count(KIND, now + Duration::from_mins(59)), 1);
        assert_eq!(orgs.count(KIND, now + FORGET_AFTER), 0);
        assert!(orgs.0.is_empty());
    }
}
