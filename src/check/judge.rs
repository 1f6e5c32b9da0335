//! What answers and permissions mean for a worker. Pure.

use std::borrow::Cow;

use jiff::Timestamp;

use super::Fact;
use crate::credentials::Missing;
use crate::kind::Kind;
use crate::messages::OrgId;
use crate::policy::absence::{Reach, reach};
use crate::policy::answer::{Answer, Body, Response};
use crate::policy::clock;
use crate::rabbitmq::probe::May;

/// With more skew than this, a `not_after` no longer means what its producer meant.
const MUCH_SKEW_SECONDS: u64 = 30;

/// Compares the answer for a task that does not exist with the answer for a path that does not
/// exist.
pub(super) fn base_url(url: &str, task: &Answer, path: &Answer) -> Fact {
    const NAME: &str = "base URL";
    const CURE: &str = "Check TALLYFY_BASE_URL (https://go.tallyfy.com/api, with /api) and the proxies in front of the API";
    let found =
        format!("{url}: no such task: {}; no such path: {}", task.describe(), path.describe());
    let is_plain_404 = |answer: &Answer| {
        matches!(answer, Answer::Status(Response { status: 404, body, .. })
            if matches!(body, Body::Json { .. }) && !body.denies_the_endpoint())
    };
    let denies = |answer: &Answer| matches!(answer, Answer::Status(Response { status: 404, body, .. }) if body.denies_the_endpoint());
    match (task, path) {
        (Answer::Unreachable { .. } | Answer::TimedOut | Answer::ConnectionLost { .. }, _) => {
            Fact::failed(
                NAME,
                found,
                "The API does not answer: DNS, firewall, TALLYFY_PROXY, or it is down",
            )
        }
        (Answer::Status(Response { status: 401, .. }), _) => {
            Fact::skipped(NAME, "needs a valid token")
        }
        _ if is_plain_404(task) && denies(path) => Fact::ok(NAME, found),
        _ if is_plain_404(task) && !is_plain_404(path) => Fact::warning(
            NAME,
            found,
            "A wrong path does not get ENDPOINT_NOT_FOUND: a wrong base URL might go unnoticed",
        ),
        _ => Fact::failed(NAME, found, CURE),
    }
}

/// The answer to the list of an organisation's tasks, as the worker reads it before it believes an
/// absence.
pub(super) fn organisation(org: &OrgId, answer: &Answer) -> Fact {
    let name = format!("organisation {org}");
    let failed = |cure| Fact::failed(&name, answer.describe(), cure);
    match (reach(answer), answer.status()) {
        (Reach::Reached, _) => Fact::ok(&name, "its token is valid and reaches it"),
        (Reach::NotReached, _) => {
            failed("The token does not reach this organisation: check its id and the token's user")
        }
        (_, Some(401)) => failed("Its token is not accepted: replace it"),
        (_, Some(429)) => {
            Fact::warning(&name, answer.describe(), "Throttled just now: try again later")
        }
        (_, Some(500..)) => failed(
            "The API fails. If the base URL is ok and the others are served, it fails for this organisation alone: ask Tallyfy's support",
        ),
        (_, Some(403 | 404)) => failed("It is not the API that answers: see the base URL"),
        _ => failed("The API does not serve it: see the base URL"),
    }
}

/// An allowed organisation without a token: none of its objects can be deleted until it has one.
pub(super) fn no_token(missing: &Missing) -> Fact {
    Fact::failed(
        &format!("organisation {}", missing.org),
        missing.why.clone(),
        "Its commands wait until the file in TALLYFY_CREDENTIALS_DIR that is named by its id holds its token. If it is no \
         organisation, remove the file, or take its id out of TALLYFY_ORG_ID",
    )
}

/// Compares our clock with the API's.
pub(super) fn clock(answer: &Answer, now: Timestamp) -> Fact {
    const NAME: &str = "clock";
    let Some(skew) = clock::skew(answer, now).map(|skew| skew.as_secs()) else {
        return Fact::skipped(NAME, "the API does not send its time");
    };
    let found = format!("{skew} s from the API's");
    let set = "Set this machine's clock (NTP): not_after and MAX_AGE go by it";
    if skew > clock::WRONG.as_secs() {
        Fact::failed(NAME, found, set)
    } else if skew > MUCH_SKEW_SECONDS {
        Fact::warning(NAME, found, set)
    } else {
        Fact::ok(NAME, found)
    }
}

/// A requirement of a kind that only a deletion could prove.
pub(super) fn kind(kind: Kind) -> Fact {
    let needs = match kind {
        Kind::TaskDelete | Kind::TaskArchive => "one-off tasks only",
        Kind::ProcessDelete => "the token of an administrator, and archived processes only",
        Kind::TagDelete => "a token that may edit tags",
        Kind::FileDelete => "a token that may delete files; the organisation's logo is refused",
    };
    Fact::skipped(&format!("kind {kind}"), format!("needs {needs}: only a call would test it"))
}

/// A permission that the worker needs.
pub(super) fn needed(name: &str, may: May, cure: impl Into<Cow<'static, str>>) -> Fact {
    let name = format!("permission to {name}");
    match may {
        May::Yes => Fact::ok(&name, "granted"),
        May::No => Fact::failed(&name, "refused", cure),
        May::Blocked => Fact::skipped(&name, "not visible while RabbitMQ is blocking publishers"),
        May::Unknown => Fact::failed(&name, "unknown", "Try again; then check the broker's log"),
    }
}

/// Permissions that the user has and does not need.
pub(super) fn too_much(found: &[(String, May)]) -> Fact {
    const NAME: &str = "least permissions";
    let much: Vec<_> =
        found.iter().filter(|(_, may)| *may == May::Yes).map(|(name, _)| name.as_str()).collect();
    if much.is_empty() && found.iter().any(|(_, may)| matches!(may, May::Blocked | May::Unknown)) {
        return Fact::skipped(NAME, "not every permission is visible at the moment");
    }
    if much.is_empty() {
        return Fact::ok(NAME, "nothing beyond the need was found");
    }
    Fact::warning(
        NAME,
        format!("the user may also {}", much.join(", ")),
        "Give the worker its own user: configure '^$', write '^task\\.(events|retry|dlx|ledger)$', read '^task\\.(delete|delete\\.undeliverable|delete\\.ledger)$'",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::State;
    use crate::policy::answer::ENDPOINT_NOT_FOUND;
    use crate::policy::answer::samples::{json, status};

    fn state(task: &Answer, path: &Answer) -> State {
        base_url("u", task, path).state
    }

    #[test]
    fn a_bogus_path_and_a_bogus_task_must_not_look_alike() {
        let no_task = &status(404, json("RESOURCE_NOT_FOUND"));
        let no_path = &status(404, json(ENDPOINT_NOT_FOUND));
        let page = &status(404, Body::Html);
        assert_eq!(state(no_task, no_path), State::Ok);
        assert_eq!(state(no_task, no_task), State::Failed);
        assert_eq!(state(no_path, no_path), State::Failed);
        assert_eq!(state(page, page), State::Failed);
        assert_eq!(state(no_task, page), State::Warning);
        assert_eq!(state(&status(200, Body::Html), no_path), State::Failed);
        assert_eq!(state(&status(401, json("x")), no_path), State::Skipped);
        assert_eq!(state(&Answer::TimedOut, &Answer::TimedOut), State::Failed);
    }

    #[test]
    fn an_organisation_is_ok_only_with_a_200() {
        let org = OrgId::try_from("o".to_owned()).unwrap();
        for (answer, expected) in [
            (status(200, json("x")), State::Ok),
            (status(401, json("x")), State::Failed),
            (status(404, json("x")), State::Failed),
            (status(429, json("x")), State::Warning),
            (status(302, Body::Empty), State::Failed),
            (Answer::TimedOut, State::Failed),
        ] {
            assert_eq!(organisation(&org, &answer).state, expected, "{answer:?}");
        }
    }

    #[test]
    fn an_organisation_is_not_blamed_for_a_wrong_base_url() {
        let org = OrgId::try_from("o".to_owned()).unwrap();
        let cure = |answer| organisation(&org, &answer).cure.unwrap();
        assert!(cure(status(404, json("RESOURCE_NOT_FOUND"))).contains("token"));
        for answer in [
            status(404, json(ENDPOINT_NOT_FOUND)),
            status(404, Body::Html),
            status(403, Body::Html),
        ] {
            assert!(cure(answer.clone()).contains("base URL"), "{answer:?}");
        }
    }

    #[test]
    fn an_organisation_without_a_token_fails_and_is_told_that_its_commands_wait() {
        let org = OrgId::try_from("o".to_owned()).unwrap();
        let fact = no_token(&Missing { org, why: "/tokens/o is not there".to_owned() });
        assert_eq!((fact.state, fact.fact.as_str()), (State::Failed, "organisation o"));
        assert!(
            fact.detail.contains("/tokens/o") && fact.cure.as_ref().unwrap().contains("wait"),
            "{fact:?}"
        );
    }

    #[test]
    fn a_clock_that_is_off_is_reported() {
        let at = |date: Option<&str>| {
            let Answer::Status(response) = status(200, Body::Empty) else { panic!() };
            let answer = Answer::Status(Response { date: date.map(str::to_owned), ..response });
            clock(&answer, "2026-11-24T10:00:00Z".parse().unwrap()).state
        };
        assert_eq!(at(Some("Tue, 24 Nov 2026 10:00:20 GMT")), State::Ok);
        assert_eq!(at(Some("Tue, 24 Nov 2026 09:59:00 GMT")), State::Warning);
        assert_eq!(at(Some("Tue, 24 Nov 2026 11:00:00 GMT")), State::Failed);
        assert_eq!(at(Some("yesterday")), State::Skipped);
        assert_eq!(at(None), State::Skipped);
    }
}
