//! The contents of the sandbox when it starts.

use clap::Args;
use clap::builder::FalseyValueParser;

use crate::faults::Faults;
use crate::ledger::Ledger;
use crate::sandbox::Sandbox;
use crate::state::{ObjectState, State};

const DEFAULT_ORG: &str = "5a4db0c0ffee5a4db0c0ffee5a4db0c0";

/// Organisations, their tasks, and the token that reaches them.
#[derive(Debug, Args)]
pub struct Contents {
    /// An organisation that exists from the start; may be repeated, or separated by commas.
    #[arg(long = "org", env = "SANDBOX_ORGS", value_name = "ORG_ID", value_delimiter = ',', default_value = DEFAULT_ORG)]
    pub orgs: Vec<String>,
    /// The token that reaches every organisation without tokens of its own.
    #[arg(long, env = "SANDBOX_TOKEN", default_value = "sandbox-token")]
    pub token: String,
    /// How many present one-off tasks each organisation has from the start; their ids count up from
    /// 0.
    #[arg(long, env = "SANDBOX_TASKS", value_name = "N", default_value_t = 0)]
    pub tasks: u64,
    /// The seed of the faults that have a probability.
    #[arg(long, env = "SANDBOX_SEED", default_value_t = 1)]
    pub seed: u64,
    /// Keep only counts, not an entry per request.
    #[arg(long, env = "SANDBOX_NO_LEDGER", value_parser = FalseyValueParser::new())]
    pub no_ledger: bool,
}

impl Contents {
    /// No tasks yet.
    pub fn of(orgs: &[&str], token: &str) -> Self {
        let orgs = orgs.iter().map(ToString::to_string).collect();
        Self { orgs, token: token.to_owned(), tasks: 0, seed: 1, no_ledger: false }
    }

    pub(crate) fn furnish(&self) -> Sandbox {
        let mut state = State::new(self.token.clone());
        for org_id in
            self.orgs.iter().map(|org_id| org_id.trim()).filter(|org_id| !org_id.is_empty())
        {
            state.put_organisation(org_id, None);
            if let Some(organisation) = state.organisation(org_id) {
                organisation.tasks =
                    (0..self.tasks).map(|i| (format!("{i:032x}"), ObjectState::Present)).collect();
            }
        }
        Sandbox::new(state, Faults::new(self.seed), Ledger::new(!self.no_ledger))
    }
}
