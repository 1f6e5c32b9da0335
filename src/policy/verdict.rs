//! What an answer of the API means. One table, the same as the README's.

use super::answer::{Answer, Body, Response};

/// The meaning of one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The API deleted the task.
    Deleted,
    /// The task is not there.
    AlreadyAbsent,
    /// The organisation has called too often.
    Throttled,
    /// The token is not accepted.
    Unauthorized,
    /// The token may not delete this task.
    Forbidden,
    /// The answer is not the API's word on this task: a wrong base URL, a proxy, a challenge page.
    Misdirected,
    /// It may go better another time.
    Transient,
    /// The call never left.
    Unreachable,
    /// The API refuses this call for good.
    Rejected,
}

/// Says what an answer means.
///
/// # Nothing but a 204, or a 404 or 410 about the task, counts as success
///
/// A page, a redirect, another 2xx or a 404 for the endpoint comes from something that is not the API, or not this
/// call of it: the task may well be there still.
pub fn decide(answer: &Answer) -> Verdict {
    match answer {
        Answer::Status(response) => decide_status(response),
        Answer::TimedOut | Answer::ConnectionLost { .. } => Verdict::Transient,
        Answer::Unreachable { .. } => Verdict::Unreachable,
    }
}

fn decide_status(response: &Response) -> Verdict {
    let body = &response.body;
    match response.status {
        204 => Verdict::Deleted,
        401 => Verdict::Unauthorized,
        429 => Verdict::Throttled,
        408 | 421 | 425 | 500..=599 => Verdict::Transient,
        400..=499 if body.denies_the_endpoint() => Verdict::Misdirected,
        // Their meaning hangs on the body.
        403 | 404 | 410 if *body == Body::Lost => Verdict::Transient,
        403 | 404 | 410 if *body == Body::Html => Verdict::Misdirected,
        404 | 410 => Verdict::AlreadyAbsent,
        403 if matches!(body, Body::Json { .. } | Body::Empty) => Verdict::Forbidden,
        403 => Verdict::Misdirected,
        400..=499 => Verdict::Rejected,
        _ => Verdict::Misdirected,
    }
}

impl Verdict {
    /// Every verdict, for metrics that shall show a zero.
    pub const ALL: [Self; 9] = [
        Self::Deleted,
        Self::AlreadyAbsent,
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
            Self::AlreadyAbsent => "already_absent",
            Self::Throttled => "throttled",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::Misdirected => "misdirected",
            Self::Transient => "transient",
            Self::Unreachable => "unreachable",
            Self::Rejected => "rejected",
        }
    }

    /// Whether the call counts as an attempt. What the world does to us costs a command nothing.
    pub fn spends_an_attempt(self) -> bool {
        !matches!(self, Self::Throttled | Self::Unauthorized | Self::Misdirected | Self::Unreachable)
    }

    /// Whether the answer speaks of the API's health rather than of this command.
    pub fn counts_toward_the_breaker(self) -> bool {
        matches!(self, Self::Transient | Self::Unreachable | Self::Misdirected)
    }
}

#[cfg(test)]
mod tests {
    use super::super::answer::samples::{json, status};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_404_counts_as_deleted_unless_it_is_not_about_the_task() {
        assert_eq!(decide(&status(404, json("RESOURCE_NOT_FOUND"))), Verdict::AlreadyAbsent);
        assert_eq!(decide(&status(404, Body::Empty)), Verdict::AlreadyAbsent);
        assert_eq!(decide(&status(404, json("ENDPOINT_NOT_FOUND"))), Verdict::Misdirected);
        assert_eq!(decide(&status(404, Body::Html)), Verdict::Misdirected);
    }

    #[test]
    fn a_404_whose_body_broke_off_proves_nothing() {
        assert_eq!(decide(&status(404, Body::Lost)), Verdict::Transient);
        assert_eq!(decide(&status(503, Body::Lost)), Verdict::Transient);
        assert_eq!(decide(&status(422, Body::Lost)), Verdict::Rejected);
    }

    #[test]
    fn every_answer_means_what_the_contract_says() {
        let plain = |code| decide(&status(code, Body::Empty));
        assert_eq!([204, 401].map(plain), [Verdict::Deleted, Verdict::Unauthorized]);
        assert_eq!([410, 429].map(plain), [Verdict::AlreadyAbsent, Verdict::Throttled]);
        assert_eq!([408, 421, 425, 500, 503, 599].map(plain), [Verdict::Transient; 6]);
        assert_eq!([100, 200, 202, 301, 307, 399, 600].map(plain), [Verdict::Misdirected; 7]);
        assert_eq!([400, 402, 405, 422, 499].map(plain), [Verdict::Rejected; 5]);
        assert_eq!(
            [403, 422].map(|code| decide(&status(code, json("ENDPOINT_NOT_FOUND")))),
            [Verdict::Misdirected; 2]
        );
        assert_eq!([Body::Empty, json("X")].map(|body| decide(&status(403, body))), [Verdict::Forbidden; 2]);
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
    fn the_worlds_faults_cost_a_command_nothing_and_only_the_worlds_health_counts_toward_the_breaker() {
        let words = |rule: fn(Verdict) -> bool| -> Vec<&str> {
            Verdict::ALL.into_iter().filter(|verdict| rule(*verdict)).map(Verdict::as_str).collect()
        };
        assert_eq!(
            words(Verdict::spends_an_attempt),
            ["deleted", "already_absent", "forbidden", "transient", "rejected"]
        );
        assert_eq!(
            words(|verdict| !verdict.spends_an_attempt()),
            ["throttled", "unauthorized", "misdirected", "unreachable"]
        );
        assert_eq!(words(Verdict::counts_toward_the_breaker), ["misdirected", "transient", "unreachable"]);
    }

    /// Any, and often one that means something of its own.
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
            prop_assert_eq!(verdict == Verdict::AlreadyAbsent, (code == 404 || code == 410) && about_the_task);
        }

        #[test]
        fn only_a_4xx_can_cost_a_command_its_place(code in any_status(), body in any_body()) {
            let verdict = decide(&status(code, body));
            if matches!(verdict, Verdict::Forbidden | Verdict::Rejected) {
                prop_assert!((400..500).contains(&code));
            }
        }
    }
}
