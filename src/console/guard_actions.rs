//! Decisions about the guard and about pauses, as on the command line.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use jiff::Timestamp;

use super::Shared;
use super::access::Actor;
use super::action_page::begun;
use super::actions::{Action, Asked, Ended};
use super::fields::{Fields, duration};
use super::page::{refusal, wrong};
use super::viewer::Viewer;
use crate::consent::Consent;
use crate::guard_tool::{self, LedgerJob};
use crate::messages::OrgId;
use crate::messages::ledger::{Decision, Scope};

const LONGEST: Duration = Duration::from_hours(24 * 7);

pub(super) async fn look(
    viewer: Viewer,
    State(shared): State<Arc<Shared>>,
    form: String,
) -> Response {
    let kind = match Fields::read(&form).kind() {
        Ok(kind) => kind,
        Err(why) => return wrong(&viewer, &why),
    };
    let (url, tls) = shared.broker();
    // One reader at a time.
    let _only_one = shared.held_looks.looking.lock().await;
    let at = Timestamp::now();
    match guard_tool::held(kind, url, tls).await {
        Ok(groups) => {
            shared.held_looks.last().insert(kind, (at, groups));
            Redirect::to("/guard").into_response()
        }
        Err(error) => refusal(&viewer, StatusCode::BAD_GATEWAY, &error.to_string()),
    }
}

pub(super) async fn release(
    Actor(viewer): Actor,
    State(shared): State<Arc<Shared>>,
    form: String,
) -> Response {
    let fields = Fields::read(&form);
    let job = || {
        let (scope, decision) = (scope(&fields)?, decision(&viewer, &fields)?);
        let max = fields.number("max", "The number")?.ok_or("The number is missing.")?.get();
        let lasts = fields.get("for").and_then(duration).filter(|lasts| *lasts <= LONGEST);
        let lasts = lasts.ok_or("How long it lasts takes a duration such as 4h, 7d at most.")?;
        let what = format!("Release up to {max} {} of {}", scope.kind, scope.org_id);
        let queue = Some(scope.kind.held_queue());
        let consent = Consent::Given;
        Ok((what, queue, LedgerJob::Release { scope, max, lasts, decision, consent }))
    };
    decide(&viewer, &shared, job())
}

pub(super) async fn reject(
    Actor(viewer): Actor,
    State(shared): State<Arc<Shared>>,
    form: String,
) -> Response {
    let fields = Fields::read(&form);
    let job = || {
        let (scope, decision) = (scope(&fields)?, decision(&viewer, &fields)?);
        let requested_by = fields.get("requested_by").map(str::to_owned);
        let what = format!("Reject the held {} of {}", scope.kind, scope.org_id);
        let queue = Some(scope.kind.held_queue());
        let consent = Consent::Given;
        Ok((what, queue, LedgerJob::Reject { scope, requested_by, decision, consent }))
    };
    decide(&viewer, &shared, job())
}

pub(super) async fn pause(
    Actor(viewer): Actor,
    State(shared): State<Arc<Shared>>,
    form: String,
) -> Response {
    let fields = Fields::read(&form);
    let job = whose(&fields).and_then(|(org, name)| {
        Ok((format!("Pause {name}"), None, LedgerJob::Pause(org, decision(&viewer, &fields)?)))
    });
    decide(&viewer, &shared, job)
}

pub(super) async fn resume(
    Actor(viewer): Actor,
    State(shared): State<Arc<Shared>>,
    form: String,
) -> Response {
    let fields = Fields::read(&form);
    let job = whose(&fields).and_then(|(org, name)| {
        Ok((format!("Resume {name}"), None, LedgerJob::Resume(org, decision(&viewer, &fields)?)))
    });
    decide(&viewer, &shared, job)
}

/// # A forgotten field does not pause every organisation
///
/// A user who means all organisations has to say so.
fn whose(fields: &Fields) -> Result<(Option<OrgId>, String), String> {
    match (fields.org()?, fields.get("everybody").is_some()) {
        (Some(org), false) => {
            let name = format!("organisation {org}");
            Ok((Some(org), name))
        }
        (None, true) => Ok((None, "all organisations".to_owned())),
        (None, false) => Err("Name an organisation, or choose all.".to_owned()),
        (Some(_), true) => Err("Name an organisation, or choose all, not both.".to_owned()),
    }
}

/// The scope of the decision; the user has typed the organisation's id again.
fn scope(fields: &Fields) -> Result<Scope, String> {
    let org_id = fields.org()?.ok_or("The organisation is missing.")?;
    if fields.get("confirm") != Some(org_id.as_str()) {
        return Err(format!("Type the id {org_id} to continue; nothing was done."));
    }
    Ok(Scope { org_id, kind: fields.kind()? })
}

fn decision(viewer: &Viewer, fields: &Fields) -> Result<Decision, String> {
    let reason = Some(fields.required("reason", "The reason")?);
    Ok(Decision { by: viewer.by.clone(), reason })
}

type Job = (String, Option<String>, LedgerJob);

fn decide(viewer: &Viewer, shared: &Arc<Shared>, job: Result<Job, String>) -> Response {
    let (what, queue, job) = match job {
        Ok(job) => job,
        Err(why) => return wrong(viewer, &why),
    };
    let (by, about) = (viewer.by.clone(), "guard and pauses".to_owned());
    let asked = Asked { by, what, about, queue, number: None, rate: None };
    let work_with = Arc::clone(shared);
    let started = shared.actions.start(asked, async move |action: Arc<Action>| {
        let (url, tls) = work_with.broker();
        match guard_tool::run(job, url, tls, action.stop.clone()).await {
            Ok(true) => Ended::Done,
            Ok(false) => Ended::Interrupted,
            Err(error) => Ended::Failed(error.to_string()),
        }
    });
    begun(viewer, started)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forgotten_field_does_not_pause_every_organisation() {
        let whose =
            |form: &str| whose(&Fields::read(form)).map(|(org, _)| org.map(|o| o.to_string()));
        assert_eq!(whose("org=acme&reason=x"), Ok(Some("acme".to_owned())));
        assert_eq!(whose("org=&everybody=1"), Ok(None));
        for wrong in ["org=", "", "org=acme&everybody=1", "org=a/b"] {
            assert!(whose(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn nothing_held_is_decided_about_before_its_id_was_typed() {
        let scope = |form: &str| scope(&Fields::read(form)).is_ok();
        assert!(scope("kind=task.delete&org=acme&confirm=acme"));
        assert!(!scope("kind=task.delete&org=acme&confirm=beta"));
        assert!(!scope("kind=task.delete&org=acme"));
    }
}
