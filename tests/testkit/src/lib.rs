//! What the specification, the campaign, the demo, the benchmark and the producers' check need
//! alike: a real RabbitMQ, the sandbox of the API, and wires between which the worker stands.

#![allow(clippy::missing_panics_doc, clippy::unwrap_used, reason = "a panic is how a test fails")]

pub mod proxy;
pub mod rabbitmq;
pub mod sandbox;
