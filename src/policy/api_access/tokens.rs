//! The tokens of the rate limits: how long one waits for one, and where.

use std::time::{Duration, Instant};

use super::ApiAccess;
use super::organisation::Organisation;
use super::rate::{Bucket, TokenWait, where_to_wait};
use crate::messages::OrgId;

/// Who waits already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// Of the organisation.
    pub ahead: usize,
    /// Organisations that have commands in line.
    pub organisations: usize,
}

impl ApiAccess {
    /// Until there is a token for a call of this organisation; zero if there is one, or if nothing
    /// is limited.
    pub(super) fn token_in(&self, org: &OrgId, now: Instant) -> Duration {
        let own = self.organisations.get(org).and_then(|organisation| organisation.tokens);
        let buckets = [own, self.all_tokens].into_iter().flatten();
        buckets.map(|bucket| bucket.ready_in(now)).max().unwrap_or_default()
    }

    pub(super) fn take_token(&mut self, org: &OrgId, now: Instant) {
        if let Some(rate) = self.limits.total {
            self.all_tokens.get_or_insert_with(|| Bucket::new(rate, now)).take(now);
        }
        self.organisation(org, now).take_token(now);
    }

    /// The call is not made.
    pub(super) fn give_token_back(&mut self, org: &OrgId, now: Instant) {
        if let Some(bucket) = &mut self.all_tokens {
            bucket.give_back();
        }
        if let Some(bucket) = &mut self.organisation(org, now).tokens {
            bucket.give_back();
        }
    }

    /// A call was made that nobody asked for a permit for: it counts all the same.
    pub fn count_call(&mut self, org: &OrgId, now: Instant) {
        self.take_token(org, now);
    }

    /// When the next one in line of these organisations gets its token, if it waits for nothing
    /// else.
    pub fn next_token_in<'a>(
        &self,
        waiting: impl Iterator<Item = &'a OrgId>,
        now: Instant,
    ) -> Option<Duration> {
        if self.in_flight >= self.concurrency {
            return None;
        }
        let has_place = |org: &&OrgId| {
            let organisation = self.organisations.get(*org);
            organisation.map_or(0, |organisation| organisation.in_flight) < self.limit(org, now)
        };
        waiting.filter(has_place).map(|org| self.token_in(org, now)).min()
    }

    /// Where one more of this organisation waits; `None` if it need not wait for a token.
    /// `has_slot`: it was sent aside before, and its turn has come.
    ///
    /// # Who is sent aside comes back when its turn comes
    ///
    /// Each has a slot of its own behind the last one that was given, so that those aside come back
    /// as fast as the limit lets them be called, and no faster. One that comes back has had its
    /// wait: it is sent aside again only if the line itself is too long.
    pub fn wait_for_token(
        &mut self,
        org: &OrgId,
        line: Line,
        has_slot: bool,
        now: Instant,
    ) -> Option<TokenWait> {
        let spacing = self.spacing(org, line.organisations)?;
        let ahead = u32::try_from(line.ahead).unwrap_or(u32::MAX);
        let in_line = self.token_in(org, now).saturating_add(spacing.saturating_mul(ahead));
        if in_line.is_zero() {
            return None;
        }
        let is_shared = self.callable.len() > 1;
        let organisation = self.organisation(org, now);
        let behind = organisation.slots_until.saturating_duration_since(now).max(in_line);
        let turn_in = if has_slot { in_line } else { behind };
        match where_to_wait(line.ahead, turn_in, is_shared) {
            TokenWait::Here => Some(TokenWait::Here),
            TokenWait::Aside(_) => {
                organisation.slots_until = now + behind + spacing;
                Some(TokenWait::Aside(behind))
            }
        }
    }

    /// Between one call of an organisation and its next, if so many share the limit of all.
    fn spacing(&self, org: &OrgId, organisations: usize) -> Option<Duration> {
        let own = self.organisations.get(org).and_then(|organisation| organisation.tokens);
        let sharing = u32::try_from(organisations.max(1)).unwrap_or(u32::MAX);
        let all = self.all_tokens.map(|bucket| bucket.interval().saturating_mul(sharing));
        own.map(|bucket| bucket.interval()).into_iter().chain(all).max()
    }
}

impl Organisation {
    pub(super) fn take_token(&mut self, now: Instant) {
        if let Some(tokens) = &mut self.tokens {
            tokens.take(now);
        }
    }

    /// It would be called too often if that were forgotten.
    pub(super) fn has_spent_tokens(&self, now: Instant) -> bool {
        self.tokens.is_some_and(|tokens| !tokens.is_full(now)) || self.slots_until > now
    }
}
