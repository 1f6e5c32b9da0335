//! Whether a token reaches its organisation: asked once for each, with the GET that `check` makes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret, SecretString};
use tracing::debug;

use crate::messages::OrgId;
use crate::policy::absence::{Reach, reach};
use crate::tallyfy_api::TallyfyApi;

/// An API that could not say may say so soon; one that has none of these GETs is asked ever more seldom.
const FIRST_INCONCLUSIVE_FOR: Duration = Duration::from_secs(1);
const LAST_INCONCLUSIVE_FOR: Duration = Duration::from_mins(1);
/// Calls that were in flight together share one answer; the next probe asks again.
const NOT_REACHED_FOR: Duration = Duration::from_millis(500);

/// What is known, for each organisation and its present token.
#[derive(Default)]
pub(super) struct ReachCache {
    organisations: Mutex<HashMap<OrgId, Arc<tokio::sync::Mutex<Option<Known>>>>>,
}

struct Known {
    token: Arc<SecretString>,
    reach: Reach,
    asked: Instant,
    keeps: Duration,
}

impl Known {
    fn is_fresh(&self, token: &SecretString) -> bool {
        self.token.expose_secret() == token.expose_secret() && self.asked.elapsed() < self.keeps
    }
}

impl ReachCache {
    /// What is known, or else what the API says now. Those who ask together wait for one answer.
    pub(super) async fn ask(
        &self,
        api: &TallyfyApi,
        org: &OrgId,
        token: &Arc<SecretString>,
    ) -> Reach {
        let cell = {
            let mut organisations =
                self.organisations.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(organisations.entry(org.clone()).or_default())
        };
        let mut known = cell.lock().await;
        if let Some(known) = known.as_ref().filter(|known| known.is_fresh(token)) {
            return known.reach;
        }
        let answer = api.list_tasks(org, token).await;
        let reach = reach(&answer);
        debug!(org_id = %org, ?reach, "does the token reach the organisation? {}", answer.describe());
        let keeps = match (reach, known.as_ref()) {
            (Reach::Reached, _) => Duration::MAX,
            (Reach::NotReached, _) => NOT_REACHED_FOR,
            (Reach::Inconclusive, Some(before)) if before.reach == reach => {
                (before.keeps * 2).min(LAST_INCONCLUSIVE_FOR)
            }
            (Reach::Inconclusive, _) => FIRST_INCONCLUSIVE_FOR,
        };
        *known = Some(Known { token: Arc::clone(token), reach, asked: Instant::now(), keeps });
        reach
    }

    /// Keeps what is known of these organisations only.
    pub(super) fn keep(&self, is_kept: impl Fn(&OrgId) -> bool) {
        self.organisations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|org, _| is_kept(org));
    }
}
