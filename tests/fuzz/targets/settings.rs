//! Settings: each line of the input is `flag=value`, or `task=id` for the `delete` command. Nothing
//! wrong is let through, every mistake is one line that names its setting, and no line repeats a
//! secret.
//!
//!     cargo fuzz run --sanitizer none --fuzz-dir tests/fuzz settings

#![no_main]

use std::collections::BTreeMap;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use tallyfy_delete_worker::config::{Job, read_from};
use tallyfy_delete_worker::kind::Kind;
use tallyfy_delete_worker::service::{CoreSettings, ServiceSettings};

/// Stands in tokens and in what precedes the host of a broker's URL; nowhere else.
const SECRET: &str = "s3cret";
const FLAGS: [&str; 14] = [
    "amqp-url",
    "tallyfy-base-url",
    "tallyfy-org-id",
    "tallyfy-access-token",
    "tallyfy-allow-http",
    "concurrency",
    "request-timeout",
    "max-attempts",
    "max-age",
    "wait-ladder",
    "declare-topology",
    "http-addr",
    "shutdown-grace",
    "org",
];

fuzz_target!(|input: &str| {
    let mut flags = BTreeMap::from([("tallyfy-org-id", "acme"), ("tallyfy-access-token", SECRET)]);
    let mut tasks = Vec::new();
    for (name, value) in input.split('\n').filter_map(|line| line.split_once('=')) {
        if name == "task" {
            tasks.push(value.to_owned());
        } else if FLAGS.contains(&name) && (is_secret_there(name, value) || !says_the_secret(value))
        {
            flags.insert(name, value);
        }
    }
    if tasks.iter().any(|task| says_the_secret(task)) {
        return;
    }
    check(&flags, &tasks);
});

fn check(flags: &BTreeMap<&str, &str>, tasks: &[String]) {
    let deletes = !tasks.is_empty();
    let applies = |name: &str| match name {
        "org" => deletes,
        "amqp-url" | "declare-topology" | "http-addr" | "shutdown-grace" => !deletes,
        _ => true,
    };
    let mut args = vec!["worker".to_owned(), if deletes { "delete" } else { "run" }.to_owned()];
    args.extend(
        flags
            .iter()
            .filter(|(name, _)| applies(name))
            .map(|(name, value)| format!("--{name}={value}")),
    );
    if deletes {
        args.push("-".to_owned());
        if !flags.contains_key("org") {
            args.push("--org=acme".to_owned());
        }
    }
    match read_from(args.iter().map(String::as_str), tasks.iter().cloned()) {
        Ok((Job::Run(settings), _)) => service_is_sound(&settings, flags),
        Ok((Job::Delete(list), _)) => {
            core_is_sound(&list.core, flags);
            assert!(list.kind == Kind::TaskDelete && is_id(list.org.as_str()));
            let named: Vec<_> =
                tasks.iter().map(|task| task.trim()).filter(|task| !task.is_empty()).collect();
            assert_eq!(list.ids.iter().map(|id| id.as_str()).collect::<Vec<_>>(), named);
            assert!(named.iter().all(|id| is_id(id)));
        }
        Ok(_) => unreachable!("neither run nor delete"),
        Err(lines) => refusals_are_sound(&lines),
    }
}

fn refusals_are_sound(lines: &[String]) {
    assert!(!lines.is_empty(), "refused without a reason");
    for line in lines {
        assert!(!says_the_secret(line), "{line:?} repeats a secret");
        assert!(!line.chars().any(char::is_control), "{line:?} is more than a line");
        let (name, _) = line.split_once([':', ' ']).unwrap_or_default();
        let is_named = name == "--org"
            || name == "line"
            || name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
        assert!(is_named && !name.is_empty(), "{line:?} names no setting");
    }
}

fn service_is_sound(settings: &ServiceSettings, flags: &BTreeMap<&str, &str>) {
    core_is_sound(&settings.core, flags);
    assert!(settings.shutdown_grace <= Duration::from_hours(1));
    let broker = &settings.broker;
    assert!((1..=2000).contains(&broker.prefetch));
    let shown = broker.url.to_string();
    assert!(!says_the_secret(&shown), "the address that is logged has the secret");
    let (_, vhost) = shown.split_once(" (vhost ").expect("a virtual host");
    // lapin panics on a short string of more than 255 bytes. One is the bracket that closes.
    assert!((1..=255).contains(&(vhost.len() - 1)), "{vhost:?}");
    let queues = &broker.topology.delays;
    assert_eq!(queues.len(), settings.core.schedule.delays.all().len());
    assert!(queues.is_sorted_by(|a, b| a.1 < b.1), "{queues:?}");
    assert!(
        queues.iter().all(|(name, ttl)| name.len() <= 255 && (1..=86_400_000).contains(ttl)),
        "{queues:?}"
    );
    let names: std::collections::BTreeSet<_> = queues.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), queues.len(), "two delays share a queue");
}

fn core_is_sound(core: &CoreSettings, flags: &BTreeMap<&str, &str>) {
    let url = &core.api.base_url;
    let allowed = flags.get("tallyfy-allow-http").is_some_and(|flag| !flag.is_empty());
    let is_loopback = matches!(url.host_str(), Some(host) if host == "localhost" || host.starts_with("127.") || host == "[::1]");
    assert!(url.scheme() == "https" || url.scheme() == "http" && (allowed || is_loopback), "{url}");
    assert!(url.username().is_empty() && url.password().is_none(), "{url}");
    assert!(url.query().is_none() && url.fragment().is_none() && !url.cannot_be_a_base(), "{url}");
    let hour = Duration::from_hours(1);
    assert!((Duration::from_millis(100)..=hour).contains(&core.api.request_timeout));
    assert!((Duration::from_secs(1)..=hour * 24 * 366).contains(&core.schedule.max_age));
    assert!((1..=1_000_000).contains(&core.schedule.max_attempts));
    assert!((1..=1000).contains(&core.concurrency));
    let token = flags["tallyfy-access-token"].trim();
    assert!(
        !token.is_empty() && token.bytes().all(|byte| (0x21..=0x7e).contains(&byte)),
        "{token:?}"
    );
}

/// A token, and whatever is left of the last `@` of a broker's URL.
fn is_secret_there(name: &str, value: &str) -> bool {
    match name {
        "tallyfy-access-token" => true,
        "amqp-url" => value.rsplit_once('@').is_some_and(|(_, rest)| !says_the_secret(rest)),
        _ => false,
    }
}

fn says_the_secret(text: &str) -> bool {
    // A parser of URLs leaves out tabs and line ends, and so may make the word of two halves.
    text.to_lowercase().replace(['\t', '\r'], "").contains(SECRET)
}

fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}
