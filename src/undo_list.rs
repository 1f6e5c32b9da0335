//! The `undo` command: restores archived tasks, so that a worker in archive-first mode does not
//! delete them.

use std::io::{self, Write};

use futures_util::{StreamExt, stream};
use secrecy::SecretString;
use serde_json::json;
use thiserror::Error;

use crate::kind::Kind;
use crate::messages::{ObjectId, OrgId, Target};
use crate::policy::answer::{Answer, Body, Response};
use crate::service::{CoreSettings, StartError, credentials};
use crate::tallyfy_api::TallyfyApi;

/// The tasks, all of one organisation.
pub struct UndoJob {
    pub core: CoreSettings,
    pub org: OrgId,
    pub ids: Vec<ObjectId>,
}

/// Why nothing could be restored.
#[derive(Debug, Error)]
pub enum UndoError {
    #[error("{0}")]
    Start(#[from] StartError),
    #[error("organisation {0} has no token")]
    NoToken(OrgId),
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
}

/// Restores each task, and writes one line of JSON for it. Returns whether all are restored.
///
/// # Errors
/// [`UndoError`].
pub async fn undo(job: UndoJob, mut out: impl Write) -> Result<bool, UndoError> {
    let UndoJob { core, org, ids } = job;
    let token = credentials(&core.credentials)?.token(&org);
    let token = token.ok_or_else(|| UndoError::NoToken(org.clone()))?;
    let api = TallyfyApi::new(&core.api).map_err(StartError::from)?;
    let (api, token, org) = (&api, &*token, &org);
    let restored = stream::iter(ids).map(|id| restore(api, token, org, id));
    let mut restored = restored.buffered(core.concurrency);
    let mut is_complete = true;
    while let Some((line, is_restored)) = restored.next().await {
        writeln!(out, "{line}")?;
        is_complete &= is_restored;
    }
    Ok(is_complete)
}

/// A page with 200 comes from something that is not the API.
fn is_api_success(answer: &Answer) -> bool {
    matches!(
        answer,
        Answer::Status(Response { status: 200..=299, body: Body::Json { .. } | Body::Empty, .. })
    )
}

async fn restore(
    api: &TallyfyApi,
    token: &SecretString,
    org: &OrgId,
    id: ObjectId,
) -> (serde_json::Value, bool) {
    let target = Target { kind: Kind::TaskDelete, org: org.clone(), id };
    let answer = api.restore(&target, token).await;
    let is_restored = is_api_success(&answer);
    let outcome = if is_restored { "restored" } else { "failed" };
    let line = json!({
        "org_id": org.as_str(), "task_id": target.id.as_str(), "outcome": outcome,
        "http_status": answer.status(), "detail": answer.describe(),
    });
    (line, is_restored)
}
