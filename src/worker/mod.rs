//! THE FLOW of one message: `consume` takes it in, `handle` decides its fate, `settle` tells the broker.

mod call;
pub mod consume;
mod depths;
pub mod engine;
pub mod handle;
mod in_process_delays;
mod pause;
mod session_log;
pub mod settle;

pub use consume::Worker;
pub use engine::{Engine, EngineSettings};
