//! Which kinds a session consumes, and how many of each, until all have proved harmless. Pure.
//!
//! # A message that kills the client library's connection does not drag its neighbours along
//!
//! Some messages cannot be parsed, and each delivery of one ends the connection, until the queue's
//! delivery limit moves it to the dead letters. The other unacknowledged messages count a delivery
//! too, at every worker that it reaches. So each session starts with one message at a time, of one
//! kind at a time, and takes more of a kind once a message arrives that was redelivered fewer than
//! [`REDELIVERY_THRESHOLD`] times. The neighbours of a harmful message are then processed one by
//! one, far from the limit. The broker counts the redeliveries, so this holds across workers and
//! restarts.
//!
//! A kind with many such messages in its queue gets every other turn; in between, the other kinds
//! are consumed in bulk.

use std::time::Duration;

use crate::kind::Kind;

/// From this many redeliveries on, a message may be one that ends connections.
pub(super) const REDELIVERY_THRESHOLD: u32 = 4;
const ALONE_FOR: Duration = Duration::from_millis(300);
const OTHERS_FOR: Duration = Duration::from_secs(5);

/// What to consume next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Turn {
    /// The kinds.
    pub(super) kinds: Vec<Kind>,
    /// One message at a time, because none has proved harmless yet.
    pub(super) is_alone: bool,
    /// Its time limit.
    pub(super) lasts: Option<Duration>,
}

/// The turns of one session.
#[derive(Debug)]
pub(super) struct RampUp {
    /// The kind that was consumed alone when the previous session was lost.
    suspect: Option<Kind>,
    unproved: Vec<Kind>,
    proved: Vec<Kind>,
    was_alone: bool,
}

impl RampUp {
    /// # A kind whose messages end each session does not starve the others
    ///
    /// The session after such a loss takes that kind last, and the others in bulk before it.
    pub(super) fn new(kinds: &[Kind], suspect: Option<Kind>) -> Self {
        let mut unproved = kinds.to_vec();
        // `next_turn` takes the first one, and puts it last.
        unproved.sort_by_key(|kind| Some(*kind) == suspect);
        Self { suspect, unproved, proved: Vec::new(), was_alone: false }
    }

    /// The kind that would be to blame if the session were lost now.
    pub(super) fn suspect(&self) -> Option<Kind> {
        self.unproved.last().copied().filter(|_| self.was_alone)
    }

    /// The next turn. If the last one has not proved its kind, the kinds that have proved harmless
    /// are next. If all queues are harmless, all kinds are proved one right after another.
    pub(super) fn next_turn(&mut self) -> Turn {
        let must_wait = self.suspect.is_some() && self.unproved.first() == self.suspect.as_ref();
        let others_first = must_wait && !self.proved.is_empty();
        let may_be_alone = self.proved.is_empty() || !(self.was_alone || others_first);
        let is_alone = !self.unproved.is_empty() && may_be_alone;
        if !is_alone {
            self.suspect = None;
        }
        self.was_alone = is_alone;
        if is_alone {
            self.unproved.rotate_left(1);
            let kinds = self.unproved.last().copied().into_iter().collect();
            // A single kind has no other to wait for.
            let is_only = self.unproved.len() + self.proved.len() == 1;
            return Turn { kinds, is_alone, lasts: (!is_only).then_some(ALONE_FOR) };
        }
        let lasts = (!self.unproved.is_empty()).then_some(OTHERS_FOR);
        Turn { kinds: self.proved.clone(), is_alone, lasts }
    }

    /// This kind has proved harmless: a message arrived that was hardly ever redelivered, or its
    /// queue is empty.
    pub(super) fn proved(&mut self, kind: Kind) {
        if let Some(at) = self.unproved.iter().position(|unproved| *unproved == kind) {
            self.proved.push(self.unproved.remove(at));
            self.was_alone = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Kind::{FileDelete, TagDelete, TaskDelete};

    fn kinds(turn: &Turn) -> (&[Kind], bool) {
        (&turn.kinds, turn.is_alone)
    }

    #[test]
    fn the_only_kind_is_taken_one_by_one_until_one_message_is_harmless() {
        let mut ramp_up = RampUp::new(&[TaskDelete], None);
        for _ in 0..3 {
            let turn = ramp_up.next_turn();
            assert_eq!((kinds(&turn), turn.lasts), ((&[TaskDelete][..], true), None));
        }
        ramp_up.proved(TaskDelete);
        let turn = ramp_up.next_turn();
        assert_eq!((kinds(&turn), turn.lasts), ((&[TaskDelete][..], false), None));
    }

    #[test]
    fn a_message_that_kills_the_client_librarys_connection_does_not_drag_its_neighbours_along() {
        let mut ramp_up = RampUp::new(&[TaskDelete, TagDelete, FileDelete], None);
        let mut seen = Vec::new();
        for _ in 0..3 {
            let turn = ramp_up.next_turn();
            assert!(turn.is_alone && turn.kinds.len() == 1, "one kind at a time: {turn:?}");
            seen.extend(turn.kinds);
        }
        seen.sort();
        assert_eq!(seen, [TaskDelete, TagDelete, FileDelete], "and each has its turn");
    }

    #[test]
    fn harmless_kinds_are_proved_one_right_after_the_other() {
        let mut ramp_up = RampUp::new(&[TaskDelete, TagDelete, FileDelete], None);
        for _ in 0..3 {
            let turn = ramp_up.next_turn();
            assert!(turn.is_alone, "{turn:?}");
            ramp_up.proved(turn.kinds[0]);
        }
        assert_eq!(ramp_up.next_turn().kinds.len(), 3);
    }

    #[test]
    fn kinds_that_have_proved_harmless_are_not_held_up_by_one_that_has_not() {
        let mut ramp_up = RampUp::new(&[TaskDelete, TagDelete, FileDelete], None);
        ramp_up.proved(TaskDelete);
        ramp_up.proved(FileDelete);
        for _ in 0..3 {
            let [alone, bulk] = [ramp_up.next_turn(), ramp_up.next_turn()];
            assert_eq!(kinds(&alone), (&[TagDelete][..], true));
            assert_eq!(kinds(&bulk), (&[TaskDelete, FileDelete][..], false));
            assert!(alone.lasts < bulk.lasts);
        }
        ramp_up.proved(TagDelete);
        assert_eq!(ramp_up.next_turn().kinds.len(), 3);
        assert_eq!(ramp_up.next_turn().lasts, None);
    }

    #[test]
    fn a_kind_whose_messages_end_each_session_does_not_starve_the_others() {
        let mut lost = RampUp::new(&[TaskDelete, TagDelete, FileDelete], None);
        assert_eq!(lost.suspect(), None, "nothing was consumed yet");
        lost.next_turn();
        assert_eq!(lost.suspect(), Some(TaskDelete));
        let mut next = RampUp::new(&[TaskDelete, TagDelete, FileDelete], lost.suspect());
        for kind in [TagDelete, FileDelete] {
            assert_eq!(kinds(&next.next_turn()), (&[kind][..], true));
            next.proved(kind);
        }
        let bulk = next.next_turn();
        assert_eq!(
            (kinds(&bulk), bulk.lasts),
            ((&[TagDelete, FileDelete][..], false), Some(OTHERS_FOR))
        );
        assert_eq!(next.suspect(), None, "a loss in bulk is nobody's");
        assert_eq!(kinds(&next.next_turn()), (&[TaskDelete][..], true));
        assert_eq!(next.suspect(), Some(TaskDelete));
    }

    #[test]
    fn the_only_kind_is_consumed_even_if_it_is_the_suspect() {
        let mut ramp_up = RampUp::new(&[TaskDelete], Some(TaskDelete));
        for _ in 0..3 {
            assert_eq!(kinds(&ramp_up.next_turn()), (&[TaskDelete][..], true));
        }
    }
}
