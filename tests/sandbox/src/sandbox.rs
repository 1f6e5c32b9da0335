//! What all connections share: the state, the faults and the ledger, each behind its own lock. A
//! lock is never held across an await, nor while another is taken.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::faults::Faults;
use crate::ledger::Ledger;
use crate::state::State;

#[derive(Debug)]
pub(crate) struct Sandbox {
    state: Mutex<State>,
    faults: Mutex<Faults>,
    ledger: Mutex<Ledger>,
}

impl Sandbox {
    pub(crate) fn new(state: State, faults: Faults, ledger: Ledger) -> Self {
        Self { state: Mutex::new(state), faults: Mutex::new(faults), ledger: Mutex::new(ledger) }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
