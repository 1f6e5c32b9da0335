//! The routes under `/_sandbox`, with which a test scripts the sandbox and reads its ledger. JSON
//! in and out, no authentication; a body that cannot be parsed is answered with 400 and a message.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{delete, get, post, put};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::ledger::Entry;
use crate::operation::ObjectType;
use crate::sandbox::Sandbox;
use crate::state::ObjectState;

const ABOUT: &str = "\
tallyfy-sandbox: stands in for the Tallyfy API, under / and under /api.

POST   /_sandbox/orgs                {\"org_id\", \"tokens\"?: [..]}: add or replace an organisation
PUT    /_sandbox/tokens              {\"org_id\"?, \"tokens\": [..]}: the tokens that are valid from now on
POST   /_sandbox/tasks               {\"org_id\", \"task_ids\": [..], \"state\": present|archived|gone|forbidden}
GET    /_sandbox/tasks/{org}/{task}  the state of one task
POST   /_sandbox/objects             {\"org_id\", \"type\": process|tag|file, \"ids\": [..], \"state\": as of tasks, or logo of a file}
GET    /_sandbox/objects/{org}/{type}/{id}  the state of one of them
POST   /_sandbox/faults              {\"match\"?, \"times\"?, \"for_ms\"?, \"probability\"?, \"effect\"}: script a fault
GET    /_sandbox/faults              DELETE: all of them; DELETE /_sandbox/faults/{id}: one
GET    /_sandbox/ledger[?since=SEQ]  every API request; DELETE: forget them
GET    /_sandbox/summary             counts, and the requests that a test should not expect
GET    /_sandbox/health              ok
";

type Shared = State<Arc<Sandbox>>;

pub(crate) fn router(sandbox: Arc<Sandbox>) -> Router {
    Router::new()
        .route("/", get(|| async { ABOUT }))
        .route("/_sandbox/health", get(|| async { "ok" }))
        .route("/_sandbox/orgs", post(put_organisation))
        .route("/_sandbox/tokens", put(set_tokens))
        .route("/_sandbox/tasks", post(put_tasks))
        .route("/_sandbox/tasks/{org_id}/{task_id}", get(show_task))
        .route("/_sandbox/objects", post(put_objects))
        .route("/_sandbox/objects/{org_id}/{type}/{id}", get(show_object))
        .route("/_sandbox/faults", post(add_fault).get(list_faults).delete(remove_faults))
        .route("/_sandbox/faults/{id}", delete(remove_fault))
        .route("/_sandbox/ledger", get(show_ledger).delete(clear_ledger))
        .route("/_sandbox/summary", get(show_summary))
        .fallback(async || {
            Refusal(StatusCode::NOT_FOUND, "no such control endpoint: see GET /".to_owned())
        })
        // Tests register hundreds of thousands of tasks at once.
        .layer(DefaultBodyLimit::disable())
        .with_state(sandbox)
}

struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(json!({"error": self.1}))).into_response()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewOrganisation {
    org_id: String,
    tokens: Option<HashSet<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewTokens {
    org_id: Option<String>,
    tokens: HashSet<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewTasks {
    org_id: String,
    task_ids: Vec<String>,
    state: ObjectState,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewObjects {
    org_id: String,
    r#type: ObjectType,
    ids: Vec<String>,
    state: ObjectState,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Since {
    #[serde(default)]
    since: u64,
}

async fn put_organisation(State(sandbox): Shared, body: Bytes) -> Result<Json<Value>, Refusal> {
    let new: NewOrganisation = understand(&body)?;
    if new.org_id.is_empty() {
        return Err(bad_request("org_id is empty"));
    }
    sandbox.state().put_organisation(&new.org_id, new.tokens);
    Ok(Json(json!({"org_id": new.org_id})))
}

async fn set_tokens(State(sandbox): Shared, body: Bytes) -> Result<Json<Value>, Refusal> {
    let new: NewTokens = understand(&body)?;
    let count = new.tokens.len();
    let mut state = sandbox.state();
    match &new.org_id {
        None => state.set_global_tokens(new.tokens),
        Some(org_id) => {
            let organisation = state.organisation(org_id).ok_or_else(|| no_organisation(org_id))?;
            organisation.set_own_tokens(new.tokens);
        }
    }
    Ok(Json(json!({"tokens": count})))
}

async fn put_tasks(State(sandbox): Shared, body: Bytes) -> Result<Json<Value>, Refusal> {
    let new: NewTasks = understand(&body)?;
    let count = new.task_ids.len();
    let mut state = sandbox.state();
    let organisation =
        state.organisation(&new.org_id).ok_or_else(|| no_organisation(&new.org_id))?;
    organisation.tasks.extend(new.task_ids.into_iter().map(|task_id| (task_id, new.state)));
    Ok(Json(json!({"tasks": count})))
}

async fn show_task(
    State(sandbox): Shared,
    Path((org_id, task_id)): Path<(String, String)>,
) -> Json<Value> {
    let state = sandbox.state().task(&org_id, &task_id);
    Json(state.map_or_else(|| json!({"state": "unknown"}), |state| json!({"state": state})))
}

async fn put_objects(State(sandbox): Shared, body: Bytes) -> Result<Json<Value>, Refusal> {
    let NewObjects { org_id, r#type, ids, state: new } = understand(&body)?;
    let count = ids.len();
    let mut state = sandbox.state();
    let organisation = state.organisation(&org_id).ok_or_else(|| no_organisation(&org_id))?;
    organisation.objects.extend(ids.into_iter().map(|id| ((r#type, id), new)));
    Ok(Json(json!({"objects": count})))
}

async fn show_object(
    State(sandbox): Shared,
    Path((org_id, object, id)): Path<(String, ObjectType, String)>,
) -> Json<Value> {
    let state = sandbox.state().object(&org_id, object, &id);
    Json(state.map_or_else(|| json!({"state": "unknown"}), |state| json!({"state": state})))
}

async fn add_fault(State(sandbox): Shared, body: Bytes) -> Result<Json<Value>, Refusal> {
    let fault: Value = understand(&body)?;
    let id = sandbox.faults().add(fault, Instant::now()).map_err(|why| bad_request(&why))?;
    Ok(Json(json!({"id": id})))
}

async fn list_faults(State(sandbox): Shared) -> Json<Value> {
    Json(json!({"faults": sandbox.faults().list(Instant::now())}))
}

async fn remove_faults(State(sandbox): Shared) -> Json<Value> {
    Json(json!({"removed": sandbox.faults().clear()}))
}

async fn remove_fault(State(sandbox): Shared, Path(id): Path<u64>) -> Result<Json<Value>, Refusal> {
    match sandbox.faults().remove(id) {
        0 => Err(Refusal(StatusCode::NOT_FOUND, format!("there is no fault {id}"))),
        removed => Ok(Json(json!({"removed": removed}))),
    }
}

/// By hand, not through `Json<Value>`: the ledger may be large and is written directly to bytes.
async fn show_ledger(
    State(sandbox): Shared,
    Query(query): Query<Since>,
) -> Result<Response, Refusal> {
    #[derive(serde::Serialize)]
    struct Page<'a> {
        requests: Vec<&'a Entry>,
        in_flight: u64,
        max_in_flight: u64,
    }
    let (entries, (in_flight, max_in_flight)) = {
        let ledger = sandbox.ledger();
        (ledger.entries_after(query.since), ledger.in_flight())
    };
    let page =
        Page { requests: entries.iter().map(AsRef::as_ref).collect(), in_flight, max_in_flight };
    let bytes = serde_json::to_vec(&page)
        .map_err(|error| Refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], bytes).into_response())
}

async fn clear_ledger(State(sandbox): Shared) -> Json<Value> {
    sandbox.ledger().clear();
    Json(json!({}))
}

async fn show_summary(State(sandbox): Shared) -> Json<Value> {
    let (counts, (in_flight, max_in_flight)) = {
        let ledger = sandbox.ledger();
        (ledger.counts(), ledger.in_flight())
    };
    let mut summary = json!(counts);
    summary["in_flight"] = json!(in_flight);
    summary["max_in_flight"] = json!(max_in_flight);
    summary["tasks"] = json!(sandbox.state().tasks_by_state());
    Json(summary)
}

fn understand<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| bad_request(&error.to_string()))
}

fn bad_request(why: &str) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, why.to_owned())
}

fn no_organisation(org_id: &str) -> Refusal {
    Refusal(
        StatusCode::NOT_FOUND,
        format!("there is no organisation {org_id}: POST /_sandbox/orgs first"),
    )
}
