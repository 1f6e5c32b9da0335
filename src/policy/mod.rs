//! DECISIONS. Pure: no runtime, no broker, no HTTP, no clock, no randomness, no logging. Time is an
//! argument.

pub mod absence;
pub(crate) mod absent_only;
pub mod admission;
pub mod answer;
pub mod api_access;
pub mod brakes;
pub mod cancellations;
pub mod clock;
pub mod consumer_health;
pub mod dry_run;
pub mod guard;
pub mod next_step;
pub(crate) mod outcome;
pub mod producers;
pub mod remaining_dead_letters;
pub mod retry_after;
pub mod retry_schedule;
pub mod settlement;
pub mod undo;
pub mod verdict;
pub(crate) mod waiting_ages;
pub mod workers;
