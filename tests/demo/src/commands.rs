//! The commands that are published: some forty of every kind, each with its task, faults and
//! expected outcome.

use serde_json::{Value, json};

/// The organisation that most commands are for, and the one that is throttled.
pub(crate) const ORG: &str = "acme";
/// See [`ORG`].
pub(crate) const THROTTLED_ORG: &str = "busy-inc";

/// One command of the demo.
#[derive(Debug, Clone)]
pub(crate) struct Command {
    /// Its message id.
    pub(crate) id: String,
    /// The kind that is shown.
    pub(crate) kind: &'static str,
    /// The body.
    pub(crate) body: Vec<u8>,
    /// Organisation, task and the task's state, if the task is to be registered with the sandbox.
    pub(crate) task: Option<(&'static str, String, &'static str)>,
    /// The faults of the calls for it, one after the other.
    pub(crate) faults: Vec<Value>,
    /// The outcomes that it may have.
    pub(crate) outcomes: &'static [&'static str],
}

/// All commands of the demo.
pub(crate) fn all() -> Vec<Command> {
    let unavailable = || json!({"times": 1, "effect": {"status": 503}});
    let lost = json!({"times": 1, "effect": {"lose_answer": "after_effect"}});
    let throttled = json!({"times": 1, "effect": {"status": 429, "headers": {"Retry-After": "2"}}});
    let mut all = Vec::new();
    all.extend((1..=20).map(|n| task("good", n, ORG, "present", vec![], &["deleted"])));
    all.extend((1..=4).map(|n| task("already gone", n, ORG, "gone", vec![], &["already_absent"])));
    all.extend((1..=2).map(|n| task("forbidden", n, ORG, "forbidden", vec![], &["dead_lettered"])));
    all.extend((1..=3).map(|n| {
        task("flaky", n, ORG, "present", vec![unavailable(), unavailable()], &["deleted"])
    }));
    all.extend((1..=3).map(|n| {
        task("throttled", n, THROTTLED_ORG, "present", vec![throttled.clone()], &["deleted"])
    }));
    all.extend(
        (1..=2).map(|n| {
            task("answer lost", n, ORG, "present", vec![lost.clone()], &["already_absent"])
        }),
    );
    let always = (0..6).map(|_| unavailable()).collect();
    all.push(task("always 503", 1, ORG, "present", always, &["dead_lettered"]));
    all.extend(bodies(
        "malformed",
        &[
            "not JSON",
            r#"{"org_id":"acme","task_id":"a/../b"}"#,
            r#"["acme","t"]"#,
            r#"{"org_id":"acme","task_id":"t","task_id":"u"}"#,
        ],
    ));
    all.extend(bodies(
        "foreign",
        &[r#"{"org_id":"somebody-else","task_id":"t1"}"#, r#"{"org_id":"nobody","task_id":"t2"}"#],
    ));
    all.extend(bodies(
        "expired",
        &[r#"{"org_id":"acme","task_id":"late","not_after":"2020-01-01T00:00:00Z"}"#],
    ));
    mixed(all)
}

/// Mixes the kinds, in an order that is the same each time.
fn mixed(commands: Vec<Command>) -> Vec<Command> {
    const STRIDE: usize = 17;
    let count = commands.len();
    let mut placed: Vec<_> = commands.into_iter().enumerate().collect();
    placed.sort_by_key(|(place, _)| place * STRIDE % count);
    placed.into_iter().map(|(_, command)| command).collect()
}

fn task(
    kind: &'static str,
    number: u32,
    org: &'static str,
    state: &'static str,
    faults: Vec<Value>,
    outcomes: &'static [&'static str],
) -> Command {
    let task = format!("{}-{number}", kind.replace(' ', "-"));
    let body =
        json!({"org_id": org, "task_id": task, "requested_by": "demo"}).to_string().into_bytes();
    Command { id: task.clone(), kind, body, task: Some((org, task, state)), faults, outcomes }
}

fn bodies(kind: &'static str, bodies: &[&str]) -> Vec<Command> {
    let command = |(number, body): (u32, &&str)| Command {
        id: format!("{kind}-{number}"),
        kind,
        body: body.as_bytes().to_vec(),
        task: None,
        faults: Vec::new(),
        outcomes: &["dead_lettered"],
    };
    (1..).zip(bodies).map(command).collect()
}
