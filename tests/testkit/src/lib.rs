//! What the specification, the campaign, the demo, the benchmark and the producers' check have in
//! common: a real RabbitMQ, the sandbox API, and proxies between the worker and both.

#![allow(clippy::missing_panics_doc, clippy::unwrap_used, reason = "a panic is how a test fails")]

pub mod proxy;
pub mod rabbitmq;
pub mod sandbox;
