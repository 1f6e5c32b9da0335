//! THE FLOW of one message: `consume` takes it in, `handle` decides its fate, `settle` tells the broker.

pub mod consume;
pub mod engine;
pub mod handle;
mod in_process_delays;
pub mod settle;

pub use consume::Worker;
pub use engine::{Engine, EngineSettings};
