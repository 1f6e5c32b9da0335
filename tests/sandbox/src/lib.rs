//! Stands in for the Tallyfy API in tests, demos and docker-compose, and can be scripted to fail.
//! It deletes only entries in its own memory.
//!
//! [`serve`] is the only entry point. The API is under `/` and `/api`; the endpoints that script
//! the sandbox and show its ledger are under `/_sandbox`.

mod answers;
mod api;
mod chance;
mod contents;
mod control;
mod fault_effects;
mod faults;
mod ledger;
mod normal_answers;
mod objects;
mod operation;
mod sandbox;
mod server;
mod state;
mod visit;

pub use contents::Contents;

use std::convert::Infallible;
use std::sync::Arc;

use tokio::net::TcpListener;

/// Answers every connection of this listener, until the future is dropped.
pub async fn serve(listener: TcpListener, contents: &Contents) -> Infallible {
    server::serve(listener, Arc::new(contents.furnish())).await
}
