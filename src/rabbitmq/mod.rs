//! EDGE: RabbitMQ through lapin. Carries out requests and reports facts; decides nothing about
//! commands.
//!
//! Nothing outside this folder names lapin.

mod ack_window;
mod acks;
mod broker_error;
mod cause;
mod connection;
pub mod dead_letters;
mod deliveries;
mod delivery;
mod endpoints;
pub mod envelope;
pub(crate) mod held_commands;
pub mod lapin_guard;
pub mod ledger;
mod looks;
pub mod mirror;
mod own_user;
pub mod probe;
pub mod publisher;
mod queue_reader;
mod session;
mod session_loss;
mod session_proof;
mod source;
pub mod stream;
pub mod tls;
pub mod topology;
mod undeliverable;
pub mod url;

pub use broker_error::{BrokerError, Refusal};
pub use connection::Connection;
pub use deliveries::{Deliveries, Prefetched};
pub use delivery::Delivery;
pub use endpoints::Preference;
pub use own_user::Trust;
pub use publisher::{PublishError, Publisher};
pub use session::BrokerSettings;
pub(crate) use session::Session;
pub use session_loss::Memory;
pub use source::{AmqpSource, SourceError};
pub(crate) use undeliverable::UndeliverableQueues;
pub use url::AmqpUrl;
