//! The results: checks that every command has exactly one end, and that the ends are true.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use testkit::sandbox::Sandbox;

use crate::commands::Command;
use crate::inbox::{Arrival, Inbox, QUEUES};

/// The published commands, with their events and dead letters.
pub(crate) struct Results {
    commands: BTreeMap<String, Command>,
    ends: BTreeMap<String, (String, String)>,
    dead_letters: BTreeMap<String, Vec<u8>>,
    notes: Vec<String>,
}

impl Results {
    pub(crate) fn new(commands: Vec<Command>) -> Self {
        let commands = commands.into_iter().map(|command| (command.id.clone(), command)).collect();
        Self { commands, ends: BTreeMap::new(), dead_letters: BTreeMap::new(), notes: Vec::new() }
    }

    /// Records an arrival; returns the kind of its command.
    pub(crate) fn record(&mut self, arrival: &Arrival) -> &'static str {
        let id = match arrival {
            Arrival::Event(event) => self.record_event(event),
            Arrival::DeadLetter(dead_letter) => {
                self.dead_letters.insert(dead_letter.id.clone(), dead_letter.body.clone());
                dead_letter.id.clone()
            }
        };
        self.commands.get(&id).map_or("unknown", |command| command.kind)
    }

    fn record_event(&mut self, event: &Value) -> String {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (id, outcome) = (text(&event["data"]["command_id"]), text(&event["data"]["outcome"]));
        let end = (text(&event["id"]), outcome);
        // The same end may be published again, with the same event id: the first one counts.
        let first = self.ends.entry(id.clone()).or_insert_with(|| end.clone());
        if first.0 != end.0 {
            self.notes.push(format!("{id} has two ends: {first:?} and {end:?}"));
        }
        id
    }

    /// Whether every command has its end, and every failure its dead letter.
    pub(crate) fn complete(&self) -> bool {
        self.ends.len() >= self.commands.len()
            && self.dead_letters.len() >= self.count("dead_lettered")
    }

    pub(crate) fn published(&self) -> usize {
        self.commands.len()
    }

    pub(crate) fn count(&self, outcome: &str) -> usize {
        self.ends.values().filter(|(_, end)| end == outcome).count()
    }

    /// What is wrong with the results.
    pub(crate) async fn problems(&self, sandbox: &Sandbox, inbox: &Inbox) -> Vec<String> {
        let mut problems = self.notes.clone();
        problems.extend(self.commands.values().filter_map(|command| self.wrong_end(command)));
        problems.extend(
            self.ends
                .keys()
                .filter(|id| !self.commands.contains_key(*id))
                .map(|id| format!("{id}: nobody asked for it")),
        );
        let event_ids: BTreeSet<_> = self.ends.values().map(|(id, _)| id).collect();
        if event_ids.len() != self.ends.len() {
            problems.push("two commands share an event id".to_owned());
        }
        for command in self.commands.values() {
            problems.extend(self.untrue_end(command, sandbox).await);
        }
        let unexpected = sandbox.get("summary").await["unexpected"].to_string();
        if unexpected != "[]" {
            problems.push(format!("calls that nobody asked for: {unexpected}"));
        }
        for queue in QUEUES {
            let ready = inbox.ready(queue).await;
            problems.extend((ready > 0).then(|| format!("{ready} messages are left in {queue}")));
        }
        let (dead, failures) = (self.dead_letters.len(), self.count("dead_lettered"));
        let ready = inbox.requeue_dead_letters(dead).await;
        problems.extend((dead != failures || ready != dead).then(|| {
            format!(
                "{failures} events of failure, {dead} dead letters read, {ready} in their queue"
            )
        }));
        problems
    }

    fn wrong_end(&self, command: &Command) -> Option<String> {
        let Some((_, outcome)) = self.ends.get(&command.id) else {
            return Some(format!("{}: no end", command.id));
        };
        if !command.outcomes.contains(&outcome.as_str()) {
            return Some(format!("{}: {outcome}, not {:?}", command.id, command.outcomes));
        }
        let dead_letter = self.dead_letters.get(&command.id);
        let fits = if outcome == "dead_lettered" {
            dead_letter == Some(&command.body)
        } else {
            dead_letter.is_none()
        };
        (!fits)
            .then(|| format!("{}: its dead letter is missing, changed or unexpected", command.id))
    }

    async fn untrue_end(&self, command: &Command, sandbox: &Sandbox) -> Option<String> {
        let (org, task, _) = command.task.as_ref()?;
        let (_, outcome) = self.ends.get(&command.id)?;
        let state = sandbox.get(&format!("tasks/{org}/{task}")).await["state"].clone();
        let is_gone = state == "gone";
        let is_true = is_gone == (outcome != "dead_lettered");
        (!is_true).then(|| format!("{task}: {outcome}, but the API has it as {state}"))
    }
}
