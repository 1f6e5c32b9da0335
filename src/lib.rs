//! Deletes tasks (and optionally processes, tags and files) in Tallyfy for good: takes commands
//! from `RabbitMQ`, calls the API, publishes how each ended.
//!
//! Start with `docs/architecture.md`: a command's path through these modules, the layers, the
//! invariants, the glossary. In short: [`worker::run`] holds a session with the broker and spawns a
//! handler for each delivery; `worker::handle` decides with the pure functions of [`policy`] and
//! the answers of [`tallyfy_api`]; `worker::settle` publishes the outcome, waits for the confirm,
//! and only then acknowledges.

pub mod kind;
pub mod messages;
pub mod policy;

pub mod worker;

pub mod credentials;
mod http;
pub mod rabbitmq;
pub mod tallyfy_api;

pub mod audit_tool;
pub mod check;
pub mod console;
pub mod dead_letters;
pub mod delete_list;
pub mod guard_tool;
pub mod service;

pub mod config;
mod consent;
pub mod core_dump;
pub mod descriptors;
mod failpoint;
mod health;
mod ledger_view;
pub mod metrics;
pub mod schema;
pub mod shutdown;
mod spans;
mod table;
pub mod telemetry;
pub mod tls_provider;
pub mod undo_list;
