//! `check`: tests whether everything a worker needs is in place, without deleting anything. One
//! line per check.
//!
//! Every API call is a GET, and nothing is left behind at the broker.

mod api;
mod broker;
mod judge;
mod permissions;

use std::borrow::Cow;
use std::io::{self, Write};

use serde::Serialize;

use crate::rabbitmq::BrokerSettings;
use crate::service::{CoreSettings, StartError, credentials};
use crate::table::OutputFormat;
use crate::tallyfy_api::TallyfyApi;

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fact {
    pub fact: String,
    pub state: State,
    /// What was found.
    pub detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cure: Option<Cow<'static, str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// As it should be.
    Ok,
    /// The worker can work, but this needs attention.
    Warning,
    /// The worker cannot work.
    Failed,
    /// It could not be checked.
    Skipped,
}

/// What the check is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Whether everything is in order.
    Everything,
    /// Whether a worker may start.
    Start,
}

impl Fact {
    /// # A pod starts even if the API is down
    ///
    /// A worker must start even if something is missing that it can wait for. Otherwise one revoked
    /// token among many would stop the deletions of all the others.
    fn waited_for(self, purpose: Purpose) -> Self {
        let is_softer = purpose == Purpose::Start && self.state == State::Failed;
        Self { state: if is_softer { State::Warning } else { self.state }, ..self }
    }

    pub(crate) fn ok(fact: &str, detail: impl Into<String>) -> Self {
        Self { fact: fact.to_owned(), state: State::Ok, detail: detail.into(), cure: None }
    }

    pub(crate) fn skipped(fact: &str, detail: impl Into<String>) -> Self {
        Self { state: State::Skipped, ..Self::ok(fact, detail) }
    }

    pub(crate) fn warning(
        fact: &str,
        detail: impl Into<String>,
        cure: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { state: State::Warning, cure: Some(cure.into()), ..Self::ok(fact, detail) }
    }

    pub(crate) fn failed(
        fact: &str,
        detail: impl Into<String>,
        cure: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { state: State::Failed, cure: Some(cure.into()), ..Self::ok(fact, detail) }
    }
}

const NO_TOKENS: &str = "Is the secret mounted, and readable for this user?";

/// Runs all checks and prints each fact as soon as it is known; `true` if none failed.
///
/// # Errors
/// The HTTP client cannot be built.
pub async fn check(
    core: &CoreSettings,
    broker: &BrokerSettings,
    purpose: Purpose,
    form: OutputFormat,
) -> Result<bool, StartError> {
    let api = TallyfyApi::new(&core.api)?;
    let mut is_ok = true;
    let mut report = |facts: Vec<Fact>| {
        for fact in facts {
            is_ok &= fact.state != State::Failed;
            // A reader that has gone away still gets the exit code.
            let _ = print(&fact, form);
        }
    };
    report(broker::facts(broker, purpose).await);
    match credentials(&core.credentials) {
        Ok(credentials) => {
            let mut report = |facts: Vec<Fact>| {
                report(facts.into_iter().map(|fact| fact.waited_for(purpose)).collect());
            };
            api::facts(&api, &credentials, &mut report).await;
        }
        Err(error) => report(vec![Fact::failed("tokens", error.to_string(), NO_TOKENS)]),
    }
    Ok(is_ok)
}

fn print(fact: &Fact, form: OutputFormat) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if form == OutputFormat::Json {
        return writeln!(out, "{}", serde_json::to_string(fact)?);
    }
    let state = match fact.state {
        State::Ok => "ok     ",
        State::Warning => "warning",
        State::Failed => "FAILED ",
        State::Skipped => "skipped",
    };
    write!(out, "{state}  {}: {}", fact.fact, fact.detail)?;
    writeln!(out, "{}", fact.cure.as_ref().map_or_else(String::new, |cure| format!(". {cure}")))
}
