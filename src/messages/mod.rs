//! The messages on the wire, as plain data: the command in; outcome event, dead letter and waiting
//! copy out.
//!
//! Knows no broker library and decides nothing. The names of exchanges, queues and headers live
//! here, because other services rely on them (`names`).

pub(crate) mod audit;
pub mod call_record;
mod cloud_event;
pub mod command;
pub(crate) mod dead_letter;
pub mod deaths;
pub(crate) mod derived_id;
pub(crate) mod dry_run;
pub(crate) mod event;
mod failure_reason;
pub(crate) mod held;
pub(crate) mod ids;
pub(crate) mod incoming;
pub mod ledger;
pub(crate) mod mirror;
pub mod names;
pub(crate) mod pending;
pub(crate) mod publication;
pub(crate) mod time;
mod undeliverable;

pub use command::{Command, Malformed, ObjectId, OrgId, Target};
pub use dead_letter::DeadLetter;
pub use dry_run::{DryRun, Would};
pub use event::{End, EndKind, Outcome};
pub use failure_reason::FailureReason;
pub use ids::EventSubject;
pub use incoming::{Arrival, Incoming, Properties, RetryState, TraceContext};
pub use mirror::{MirrorRecord, Removal};
pub use pending::Pending;
pub use publication::{HeaderValue, Publication};
pub use undeliverable::{Cause, Undeliverable};
