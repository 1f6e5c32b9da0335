//! The calls for one command: the destructive one or, for a task that is archived first, the steps
//! that lead to it.

use super::api_request::{About, Called, MadeCall};
use super::call::Call;
use crate::kind::Kind;
use crate::messages::Target;
use crate::policy::undo::{Found, Stage, after_archive_not_found, before_purge, decide_look};
use crate::policy::verdict::{Verdict, decide};
use crate::tallyfy_api::DestructiveApi;

impl Call<'_> {
    /// The calls for one command, at most one of which is destructive.
    pub(super) async fn destroy(
        &self,
        api: &DestructiveApi,
        stage: Stage,
        target: &Target,
        about: About<'_>,
    ) -> Called {
        match stage {
            Stage::Call => self.destroy_at_once(api, target, about).await,
            Stage::Archive => self.archive(api, target, about).await,
            Stage::Purge => self.purge(api, target, about).await,
        }
    }

    async fn archive(&self, api: &DestructiveApi, target: &Target, about: About<'_>) -> Called {
        let kind = Kind::TaskArchive;
        let archive = Target { kind, ..target.clone() };
        let (answer, request) =
            self.engine.send_destructive(api, &archive, &self.token, about).await;
        let verdict = decide(kind, &answer);
        let record = Some(MadeCall { call: "archive", verdict, answer: answer.clone() });
        match verdict {
            Verdict::Deleted => {
                Called { found: Found::Archived, record, ..Called::of(verdict, answer, request) }
            }
            Verdict::AlreadyAbsent | Verdict::UnverifiedAbsence => {
                request.end(true);
                self.engine.count_another_call(target);
                let (look, seen, request) =
                    self.engine.look(target, &self.token, about.beside()).await;
                let (verdict, found) = after_archive_not_found(decide_look(&look), seen);
                Called { found, record, ..Called::of(verdict, look, request) }
            }
            _ => Called { record, ..Called::of(verdict, answer, request) },
        }
    }

    async fn purge(&self, api: &DestructiveApi, target: &Target, about: About<'_>) -> Called {
        let (look, seen, request) = self.engine.look(target, &self.token, about).await;
        if let Some((verdict, found)) = before_purge(decide_look(&look), seen) {
            return Called { found, ..Called::of(verdict, look, request) };
        }
        request.end(true);
        self.engine.count_another_call(target);
        self.destroy_at_once(api, target, about).await
    }

    async fn destroy_at_once(
        &self,
        api: &DestructiveApi,
        target: &Target,
        about: About<'_>,
    ) -> Called {
        let (answer, request) = self.engine.send_destructive(api, target, &self.token, about).await;
        let verdict = decide(target.kind, &answer);
        let record = Some(MadeCall { call: "delete", verdict, answer: answer.clone() });
        Called { record, ..Called::of(verdict, answer, request) }
    }
}
