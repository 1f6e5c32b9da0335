//! Dashboard, alerts and documents name only what is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tallyfy_delete_worker::config::read_from;
use tallyfy_delete_worker::kind::Kind;
use tallyfy_delete_worker::messages::FailureReason;
use tallyfy_delete_worker::messages::names::{X_DEATH, X_DELIVERY_COUNT};
use tallyfy_delete_worker::metrics::{Metrics, RequestEnd};
use tallyfy_delete_worker::policy::verdict::Verdict;
use tallyfy_delete_worker::schema::{Subject, schema};

use crate::pages::{pages, table};

const ALERTS: &str = include_str!("../../deploy/prometheus/alerts.yml");
const DASHBOARD: &str = include_str!("../../deploy/grafana/dashboard.json");
const OPERATIONS: &str = include_str!("../../docs/operations.md");
const MESSAGES: &str = include_str!("../../docs/messages.md");
const DEAD_LETTERS: &str = include_str!("../../docs/dead-letters.md");

/// The table and the exporter name the same metrics.
#[test]
fn every_metric_has_its_row_in_the_runbook_and_every_row_its_metric() {
    let rows = table(OPERATIONS, "| metric | meaning |");
    let words = rows.iter().flat_map(|row| row[0].split('`').skip(1).step_by(2));
    let named: BTreeSet<_> = words.map(|word| word.split('{').next().unwrap()).collect();
    let exported = exported();
    let exported: BTreeSet<_> = exported
        .iter()
        .map(|name| name.trim_start_matches("tallyfy_delete_worker_").trim_end_matches("_bucket"))
        .collect();
    assert_eq!(named, exported);
}

/// `tests/rules-run` has promtool check what this writes.
#[test]
fn the_metrics_are_written_as_text_for_promtool() {
    let text = filled().render_text();
    assert!(text.contains("# TYPE process_cpu_seconds_total counter\n"), "{text}");
    fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).join("metrics.txt"), text).unwrap();
}

/// With a member in each family: those without one are not shown.
fn filled() -> Metrics {
    let metrics = Metrics::default();
    metrics.set_queue("task.delete.wait.5s", 1);
    metrics.count_call(Kind::TaskDelete, Verdict::Deleted, "2xx", Duration::ZERO);
    metrics.observe_process("task.delete", None, Duration::ZERO);
    let (method, class) = ("DELETE", "2xx");
    let end = RequestEnd { method, status: Some(204), class, is_error: false };
    metrics.observe_request(end, Duration::ZERO);
    metrics
}

/// Names of metrics with the endings that Prometheus sees.
fn exported() -> BTreeSet<String> {
    let text = filled().render();
    let kinds = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    kinds
        .map(|(name, kind)| match kind {
            "counter" => format!("{name}_total"),
            "histogram" => format!("{name}_bucket"),
            "info" => format!("{name}_info"),
            _ => name.to_owned(),
        })
        .collect()
}

fn named_in(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let starts = text.match_indices("tallyfy_delete_worker_").map(|(at, _)| &text[at..]);
    starts.map(|rest| rest.chars().take_while(|c| is_part(*c)).collect()).collect()
}

#[test]
fn every_metric_of_alerts_and_dashboard_is_one_that_the_worker_exports() {
    let exported = exported();
    for (what, text) in [("alerts", ALERTS), ("dashboard", DASHBOARD)] {
        let named = named_in(text);
        assert!(named.len() > 10, "{named:?}");
        let unknown: Vec<_> = named.difference(&exported).collect();
        assert!(unknown.is_empty(), "{what} name {unknown:?}; there is {exported:?}");
    }
}

/// Else an `increase` does not see the first event, so the first dead letter after a start would
/// raise no alert.
#[test]
fn every_counter_that_an_alert_selects_is_there_from_the_start() {
    let at_the_start = Metrics::default().render();
    let selected = ALERTS.split("verdict=").skip(1).filter_map(|rest| rest.split('"').nth(1));
    let verdicts: BTreeSet<_> = selected.flat_map(|verdicts| verdicts.split('|')).collect();
    assert!(verdicts.len() > 6, "{verdicts:?}");
    for verdict in verdicts {
        let series = format!("kind=\"task.delete\",verdict=\"{verdict}\"}} 0\n");
        assert!(at_the_start.contains(&series), "{verdict}");
    }
}

/// What the worker counts with a word that the list of the start lacks would be seen only from its
/// second time on.
#[test]
fn every_word_of_a_counter_is_in_the_runbook_and_there_from_the_start() {
    let at_the_start = Metrics::default().render();
    let kind = "kind=\"task.delete\",";
    for (counter, labels, before) in [
        ("commands_total", "kind,verdict", kind),
        ("publishes_total", "result", ""),
        ("acknowledgements_total", "result", ""),
        ("rate_limit_waits_total", "where", ""),
    ] {
        let head = format!("| `{counter}{{{labels}}}` |");
        let (_, rest) = OPERATIONS.split_once(&head).expect(counter);
        let row = rest.lines().next().unwrap();
        let words: Vec<_> = row.split('`').skip(1).step_by(2).collect();
        assert!(words.len() > 1, "{counter}: {words:?}");
        let label = labels.trim_start_matches("kind,");
        for word in words {
            let series = format!("_{counter}{{{before}{label}=\"{word}\"}} 0\n");
            assert!(at_the_start.contains(&series), "{series}");
        }
        // And the other way round; the reasons of dead letters have a page of their own.
        let series = format!("_{counter}{{{before}{label}=\"");
        let words = at_the_start.split(&series).skip(1).filter_map(|rest| rest.split('"').next());
        for word in words.filter(|word| FailureReason::ALL.iter().all(|r| r.as_str() != *word)) {
            assert!(row.contains(&format!("`{word}`")), "{counter}: {word} has no explanation");
        }
    }
}

/// The names that other services rely on, each with its row.
#[test]
fn every_header_and_every_member_of_an_event_is_explained() {
    let names = include_str!("../../src/messages/names.rs")
        .split('"')
        .filter(|word| word.starts_with("x-"));
    let headers = names
        .filter(|name| ![X_DELIVERY_COUNT, X_DEATH].contains(name))
        .map(|name| format!("| `{name}` |"));
    let event: Value = schema(Some(Subject::Event), Kind::TaskDelete);
    let members = event["$defs"]["Outcome"]["properties"].as_object().unwrap().keys();
    let (_, data) = MESSAGES.split_once("| member of `data` |").unwrap();
    let (data, _) = data.split_once("\n\n").unwrap();
    let dry_run: Value = schema(Some(Subject::DryRun), Kind::TaskDelete);
    let (_, explained) = MESSAGES.split_once("| member of the `data` of a dry run |").unwrap();
    let (explained, _) = explained.split_once("\n\n").unwrap();
    for member in dry_run["$defs"]["DryRun"]["properties"].as_object().unwrap().keys() {
        assert!(explained.contains(&format!("`{member}`")) || member.ends_with("_id"), "{member}");
    }
    let unexplained: Vec<_> = headers.filter(|row| !MESSAGES.contains(row)).collect();
    assert_eq!(unexplained, Vec::<String>::new());
    for member in members {
        let row = data.lines().find(|line| {
            line.split('|').nth(1).is_some_and(|cell| cell.contains(&format!("`{member}`")))
        });
        assert!(row.is_some(), "{member}");
    }
}

#[test]
fn every_panel_says_what_it_shows_and_in_which_unit() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    for panel in
        dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row")
    {
        assert!(
            panel["description"].as_str().is_some_and(|text| text.len() > 10),
            "{}",
            panel["title"]
        );
        assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{}", panel["title"]);
    }
}

#[test]
fn every_panel_shows_one_deployment_if_asked_to() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    for target in panels.filter_map(|panel| panel["targets"].as_array()).flatten() {
        let expression = target["expr"].as_str().unwrap();
        let metrics = expression.matches("tallyfy_delete_worker_").count();
        let filters = expression.matches(r#"{namespace=~"$namespace",job=~"$job""#).count();
        assert_eq!(metrics, filters, "{expression}");
    }
}

#[test]
fn every_alert_has_its_section_and_every_section_its_alert() {
    let after = |line: &str, word: &str| line.trim().strip_prefix(word).map(str::to_owned);
    let alerts: BTreeSet<_> = ALERTS.lines().filter_map(|line| after(line, "- alert: ")).collect();
    let (_, rest) = OPERATIONS.split_once("## Alerts").unwrap();
    let (section, _) = rest.split_once("\n## ").unwrap();
    let sections: BTreeSet<_> = section.lines().filter_map(|line| after(line, "### ")).collect();
    assert_eq!(alerts, sections);
    for alert in &alerts {
        let link = format!(
            "runbook_url: https://runbooks.example/docs/operations.md#{}",
            alert.to_lowercase()
        );
        assert!(ALERTS.contains(&link), "{link}");
    }
}

/// Each shell block has, right before it, the test that runs it as printed, or the reason why none
/// does.
#[test]
fn every_shell_block_of_the_runbooks_is_run_or_says_why_not() {
    let tests = ["tests/spec", "tests"]
        .into_iter()
        .flat_map(|directory| fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()));
    let tests: String =
        tests.filter(|path| path.is_file()).map(|path| fs::read_to_string(path).unwrap()).collect();
    let mut count = 0;
    for page in [OPERATIONS, include_str!("../../docs/deploying.md")] {
        for (at, block) in page.match_indices("\n```sh\n") {
            let line = page[..at].lines().last().unwrap();
            let block = block_from(&page[at + block.len()..]);
            let comment = line.strip_prefix("<!-- ").and_then(|line| line.strip_suffix(" -->"));
            match comment.and_then(|comment| comment.split_once(": ")) {
                Some(("run by", test)) => {
                    let is_there = tests.contains(&format!("fn {test}("));
                    assert!(is_there || Path::new(test).is_file(), "{test}: {block}");
                }
                Some(("example", reason)) => assert!(reason.len() > 10, "{reason}: {block}"),
                _ => panic!("neither run nor marked as an example: {block}"),
            }
            count += 1;
        }
    }
    assert!(count > 8, "{count} blocks were found");
}

fn block_from(text: &str) -> &str {
    text.split("\n```").next().unwrap()
}

#[test]
fn every_word_for_not_being_ready_is_in_the_row_of_its_metric() {
    let (_, row) = OPERATIONS.split_once("| `not_ready{reason}` |").unwrap();
    let row = row.lines().next().unwrap();
    let at_the_start = Metrics::default().render();
    let words: Vec<_> = at_the_start.split("not_ready{reason=\"").skip(1).collect();
    assert_eq!(words.len(), 12);
    for word in words.iter().filter_map(|rest| rest.split('"').next()) {
        assert!(row.contains(&format!("`{word}`")), "{word}: {row}");
    }
}

/// The images and the labels say the version that they hold; and whoever ends the worker waits for
/// as long as it may need.
#[test]
fn deployments_name_the_version_and_wait_for_the_drain() {
    let version = env!("CARGO_PKG_VERSION");
    let text = |path: &str| fs::read_to_string(path).unwrap();
    assert!(text("deploy/Dockerfile").contains(&format!("ARG VERSION={version}\n")));
    let base = text("deploy/kubernetes/base/kustomization.yaml");
    assert!(base.contains(&format!("app.kubernetes.io/version: {version} ")), "{base}");
    for overlay in ["production", "staging"] {
        let overlay = text(&format!("deploy/kubernetes/overlays/{overlay}/kustomization.yaml"));
        assert!(overlay.contains(&format!("newTag: {version} ")), "{overlay}");
    }
    let seconds = |path: &str, before: &str| -> u64 {
        let text = text(path);
        let (_, rest) = text.split_once(before).unwrap_or_else(|| panic!("{path}: {before}"));
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap()
    };
    // The drain, and at most 11 s to close.
    let needed = 25 + 11;
    for (path, before) in [
        ("docker-compose.yml", "stop_grace_period: "),
        ("deploy/systemd/tallyfy-delete-worker.service", "TimeoutStopSec="),
        ("deploy/kubernetes/base/deployment.yaml", "terminationGracePeriodSeconds: "),
    ] {
        assert!(seconds(path, before) >= needed, "{path} waits too short");
    }
}

#[test]
fn every_reason_of_a_dead_letter_is_explained() {
    for reason in FailureReason::ALL {
        let (is_a_decision, reason) = (reason == FailureReason::GuardRejected, reason.as_str());
        assert!(DEAD_LETTERS.contains(&format!("| `{reason}` |")), "{reason}");
        assert!(OPERATIONS.contains(&format!("`{reason}`")), "{reason}");
        // A person decides it, and the command line, which has no metrics, carries it out.
        assert!(ALERTS.contains(reason) != is_a_decision, "{reason}");
    }
}

#[test]
fn every_readiness_reason_of_the_code_is_explained() {
    let sources = [
        include_str!("../../src/health.rs"),
        include_str!("../../src/service.rs"),
        include_str!("../../src/worker/run.rs"),
        include_str!("../../src/worker/consume.rs"),
        include_str!("../../src/worker/pause.rs"),
        include_str!("../../src/worker/settle.rs"),
        include_str!("../../src/worker/consumer_watch.rs"),
        include_str!("../../src/worker/report.rs"),
        include_str!("../../src/worker/undeliverable.rs"),
        include_str!("../../src/worker/ledger_session.rs"),
        include_str!("../../src/worker/audit_session.rs"),
    ]
    .concat();
    let (_, rest) = OPERATIONS.split_once("| reason begins with |").unwrap();
    let (table, _) = rest.split_once("\n\n").unwrap();
    let reasons: Vec<_> =
        table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    assert_eq!(reasons.len(), 14);
    for reason in reasons {
        // The code puts the article before one of them: `the {what}`.
        let texts = [reason, reason.trim_start_matches("the ")];
        let is_said = texts.iter().any(|text| sources.contains(&format!("\"{text}")));
        assert!(is_said, "{reason} is not said by the code");
    }
}

#[test]
fn the_schemas_of_the_documents_are_those_that_the_program_prints() {
    let directory = Path::new("docs/schemas");
    let command = |kind: Kind| match kind {
        Kind::TaskDelete => "command.json".to_owned(),
        kind => format!("{kind}.json"),
    };
    let commands = Kind::ALL.map(|kind| (command(kind), Subject::Command, kind));
    let others = [
        ("event", Subject::Event),
        ("dry_run", Subject::DryRun),
        ("audit", Subject::Audit),
        ("held", Subject::Held),
        ("pending", Subject::Pending),
    ]
    .map(|(name, subject)| (format!("{name}.json"), subject, Kind::TaskDelete));
    let all = commands.into_iter().chain(others);
    let mut count = 0;
    for (name, subject, kind) in all {
        let text = fs::read_to_string(directory.join(&name)).expect(&name);
        let printed = schema(Some(subject), kind);
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), printed, "print {name} again");
        count += 1;
    }
    assert_eq!(fs::read_dir(directory).unwrap().count(), count, "and there is no other");
}

/// Words as a shell would see them, quotes apart; enough for the examples.
fn words(line: &str) -> Vec<String> {
    let parts = line.split(['\'', '"']).enumerate();
    let glued = parts.map(
        |(number, part)| if number % 2 == 1 { part.replace(' ', "_") } else { part.to_owned() },
    );
    glued.collect::<String>().split_whitespace().map(str::to_owned).collect()
}

#[test]
fn every_command_line_of_the_documents_is_one_that_the_program_takes() {
    let pages = pages();
    let lines = pages.values().flat_map(|text| text.lines()).filter_map(|line| {
        let line = line.split(" | ").last()?.split(['#', '>']).next()?;
        let (_, rest) = line.split_once("tallyfy-delete-worker ")?;
        line.trim_start().starts_with(['t', 'p']).then_some(rest).filter(|_| !line.contains('`'))
    });
    let mut count = 0;
    for line in lines {
        let args = [vec!["tallyfy-delete-worker".to_owned()], words(line)].concat();
        let told = read_from(args.iter().map(String::as_str), std::iter::empty())
            .err()
            .unwrap_or_default();
        assert!(told.iter().all(|problem| !problem.starts_with("error:")), "{line}: {told:?}");
        count += 1;
    }
    assert!(count >= 12, "{count} command lines were found");
}
