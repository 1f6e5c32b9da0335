//! The concurrency permits: how many an organisation may take, and which one gets the next.

use std::time::Instant;

use super::ApiAccess;
use super::organisation::SLOW_START_CALLS;
use crate::messages::OrgId;

impl ApiAccess {
    /// The organisation that gets the next permit, among those with waiting commands: the one with
    /// a token and the fewest calls in flight; in a tie, the one whose last call is the longest
    /// ago.
    pub fn next_in_line<'a>(
        &self,
        waiting: impl Iterator<Item = &'a OrgId>,
        now: Instant,
    ) -> Option<&'a OrgId> {
        if self.in_flight >= self.concurrency {
            return None;
        }
        let rank = |org: &'a OrgId| {
            let organisation = self.organisations.get(org);
            let in_flight = organisation.map_or(0, |organisation| organisation.in_flight);
            let last_call = organisation.and_then(|organisation| organisation.last_call);
            let may_begin = in_flight < self.limit(org, now) && self.token_in(org, now).is_zero();
            may_begin.then_some((in_flight, last_call, org))
        };
        let first = waiting.filter_map(rank).min_by_key(|(calls, last, _)| (*calls, *last));
        first.map(|(_, _, org)| org)
    }

    /// Whether commands that wait for a permit of this organisation hide others, because its
    /// answers take long.
    pub fn is_slow(&self, org: &OrgId, now: Instant) -> bool {
        self.callable.len() > 1
            && self.organisations.get(org).is_some_and(|organisation| organisation.is_slow(now))
    }

    /// Calls that an organisation may have in flight.
    ///
    /// # A slow organisation does not keep the last permits from the others
    ///
    /// A call in flight cannot be cancelled. So while another organisation is active, one whose
    /// calls take long leaves a quarter of the permits free. A single organisation uses all of
    /// them, and so does a fast one.
    pub(super) fn limit(&self, org: &OrgId, now: Instant) -> usize {
        let all = self.concurrency;
        let Some(organisation) = self.organisations.get(org) else {
            return SLOW_START_CALLS.min(all);
        };
        let must_share = organisation.is_slow(now) && self.last_used.is_another_about(org, now);
        organisation.limit(if must_share { all - all / 4 } else { all })
    }
}
