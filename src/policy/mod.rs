//! DECISIONS. Pure: no runtime, no broker, no HTTP, no clock, no randomness, no logging. Time is an
//! argument.

pub mod absence;
pub mod absent_only;
pub mod admission;
pub mod answer;
pub mod api_access;
pub mod brakes;
pub mod cancellations;
pub mod clock;
pub mod dry_run;
pub mod guard;
pub mod hearing;
pub mod next_step;
pub mod producers;
pub mod retry_after;
pub mod retry_schedule;
pub mod settlement;
pub mod still_dead;
pub mod undo;
pub mod verdict;
pub mod waiting_ages;
pub mod workers;
