//! EDGE: RabbitMQ through lapin. Carries out what it is told and reports facts; decides nothing about commands.

pub mod connection;
pub mod consumer;
pub mod dead_letters;
pub mod envelope;
mod message_header;
pub mod probe;
pub mod publisher;
pub mod tls;
pub mod topology;
mod wire_guard;

pub use connection::{BrokerError, BrokerSettings, Session};
pub use consumer::{Deliveries, Delivery};
pub use publisher::{PublishError, Publisher};
