//! Turns flags and environment into the settings of each part. Only this module reads the
//! environment, and only `main` uses this module.
//!
//! Collects every wrong setting before it gives up: nothing starts on a half-valid configuration.

mod args;
mod audit_args;
mod broker_args;
mod console_args;
mod core_args;
mod dead;
mod ledger_args;
mod log_args;
mod print;
mod read;
mod safety;
mod service;
mod topology_args;
mod values;
mod version;

use std::io;
use std::num::NonZeroU32;

use clap::{CommandFactory, Parser};
use tracing_subscriber::EnvFilter;

use crate::audit_tool::AuditJob;
use crate::check::Purpose;
use crate::consent::{Consent, somebody_is_there};
use crate::console::ConsoleSettings;
use crate::dead_letters::DeadJob;
use crate::delete_list::ListSettings;
use crate::guard_tool::LedgerJob;
use crate::kind::Kind;
use crate::policy::dry_run::CallMode;
use crate::policy::undo::DeleteMode;
use crate::rabbitmq::tls::TlsFiles;
use crate::rabbitmq::topology::Provision;
use crate::rabbitmq::{AmqpSource, BrokerSettings};
use crate::service::ServiceSettings;
use crate::table::OutputFormat;
use crate::telemetry::LogFormat;
use crate::undo_list::UndoJob;
use args::{CheckArgs, Cli, DeleteArgs, SetupArgs, Sub, UndoListArgs};
use broker_args::BrokerArgs;
use log_args::LogArgs;
use read::Reader;
use service::{LARGEST_PREFETCH, broker, core, service, topology};

pub use version::version;

/// Exit code for a wrong setting (`EX_USAGE` of sysexits.h).
pub const EXIT_USAGE: u8 = 64;
/// What the command line asks for, fully checked.
pub enum Job {
    Run(Box<ServiceSettings>),
    /// Test whether everything a worker needs is in place.
    Check(Box<ServiceSettings>, Purpose, OutputFormat),
    Setup(Box<BrokerSettings>),
    Delete(Box<ListSettings>),
    /// Restore archived tasks.
    Undo(Box<UndoJob>),
    Print(Vec<u8>),
    Dead(Kind, AmqpSource, TlsFiles, DeadJob),
    Console(Box<ConsoleSettings>),
    /// An operator's decision: about held commands, or to pause or resume.
    Decide(AmqpSource, TlsFiles, LedgerJob),
    /// Read the records of destructive calls.
    Audit(AmqpSource, TlsFiles, AuditJob),
}

impl Job {
    /// Whether anything may be destroyed.
    fn mode(&self) -> CallMode {
        match self {
            Self::Run(settings) => settings.core.mode,
            Self::Delete(list) => list.core.mode,
            _ => CallMode::Destroy,
        }
    }
}

pub struct Logging {
    /// A dry run says so in every line.
    pub mode: CallMode,
    pub format: LogFormat,
    pub filter: EnvFilter,
}

/// Reads flags, environment and, for `delete -`, standard input.
///
/// # Errors
/// One line for each wrong setting. A wrong flag, `--help` and `--version` end the process as clap
/// does, the first with [`EXIT_USAGE`].
pub fn read() -> Result<(Job, Logging), Vec<String>> {
    let cli = Cli::try_parse().unwrap_or_else(|error| {
        let _ = error.print();
        std::process::exit(if error.use_stderr() { EXIT_USAGE.into() } else { 0 });
    });
    interpret(cli, io::stdin().lines())
}

/// The same with a given command line and input, for tests.
///
/// # Errors
/// One line for each wrong setting, or clap's message about a wrong flag.
pub fn read_from<'a>(
    args: impl IntoIterator<Item = &'a str>,
    input: impl Iterator<Item = String>,
) -> Result<(Job, Logging), Vec<String>> {
    let cli = Cli::try_parse_from(args).map_err(|error| vec![error.to_string()])?;
    interpret(cli, input.map(Ok))
}

fn interpret(
    cli: Cli,
    input: impl Iterator<Item = io::Result<String>>,
) -> Result<(Job, Logging), Vec<String>> {
    let mut reader = Reader::default();
    let (job, log) = match cli.command {
        Sub::Schema { subject, kind, log } => {
            let kind = reader.take(&kind);
            (kind.map(|kind| Job::Print(print::schema(subject, kind))), log)
        }
        Sub::Completions { shell, log } => {
            (Some(Job::Print(print::completions(shell, Cli::command()))), log)
        }
        Sub::Run(args) => (service(&mut reader, &args).map(|s| Job::Run(Box::new(s))), args.log),
        Sub::Check(args) => (check(&mut reader, &args), args.run.log),
        Sub::Setup(args) => (setup(&mut reader, &args), args.log),
        Sub::Undo(args) => (undo(&mut reader, &args, input), args.log),
        Sub::Delete(args) => (delete(&mut reader, &args, input), args.log),
        Sub::Dead(args) => {
            let broker = reader.broker_address(&args.broker);
            let kind = reader.take(&args.kind);
            let job = dead::job(&mut reader, args.action);
            let job = broker.zip(kind.zip(job));
            (job.map(|((url, tls), (kind, job))| Job::Dead(kind, url, tls, job)), args.log)
        }
        Sub::Console(args) => (reader.console(&args).map(|s| Job::Console(Box::new(s))), args.log),
        Sub::Audit(args) => {
            (at_broker(&mut reader, &args.broker, |r| r.audit_job(&args), Job::Audit), args.log)
        }
        Sub::Guard(args) => {
            (at_broker(&mut reader, &args.broker, |r| r.guard_job(&args), Job::Decide), args.log)
        }
        Sub::Pause(args) => {
            (at_broker(&mut reader, &args.broker, |r| r.pause_job(&args), Job::Decide), args.log)
        }
        Sub::Resume(args) => {
            (at_broker(&mut reader, &args.broker, |r| r.resume_job(&args), Job::Decide), args.log)
        }
        Sub::Status(args) => {
            (at_broker(&mut reader, &args.broker, |r| r.status_job(&args), Job::Decide), args.log)
        }
        Sub::Cancel(args) => {
            (at_broker(&mut reader, &args.broker, |r| r.cancel_job(&args), Job::Decide), args.log)
        }
    };
    let mode = job.as_ref().map_or(CallMode::Destroy, Job::mode);
    let logging = logging(&mut reader, &log, mode);
    match (job, logging) {
        (Some(job), Some(logging)) if reader.problems.is_empty() => Ok((job, logging)),
        _ => Err(reader.problems),
    }
}

fn check(reader: &mut Reader, args: &CheckArgs) -> Option<Job> {
    let form = if args.json { OutputFormat::Json } else { OutputFormat::Text };
    let purpose = if args.start { Purpose::Start } else { Purpose::Everything };
    let settings = service(reader, &args.run)?;
    Some(Job::Check(Box::new(settings), purpose, form))
}

fn setup(reader: &mut Reader, args: &SetupArgs) -> Option<Job> {
    let delays = reader.take(&args.delays.wait_ladder);
    let kinds = reader.take(&args.kinds.kinds);
    let retention = reader.take(&args.audit.audit_retention);
    let mode = reader.delete_mode(&args.undo);
    let topology = topology(Provision::Declare, kinds, delays.as_ref(), retention, mode);
    let broker = broker(reader, &args.broker, topology, LARGEST_PREFETCH)?;
    Some(Job::Setup(Box::new(broker)))
}

/// A job of an operator that needs the broker.
fn at_broker<T>(
    reader: &mut Reader,
    broker: &BrokerArgs,
    job: impl FnOnce(&mut Reader) -> Option<T>,
    make: fn(AmqpSource, TlsFiles, T) -> Job,
) -> Option<Job> {
    let broker = reader.broker_address(broker);
    let ((url, tls), job) = broker.zip(job(reader))?;
    Some(make(url, tls, job))
}

fn delete(
    reader: &mut Reader,
    args: &DeleteArgs,
    input: impl Iterator<Item = io::Result<String>>,
) -> Option<Job> {
    let org = reader.take(&args.org);
    let core = core(reader, &args.core, &args.delays, org.as_ref());
    let kind = reader.take(&args.kind);
    let ids = reader.ids(kind.unwrap_or_default(), &args.ids, input);
    if core.as_ref().is_some_and(|core| core.delete_mode != DeleteMode::Delete) {
        return reader.problem(
            "DELETE_MODE",
            "`delete` deletes at once; to archive, unset it and say --kind task.archive",
        );
    }
    let max = reader.take_if(args.max.as_ref()).map(NonZeroU32::get);
    let (core, ids) = (core?, ids?);
    if core.mode == CallMode::Destroy {
        reader.is_short_enough(&ids, max, core.guard)?;
    }
    let is_agreed = args.yes || core.mode == CallMode::Look || !somebody_is_there();
    let consent = if is_agreed { Consent::Given } else { Consent::Ask };
    let list = ListSettings { core, kind: kind?, org: org?, ids, consent };
    Some(Job::Delete(Box::new(list)))
}

fn undo(
    reader: &mut Reader,
    args: &UndoListArgs,
    input: impl Iterator<Item = io::Result<String>>,
) -> Option<Job> {
    let org = reader.take(&args.org);
    let core = core(reader, &args.core, &args.delays, org.as_ref());
    let ids = reader.ids(Kind::TaskDelete, &args.ids, input);
    Some(Job::Undo(Box::new(UndoJob { core: core?, org: org?, ids: ids? })))
}

fn logging(reader: &mut Reader, args: &LogArgs, mode: CallMode) -> Option<Logging> {
    let format = reader.log_format(args.log_format.as_ref());
    let filter = reader.log_filter("RUST_LOG", &args.log);
    Some(Logging { mode, format: format?, filter: filter? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::ObjectId;

    const BASE: [&str; 4] =
        ["tallyfy-delete-worker", "run", "--tallyfy-org-id=acme", "--tallyfy-access-token=tok"];

    fn problems(args: &[&str]) -> Vec<String> {
        read_from(BASE.iter().chain(args).copied(), std::iter::empty()).err().unwrap_or_default()
    }

    fn delete(args: &[&str], input: &[&str]) -> Result<(Kind, Vec<ObjectId>), Vec<String>> {
        let base = ["tallyfy-delete-worker", "delete", "--org=acme", "--tallyfy-access-token=tok"];
        let input = input.iter().map(ToString::to_string);
        read_from(base.iter().chain(args).copied(), input).map(|(job, _)| match job {
            Job::Delete(list) => (list.kind, list.ids),
            _ => panic!("not a delete"),
        })
    }

    #[test]
    fn the_defaults_with_an_organisation_and_a_token_are_enough() {
        assert_eq!(problems(&[]), Vec::<String>::new());
    }

    #[test]
    fn every_wrong_setting_has_a_line_that_names_it() {
        let wrong = [
            ("AMQP_URL", "--amqp-url=amqp://[::1]/"),
            ("TALLYFY_BASE_URL", "--tallyfy-base-url=http://go.tallyfy.com/api"),
            ("TALLYFY_ORG_ID", "--tallyfy-org-id=a/b"),
            ("KINDS", "--kinds=task.delete,process"),
            ("KINDS", "--kinds=tag.delete,tag.delete"),
            ("KINDS", "--kinds="),
            ("CONCURRENCY", "--concurrency=0"),
            ("DELETE_MODE", "--delete-mode=soft"),
            ("UNDO_WINDOW", "--undo-window=46d"),
            ("REQUIRE_USER_ID", "--require-user-id=maybe"),
            ("ALLOWED_PRODUCERS", "--allowed-producers=billing"),
            ("ALLOWED_PRODUCERS", "--allowed-producers=a/b=billing"),
            ("RATE_LIMIT", "--rate-limit=10"),
            ("RATE_LIMIT", "--rate-limit=0/s"),
            ("RATE_LIMIT_TOTAL", "--rate-limit-total=10/d"),
            ("REQUEST_TIMEOUT", "--request-timeout=15"),
            ("REQUEST_TIMEOUT", "--request-timeout=301s"),
            ("MAX_ATTEMPTS", "--max-attempts=many"),
            ("MAX_AGE", "--max-age=-1h"),
            ("WAIT_LADDER", "--wait-ladder=5s,2s"),
            ("DECLARE_TOPOLOGY", "--declare-topology=maybe"),
            ("HTTP_ADDR", "--http-addr=9464"),
            ("SHUTDOWN_GRACE", "--shutdown-grace=soon"),
            ("LOG_FORMAT", "--log-format=xml"),
            ("RUST_LOG", "--rust-log=info=loud=x"),
            ("TALLYFY_ALLOW_HTTP", "--tallyfy-allow-http=perhaps"),
            ("TALLYFY_ACCESS_TOKEN", "--tallyfy-access-token=a b"),
            ("TALLYFY_ACCESS_TOKEN", "--tallyfy-access-token-file=/also"),
        ];
        for (name, flag) in wrong {
            let lines = problems_with(flag);
            assert!(lines.len() == 1 && lines[0].starts_with(name), "{flag}: {lines:?}");
        }
        assert!(
            problems(&["--concurrency=0", "--max-age=x", "--http-addr=y"]).len() == 3,
            "all at once"
        );
    }

    #[test]
    fn a_setting_without_a_variable_is_named_by_its_flag() {
        let wrong = ["--reason=bad", "--older-than=soon", "--newer-than=-1s", "--limit=0"];
        let args = ["tallyfy-delete-worker", "dead", "show"].into_iter().chain(wrong);
        let lines = read_from(args, std::iter::empty()).err().unwrap_or_default();
        let named: Vec<_> = lines.iter().filter_map(|line| line.split(':').next()).collect();
        assert_eq!(named, wrong.map(|flag| flag.split('=').next().unwrap()), "{lines:?}");
    }

    #[test]
    fn every_wrong_id_of_a_list_is_in_its_line() {
        let lines = problems_with("--tallyfy-org-id=acme,a/b, c ,,d e");
        assert_eq!(lines.len(), 1);
        assert!(lines[0].ends_with(r#"not "a/b", "", "d e""#), "{lines:?}");
    }

    #[test]
    fn a_wrong_organisation_does_not_hide_a_wrong_token() {
        let args = ["--tallyfy-org-id=a/b", "--tallyfy-access-token=a b"];
        let args = ["tallyfy-delete-worker", "run"].into_iter().chain(args);
        let lines = read_from(args, std::iter::empty()).err().unwrap_or_default();
        let named: Vec<_> = lines.iter().filter_map(|line| line.split([':', ' ']).next()).collect();
        assert_eq!(named, ["TALLYFY_ORG_ID", "TALLYFY_ACCESS_TOKEN"], "{lines:?}");
    }

    fn problems_with(flag: &str) -> Vec<String> {
        let name = flag.split('=').next().unwrap_or_default();
        let kept = BASE.iter().filter(|arg| arg.split('=').next() != Some(name)).copied();
        read_from(kept.chain([flag]), std::iter::empty()).err().unwrap_or_default()
    }

    #[test]
    fn http_is_for_loopback_unless_it_is_allowed() {
        for url in ["http://127.0.0.1:8080", "http://localhost/api", "http://[::1]:1/api"] {
            assert_eq!(problems(&[&format!("--tallyfy-base-url={url}")]), Vec::<String>::new());
        }
        assert_eq!(
            problems(&["--tallyfy-base-url=http://sandbox/api", "--tallyfy-allow-http=true"]),
            Vec::<String>::new()
        );
        for url in ["ftp://h/", "https://u:p@h/", "https://h/?q=1", "https://h/#f", "h"] {
            assert_eq!(problems(&[&format!("--tallyfy-base-url={url}")]).len(), 1, "{url}");
        }
    }

    #[test]
    fn a_list_is_of_the_kind_that_is_named() {
        let kind = |args: &[&str]| delete(args, &[]).unwrap().0;
        assert_eq!(kind(&["t1"]), Kind::TaskDelete);
        assert_eq!(kind(&["--kind=file.delete", "f1"]), Kind::FileDelete);
        let error = delete(&["--kind=file.remove", "f1"], &[]).unwrap_err();
        assert!(
            error.len() == 1 && error[0].starts_with("--kind") && error[0].contains("file.delete"),
            "{error:?}"
        );
    }

    #[test]
    fn a_list_that_is_longer_than_the_guard_allows_is_refused_before_the_first_call() {
        let ids: Vec<_> = (0..501).map(|n| format!("t{n}")).collect();
        let ids: Vec<_> = ids.iter().map(String::as_str).collect();
        let refused = delete(&["-"], &ids).unwrap_err();
        assert!(refused[0].starts_with("--max:") && refused[0].contains("501"), "{refused:?}");
        assert_eq!(delete(&["-"], &ids[..500]).unwrap().1.len(), 500);
        assert_eq!(delete(&["--max=501", "-"], &ids).unwrap().1.len(), 501);
        assert!(delete(&["--max=2", "-"], &ids[..3]).is_err());
        assert_eq!(
            delete(&["--max=2", "-"], &["t1", "t2", "t1"]).unwrap().1.len(),
            3,
            "t1 counts once"
        );
        assert_eq!(delete(&["--dry-run", "-"], &ids).unwrap().1.len(), 501, "it deletes nothing");
        assert_eq!(delete(&["--guard-max-deletes=off", "-"], &ids).unwrap().1.len(), 501);
    }

    #[test]
    fn only_the_word_off_switches_the_guard_off() {
        for wrong in ["0", "false", "none", "-1", ""] {
            let problems = problems(&[&format!("--guard-max-deletes={wrong}")]);
            assert!(
                problems.len() == 1
                    && problems[0].starts_with("GUARD_MAX_DELETES: ")
                    && problems[0].contains("off"),
                "{wrong}: {problems:?}"
            );
        }
        assert_eq!(problems(&["--guard-max-deletes=off"]), [""; 0]);
    }

    #[test]
    fn one_wrong_id_refuses_the_whole_list() {
        assert_eq!(delete(&["t1", "t2"], &[]).unwrap().1.len(), 2);
        assert_eq!(delete(&["-"], &["t1", "", "  t2 "]).unwrap().1.len(), 2);
        assert_eq!(delete(&["-"], &["t1", "a/b", "t2", "?"]).unwrap_err().len(), 2);
        assert!(
            delete(&["--tallyfy-org-id=other", "t1"], &[]).unwrap_err()[0].starts_with("--org")
        );
    }
}
