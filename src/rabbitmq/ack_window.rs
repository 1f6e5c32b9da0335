//! Which deliveries of a channel may be acknowledged together. Pure.
//!
//! # No unsettled delivery can be acknowledged
//!
//! `multiple` acknowledges every delivery of the channel up to a tag. The broker counts the tags of
//! a channel from 1 without gaps. So they stand here in a row, each with its state, and a
//! run begins at the first that is not settled and ends before the next such one: a delivery that
//! has not been seen yet is not settled, nor is one that was dropped. What is settled behind such
//! a one is acknowledged singly. A run is named by its last tag that still waits for its
//! acknowledgement: the broker knows no other.

use std::collections::VecDeque;

/// The state of one delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It may not have been seen yet; in any case it is not settled.
    Unsettled,
    /// Its outcome is confirmed: it is to be acknowledged.
    Settled,
    /// The broker no longer waits for it: it was acknowledged singly, rejected or requeued.
    Acknowledged,
}

/// What is to be sent to the broker, in this order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Acks {
    /// All up to this one.
    pub(crate) up_to: Option<u64>,
    /// And these, each by itself.
    pub(crate) singly: Vec<u64>,
}

/// The deliveries of one channel, from the first that the broker still waits for.
#[derive(Debug)]
pub(crate) struct AckWindow {
    /// The tag of the first one in the row.
    first: u64,
    row: VecDeque<State>,
    /// Settled since the last look.
    settled: Vec<u64>,
}

impl Default for AckWindow {
    fn default() -> Self {
        Self { first: 1, row: VecDeque::new(), settled: Vec::new() }
    }
}

impl AckWindow {
    /// The outcome of this delivery is confirmed.
    pub(crate) fn settled(&mut self, tag: u64) {
        self.set(tag, State::Settled);
        self.settled.push(tag);
    }

    /// This delivery was acknowledged in another way: the broker no longer knows its tag.
    pub(crate) fn acknowledged(&mut self, tag: u64) {
        self.set(tag, State::Acknowledged);
    }

    fn set(&mut self, tag: u64, state: State) {
        let Some(place) = place(self.first, tag) else { return };
        if place >= self.row.len() {
            self.row.resize(place + 1, State::Unsettled);
        }
        self.row[place] = state;
    }

    /// Takes what is to be acknowledged now.
    pub(crate) fn take(&mut self) -> Acks {
        let mut acks = Acks::default();
        while let Some(state) = self.row.front().copied().filter(|state| *state != State::Unsettled)
        {
            if state == State::Settled {
                acks.up_to = Some(self.first);
            }
            self.row.pop_front();
            self.first += 1;
        }
        for tag in self.settled.drain(..).filter(|tag| *tag >= self.first) {
            acks.singly.push(tag);
            if let Some(state) = place(self.first, tag).and_then(|at| self.row.get_mut(at)) {
                *state = State::Acknowledged;
            }
        }
        acks
    }
}

fn place(first: u64, tag: u64) -> Option<usize> {
    usize::try_from(tag.checked_sub(first)?).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use proptest::prelude::*;

    fn acks(up_to: Option<u64>, singly: &[u64]) -> Acks {
        Acks { up_to, singly: singly.to_vec() }
    }

    #[test]
    fn a_run_ends_before_the_first_that_is_not_settled() {
        let mut window = AckWindow::default();
        for tag in [2, 3, 5] {
            window.settled(tag);
        }
        assert_eq!(window.take(), acks(None, &[2, 3, 5]));
        window.settled(1);
        assert_eq!(window.take(), acks(Some(1), &[]), "2 and 3 are known no more");
        window.settled(4);
        window.settled(7);
        assert_eq!(window.take(), acks(Some(4), &[7]));
        window.acknowledged(6);
        window.settled(8);
        assert_eq!(window.take(), acks(Some(8), &[]));
        assert_eq!(window.take(), Acks::default());
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Settle(u64),
        Acknowledge(u64),
        Take,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => (1..60_u64).prop_map(Step::Settle),
            1 => (1..60_u64).prop_map(Step::Acknowledge),
            3 => Just(Step::Take),
        ];
        proptest::collection::vec(step, 0..200)
    }

    proptest! {
        #[test]
        fn no_unsettled_delivery_can_be_acknowledged(steps in steps()) {
            let mut window = AckWindow::default();
            // As the broker sees it: every delivery has been sent.
            let mut outstanding: BTreeSet<u64> = (1..60).collect();
            let (mut settled, mut seen) = (BTreeSet::new(), BTreeSet::new());
            for step in steps.into_iter().chain([Step::Take]) {
                match step {
                    Step::Settle(tag) if seen.insert(tag) => {
                        window.settled(tag);
                        settled.insert(tag);
                    }
                    Step::Acknowledge(tag) if seen.insert(tag) => {
                        window.acknowledged(tag);
                        outstanding.remove(&tag);
                    }
                    Step::Settle(_) | Step::Acknowledge(_) => {}
                    Step::Take => {
                        let Acks { up_to, singly } = window.take();
                        let run: Vec<_> =
                            up_to.into_iter().flat_map(|last| outstanding.range(..=last).copied().collect::<Vec<_>>()).collect();
                        if let Some(last) = up_to {
                            prop_assert!(run.contains(&last), "the broker knows {}", last);
                        }
                        for tag in run.into_iter().chain(singly) {
                            prop_assert!(settled.remove(&tag), "{} is settled, and acknowledged once", tag);
                            prop_assert!(outstanding.remove(&tag), "the broker knows {}", tag);
                        }
                        prop_assert!(settled.is_empty(), "nothing settled is left: {:?}", settled);
                    }
                }
            }
        }
    }
}
