//! Stands in for the Tallyfy API in tests, demos and docker-compose, and can be scripted to fail.
//! It deletes nothing but entries of its own memory.
//!
//! [`serve`] is all of it: the API lies under `/` and `/api`, what scripts it and shows what it saw
//! under `/_sandbox`.

mod answers;
mod api;
mod chance;
mod contents;
mod control;
mod fault_effects;
mod faults;
mod honest;
mod ledger;
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
