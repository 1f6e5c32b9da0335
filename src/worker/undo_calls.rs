//! The calls for one command: the destructive one, or, for a task that is archived first, what
//! leads there.

use super::call::Call;
use crate::kind::Kind;
use crate::messages::{Target, TraceContext};
use crate::policy::answer::Answer;
use crate::policy::dry_run::Seen;
use crate::policy::undo::{Found, Stage, after_archive_not_found, before_purge, decide_look};
use crate::policy::verdict::{Verdict, decide};
use crate::tallyfy_api::DestructiveApi;

/// What came of the calls for one command.
pub(super) struct Called {
    pub(super) answer: Answer,
    pub(super) verdict: Verdict,
    pub(super) seen: Seen,
    pub(super) found: Found,
    /// The destructive call that is to be recorded.
    pub(super) record: Option<&'static str>,
}

impl Called {
    pub(super) fn of(verdict: Verdict, answer: Answer) -> Self {
        Self { answer, verdict, seen: Seen::default(), found: Found::Nothing, record: None }
    }
}

impl Call<'_> {
    /// The calls for one command, of which one at most destroys something.
    pub(super) async fn destroy(
        &self,
        api: &DestructiveApi,
        stage: Stage,
        target: &Target,
        trace: Option<TraceContext<'_>>,
    ) -> Called {
        match stage {
            Stage::Call => self.destroy_at_once(api, target, trace).await,
            Stage::Archive => self.archive(api, target, trace).await,
            Stage::Purge => self.purge(api, target, trace).await,
        }
    }

    async fn archive(
        &self,
        api: &DestructiveApi,
        target: &Target,
        trace: Option<TraceContext<'_>>,
    ) -> Called {
        let kind = Kind::TaskArchive;
        let archive = Target { kind, ..target.clone() };
        let answer = api.delete(&archive, &self.token, trace).await;
        let verdict = decide(kind, &answer);
        let record = Some("archive");
        match verdict {
            Verdict::Deleted => {
                Called { found: Found::Archived, record, ..Called::of(verdict, answer) }
            }
            Verdict::AlreadyAbsent | Verdict::UnverifiedAbsence => {
                self.count_another_call(target);
                let (look, seen) = self.engine.api.look(target, &self.token, trace).await;
                let (verdict, found) = after_archive_not_found(decide_look(&look), seen);
                Called { found, record, ..Called::of(verdict, look) }
            }
            _ => Called { record, ..Called::of(verdict, answer) },
        }
    }

    async fn purge(
        &self,
        api: &DestructiveApi,
        target: &Target,
        trace: Option<TraceContext<'_>>,
    ) -> Called {
        let (look, seen) = self.engine.api.look(target, &self.token, trace).await;
        if let Some((verdict, found)) = before_purge(decide_look(&look), seen) {
            return Called { found, ..Called::of(verdict, look) };
        }
        self.count_another_call(target);
        self.destroy_at_once(api, target, trace).await
    }

    async fn destroy_at_once(
        &self,
        api: &DestructiveApi,
        target: &Target,
        trace: Option<TraceContext<'_>>,
    ) -> Called {
        let answer = api.delete(target, &self.token, trace).await;
        let verdict = decide(target.kind, &answer);
        Called { record: Some("delete"), ..Called::of(verdict, answer) }
    }

    /// With the same permit; the rate limit counts it.
    fn count_another_call(&self, target: &Target) {
        self.engine.permits.with(|access, now| access.count_call(&target.org, now));
    }
}
