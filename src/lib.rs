//! stub
pub mod messages;
pub mod policy;
pub mod rabbitmq;
