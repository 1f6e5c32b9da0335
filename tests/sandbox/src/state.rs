//! The state behind the sandbox's API: organisations, the tokens that reach them, and their tasks.
//! Knows nothing of HTTP; `api` turns calls into changes of this state.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::operation::ObjectType;

/// The state of a task, process, tag or file, as registered or as calls have changed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ObjectState {
    Present,
    Archived,
    Gone,
    Forbidden,
    /// For a file: the logo of the organisation, which cannot be deleted.
    Logo,
}

#[derive(Debug, Default)]
pub(crate) struct Organisation {
    /// `None`: the global tokens are valid here.
    own_tokens: Option<HashSet<String>>,
    /// Ordered, so that the pages of a list are stable.
    pub(crate) tasks: BTreeMap<String, ObjectState>,
    pub(crate) objects: BTreeMap<(ObjectType, String), ObjectState>,
}

/// Whether a token may touch an organisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Granted,
    Unauthenticated,
    NoSuchOrganisation,
}

#[derive(Debug)]
pub(crate) struct State {
    global_tokens: HashSet<String>,
    organisations: BTreeMap<String, Organisation>,
}

impl State {
    pub(crate) fn new(token: String) -> Self {
        Self { global_tokens: HashSet::from([token]), organisations: BTreeMap::new() }
    }

    /// Adds the organisation, or replaces it by an empty one.
    pub(crate) fn put_organisation(&mut self, org_id: &str, own_tokens: Option<HashSet<String>>) {
        self.organisations
            .insert(org_id.to_owned(), Organisation { own_tokens, ..Organisation::default() });
    }

    pub(crate) fn organisation(&mut self, org_id: &str) -> Option<&mut Organisation> {
        self.organisations.get_mut(org_id)
    }

    pub(crate) fn set_global_tokens(&mut self, tokens: HashSet<String>) {
        self.global_tokens = tokens;
    }

    pub(crate) fn task(&self, org_id: &str, task_id: &str) -> Option<ObjectState> {
        self.organisations.get(org_id)?.tasks.get(task_id).copied()
    }

    pub(crate) fn object(&self, org_id: &str, object: ObjectType, id: &str) -> Option<ObjectState> {
        self.organisations.get(org_id)?.objects.get(&(object, id.to_owned())).copied()
    }

    /// A token that an organisation does not accept is answered with 401, even if another
    /// organisation accepts it: tests revoke the token of one organisation while the others keep
    /// theirs.
    pub(crate) fn access(&self, org_id: &str, token: &str) -> Access {
        match self.organisations.get(org_id) {
            Some(organisation) if self.takes(organisation, token) => Access::Granted,
            None if self.knows(token) => Access::NoSuchOrganisation,
            _ => Access::Unauthenticated,
        }
    }

    /// Whether any organisation accepts the token.
    pub(crate) fn knows(&self, token: &str) -> bool {
        self.global_tokens.contains(token)
            || self.organisations.values().any(|org| self.takes(org, token))
    }

    pub(crate) fn reached_by<'a>(&'a self, token: &'a str) -> impl Iterator<Item = &'a str> {
        self.organisations
            .iter()
            .filter(|(_, org)| self.takes(org, token))
            .map(|(id, _)| id.as_str())
    }

    pub(crate) fn tasks_by_state(&self) -> BTreeMap<ObjectState, usize> {
        let mut counts = BTreeMap::new();
        for state in self.organisations.values().flat_map(|org| org.tasks.values()) {
            *counts.entry(*state).or_default() += 1;
        }
        counts
    }

    fn takes(&self, organisation: &Organisation, token: &str) -> bool {
        organisation.own_tokens.as_ref().unwrap_or(&self.global_tokens).contains(token)
    }
}

impl Organisation {
    pub(crate) fn set_own_tokens(&mut self, tokens: HashSet<String>) {
        self.own_tokens = Some(tokens);
    }
}
