//! The shape of the house as tests: plain text search over `src/`.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

fn sources() -> Vec<(String, String)> {
    let mut files = Vec::new();
    collect(Path::new("src"), &mut files);
    assert!(files.len() > 20, "the sources were found");
    files
        .into_iter()
        .map(|path| {
            (
                path.display().to_string().replace('\\', "/"),
                fs::read_to_string(&path).expect("a source file"),
            )
        })
        .collect()
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// What a file says before its unit tests.
fn code(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text)
}

fn nobody_in(place: &str, forbidden: &[&str]) {
    for (path, text) in sources().iter().filter(|(path, _)| path.starts_with(place)) {
        if path.ends_with("/tests.rs") {
            continue;
        }
        for word in forbidden {
            let lines = code(text).lines().filter(|line| !line.trim_start().starts_with("//"));
            let found: Vec<_> = lines.filter(|line| line.contains(word)).collect();
            assert!(found.is_empty(), "{path} says {word:?}: {found:?}");
        }
    }
}

#[test]
fn decisions_are_pure() {
    let impure = [
        "tokio",
        "lapin",
        "reqwest",
        "async ",
        ".await",
        "Instant::now",
        "Timestamp::now",
        "SystemTime::now",
        "rand",
        "tracing",
        "std::env",
        "std::fs",
    ];
    nobody_in("src/policy/", &impure);
    nobody_in(
        "src/policy/",
        &[
            "crate::worker",
            "crate::rabbitmq",
            "crate::tallyfy_api",
            "crate::metrics",
            "crate::config",
        ],
    );
}

#[test]
fn messages_import_nothing_of_ours() {
    nobody_in(
        "src/messages/",
        &["crate::policy", "crate::worker", "crate::rabbitmq", "crate::metrics", "lapin", "tokio"],
    );
}

#[test]
fn edges_never_import_each_other() {
    nobody_in(
        "src/rabbitmq/",
        &[
            "crate::tallyfy_api",
            "crate::http",
            "crate::credentials",
            "crate::policy",
            "crate::worker",
        ],
    );
    nobody_in(
        "src/tallyfy_api.rs",
        &["crate::rabbitmq", "crate::http", "crate::credentials", "crate::worker"],
    );
    nobody_in(
        "src/credentials",
        &["crate::rabbitmq", "crate::http", "crate::tallyfy_api", "crate::worker"],
    );
    nobody_in(
        "src/dead_letters/",
        &["crate::tallyfy_api", "crate::credentials", "crate::worker", "crate::policy"],
    );
    nobody_in(
        "src/http/",
        &["crate::rabbitmq", "crate::tallyfy_api", "crate::credentials", "crate::worker"],
    );
    nobody_in("src/console/", &["crate::tallyfy_api", "crate::credentials", "crate::worker"]);
}

/// Each handler checks access, by the type of its argument.
#[test]
fn each_handler_of_the_console_checks_access() {
    let sources = sources();
    let of = |name: &str| -> &str {
        let path = format!("src/console/{name}.rs");
        code(&sources.iter().find(|(file, _)| *file == path).expect("a file of the console").1)
    };
    let mut handlers = 0;
    for route in of("routes").split(".route(").skip(1) {
        let is_post = route.contains("post(");
        let (_, handler) = route
            .split_once("et(")
            .filter(|_| !is_post)
            .unwrap_or_else(|| route.split_once("post(").expect("a method"));
        let (file, name) = handler
            .split_once(')')
            .expect("a handler")
            .0
            .split_once("::")
            .unwrap_or(("routes", handler.split(')').next().unwrap_or_default()));
        let (_, rest) = of(file).split_once(&format!("async fn {name}(")).expect(name);
        let arguments = rest.split(')').next().unwrap_or_default();
        let is_actor = arguments.contains("Actor(");
        // A viewer may look again, and take an export.
        let only_looks = name == "look" || name.ends_with("export");
        assert_eq!(is_actor, is_post && !only_looks, "{file}::{name}");
        assert!(is_actor || arguments.contains("Viewer"), "{file}::{name} checks nothing");
        handlers += 1;
    }
    assert!(handlers > 15, "{handlers}");
}

#[test]
fn only_main_imports_config_and_only_config_reads_the_environment() {
    for (path, text) in sources() {
        let is_config = path.starts_with("src/config");
        let is_program = path == "src/main.rs";
        assert!(
            is_config || is_program || !code(&text).contains("config::"),
            "{path} imports config"
        );
        let may_read = is_config || path == "src/failpoint.rs";
        assert!(may_read || !code(&text).contains("env::var"), "{path} reads the environment");
    }
}

#[test]
fn lapin_is_named_in_its_room_only_and_its_guard_knows_nothing_of_the_rest() {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    for (path, text) in sources() {
        if path.starts_with("src/rabbitmq/") {
            continue;
        }
        let lines = code(&text).lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in lines {
            // A log target is a text.
            let mut words = line.split('"').step_by(2).flat_map(|part| part.split(|c| !is_word(c)));
            let found = words.find(|word| ["lapin", "async_rs"].contains(word));
            assert_eq!(found, None, "{path}: {line}");
        }
    }
    nobody_in("src/rabbitmq/lapin_guard/", &["crate::", "super::super"]);
}

/// The paths that a file imports, and those that it names in its code without an import.
fn used(text: &str) -> Vec<String> {
    let statements = code(text).split("\nuse ").skip(1).filter_map(|rest| rest.split(';').next());
    let imported = statements.flat_map(|statement| {
        let (prefix, items) = statement.split_once('{').unwrap_or((statement, ""));
        let items = items.trim_end_matches('}').split(',');
        items.map(move |item| format!("{prefix}{}", item.trim()))
    });
    let lines = code(text).lines().map(|line| line.split("//").next().unwrap_or_default());
    let lines = lines.filter(|line| !line.contains("use "));
    let is_path = |c: char| c.is_ascii_alphanumeric() || "_:".contains(c);
    let named = lines.flat_map(|line| line.split(move |c| !is_path(c)).map(str::to_owned));
    imported.chain(named).filter(|path| path.contains("::")).collect()
}

/// The parts of a folder that a file inside it imports: `(importing, imported)`, each as
/// `folder/part`.
fn imports(path: &str, text: &str) -> Vec<(String, String)> {
    let path = path.trim_end_matches(".rs").trim_end_matches("/mod").replacen("src", "crate", 1);
    let mut found = Vec::new();
    for used in used(text) {
        let (mut parent, mut theirs) = (None, used.as_str());
        while let Some(rest) = theirs.strip_prefix("super::") {
            let child = parent.unwrap_or(path.as_str());
            parent = Some(child.rsplit_once('/').map_or("", |(parent, _)| parent));
            theirs = rest;
        }
        let theirs = parent.into_iter().flat_map(|path| path.split('/')).chain(theirs.split("::"));
        let (ours, theirs): (Vec<_>, Vec<_>) = (path.split('/').collect(), theirs.collect());
        let shared = ours.iter().zip(&theirs).take_while(|(ours, theirs)| ours == theirs).count();
        let part = |parts: &[&str]| parts.get(..=shared).map(|parts| parts.join("/"));
        found.extend(part(&ours).zip(part(&theirs)).filter(|_| theirs[0] == "crate"));
    }
    found
}

/// Between the parts of a folder; a folder and what lies in it are one part to those outside.
#[test]
fn no_imports_go_in_a_circle() {
    let sources = sources();
    let mut left: Vec<_> = sources.iter().flat_map(|(path, text)| imports(path, text)).collect();
    assert!(left.len() > 100, "the imports were found");
    // Who imports nothing that is left, or is imported by nothing that is left, is in no circle.
    loop {
        let before = left.len();
        let (importing, imported): (HashSet<_>, HashSet<_>) = left.iter().cloned().unzip();
        left.retain(|(from, to)| imported.contains(from) && importing.contains(to));
        if left.len() == before {
            break;
        }
    }
    left.sort();
    left.dedup();
    assert!(left.is_empty(), "circles: {left:#?}");
}

#[test]
fn the_backoff_crate_is_confined_to_one_file_and_one_place_acknowledges() {
    let using = |word: &str| -> Vec<String> {
        let users = sources().into_iter().filter(|(_, text)| code(text).contains(word));
        users.map(|(path, _)| path).collect()
    };
    assert_eq!(using("backoff::"), ["src/worker/in_process_delays.rs"]);
    let acknowledging = [
        "src/dead_letters/bulk.rs",
        "src/dead_letters/queue.rs",
        "src/guard_tool/held.rs",
        "src/worker/settle.rs",
    ];
    let mut found = using(".acknowledge()");
    found.sort();
    assert_eq!(found, acknowledging);
    // To a stream, which forgets nothing for it, an acknowledgement only says that it may send
    // more.
    let mut found = using("basic_ack(");
    found.sort();
    assert_eq!(found, ["src/rabbitmq/acks.rs", "src/rabbitmq/stream.rs"]);
    assert_eq!(using("basic_reject("), ["src/rabbitmq/delivery.rs"]);
    assert_eq!(using(".ack("), Vec::<String>::new());
    assert_eq!(using("enable_auto_recover"), Vec::<String>::new());
    // What destroys is made in one place, from the mode, and used in one place.
    let mut destroying = using(".delete(");
    destroying.sort();
    assert_eq!(destroying, ["src/tallyfy_api.rs", "src/worker/api_request.rs"]);
    assert_eq!(using("Method::DELETE"), Vec::<String>::new());
    assert_eq!(using(".destructive("), ["src/worker/engine.rs"]);
    assert_eq!(using("wait_for_confirms"), Vec::<String>::new());
}

#[test]
fn every_file_says_what_it_is_for_and_is_small_enough_to_read() {
    for (path, text) in sources() {
        assert!(text.starts_with("//!"), "{path} does not open with what it is for");
        let lines = if path.ends_with("/tests.rs") { 0 } else { code(&text).lines().count() };
        assert!(lines <= 300, "{path} has {lines} lines before its tests");
    }
}

#[test]
fn no_comment_is_wider_than_the_code() {
    for (path, text) in sources() {
        let wide: Vec<_> = text
            .lines()
            .filter(|line| line.trim_start().starts_with("//") && line.chars().count() > 100)
            .collect();
        assert!(wide.is_empty(), "{path}: {wide:#?}");
    }
}

#[test]
fn no_room_is_named_for_nothing() {
    let vague = ["utils", "common", "helpers", "types", "error", "manager"];
    for (path, _) in sources() {
        let stem = Path::new(&path)
            .file_stem()
            .and_then(|stem| stem.to_str())
            .unwrap_or_default()
            .to_owned();
        assert!(!vague.contains(&stem.as_str()), "{path}");
    }
}
