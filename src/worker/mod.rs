//! THE FLOW of one message: `run` holds a session with the broker, `consume` receives the message,
//! `handle` decides its disposition, `settle` tells the broker.

mod api_request;
mod audit_log;
mod audit_session;
mod call;
mod command_run;
mod consume;
mod consumer_watch;
mod depths;
mod destructive_calls;
mod dry_run;
pub mod engine;
pub mod handle;
mod handlers;
mod in_process_delays;
mod ledger;
mod ledger_session;
mod ledger_state;
mod outcome;
mod pause;
mod permission;
pub mod permits;
mod publish_outage;
mod ramp_up;
mod reach;
mod report;
pub mod run;
mod session_end;
mod session_log;
pub mod settle;
mod settle_log;
mod status;
pub mod stop;
mod undeliverable;
mod undo;
mod waiting_lines;
mod waits;

pub use engine::{Engine, EngineSettings, reload_credentials};
pub use run::Worker;
pub use status::status;
