//! Deletes Tallyfy tasks for good: takes `task.delete` commands from `RabbitMQ`, calls the API, publishes what came of it.
//!
//! # One message's way through the house
//!
//! 1. [`worker::run`] holds a session with the broker; in it, `worker::consume` takes a delivery off the work queue and hands it to
//!    a spawned task of its own.
//! 2. [`worker::handle`] reads it: [`policy::admission`] refuses what is malformed, foreign or expired; [`worker::permits`]
//!    waits for the permission to call ([`policy::api_access`]: the breaker and the organisation's circuit); [`tallyfy_api`] makes the call and
//!    returns an answer; [`policy::verdict`] says what the answer means, [`policy::absence`] whether a 404 may be believed, and
//!    [`policy::next_step`] what follows. [`worker::engine`] tells of every suspension. `handle`
//!    always ends in a [`policy::settlement::Settlement`].
//! 3. [`worker::settle`] carries that out: publishes through [`rabbitmq::publisher`], waits for the broker's confirm, and
//!    only then acknowledges.
//!
//! # Layers
//!
//! `policy -> messages -> nothing`: decisions are pure, and time is an argument. The edges ([`rabbitmq`], [`tallyfy_api`],
//! [`credentials`], `http`) never import each other. Only `main` imports [`config`], the only reader of the environment.
//!
//! # Invariants
//!
//! - No delivery is acknowledged before everything that its settlement publishes has been confirmed.
//! - In a dry run no destructive call can be made ([`tallyfy_api`]).
//! - No URL is built from anything but validated ids.
//! - No path through `handle` ends without a settlement; nothing but `settle` acknowledges.
//! - An attempt is used up only by an answer about the command itself (or a lost one), and by no failure while its organisation is suspended or
//!   the breaker is open; the `delete` command, for which somebody waits, counts failures all the same.
//! - Whether the API may be called is decided in one place, behind one lock ([`policy::api_access`]).
//! - `already_absent` is proven, or the event says `"verified": false`.
//! - lapin sees nothing of a message that it could not survive ([`rabbitmq::lapin_guard`]).
//!
//! # Glossary
//!
//! *Task*: a Tallyfy task. *Command*: the request to delete one. *Delivery*: a command that is not acknowledged yet. *Attempt*: a call that
//! counts. *Answer*: what the API said. *Verdict*: what it means. *Settlement*: what the broker must be told. *Outcome*: how
//! a command ended. *Dead letter*: a command that cannot succeed. *Delay queue*: where a command waits (a `RetryDelay` of `WAIT_LADDER`). *Permit*: the permission for
//! one call. *Suspended*: not called for a while but for probes; said of an organisation, which then *resumes*. *Circuit*: the state of one organisation.
//! *Breaker*: what stops all calls but probes while no organisation is served.

pub mod kind;
pub mod messages;
pub mod policy;

pub mod worker;

pub mod credentials;
mod http;
pub mod rabbitmq;
pub mod tallyfy_api;

pub mod check;
pub mod dead_letters;
pub mod delete_list;
pub mod guard_tool;
pub mod service;

pub mod config;
pub mod consent;
pub mod core_dump;
pub mod descriptors;
mod failpoint;
mod health;
pub mod metrics;
pub mod schema;
pub mod shutdown;
mod spans;
mod table;
pub mod telemetry;
pub mod tls_provider;
