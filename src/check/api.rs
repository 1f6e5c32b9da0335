//! The API's side: tokens, organisations, base URL, clock. GETs only.

use futures_util::{StreamExt, stream};
use jiff::Timestamp;

use super::{Fact, judge};
use crate::credentials::Credentials;
use crate::messages::OrgId;
use crate::messages::derived_id::derived;
use crate::tallyfy_api::TallyfyApi;

const AT_A_TIME: usize = 8;

pub(super) async fn facts(
    api: &TallyfyApi,
    credentials: &Credentials,
    report: &mut impl FnMut(Vec<Fact>),
) {
    let orgs: Vec<OrgId> = credentials.with_orgs(|orgs| orgs.cloned().collect());
    report(base_url_and_clock(api, credentials, &orgs).await);
    let look = async |org: &OrgId| {
        let token = credentials.token(org)?;
        let answer = api.list_tasks(org, &token, None).await;
        Some(judge::organisation(org, &answer))
    };
    let mut looks = stream::iter(&orgs).map(look).buffered(AT_A_TIME);
    while let Some(fact) = looks.next().await {
        report(fact.into_iter().collect());
    }
    report(credentials.missing().iter().map(judge::no_token).collect());
}

/// Uses the first token that the API accepts: a rejected one says nothing about either.
async fn base_url_and_clock(
    api: &TallyfyApi,
    credentials: &Credentials,
    orgs: &[OrgId],
) -> Vec<Fact> {
    // An id that no task has: it contains the current time.
    let unused_id = derived(&[Timestamp::now().to_string().as_bytes()]).simple().to_string();
    let mut facts = Vec::new();
    for org in orgs {
        let Some(token) = credentials.token(org) else { continue };
        let org = org.as_str();
        let task = api.get(&["organizations", org, "tasks", &unused_id], None, &token).await;
        let now = Timestamp::now();
        let path = api
            .get(&["organizations", org, &format!("no-such-path-{unused_id}")], None, &token)
            .await;
        facts =
            vec![judge::base_url(api.base_url().as_str(), &task, &path), judge::clock(&task, now)];
        if task.status() != Some(401) {
            break;
        }
    }
    facts
}
