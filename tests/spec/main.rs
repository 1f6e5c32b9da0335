//! The specification: one file for each promise, against a real RabbitMQ, real HTTP and the
//! function that main runs. Tests begin in the order of their names: those that wait longest come
//! early, or the others would be over long before them.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

mod absence;
mod answers;
mod api_outages;
mod breaker;
mod broker;
mod broker_outages;
mod check;
mod code_snippets;
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
mod streams;
mod suspension;
mod tracing;
mod undeliverable;
mod undo;
