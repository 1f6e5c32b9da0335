//! An operator with the command line: decides about held commands, pauses and resumes, cancels, and
//! restores tasks. It uses the worker's own program, as a person would.

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use fastrand::Rng;
use serde_json::Value;
use tallyfy_delete_worker::kind::Kind;
use tokio::time::{Instant, sleep};

use crate::nemesis::Nemesis;
use crate::parts::now_ms;
use crate::producer::Producer;
use crate::records::{Cancel, Decisions, InjectedFault, Listing, Pause, Pending};
use crate::safety::{Brakes, FLOODED, PAUSED, UNDO_WINDOW, UNDONE};

/// Longer than any of its commands takes; a longer one is killed.
const PATIENCE_S: &str = "60";
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// A task is restored only if at least this much of its undo window is left: the answer may be
/// lost, and the worker looks when the window has ended.
const MARGIN_MS: i64 = 3000;
const PAUSES: usize = 2;
const PAUSE: Duration = Duration::from_secs(7);
const CANCELS_IN_A_PAUSE: usize = 3;
/// One of so many tasks is restored.
const RESTORED_ONE_OF: usize = 2;

/// The operator, and the record of its decisions.
pub(crate) struct Operator {
    program: PathBuf,
    settings: Vec<(&'static str, String)>,
    log: PathBuf,
    brakes: Brakes,
    seed: u64,
    decisions: Mutex<Decisions>,
}

impl Operator {
    /// `url` is the broker's URL and `api` the sandbox's address, without the workers' proxies:
    /// faults of those do not affect the operator.
    pub(crate) fn new(
        (program, directory): (&Path, &Path),
        (url, api): (&str, &str),
        (brakes, workers): (Brakes, usize),
        rng: &mut Rng,
    ) -> Self {
        let decisions = Decisions {
            limit: brakes.limit,
            workers,
            undo_window_ms: i64::try_from(UNDO_WINDOW.as_millis()).unwrap_or(i64::MAX),
            ..Decisions::default()
        };
        Self {
            program: program.to_owned(),
            settings: vec![
                ("AMQP_URL", url.to_owned()),
                ("TALLYFY_BASE_URL", format!("http://{api}/api")),
                ("TALLYFY_CREDENTIALS_DIR", directory.join("tokens").display().to_string()),
            ],
            log: directory.join("operator.log"),
            brakes,
            seed: rng.u64(..),
            decisions: Mutex::new(decisions),
        }
    }

    pub(crate) fn decisions(&self) -> Decisions {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Decisions> {
        self.decisions.lock().expect("a lock that is not poisoned")
    }

    /// Decides while commands are sent.
    pub(crate) async fn decide(&self, nemesis: &Nemesis, producer: &Producer, time: Duration) {
        tokio::join!(
            self.release_twice(nemesis, time),
            self.pause_and_resume(nemesis, producer, time)
        );
    }

    /// Two grants for the flooded organisation: the second one when the guard has tripped again, or
    /// a while later.
    async fn release_twice(&self, nemesis: &Nemesis, time: Duration) {
        let from_ms = now_ms();
        for grant in self.brakes.grants {
            let end = Instant::now() + time / 3;
            while !self.is_flood_held().await && Instant::now() < end {
                sleep(TRY_AGAIN_AFTER).await;
            }
            self.retry(async || {
                // Recorded before the result is known: a release that fails may have been granted.
                self.lock().grants.push(grant);
                self.guard("release", FLOODED, &["--max", &grant.to_string()]).await
            })
            .await;
            sleep(time / 8).await;
        }
        record(nemesis, (from_ms, now_ms()), FLOODED, "guard tripped, and a person decides");
    }

    async fn is_flood_held(&self) -> bool {
        let listed = self.list(Kind::TaskDelete).await;
        listed.is_some_and(|l| l.iter().any(|l| l.org == FLOODED && l.is_tripped && l.held > 0))
    }

    /// Pauses one organisation for some seconds, cancels some of its commands meanwhile, and
    /// resumes it.
    async fn pause_and_resume(&self, nemesis: &Nemesis, producer: &Producer, time: Duration) {
        for _ in 0..PAUSES {
            sleep(time / 6).await;
            let begun_ms = now_ms();
            self.retry(async || {
                self.run_as_operator(&["pause", "--org", PAUSED], "a migration").await
            })
            .await;
            let from_ms = now_ms();
            sleep(PAUSE / 2).await;
            self.cancel_some(nemesis, producer).await;
            sleep(PAUSE / 2).await;
            let to_ms = now_ms();
            self.retry(async || self.run_as_operator(&["resume", "--org", PAUSED], "done").await)
                .await;
            self.lock().pauses.push(Pause { from_ms, to_ms });
            record(nemesis, (begun_ms, now_ms()), PAUSED, "organisation paused");
        }
    }

    /// Cancels the latest of the commands for which no call was made yet.
    async fn cancel_some(&self, nemesis: &Nemesis, producer: &Producer) {
        let calls = nemesis.sandbox.calls(|_| None).await;
        let called: HashSet<&str> =
            calls.iter().filter(|c| c.org == PAUSED).map(|call| call.object.as_str()).collect();
        let plan = producer.plan.lock().expect("a lock that is not poisoned").clone();
        let commands = plan.into_iter().map(|planned| planned.command);
        let waiting = commands.filter(|command| {
            command.org == PAUSED
                && command.published_ms.is_some()
                && !called.contains(command.object.as_str())
        });
        let mut waiting: Vec<_> = waiting.collect();
        waiting.sort_by_key(|command| command.published_ms);
        for command in waiting.into_iter().rev().take(CANCELS_IN_A_PAUSE) {
            let cancel = ["cancel", "--command-id", &command.id, "--org", PAUSED];
            self.retry(async || self.run_as_operator(&cancel, "by mistake").await).await;
            let cancel = Cancel { command_id: command.id, at_ms: now_ms() };
            self.lock().cancels.push(cancel);
        }
    }

    /// Restores a share of one organisation's tasks, which the seed decides, as soon as an event
    /// says that they will be deleted: some with `undo`, some as a user does.
    pub(crate) async fn undo_until(&self, nemesis: &Nemesis, over: &AtomicBool) {
        let (mut rng, mut seen, mut due) = (Rng::with_seed(self.seed), HashSet::new(), Vec::new());
        while !over.load(Ordering::SeqCst) {
            sleep(TRY_AGAIN_AFTER / 2).await;
            let pending = {
                let all = nemesis.witness.seen.lock().expect("a lock that is not poisoned");
                all.pending.iter().filter(|p| p.org == UNDONE).cloned().collect::<Vec<_>>()
            };
            for task in pending {
                if seen.insert(task.object.clone()) && rng.usize(..RESTORED_ONE_OF) == 0 {
                    due.push((task, rng.bool()));
                }
            }
            due.retain(|(task, _): &(Pending, bool)| task.purge_at_ms - MARGIN_MS > now_ms());
            let done = self.restore(&due, nemesis).await;
            due.retain(|(task, _)| !done.contains(&task.object));
        }
    }

    /// Returns the tasks that were restored.
    async fn restore(&self, due: &[(Pending, bool)], nemesis: &Nemesis) -> HashSet<String> {
        let (by_undo, by_hand): (Vec<_>, Vec<_>) = due.iter().partition(|(_, by_undo)| *by_undo);
        let mut done = HashSet::new();
        for (task, _) in by_hand {
            if nemesis.sandbox.restore(UNDONE, &task.object).await {
                self.lock().by_hand += 1;
                done.insert(task.object.clone());
            }
        }
        if by_undo.is_empty() {
            return done;
        }
        let tasks = by_undo.iter().map(|(task, _)| task.object.as_str());
        let arguments: Vec<&str> = ["undo", "--org", UNDONE].into_iter().chain(tasks).collect();
        for line in lines(&self.run(&arguments).await.1) {
            if let (Some("restored"), Some(task)) =
                (line["outcome"].as_str(), line["task_id"].as_str())
            {
                self.lock().by_undo += 1;
                done.insert(task.to_owned());
            }
        }
        done
    }

    /// At the end: rejects the held commands of the flooded organisation. Commands of others are
    /// held because their task is gone; they are released and find nothing to delete. Returns
    /// whether nothing is held.
    pub(crate) async fn tidy_up(&self) -> bool {
        let mut is_tidy = true;
        for kind in [Kind::TaskDelete, Kind::TaskArchive] {
            let Some(listed) = self.list(kind).await else { return false };
            for Listing { org, held, .. } in listed.into_iter().filter(|listing| listing.held > 0) {
                is_tidy = false;
                if org == FLOODED {
                    self.guard("reject", &org, &[]).await;
                } else if self.guard("release", &org, &["--max", &held.to_string()]).await {
                    self.lock().released_as_gone += held;
                }
            }
        }
        is_tidy
    }

    /// Lists the held commands of a kind.
    async fn list(&self, kind: Kind) -> Option<Vec<Listing>> {
        let (is_done, said) = self.run(&["guard", "list", "--json", "--kind", kind.as_str()]).await;
        let listings: Vec<_> = lines(&said).map(|line| listing(&line)).collect();
        self.lock().listings.extend(listings.iter().cloned());
        is_done.then_some(listings)
    }

    async fn guard(&self, verb: &str, org: &str, more: &[&str]) -> bool {
        let arguments = [&["guard", verb, "--yes", "--org", org][..], more].concat();
        self.run_as_operator(&arguments, "see 4711").await
    }

    async fn run_as_operator(&self, arguments: &[&str], reason: &str) -> bool {
        let who = ["--by", "an operator", "--reason", reason];
        self.run(&[arguments, &who].concat()).await.0
    }

    /// Repeats until it works: the broker may be down.
    async fn retry(&self, decision: impl AsyncFn() -> bool) {
        while !decision().await {
            sleep(TRY_AGAIN_AFTER).await;
        }
    }

    /// Returns whether it exited with 0, and its standard output.
    async fn run(&self, arguments: &[&str]) -> (bool, String) {
        let mut command = Command::new("timeout");
        command.arg(PATIENCE_S).arg(&self.program).args(arguments).env_clear();
        command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        command.envs(self.settings.iter().cloned()).stdin(Stdio::null());
        let said = format!("{} {}\n", now_ms(), arguments.join(" "));
        let output = tokio::task::spawn_blocking(move || command.output()).await;
        let output = output.expect("no panic").expect("the operator's program starts");
        let mut log = OpenOptions::new().create(true).append(true).open(&self.log).expect("a log");
        let parts = [said.as_bytes(), &output.stdout, &output.stderr];
        log.write_all(&parts.concat()).expect("a line of the log");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn lines(said: &str) -> impl Iterator<Item = Value> {
    said.lines().filter_map(|line| serde_json::from_str(line).ok())
}

fn listing(line: &Value) -> Listing {
    let samples = line["samples"].as_array().into_iter().flatten();
    Listing {
        at_ms: now_ms(),
        org: line["org_id"].as_str().unwrap_or_default().to_owned(),
        held: line["held"].as_u64().and_then(|held| held.try_into().ok()).unwrap_or_default(),
        is_tripped: line["tripped_at"].is_string(),
        samples: samples.filter_map(Value::as_str).map(str::to_owned).collect(),
    }
}

fn record(
    nemesis: &Nemesis,
    (from_ms, to_ms): (i64, i64),
    org: &'static str,
    family: &'static str,
) {
    let stops = family == "organisation paused";
    let (org, what) = (Some(org), "by the operator".to_owned());
    let fault = InjectedFault { from_ms, to_ms, family, org, stops, hides: false, what };
    nemesis.journal.lock().expect("a lock that is not poisoned").push(fault);
}
