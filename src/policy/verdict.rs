//! What an answer of the API means. The table is the same as in `docs/behaviour.md`.

use super::answer::{Answer, Body, Response};
use crate::kind::{Kind, NotFound, Success};

/// The meaning of one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The API did what the call asked for.
    Deleted,
    /// The object exists. Only a look says so.
    Present,
    /// The object is not there: the API itself says so. What follows depends on the kind.
    AlreadyAbsent,
    /// The object is not there, according to something that need not be the API.
    UnverifiedAbsence,
    /// The API says that the organisation is not there either: the token does not reach it.
    NotReached,
    /// The organisation has called too often.
    Throttled,
    /// The token is not accepted.
    Unauthorized,
    /// The token may not do this.
    Forbidden,
    /// The answer is not the API's answer for this object: a wrong base URL, a proxy, a challenge
    /// page.
    Misdirected,
    /// It may work another time.
    Transient,
    /// The call never left.
    Unreachable,
    /// The API refuses this call for good.
    Rejected,
}

/// Says what an answer to a call of this kind means.
///
/// # Nothing but the kind's own success, or a 404 or 410 about the object, counts as success
///
/// A page, a redirect, another 2xx or a 404 for the endpoint comes from something that is not the
/// API, or not this call of it: the object may well still exist. [`super::absence`] decides when an
/// absence is believed, and [`super::next_step`] for which kinds it is a success.
///
/// # Only the API's own refusal is a refusal
///
/// The API refuses in JSON. A 4xx without JSON, or one about the path to the API (payment, method,
/// proxy, session), comes from something between us and the API, and says nothing about the
/// command.
pub fn decide(kind: Kind, answer: &Answer) -> Verdict {
    match answer {
        Answer::Status(response) => decide_status(kind, response),
        Answer::TimedOut | Answer::ConnectionLost { .. } => Verdict::Transient,
        Answer::Unreachable { .. } => Verdict::Unreachable,
    }
}

/// Whether the call may have had its effect although its answer does not say so.
///
/// # A call that may have succeeded is never taken for one that failed
///
/// A lost answer is ambiguous, and so is a 2xx that is not the kind's own success: something was
/// accepted. If "not found" is a failure, the answer of a gateway that gave up (502, 504) is
/// ambiguous, too: the API behind it may have carried on.
pub fn is_ambiguous(kind: Kind, answer: &Answer, verdict: Verdict) -> bool {
    match answer.status() {
        Some(200..=299) => verdict != Verdict::Deleted,
        Some(502 | 504) => kind.fails_when_not_found(),
        _ => answer.is_ambiguous(),
    }
}

fn decide_status(kind: Kind, response: &Response) -> Verdict {
    match response.status {
        200..=299 => decide_success(kind.spec().success, response),
        401 => Verdict::Unauthorized,
        429 => Verdict::Throttled,
        408 | 421 | 425 | 500..=599 => Verdict::Transient,
        402 | 405 | 407 | 419 => Verdict::Misdirected,
        404 | 410 if kind.spec().not_found == NotFound::NotTheApi => match response.body {
            Body::Lost => Verdict::Transient,
            _ => Verdict::Misdirected,
        },
        400..=499 => decide_by_body(response.status, &response.body),
        _ => Verdict::Misdirected,
    }
}

fn decide_success(success: Success, Response { status, body, .. }: &Response) -> Verdict {
    let is_api = matches!(body, Body::Json { .. }) && !body.denies_the_endpoint();
    let is_success = match success {
        Success::NoContent => *status == 204,
        Success::NoContentOrOk => {
            *status == 204 || *status == 200 && (is_api || *body == Body::Empty)
        }
        Success::EmptyOk => *status == 200 && *body == Body::Empty,
    };
    match (success, status, body) {
        _ if is_success => Verdict::Deleted,
        (Success::NoContentOrOk | Success::EmptyOk, 200, Body::Lost) => Verdict::Transient,
        _ => Verdict::Misdirected,
    }
}

/// For a 4xx whose meaning depends on its body.
fn decide_by_body(status: u16, body: &Body) -> Verdict {
    match (status, body) {
        (_, Body::Lost) => Verdict::Transient,
        (_, Body::Html) => Verdict::Misdirected,
        (_, body) if body.denies_the_endpoint() => Verdict::Misdirected,
        (404 | 410, body) if body.names_a_missing_resource() => Verdict::AlreadyAbsent,
        (404 | 410, _) => Verdict::UnverifiedAbsence,
        (403, Body::Json { .. } | Body::Empty) => Verdict::Forbidden,
        (_, Body::Json { .. }) => Verdict::Rejected,
        (_, Body::Empty | Body::Other) => Verdict::Misdirected,
    }
}

impl Verdict {
    /// Every verdict, for metrics that start with a zero.
    pub const ALL: [Self; 12] = [
        Self::Deleted,
        Self::Present,
        Self::AlreadyAbsent,
        Self::UnverifiedAbsence,
        Self::NotReached,
        Self::Throttled,
        Self::Unauthorized,
        Self::Forbidden,
        Self::Misdirected,
        Self::Transient,
        Self::Unreachable,
        Self::Rejected,
    ];

    /// The word that metrics and logs use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deleted => "deleted",
            Self::Present => "present",
            Self::AlreadyAbsent => "already_absent",
            Self::UnverifiedAbsence => "already_absent_unverified",
            Self::NotReached => "not_reached",
            Self::Throttled => "throttled",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::Misdirected => "misdirected",
            Self::Transient => "transient",
            Self::Unreachable => "unreachable",
            Self::Rejected => "rejected",
        }
    }

    /// Whether the answer is about the command, so that the call counts as an attempt. An upstream
    /// failure does not use one up.
    pub fn spends_an_attempt(self) -> bool {
        !matches!(
            self,
            Self::Throttled
                | Self::Unauthorized
                | Self::NotReached
                | Self::Misdirected
                | Self::Unreachable
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::answer::samples::{json, status};
    use super::*;
    use proptest::prelude::*;

    fn decide(answer: &Answer) -> Verdict {
        super::decide(Kind::TaskDelete, answer)
    }

    #[test]
    fn a_404_counts_as_deleted_unless_it_is_not_about_the_task() {
        assert_eq!(decide(&status(404, json("RESOURCE_NOT_FOUND"))), Verdict::AlreadyAbsent);
        assert_eq!(decide(&status(410, json("RESOURCE_NOT_FOUND"))), Verdict::AlreadyAbsent);
        let no_code = Body::Json { code: None, message: Some("Not Found".into()) };
        for body in [Body::Empty, Body::Other, no_code, json("NOT_FOUND")] {
            assert_eq!(
                [404, 410].map(|code| decide(&status(code, body.clone()))),
                [Verdict::UnverifiedAbsence; 2]
            );
        }
        assert_eq!(decide(&status(404, json("ENDPOINT_NOT_FOUND"))), Verdict::Misdirected);
        assert_eq!(decide(&status(404, Body::Html)), Verdict::Misdirected);
    }

    #[test]
    fn a_404_whose_body_broke_off_proves_nothing() {
        assert_eq!(decide(&status(404, Body::Lost)), Verdict::Transient);
        assert_eq!(decide(&status(503, Body::Lost)), Verdict::Transient);
        assert_eq!(decide(&status(422, Body::Lost)), Verdict::Transient);
    }

    #[test]
    fn every_answer_means_what_the_contract_says() {
        let plain = |code| decide(&status(code, Body::Empty));
        assert_eq!([204, 401].map(plain), [Verdict::Deleted, Verdict::Unauthorized]);
        assert_eq!([410, 429].map(plain), [Verdict::UnverifiedAbsence, Verdict::Throttled]);
        assert_eq!([408, 421, 425, 500, 503, 599].map(plain), [Verdict::Transient; 6]);
        assert_eq!([100, 200, 202, 301, 307, 399, 600].map(plain), [Verdict::Misdirected; 7]);
        let refused = |code| decide(&status(code, json("VALIDATION")));
        assert_eq!([400, 406, 409, 422, 499].map(refused), [Verdict::Rejected; 5]);
        assert_eq!(
            [403, 422].map(|code| decide(&status(code, json("ENDPOINT_NOT_FOUND")))),
            [Verdict::Misdirected; 2]
        );
        assert_eq!(
            [Body::Empty, json("X")].map(|body| decide(&status(403, body))),
            [Verdict::Forbidden; 2]
        );
        assert_eq!(
            [Body::Html, Body::Other].map(|body| decide(&status(403, body))),
            [Verdict::Misdirected; 2]
        );
        assert_eq!(decide(&status(403, Body::Lost)), Verdict::Transient);
    }

    #[test]
    fn a_call_without_an_answer_may_go_better_another_time() {
        let detail = String::new;
        assert_eq!(decide(&Answer::TimedOut), Verdict::Transient);
        assert_eq!(decide(&Answer::ConnectionLost { detail: detail() }), Verdict::Transient);
        assert_eq!(decide(&Answer::Unreachable { detail: detail() }), Verdict::Unreachable);
    }

    #[test]
    fn only_the_apis_own_refusal_is_a_refusal() {
        for body in [Body::Empty, Body::Other, Body::Html] {
            let verdicts = [400, 406, 409, 422].map(|code| decide(&status(code, body.clone())));
            assert_eq!(verdicts, [Verdict::Misdirected; 4], "{body:?}");
        }
        for body in [Body::Empty, Body::Html, json("PAYMENT_REQUIRED")] {
            let verdicts = [402, 405, 407, 419].map(|code| decide(&status(code, body.clone())));
            assert_eq!(verdicts, [Verdict::Misdirected; 4], "{body:?}");
        }
    }

    #[test]
    fn each_kind_has_its_own_success() {
        let successes = |kind| {
            let bodies = [Body::Empty, json("x"), Body::Html, Body::Other];
            let answers = [200, 202, 204]
                .into_iter()
                .flat_map(|code| bodies.clone().map(|body| (code, body)));
            let is_success = |(code, body): &(u16, Body)| {
                super::decide(kind, &status(*code, body.clone())) == Verdict::Deleted
            };
            answers
                .filter(is_success)
                .map(|(code, body)| format!("{code} {body:?}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(successes(Kind::TaskDelete).len(), 4, "a 204, whatever stands in its body");
        assert_eq!(successes(Kind::TagDelete), successes(Kind::TaskDelete));
        assert_eq!(successes(Kind::ProcessDelete), ["200 Empty"]);
        assert_eq!(successes(Kind::FileDelete), ["200 Empty"]);
        assert_eq!(successes(Kind::TaskArchive).len(), 6, "a 204, or a 200 that is empty or JSON");
        assert!(successes(Kind::TaskArchive).iter().all(|answer| !answer.starts_with("200 Html")));
    }

    #[test]
    fn a_success_whose_body_broke_off_is_tried_again_where_its_body_matters() {
        let lost = |kind| super::decide(kind, &status(200, Body::Lost));
        assert_eq!(
            [Kind::ProcessDelete, Kind::FileDelete, Kind::TaskArchive].map(lost),
            [Verdict::Transient; 3]
        );
        assert_eq!([Kind::TaskDelete, Kind::TagDelete].map(lost), [Verdict::Misdirected; 2]);
        let lost = status(200, Body::Lost);
        assert!(is_ambiguous(Kind::FileDelete, &lost, Verdict::Transient));
    }

    #[test]
    fn the_api_never_says_that_a_tag_is_not_there() {
        for body in [Body::Empty, Body::Html, json("RESOURCE_NOT_FOUND"), json("x")] {
            assert_eq!(super::decide(Kind::TagDelete, &status(404, body)), Verdict::Misdirected);
        }
        let missing = |kind| super::decide(kind, &status(404, json("RESOURCE_NOT_FOUND")));
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::TagDelete) {
            assert_eq!(missing(kind), Verdict::AlreadyAbsent, "{kind}");
        }
    }

    #[test]
    fn a_call_that_may_have_succeeded_is_never_taken_for_one_that_failed() {
        let ambiguous =
            |kind, answer: &Answer| is_ambiguous(kind, answer, super::decide(kind, answer));
        for kind in Kind::ALL {
            let lost = Answer::ConnectionLost { detail: String::new() };
            assert!(ambiguous(kind, &lost) && ambiguous(kind, &Answer::TimedOut), "{kind}");
            assert!(
                ambiguous(kind, &status(202, Body::Empty))
                    && ambiguous(kind, &status(200, Body::Html)),
                "{kind}"
            );
            assert!(
                !ambiguous(kind, &status(503, Body::Empty))
                    && !ambiguous(kind, &status(404, json("x"))),
                "{kind}"
            );
            assert_eq!(
                ambiguous(kind, &status(504, Body::Html)),
                kind.fails_when_not_found(),
                "{kind}"
            );
        }
        assert!(!ambiguous(Kind::TaskDelete, &status(204, Body::Empty)));
        assert!(!ambiguous(Kind::ProcessDelete, &status(200, Body::Empty)));
        assert!(ambiguous(Kind::ProcessDelete, &status(200, json("x"))));
    }

    #[test]
    fn an_upstream_failure_uses_up_no_attempt() {
        let spends = |spends| {
            let verdicts =
                Verdict::ALL.into_iter().filter(|verdict| verdict.spends_an_attempt() == spends);
            verdicts.map(Verdict::as_str).collect::<Vec<_>>()
        };
        let about_the_command = [
            "deleted",
            "present",
            "already_absent",
            "already_absent_unverified",
            "forbidden",
            "transient",
            "rejected",
        ];
        assert_eq!(spends(true), about_the_command);
        assert_eq!(
            spends(false),
            ["not_reached", "throttled", "unauthorized", "misdirected", "unreachable"]
        );
    }

    /// Any status, with a bias toward those with a special meaning.
    fn any_status() -> impl Strategy<Value = u16> {
        prop_oneof![
            100_u16..=999,
            proptest::sample::select(vec![200, 204, 401, 403, 404, 408, 410, 429, 503])
        ]
    }

    fn any_body() -> impl Strategy<Value = Body> {
        prop_oneof![
            Just(Body::Empty),
            Just(Body::Html),
            Just(Body::Other),
            Just(Body::Lost),
            Just(json("ENDPOINT_NOT_FOUND")),
            Just(json("RESOURCE_NOT_FOUND")),
        ]
    }

    proptest! {
        #[test]
        fn nothing_but_a_204_or_a_404_or_410_about_the_task_counts_as_success(code in any_status(), body in any_body()) {
            let verdict = decide(&status(code, body.clone()));
            let about_the_task = !matches!(body, Body::Html | Body::Lost) && !body.denies_the_endpoint();
            prop_assert_eq!(verdict == Verdict::Deleted, code == 204);
            let is_absent = matches!(verdict, Verdict::AlreadyAbsent | Verdict::UnverifiedAbsence);
            prop_assert_eq!(is_absent, (code == 404 || code == 410) && about_the_task);
            prop_assert!(verdict != Verdict::AlreadyAbsent || body.names_a_missing_resource());
        }

        #[test]
        fn only_a_4xx_can_dead_letter_a_command_at_once(code in any_status(), body in any_body()) {
            let verdict = decide(&status(code, body));
            if matches!(verdict, Verdict::Forbidden | Verdict::Rejected) {
                prop_assert!((400..500).contains(&code));
            }
        }
    }
}
