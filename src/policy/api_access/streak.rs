//! Failures in a row, and whether they come from several distinct commands.

/// Tells commands apart: a hash of the organisation's and the task's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CommandKey(pub u64);

/// How many failing answers in a row it takes.
pub(super) const ANSWERS: u32 = 10;
/// How many distinct commands they must come from.
pub(super) const COMMANDS: usize = 5;

/// # A few commands that always fail are not an outage
///
/// In an outage everything fails; a bad command fails alone. So a streak is full only when it is
/// long *and* comes from several distinct commands. Fewer commands use up their attempts and are
/// dead-lettered, even if there are no others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Streak {
    answers: u32,
    commands: Vec<CommandKey>,
}

impl Streak {
    pub(super) fn add(&mut self, command: CommandKey) {
        self.answers = self.answers.saturating_add(1);
        if self.commands.len() < COMMANDS && !self.commands.contains(&command) {
            self.commands.push(command);
        }
    }

    pub(super) fn clear(&mut self) {
        self.answers = 0;
        self.commands.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.answers == 0
    }

    pub(super) fn is_full(&self) -> bool {
        self.answers >= ANSWERS && self.commands.len() >= COMMANDS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn streak(commands: &[u64]) -> Streak {
        let mut streak = Streak::default();
        for command in commands {
            streak.add(CommandKey(*command));
        }
        streak
    }

    #[test]
    fn a_few_commands_that_always_fail_are_not_an_outage() {
        assert!(!streak(&[1, 2, 3, 4].repeat(100)).is_full(), "four commands, however often");
        assert!(!streak(&[1, 2, 3, 4, 5, 6, 7, 8, 9]).is_full(), "nine answers");
        assert!(
            streak(&[1, 2, 3, 4, 5, 5, 5, 5, 5, 5]).is_full(),
            "ten answers from five commands"
        );
        assert!(streak(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]).is_full());
        assert!(streak(&[[1; 9].as_slice(), &[2, 3, 4, 5]].concat()).is_full());
    }

    #[test]
    fn what_is_cleared_begins_again() {
        let mut streak = streak(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        streak.clear();
        assert!(streak.is_empty() && !streak.is_full());
        streak.add(CommandKey(1));
        assert!(!streak.is_empty() && streak == self::streak(&[1]));
    }
}
