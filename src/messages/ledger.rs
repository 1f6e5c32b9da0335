//! The records of the ledger: a stream that all workers write to and read in the same order, so
//! that they all reach the same decisions.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::OrgId;
use crate::kind::Kind;

/// The scope of a limit: the commands of one kind in one organisation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Scope {
    pub org_id: OrgId,
    #[serde(deserialize_with = "kind")]
    pub kind: Kind,
}

/// How many commands may be admitted in a sliding window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardLimit {
    pub max_deletes: u32,
    /// Length of the window, in seconds.
    pub window_s: u32,
}

/// Who decided something, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    pub by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// One record of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerRecord {
    /// By its writer's clock.
    #[serde(serialize_with = "written", deserialize_with = "read")]
    pub at: Timestamp,
    /// Its writer: a worker, or a command line.
    pub writer: String,
    #[serde(flatten)]
    pub entry: LedgerEntry,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case")]
pub enum LedgerEntry {
    /// Its writer has opened the ledger. When the writer reads this record, it has read everything
    /// before it.
    Opened { number: u64 },
    /// A worker asks to admit this many commands.
    Reserved {
        number: u64,
        #[serde(flatten)]
        scope: Scope,
        permits: u32,
        #[serde(flatten)]
        limit: GuardLimit,
    },
    /// The state of its writer, a worker.
    Worker(WorkerState),
    /// The guard has tripped: from now on commands are held.
    Tripped {
        #[serde(flatten)]
        scope: Scope,
        #[serde(flatten)]
        limit: GuardLimit,
    },
    /// It tripped long ago and nobody has decided yet. Repeated because the stream drops its oldest
    /// records.
    StillTripped {
        #[serde(flatten)]
        scope: Scope,
        #[serde(flatten)]
        limit: GuardLimit,
        #[serde(serialize_with = "written", deserialize_with = "read")]
        since: Timestamp,
    },
    /// Its event has been published.
    Announced {
        #[serde(flatten)]
        scope: Scope,
    },
    /// A person lets this many more commands pass, until then.
    Granted {
        #[serde(flatten)]
        scope: Scope,
        permits: u32,
        #[serde(serialize_with = "written", deserialize_with = "read")]
        until: Timestamp,
        #[serde(flatten)]
        decision: Decision,
    },
    /// A person has decided about the held commands; the guard counts again.
    Rearmed {
        #[serde(flatten)]
        scope: Scope,
        #[serde(flatten)]
        decision: Decision,
    },
    /// No new call, for one organisation or for all.
    Paused {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        org_id: Option<OrgId>,
        #[serde(flatten)]
        decision: Decision,
    },
    /// Paused long ago, and not resumed yet.
    StillPaused {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        org_id: Option<OrgId>,
        #[serde(flatten)]
        decision: Decision,
        #[serde(serialize_with = "written", deserialize_with = "read")]
        since: Timestamp,
    },
    /// This command ends without a further call.
    Cancelled {
        command_id: String,
        /// Only if it belongs to this organisation.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        org_id: Option<OrgId>,
        #[serde(flatten)]
        decision: Decision,
    },
    /// Cancelled a while ago and perhaps still waiting.
    StillCancelled {
        command_id: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        org_id: Option<OrgId>,
        #[serde(flatten)]
        decision: Decision,
        #[serde(serialize_with = "written", deserialize_with = "read")]
        since: Timestamp,
    },
    /// A person has lifted a cancellation; without an organisation, each one of this id.
    Revoked {
        command_id: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        org_id: Option<OrgId>,
        #[serde(flatten)]
        decision: Decision,
    },
    Resumed {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        org_id: Option<OrgId>,
        #[serde(flatten)]
        decision: Decision,
    },
}

/// What a worker reports about itself, to the others and to operators, about once a minute and soon
/// after a change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerState {
    pub host: String,
    pub version: String,
    /// A dry run: nothing is deleted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Why it is not ready, in the words of `/readyz`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_ready: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker_open_since: Option<String>,
    /// The organisations that are not called as usual; only some of them if there are many.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub organisations: Vec<OrganisationState>,
    /// By kind, since when the oldest command has waited, as far as this worker knows.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub oldest: BTreeMap<String, String>,
}

/// An organisation that is not called as usual, at one worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrganisationState {
    pub org_id: String,
    pub state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Commands that have started to wait for it since.
    pub waiting: u64,
}

impl WorkerState {
    /// Whether this is news after `published`; ages and counts are not.
    pub fn differs(&self, published: &Self) -> bool {
        let how = |state: &Self| {
            let organisations = state.organisations.iter();
            let organisations: Vec<_> = organisations
                .map(|one| (one.org_id.clone(), one.state.clone(), one.reason.clone()))
                .collect();
            (state.not_ready.clone(), state.breaker_open_since.is_some(), organisations)
        };
        how(self) != how(published)
    }
}

impl LedgerRecord {
    pub fn body(&self) -> Vec<u8> {
        // Strings and numbers only, so this cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// `None` if this build does not understand it.
    pub fn read(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }
}

fn kind<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Kind, D::Error> {
    let name = String::deserialize(deserializer)?;
    Kind::named(&name).ok_or_else(|| serde::de::Error::custom(format!("no kind is called {name}")))
}

fn written<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&super::time::text(*time))
}

fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}
