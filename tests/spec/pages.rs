//! The documents as pages: every link leads somewhere, every path that they name is there, and the
//! settings are those of `--help`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::command_line::binary;

/// All pages, by their paths.
pub(crate) fn pages() -> BTreeMap<PathBuf, String> {
    let is_page = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "md");
    let files = ["", "docs", "docs/producers", "tests/fuzz"].into_iter().flat_map(|directory| {
        fs::read_dir(root().join(directory)).unwrap().map(|entry| entry.unwrap().path())
    });
    let pages: BTreeMap<_, _> = files
        .filter(is_page)
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            (path.strip_prefix(root()).unwrap().to_owned(), text)
        })
        .collect();
    assert!(pages.len() > 12, "{:?}", pages.keys());
    pages
}

/// One page, by its path.
pub(crate) fn page(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The cells of a table, row by row, without its head.
pub(crate) fn table(text: &str, head: &str) -> Vec<Vec<String>> {
    let (_, rest) = text.split_once(head).unwrap_or_else(|| panic!("no table begins with {head}"));
    let rows = rest.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let row = row.trim_matches('|').replace(r"\|", "\u{1}");
        row.split('|').map(|cell| cell.trim().replace('\u{1}', "|")).collect()
    })
    .collect()
}

/// The first code block of a language behind a heading.
pub(crate) fn snippet(text: &str, heading: &str, language: &str) -> String {
    let (_, rest) = text.split_once(&format!("\n{heading}\n")).expect(heading);
    let (_, rest) = rest.split_once(&format!("```{language}\n")).expect(language);
    rest.split("```").next().unwrap().to_owned()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The lines outside of code blocks.
fn prose(text: &str) -> String {
    text.split("\n```").step_by(2).collect::<Vec<_>>().join("\n")
}

/// The anchor of a heading, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.collect::<String>().replace(' ', "-")
}

fn anchors(text: &str) -> BTreeSet<String> {
    prose(text).lines().filter(|line| line.starts_with('#')).map(anchor).collect()
}

/// `docs/../README.md` is `README.md`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(plain.pop()),
            other => plain.push(other),
        }
    }
    plain
}

#[test]
fn every_link_between_the_pages_leads_somewhere() {
    let pages = pages();
    let mut count = 0;
    for (path, text) in &pages {
        let prose = prose(text);
        let targets = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://")) {
            let (file, wanted) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() {
                path.clone()
            } else {
                plain(&path.parent().unwrap().join(file))
            };
            assert!(root().join(&file).exists(), "{}: {target}", path.display());
            let has_it = || pages.get(&file).is_some_and(|text| anchors(text).contains(wanted));
            assert!(wanted.is_empty() || has_it(), "{}: {target}", path.display());
            count += 1;
        }
    }
    assert!(count > 60, "{count} links were found");
}

#[test]
fn every_path_that_a_page_names_is_there() {
    let is_path = |word: &&str| {
        let of_the_project = ["src/", "tests/", "deploy/", "docs/", "benches/", ".cargo/", ".ci/"];
        of_the_project.iter().any(|start| word.starts_with(start))
            && word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c))
    };
    let mut count = 0;
    for (path, text) in pages() {
        let prose = prose(&text);
        for word in prose.split('`').skip(1).step_by(2).filter(is_path) {
            assert!(root().join(word).exists(), "{} names {word}", path.display());
            count += 1;
        }
    }
    assert!(count > 60, "{count} paths were found");
}

#[test]
fn the_readme_can_be_read_in_five_minutes() {
    assert!(page("README.md").lines().count() <= 160);
}

/// Flag and default of each variable of a command's `--help`.
fn settings_of(command: &str) -> BTreeMap<String, (String, String)> {
    let output = binary(&[command, "--help"]).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
    // Each option begins with its flag, and its variable stands in its brackets.
    let mut settings = BTreeMap::new();
    for (before, after) in words.match_indices("[env: ").map(|(at, _)| words.split_at(at)) {
        let flag = before.rsplit(" --").map(|rest| rest.split(' ').next().unwrap());
        // One that takes its value only with `=`, or none, has a bracket.
        let flag = flag.into_iter().find_map(|flag| {
            let (name, _) = flag.split_once('[').unwrap_or((flag, ""));
            let is_option = before.contains(&format!(" --{flag} <")) || flag.contains("[=<");
            is_option.then_some(name)
        });
        let bracketed = |text: &str, word: &str| {
            let (_, rest) = text.split_once(word)?;
            rest.split([']', '=']).next().map(str::to_owned)
        };
        let variable = bracketed(after, "[env: ").unwrap();
        let default = after.split("[env: ").nth(1).and_then(|own| bracketed(own, "[default: "));
        settings.insert(variable, (format!("--{}", flag.unwrap()), default.unwrap_or_default()));
    }
    settings
}

#[test]
fn the_table_of_settings_is_what_help_says() {
    let word = |cell: &str| cell.trim_matches('`').to_owned();
    let rows = table(&page("docs/configuration.md"), "| variable | flag | default | meaning |");
    let table: BTreeMap<_, _> =
        rows.iter().map(|row| (word(&row[0]), (word(&row[1]), word(&row[2])))).collect();
    assert_eq!(table.len(), rows.len(), "each variable once");
    assert!(table.len() > 20, "{table:?}");
    assert_eq!(table, settings_of("run"));
    let rows = crate::pages::table(
        &page("docs/configuration.md"),
        "| variable of `console` | flag | default | meaning |",
    );
    let own = rows.iter().map(|row| (word(&row[0]), (word(&row[1]), word(&row[2]))));
    let mut of_console: BTreeMap<_, _> = own.collect();
    assert!(of_console.keys().all(|variable| !table.contains_key(variable)));
    let shared = ["KINDS", "WAIT_LADDER", "LOG_FORMAT", "RUST_LOG"];
    let is_shared = |name: &str| name.starts_with("AMQP_") || shared.contains(&name);
    of_console.extend(table.clone().into_iter().filter(|(name, _)| is_shared(name)));
    assert_eq!(of_console, settings_of("console"));
    let of_setup = settings_of("setup");
    assert!(of_setup.iter().all(|(variable, setting)| table.get(variable) == Some(setting)));
    let others = [
        "KINDS",
        "WAIT_LADDER",
        "AUDIT_RETENTION",
        "DELETE_MODE",
        "UNDO_WINDOW",
        "LOG_FORMAT",
        "RUST_LOG",
    ];
    let is_told =
        |variable: &&String| variable.starts_with("AMQP_") || others.contains(&variable.as_str());
    let untold: Vec<_> = of_setup.keys().filter(|variable| !is_told(variable)).collect();
    assert!(untold.is_empty(), "docs/configuration.md does not say that setup takes {untold:?}");
}
