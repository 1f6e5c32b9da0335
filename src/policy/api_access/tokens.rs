//! The tokens of the rate limits: how long a command waits for one, and where.

use std::time::{Duration, Instant};

use super::ApiAccess;
use super::organisation::Organisation;
use super::rate::{Bucket, TokenWait, where_to_wait};
use crate::messages::OrgId;

/// The commands that wait already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// Commands of the same organisation.
    pub ahead: usize,
    /// Organisations that have commands in line.
    pub organisations: usize,
}

impl ApiAccess {
    /// Time until there is a token for a call of this organisation; zero if there is one, or if
    /// nothing is limited.
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

    /// Returns the token of a call that is not made.
    pub(super) fn return_token(&mut self, org: &OrgId, now: Instant) {
        if let Some(bucket) = &mut self.all_tokens {
            bucket.return_token();
        }
        if let Some(bucket) = &mut self.organisation(org, now).tokens {
            bucket.return_token();
        }
    }

    /// Counts a call that was made without asking for a permit.
    pub fn count_call(&mut self, org: &OrgId, now: Instant) {
        self.take_token(org, now);
    }

    /// When the next command in line of these organisations gets its token, if it waits for nothing
    /// else.
    pub fn next_token_in<'a>(
        &self,
        waiting: impl Iterator<Item = &'a OrgId>,
        now: Instant,
    ) -> Option<Duration> {
        if self.in_flight >= self.concurrency {
            return None;
        }
        let has_permit = |org: &&OrgId| {
            let organisation = self.organisations.get(*org);
            organisation.map_or(0, |organisation| organisation.in_flight) < self.limit(org, now)
        };
        waiting.filter(has_permit).map(|org| self.token_in(org, now)).min()
    }

    /// Where another command of this organisation waits; `None` if it need not wait for a token.
    /// `has_slot`: it was sent aside before, and its turn has come.
    ///
    /// # A command that is sent aside comes back when its turn comes
    ///
    /// Each gets its own slot after the last one given, so that the commands come back as fast as
    /// the limit allows, and no faster. One that comes back has done its waiting: it is sent aside
    /// again only if the line itself is too long.
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

    /// The time between two calls of an organisation if this many organisations share the total
    /// limit.
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

    /// Whether it has spent tokens: forgetting them would let it be called too often.
    pub(super) fn has_spent_tokens(&self, now: Instant) -> bool {
        self.tokens.is_some_and(|tokens| !tokens.is_full(now)) || self.slots_until > now
    }
}
