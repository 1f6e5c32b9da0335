//! The measured processes: how each is started, and the resources that it has used according to the
//! kernel.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::test_bed::{OutputFormat, TestBed};

/// The worker's package, and the workspace.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
/// Linux counts in hundredths of a second (`USER_HZ`).
const TICK_US: f64 = 10_000.0;

/// A measured program.
#[derive(Clone)]
pub(crate) enum Contestant {
    FloorAmqp,
    FloorHttp,
    /// Both in one program: calls are then made one by one, as deliveries arrive, and not in a
    /// burst.
    FloorBoth,
    Worker {
        program: PathBuf,
        filter: &'static str,
        has_spans: bool,
    },
    Peer(PathBuf),
}

impl Contestant {
    /// The worker with its production settings.
    pub(crate) fn worker() -> Self {
        Self::Worker {
            program: beside_us("tallyfy-delete-worker"),
            filter: "info",
            has_spans: false,
        }
    }

    pub(crate) fn name(&self) -> String {
        match self {
            Self::FloorAmqp => "floor: AMQP (lapin)".to_owned(),
            Self::FloorHttp => "floor: HTTP (reqwest)".to_owned(),
            Self::FloorBoth => "both in one program".to_owned(),
            Self::Worker { program, .. } if *program != beside_us("tallyfy-delete-worker") => {
                format!("worker {}", program.display())
            }
            Self::Worker { has_spans: true, .. } => "worker, with spans".to_owned(),
            Self::Worker { filter: "info", .. } => "worker".to_owned(),
            Self::Worker { filter, .. } => format!("worker, RUST_LOG={filter}"),
            Self::Peer(program) => program.file_name().unwrap().to_string_lossy().into_owned(),
        }
    }

    pub(crate) fn form(&self) -> OutputFormat {
        if self.name().starts_with("Celery") {
            OutputFormat::Celery
        } else {
            OutputFormat::Contract { bytes: 0 }
        }
    }

    pub(crate) fn consumes(&self) -> bool {
        !matches!(self, Self::FloorHttp)
    }

    pub(crate) fn calls(&self) -> bool {
        !matches!(self, Self::FloorAmqp)
    }

    /// A peer in an interpreted language.
    pub(crate) fn is_slow(&self) -> bool {
        matches!(self, Self::Peer(_)) && !self.name().starts_with("Go")
    }

    /// The floors end by themselves.
    pub(crate) fn is_floor(&self) -> bool {
        matches!(self, Self::FloorAmqp | Self::FloorHttp | Self::FloorBoth)
    }

    pub(crate) fn command(&self, bed: &TestBed, commands: usize, concurrency: usize) -> Command {
        let (commands, concurrency) = (commands.to_string(), concurrency.to_string());
        let mut command = match self {
            Self::FloorAmqp => own(&["floor-amqp", &bed.url, &commands]),
            Self::FloorBoth => own(&["floor-both", &bed.url, &commands, &bed.stub]),
            Self::FloorHttp => own(&["floor-http", &bed.stub, &commands, &concurrency]),
            Self::Worker { program, filter, has_spans } => {
                let mut worker = Command::new(program);
                worker.args([
                    "run",
                    "--http-addr=127.0.0.1:0",
                    "--log-format=json",
                    "--rust-log",
                    filter,
                ]);
                worker
                    .env("TALLYFY_ORG_ID", "acme,warm,many,few")
                    .env("TALLYFY_ACCESS_TOKEN", "token");
                if *has_spans {
                    worker.env("OTEL_EXPORTER_OTLP_ENDPOINT", &bed.stub);
                }
                worker
            }
            Self::Peer(program) => Command::new(program),
        };
        command
            .env("AMQP_URL", &bed.url)
            .env("TALLYFY_BASE_URL", &bed.stub)
            // The guard works, but never trips.
            .env("GUARD_MAX_DELETES", "100000000")
            .env("CONCURRENCY", concurrency);
        if let Some((address, authority)) = &bed.tls {
            command.env("TALLYFY_BASE_URL", address).env("TALLYFY_CA_FILE", authority);
        }
        command.stdout(Stdio::null()).stderr(log());
        command
    }
}

/// This program again, as one of the measured processes.
pub(crate) fn own(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(args);
    command
}

/// The peers that `tests/bench/peers/setup` has installed.
pub(crate) fn peers() -> Vec<Contestant> {
    let directory = Path::new(ROOT).join("target/peers/bin");
    let mut found: Vec<PathBuf> =
        fs::read_dir(directory).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found.into_iter().map(Contestant::Peer).collect()
}

/// Builds the worker in the same profile, so that no old build is measured.
pub(crate) fn build_the_worker() {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(ROOT).args(["build", "--locked", "--quiet"]);
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    // `cargo run` has set these for us. ring's build script runs again when they change, so with
    // them everything that depends on TLS would be built again, now and at the next start.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CARGO_PKG_")) {
        cargo.env_remove(name);
    }
    cargo.env_remove("CARGO_MANIFEST_DIR");
    assert!(cargo.status().unwrap().success(), "the worker cannot be built");
}

/// The path of a program that was built in the same profile.
pub(crate) fn beside_us(program: &str) -> PathBuf {
    std::env::current_exe().unwrap().with_file_name(program)
}

/// A file, like the log of a container.
fn log() -> Stdio {
    File::create(std::env::temp_dir().join("tallyfy-bench.log")).unwrap().into()
}

/// The resources that a process has used.
#[derive(Clone, Copy, Default)]
pub(crate) struct Usage {
    pub(crate) cpu_us: f64,
    pub(crate) resident_mib: f64,
    pub(crate) peak_mib: f64,
}

/// `None` when it has ended.
pub(crate) fn usage(child: &Child) -> Option<Usage> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields[11].parse::<f64>().ok()? + fields[12].parse::<f64>().ok()?;
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let mib = |name: &str| {
        let kib =
            status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next())?;
        Some(kib.parse::<f64>().ok()? / 1024.0)
    };
    Some(Usage { cpu_us: ticks * TICK_US, resident_mib: mib("VmRSS:")?, peak_mib: mib("VmHWM:")? })
}

/// The CPU time that all processes of the machine have used.
pub(crate) fn busy() -> Duration {
    let stat = fs::read_to_string("/proc/stat").unwrap();
    let mut ticks =
        stat.lines().next().unwrap().split_whitespace().skip(1).map(|n| n.parse::<u64>().unwrap());
    let mut next = || ticks.next().unwrap();
    let (user, nice, system, _idle, _wait, irq, softirq) =
        (next(), next(), next(), next(), next(), next(), next());
    Duration::from_millis((user + nice + system + irq + softirq) * 10)
}

/// Asks it to end, and waits until it has.
pub(crate) fn stop(mut child: Child) {
    let _ = Command::new("kill").arg(child.id().to_string()).stderr(Stdio::null()).status();
    child.wait().unwrap();
}
