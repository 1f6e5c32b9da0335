//! DECISIONS. Pure: no runtime, no broker, no HTTP, no clock, no randomness, no logging. Time is an argument.

pub mod admission;
pub mod answer;
pub mod circuit_breaker;
pub mod org_gate;
pub mod retry_after;
pub mod retry_schedule;
pub mod settlement;
pub mod verdict;
