//! THE FLOW of one message: `consume` takes it in, `handle` decides its disposition, `settle` tells the broker.

mod call;
mod command_run;
pub mod consume;
mod depths;
pub mod engine;
pub mod handle;
mod handlers;
mod in_process_delays;
mod outcome;
mod pause;
pub mod permits;
mod reach;
mod report;
mod session_log;
pub mod settle;
mod status;
pub mod stop;
mod waiting_lines;

pub use consume::Worker;
pub use engine::{Engine, EngineSettings, reload_credentials};
pub use status::status;
