//! Gauges for whatever prevents deletions: readiness by reason, and organisations that are
//! suspended, held, paused, or see absences only.

use std::sync::PoisonError;
use std::time::Instant;

use super::Metrics;
use super::families::labels;
use crate::health::{Component, Health};
use crate::kind::Kind;
use crate::messages::OrgId;
use crate::policy::verdict::Verdict;

impl Metrics {
    /// Sets how many organisations are suspended for this reason.
    pub fn set_suspended(&self, reason: &'static str, organisations: usize) {
        self.suspended
            .get_or_create(&[("reason", reason)])
            .set(i64::try_from(organisations).unwrap_or(i64::MAX));
    }

    /// Sets how many organisations are held for this kind.
    pub fn set_held(&self, kind: Kind, organisations: usize) {
        if let Some(held) = self.held.get(&[("kind", kind.as_str())]) {
            held.set(i64::try_from(organisations).unwrap_or(i64::MAX));
        }
    }

    pub fn set_paused(&self, organisations: usize, is_all: bool) {
        let organisations = i64::try_from(organisations).unwrap_or(i64::MAX);
        for (scope, value) in [("all", i64::from(is_all)), ("organisations", organisations)] {
            self.paused.get_or_create(&[("scope", scope)]).set(value);
        }
    }

    /// The content of `/readyz` as gauges.
    pub fn set_readiness(&self, health: &Health) {
        let not_ready = Component::ALL.map(|part| (part.as_str(), !health.is_ready(part)));
        self.ready.set(i64::from(not_ready.iter().all(|(_, is_so)| !is_so)));
        for (reason, is_so) in not_ready {
            self.not_ready.get_or_create(&[("reason", reason)]).set(i64::from(is_so));
        }
    }

    /// Counts the answer to the first call of a new command. Returns whether its organisation has
    /// just started to see absences only.
    pub fn count_first_answer(&self, org: &OrgId, kind: Kind, verdict: Verdict) -> bool {
        self.first_answers.get_or_create(&labels(kind, verdict.as_str())).inc();
        let mut orgs = self.absent_only.lock().unwrap_or_else(PoisonError::into_inner);
        orgs.record(org, kind, verdict, Instant::now())
    }

    pub(super) fn show_absent_only(&self) {
        let mut orgs = self.absent_only.lock().unwrap_or_else(PoisonError::into_inner);
        for kind in Kind::ALL {
            let Some(gauge) = self.only_absent.get(&[("kind", kind.as_str())]) else { continue };
            gauge.set(i64::try_from(orgs.count(kind, Instant::now())).unwrap_or(i64::MAX));
        }
    }
}
