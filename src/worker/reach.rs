//! Whether a token reaches its organisation: determined with the same GET as in `check`, and cached
//! per organisation and token.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret, SecretString};
use tracing::debug;

use crate::messages::OrgId;
use crate::policy::absence::{Reach, holds_for, is_worth_asking_again, reach};
use crate::policy::answer::Answer;

/// The cached answers, per organisation and its current token.
#[derive(Default)]
pub(super) struct ReachCache {
    organisations: Mutex<HashMap<OrgId, Arc<Organisation>>>,
}

#[derive(Default)]
struct Organisation {
    known: tokio::sync::Mutex<Option<Known>>,
    /// Absences in a row since the last question.
    absences: AtomicU32,
}

struct Known {
    token: Arc<SecretString>,
    reach: Reach,
    answer: Answer,
    asked: Instant,
    holds_for: Duration,
}

impl Known {
    fn holds(&self, token: &SecretString, absences: u32) -> bool {
        self.token.expose_secret() == token.expose_secret()
            && self.asked.elapsed() < self.holds_for
            && !is_worth_asking_again(self.reach, absences)
    }
}

impl ReachCache {
    /// The cached answer for an absence, or otherwise the API's current answer to `list`.
    /// Concurrent callers share one request.
    pub(super) async fn ask(
        &self,
        org: &OrgId,
        token: &Arc<SecretString>,
        list: impl Future<Output = Answer>,
    ) -> (Reach, Answer) {
        let organisation = {
            let mut organisations =
                self.organisations.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(organisations.entry(org.clone()).or_default())
        };
        let mut known = organisation.known.lock().await;
        let absences = organisation.absences.fetch_add(1, Ordering::Relaxed);
        if let Some(known) = known.as_ref().filter(|known| known.holds(token, absences)) {
            return (known.reach, known.answer.clone());
        }
        let answer = list.await;
        let reach = reach(&answer);
        debug!(org_id = %org, ?reach, "does the token reach the organisation? {}", answer.describe());
        let holds_for =
            holds_for(reach, known.as_ref().map(|before| (before.reach, before.holds_for)));
        organisation.absences.store(1, Ordering::Relaxed);
        let (token, asked) = (Arc::clone(token), Instant::now());
        *known = Some(Known { token, reach, answer: answer.clone(), asked, holds_for });
        (reach, answer)
    }

    /// A task of the organisation existed: the token reaches it.
    pub(super) fn is_served(&self, org: &OrgId) {
        let organisations = self.organisations.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(organisation) = organisations.get(org) {
            organisation.absences.store(0, Ordering::Relaxed);
        }
    }

    /// Keeps the answers of these organisations only.
    pub(super) fn keep(&self, is_kept: impl Fn(&OrgId) -> bool) {
        self.organisations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|org, _| is_kept(org));
    }
}
