//! The last two organisations that were called: enough to find one other than a given one.

use std::time::{Duration, Instant};

use crate::messages::OrgId;

/// How long after its last command an organisation counts as active.
const ABOUT: Duration = Duration::from_mins(1);

#[derive(Debug, Default)]
pub(super) struct LastUsed {
    last: Option<(OrgId, Instant)>,
    another: Option<(OrgId, Instant)>,
}

impl LastUsed {
    pub(super) fn note(&mut self, org: &OrgId, now: Instant) {
        match &mut self.last {
            Some((last, at)) if last == org => *at = now,
            _ => self.another = self.last.replace((org.clone(), now)),
        }
    }

    pub(super) fn is_another_about(&self, org: &OrgId, now: Instant) -> bool {
        let used = [&self.last, &self.another].into_iter().flatten();
        used.into_iter().any(|(used, at)| used != org && now.saturating_duration_since(*at) < ABOUT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_organisation_is_reckoned_with_for_a_minute_after_its_last_command() {
        let org = |id: &str| OrgId::try_from(id.to_owned()).unwrap();
        let (mut used, now) = (LastUsed::default(), Instant::now());
        used.note(&org("a"), now);
        assert!(!used.is_another_about(&org("a"), now) && used.is_another_about(&org("b"), now));
        used.note(&org("b"), now);
        let later = now + ABOUT / 2;
        used.note(&org("a"), later);
        used.note(&org("a"), later);
        let almost = later + ABOUT / 3;
        assert!(
            used.is_another_about(&org("a"), almost) && used.is_another_about(&org("b"), almost)
        );
        assert!(!used.is_another_about(&org("a"), now + ABOUT));
        assert!(used.is_another_about(&org("b"), now + ABOUT));
    }
}
