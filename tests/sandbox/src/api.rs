//! Tallyfy's API as a function of the state: reads a request, carries it out, and returns what the
//! API would answer. No sockets, no faults, no ledger. The facts come from Tallyfy's public
//! documentation and clients.

use axum::extract::Query;
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Uri};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::normal_answers::{
    Answer, Change, endpoint_not_found, forbidden, no_content, ok, resource_not_found,
    unauthenticated,
};
use crate::objects;
use crate::operation::{ObjectType, Operation};
use crate::state::{Access, ObjectState, State};

/// The upper limit of `per_page` in the documentation.
const MAX_PER_PAGE: usize = 100;
const DEFAULT_PER_PAGE: usize = 10;

/// The parts of a request that matter to the API.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) operation: Operation,
    pub(crate) method: Method,
    /// Path and query exactly as received.
    pub(crate) path: String,
    pub(crate) org_id: Option<String>,
    pub(crate) task_id: Option<String>,
    pub(crate) token: Option<String>,
    is_api_client: bool,
}

impl Call {
    pub(crate) fn read(head: &Parts) -> Self {
        let segments = segments(head.uri.path());
        let (operation, org_id, task_id) = route(&head.method, &segments);
        Self {
            operation,
            method: head.method.clone(),
            path: head.uri.path_and_query().map_or("", |path| path.as_str()).to_owned(),
            org_id: org_id.map(str::to_owned),
            task_id: task_id.map(str::to_owned),
            token: bearer(&head.headers).map(str::to_owned),
            is_api_client: head
                .headers
                .get("x-tallyfy-client")
                .is_some_and(|value| value == "APIClient"),
        }
    }

    pub(crate) fn is_authorised(&self, state: &State) -> bool {
        self.token.as_deref().is_some_and(|token| match &self.org_id {
            Some(org_id) => state.access(org_id, token) != Access::Unauthenticated,
            None => state.knows(token),
        })
    }
}

/// Carries out the call and returns the answer of the API.
pub(crate) fn perform(state: &mut State, call: &Call) -> Answer {
    if !call.is_api_client || call.operation == Operation::Unknown {
        return endpoint_not_found();
    }
    let Some(token) = call.token.as_deref().filter(|_| call.is_authorised(state)) else {
        return unauthenticated();
    };
    match (call.operation, &call.org_id, &call.task_id) {
        (Operation::Me, ..) => me(),
        (Operation::Organizations, ..) => organizations(state, token),
        (Operation::List, Some(org_id), _) => list(state, org_id, &call.path),
        (operation, Some(org_id), Some(id)) => match ObjectType::of(operation) {
            Some(object) => objects::delete(state, object, org_id, id),
            None => on_task(state, operation, org_id, id),
        },
        _ => endpoint_not_found(),
    }
}

/// Exact: an empty segment or a trailing slash makes it another path, as at Tallyfy.
fn segments(path: &str) -> Vec<&str> {
    let path = path.strip_prefix("/api").filter(|rest| rest.starts_with('/')).unwrap_or(path);
    path.split('/').skip(1).collect()
}

/// Reads the ids of unknown operations too, so that faults and the ledger can name them.
fn route<'a>(
    method: &Method,
    segments: &[&'a str],
) -> (Operation, Option<&'a str>, Option<&'a str>) {
    let (org_id, rest) = match segments {
        ["organizations", org_id, rest @ ..] if !org_id.is_empty() => (Some(*org_id), rest),
        other => (None, other),
    };
    if let Some((operation, id)) = objects::route(rest)
        && org_id.is_some()
        && method == Method::DELETE
    {
        return (operation, org_id, Some(id));
    }
    let (task_id, tail) = match rest {
        ["tasks", task_id, tail @ ..] if org_id.is_some() && !task_id.is_empty() => {
            (Some(*task_id), tail)
        }
        other => (None, other),
    };
    let operation = match (method.as_str(), org_id, task_id, tail) {
        ("DELETE", Some(_), Some(_), ["delete"]) => Operation::Delete,
        ("DELETE", Some(_), Some(_), []) => Operation::Archive,
        ("PUT", Some(_), Some(_), ["restore"]) => Operation::Restore,
        ("GET", Some(_), Some(_), []) => Operation::GetTask,
        ("GET", Some(_), None, ["tasks"]) => Operation::List,
        ("GET", None, None, ["me"]) => Operation::Me,
        ("GET", None, None, ["me", "organizations"]) => Operation::Organizations,
        _ => Operation::Unknown,
    };
    (operation, org_id, task_id)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get("authorization")?.to_str().ok()?.strip_prefix("Bearer ")
}

fn me() -> Answer {
    ok(json!({"data": {"id": 1, "email": "sandbox@example.com", "full_name": "Sandbox User"}}))
}

fn organizations(state: &State, token: &str) -> Answer {
    let reached: Vec<_> =
        state.reached_by(token).map(|id| json!({"id": id, "name": "Sandbox"})).collect();
    ok(json!({"data": reached}))
}

#[derive(Debug, Default, Deserialize)]
struct ListQuery {
    archived: Option<String>,
    page: Option<usize>,
    per_page: Option<usize>,
}

fn list(state: &mut State, org_id: &str, path: &str) -> Answer {
    let query =
        path.parse::<Uri>().ok().and_then(|uri| Query::<ListQuery>::try_from_uri(&uri).ok());
    let query = query.map(|Query(query)| query).unwrap_or_default();
    let wanted = if query.archived.as_deref() == Some("only") {
        ObjectState::Archived
    } else {
        ObjectState::Present
    };
    let Some(organisation) = state.organisation(org_id) else { return resource_not_found() };
    let per_page = query.per_page.unwrap_or(DEFAULT_PER_PAGE).clamp(1, MAX_PER_PAGE);
    let page = query.page.unwrap_or(1).max(1);
    let matching = || organisation.tasks.iter().filter(|(_, state)| **state == wanted);
    let total = matching().count();
    let skipped = (page - 1).saturating_mul(per_page);
    let data: Vec<_> =
        matching().skip(skipped).take(per_page).map(|(id, state)| task_json(id, *state)).collect();
    let pagination = json!({
        "total": total, "count": data.len(), "per_page": per_page, "current_page": page,
        "total_pages": total.div_ceil(per_page).max(1),
    });
    ok(json!({"data": data, "meta": {"pagination": pagination}}))
}

fn on_task(state: &mut State, operation: Operation, org_id: &str, task_id: &str) -> Answer {
    let task =
        state.organisation(org_id).and_then(|organisation| organisation.tasks.get_mut(task_id));
    let Some(task) = task.filter(|task| **task != ObjectState::Gone) else {
        return resource_not_found();
    };
    if *task == ObjectState::Forbidden {
        return forbidden();
    }
    let before = *task;
    match operation {
        Operation::Delete => {
            *task = ObjectState::Gone;
            no_content(Some(Change::Deleted))
        }
        Operation::Archive if before == ObjectState::Archived => resource_not_found(),
        Operation::Archive => {
            *task = ObjectState::Archived;
            no_content(Some(Change::Archived))
        }
        Operation::Restore => {
            *task = ObjectState::Present;
            let change = (before == ObjectState::Archived).then_some(Change::Restored);
            Answer { change, ..ok(json!({"data": task_json(task_id, ObjectState::Present)})) }
        }
        _ => ok(json!({"data": task_json(task_id, before)})),
    }
}

fn task_json(task_id: &str, state: ObjectState) -> Value {
    let archived_at = (state == ObjectState::Archived).then_some("2026-01-01T00:00:00Z");
    json!({
        "id": task_id, "title": "Sandbox task", "status": "not-started", "run_id": null,
        "is_oneoff_task": true, "archived": archived_at.is_some(), "archived_at": archived_at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORG: &str = "00000000000000000000000000000abc";

    fn world() -> State {
        let mut state = State::new("good".to_owned());
        state.put_organisation(ORG, None);
        let tasks = &mut state.organisation(ORG).unwrap().tasks;
        tasks.insert("t1".to_owned(), ObjectState::Present);
        tasks.insert("t2".to_owned(), ObjectState::Forbidden);
        state
    }

    fn call(method: &str, path: &str, token: &str) -> Call {
        let request = hyper::Request::builder().method(method).uri(path);
        let request = request
            .header("authorization", format!("Bearer {token}"))
            .header("x-tallyfy-client", "APIClient");
        Call::read(&request.body(()).unwrap().into_parts().0)
    }

    fn status(state: &mut State, method: &str, path: &str) -> u16 {
        let path = path.replace("ORG", ORG);
        perform(state, &call(method, &path, "good")).status.as_u16()
    }

    #[test]
    fn both_base_paths_name_the_same_operation() {
        for base in ["", "/api"] {
            let call = call("DELETE", &format!("{base}/organizations/o/tasks/t/delete"), "good");
            assert_eq!((call.operation, call.task_id.as_deref()), (Operation::Delete, Some("t")));
        }
    }

    #[test]
    fn a_path_that_is_not_exactly_one_of_the_apis_is_unknown() {
        for path in [
            "/api/organizations/o/tasks/t/delete/",
            "/organizations//tasks/t/delete",
            "/apime",
            "/",
        ] {
            assert_eq!(call("DELETE", path, "good").operation, Operation::Unknown, "{path}");
        }
    }

    #[test]
    fn a_task_is_deleted_once_and_may_be_archived_and_restored_before() {
        let mut state = world();
        let task = "/api/organizations/ORG/tasks/t1";
        assert_eq!(status(&mut state, "DELETE", task), 204);
        assert_eq!(state.task(ORG, "t1"), Some(ObjectState::Archived));
        assert_eq!(status(&mut state, "DELETE", task), 404, "archived already");
        assert_eq!(status(&mut state, "PUT", &format!("{task}/restore")), 200);
        assert_eq!(state.task(ORG, "t1"), Some(ObjectState::Present));
        assert_eq!(status(&mut state, "DELETE", &format!("{task}/delete")), 204);
        assert_eq!(status(&mut state, "DELETE", &format!("{task}/delete")), 404);
        assert_eq!(status(&mut state, "GET", task), 404);
    }

    #[test]
    fn a_forbidden_task_is_403() {
        assert_eq!(status(&mut world(), "DELETE", "/organizations/ORG/tasks/t2/delete"), 403);
    }

    #[test]
    fn a_list_holds_one_state_and_counts_its_pages() {
        let mut state = world();
        let tasks = &mut state.organisation(ORG).unwrap().tasks;
        tasks.extend((0..5).map(|i| (format!("a{i}"), ObjectState::Archived)));
        let path =
            format!("/organizations/{ORG}/tasks?is_oneoff=true&archived=only&page=2&per_page=3");
        let body = perform(&mut state, &call("GET", &path, "good")).body.unwrap();
        assert_eq!(body["data"].as_array().unwrap().len(), 2);
        assert_eq!(body["meta"]["pagination"]["total_pages"], 2);
    }

    #[test]
    fn the_token_of_one_organisation_can_be_revoked_alone() {
        let mut state = world();
        state.put_organisation("other", None);
        state.organisation(ORG).unwrap().set_own_tokens(["new".to_owned()].into());
        assert_eq!(status(&mut state, "GET", "/organizations/ORG/tasks"), 401);
        assert_eq!(status(&mut state, "GET", "/organizations/other/tasks"), 200);
        assert_eq!(status(&mut state, "GET", "/organizations/unknown/tasks"), 404);
    }
}
