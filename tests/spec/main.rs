//! The specification: one file for each promise, against a real RabbitMQ, real HTTP and the
//! function that main runs.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

mod absence;
mod answers;
mod breaker;
mod broker;
mod broker_outages;
mod check;
mod command_line;
mod commands;
mod connections;
mod console;
mod containment;
mod dead_letters;
mod decisions;
mod definitions;
mod documents;
mod dry_run;
mod guard;
mod hard_edges;
mod hostile;
mod hosts;
mod kinds;
mod migration;
mod mirror;
mod operators_port;
mod pages;
mod publishing;
mod rate_limit;
mod readme;
mod shutdown;
mod snippets;
mod streams;
mod suspension;
mod tracing;
mod undeliverable;
mod undo;
mod waiting;
