//! Runs one campaign: starts the parts, the producer and the nemesis, waits until the queues are
//! drained, and collects the records.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fastrand::Rng;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use tallyfy_delete_worker::kind::Kind;
use tallyfy_delete_worker::messages::names;
use tallyfy_delete_worker::rabbitmq::Connection as BrokerConnection;
use tallyfy_delete_worker::rabbitmq::tls::TlsFiles;
use tallyfy_delete_worker::rabbitmq::topology::{self, Provision, Topology};
use tempfile::TempDir;
use testkit::proxy::Proxy;
use testkit::rabbitmq::{Broker, broker_to_harm};
use tokio::time::{Instant, interval, sleep};

use crate::baseline::Baseline;
use crate::checker::{Balance, Finding, check, longest_pause, stall};
use crate::cluster::{Cluster, Fault};
use crate::decisions;
use crate::nemesis::{Family, Nemesis, burst};
use crate::operator::Operator;
use crate::parts::{Sandbox, Slot, TOKEN_MARK, guard_workers};
use crate::plan::{ORGS, Planned, plan};
use crate::producer::Producer;
use crate::records::Records;
use crate::safety::{self, Brakes, UNDO_WINDOW};
use crate::witness::{EVENTS, ROOM, Witness};

const LADDER_MS: [(&str, u32); 4] = [("500ms", 500), ("1s", 1000), ("2s", 2000), ("4s", 4000)];
/// A witness at a node that was cut off receives nothing, and must not make the broker refuse
/// events.
const ROOM_IN_A_CLUSTER: i32 = 100_000;
/// Time between two faults of a cluster.
const REST: Duration = Duration::from_secs(12);
/// A worker that is to die at a failpoint dies at one of these passes of it.
const PASSES: std::ops::RangeInclusive<u32> = 1..=40;

/// The settings of a campaign.
pub(crate) struct Scenario {
    pub(crate) seed: u64,
    pub(crate) commands: usize,
    /// For how long commands are sent.
    pub(crate) time: Duration,
    /// How much of that time has faults of single organisations only.
    pub(crate) organisations_time: Duration,
    pub(crate) workers: usize,
    /// How long the commands may take to end once the faults are over.
    pub(crate) patience: Duration,
    pub(crate) program: PathBuf,
    /// Guard, pauses, cancellations and undo are in use, and an operator decides.
    pub(crate) brakes: Option<Brakes>,
    pub(crate) organisations: Vec<Family>,
    pub(crate) infrastructure: Vec<Family>,
    pub(crate) api: Vec<Family>,
}

/// The result of a campaign.
pub(crate) struct Outcome {
    pub(crate) balance: Balance,
    pub(crate) records: Records,
    pub(crate) broker: String,
    pub(crate) took: Duration,
}

/// Runs one campaign, from the empty broker to the balance.
pub(crate) async fn run(scenario: &Scenario) -> Result<Outcome, String> {
    let began = Instant::now();
    let (_turn, broker) = broker_to_harm().await;
    let directory = tempfile::Builder::new()
        .prefix("tallyfy-campaign-")
        .tempdir()
        .map_err(|e| e.to_string())?;
    guard_workers(directory.path())?;
    let vhost = broker.new_vhost().await;
    let url = broker.amqp_url(&vhost);
    declare(&url, scenario.brakes.map(|_| UNDO_WINDOW)).await?;
    let mut rng = Rng::with_seed(scenario.seed);
    let producer = Producer::new(url.clone(), planned(scenario, &mut rng));
    let (host, port) = broker.host_port();
    let (wire, urls) = (format!("{host}:{port}"), (url.as_str(), None));
    let nemesis = set_up(scenario, Some(broker), (wire, urls), directory.path()).await;
    let planned = producer.plan.lock().expect("the plan").clone();
    nemesis.sandbox.register_objects(&planned).await;
    // RabbitMQ 3.10 may break a queue that was declared in the seconds before a `kill -9`.
    sleep(Duration::from_secs(5)).await;
    let operator = scenario.brakes.map(|brakes| {
        let (paths, api) = ((&*scenario.program, directory.path()), nemesis.sandbox.address());
        Operator::new(paths, (&url, api), (brakes, scenario.workers), &mut rng)
    });
    let operator = operator.as_ref();
    let unexpected_exits =
        inject_until_drained(scenario, &mut rng, (&producer, operator), &nemesis, &url).await;
    let mut records = collect(&producer, &nemesis, (&url, operator.is_some())).await?;
    records.unexpected_exits = unexpected_exits;
    records.leaks.extend(leaks_in(&directory));
    records.decisions = operator.map(Operator::decisions);
    decisions::settle(&mut records);
    let balance = check(&records);
    if !balance.findings.is_empty() {
        println!("the logs are kept in {}", directory.keep().display());
    }
    broker.delete_vhost(&vhost).await;
    Ok(Outcome { balance, records, broker: broker.describe().to_owned(), took: began.elapsed() })
}

fn planned(scenario: &Scenario, rng: &mut Rng) -> Vec<Planned> {
    if scenario.brakes.is_some() {
        return safety::plan(rng, scenario.commands, scenario.time);
    }
    let bursts: Vec<_> = scenario.organisations.iter().map(|family| burst(*family)).collect();
    plan(rng, scenario.commands, scenario.time, &bursts)
}

/// Runs one campaign against a cluster: each fault once, in an order that the seed decides.
/// `is_balanced`: the workers are behind a balancer and do not know the nodes' addresses.
pub(crate) async fn run_on_cluster(
    scenario: &Scenario,
    (cluster, faults): (&Cluster, &[Fault]),
    is_balanced: bool,
) -> Result<Outcome, String> {
    let began = Instant::now();
    let directory = tempfile::Builder::new().prefix("tallyfy-campaign-").tempdir();
    let directory = directory.map_err(|e| e.to_string())?;
    guard_workers(directory.path())?;
    let vhost = if is_balanced { "balanced" } else { "hosts" };
    cluster.add_vhost(vhost).await?;
    let balancer = Proxy::balancing(cluster.hosts()).await;
    let url_of = |hosts: &str| format!("amqp://guest:guest@{hosts}/{vhost}");
    let url = url_of(&balancer.addr.to_string());
    let workers_url = if is_balanced { url.clone() } else { url_of(&cluster.hosts().join(",")) };
    declare(&url, None).await?;
    let mut rng = Rng::with_seed(scenario.seed);
    let producer =
        Producer::new(url.clone(), plan(&mut rng, scenario.commands, scenario.time, &[]));
    let wires = (balancer.addr.to_string(), (url.as_str(), Some(workers_url.as_str())));
    let nemesis = set_up(scenario, None, wires, directory.path()).await;
    let planned = producer.plan.lock().expect("the plan").clone();
    nemesis.sandbox.register_objects(&planned).await;
    let hosts: Vec<_> = cluster.hosts().iter().map(|host| url_of(host)).collect();
    let streams =
        [names::LEDGER, names::AUDIT].map(|stream| Baseline::publishing_to(stream, hosts.clone()));
    let consumers = Baseline::start(hosts);
    let unexpected_exits = inject_into_cluster_until_drained(
        (cluster, faults),
        scenario,
        &mut rng,
        &producer,
        &nemesis,
        &url,
    )
    .await?;
    let mut records = collect(&producer, &nemesis, (&url, false)).await?;
    records.unexpected_exits = unexpected_exits;
    records.leaks.extend(leaks_in(&directory));
    let mut balance = check(&records);
    balance.findings.extend(stalls(&nemesis, (&consumers, &streams), &records));
    if !balance.findings.is_empty() {
        println!("the logs are kept in {}", directory.keep().display());
    }
    let broker = format!("three nodes in containers, {vhost}");
    Ok(Outcome { balance, records, broker, took: began.elapsed() })
}

/// Injects all faults, one after the other; returns when the queues are drained and the workers
/// have ended. The result is the list of unexpected exits of workers.
async fn inject_into_cluster_until_drained(
    (cluster, faults): (&Cluster, &[Fault]),
    scenario: &Scenario,
    rng: &mut Rng,
    producer: &Producer,
    nemesis: &Nemesis,
    url: &str,
) -> Result<Vec<String>, String> {
    let (never, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let (unexpected_exits, no_rng) = (Mutex::new(Vec::new()), Mutex::new(rng.fork()));
    nemesis.slots.iter().for_each(|slot| slot.want(true));
    let inject = async {
        let mut faults = faults.to_vec();
        rng.shuffle(&mut faults);
        for fault in faults {
            sleep(REST).await;
            let injected = cluster.inject(fault, rng).await?;
            nemesis.journal.lock().expect("a lock that is not poisoned").push(injected);
        }
        Ok(())
    };
    let campaign = async {
        let ((), result) = tokio::join!(producer.send_all(), inject);
        println!("all faults are over; {} commands are confirmed", producer.confirmed());
        drain(scenario.patience, (producer, None), nemesis, url).await;
        stop(nemesis).await;
        over.store(true, Ordering::SeqCst);
        result
    };
    let (result, (), ()) = tokio::join!(
        campaign,
        supervise(nemesis, url, &no_rng, &never, &over, &unexpected_exits),
        report_progress(producer, nemesis, &over)
    );
    result.map(|()| unexpected_exits.into_inner().expect("a lock that is not poisoned"))
}

/// Compares the progress of each worker with that of the reference clients, fault by fault.
fn stalls(
    nemesis: &Nemesis,
    (consumers, streams): (&Baseline, &[Baseline; 2]),
    records: &Records,
) -> Vec<Finding> {
    let confirmed = records.commands.iter().filter_map(|command| command.published_ms);
    let mut confirmed: Vec<_> = confirmed.collect();
    confirmed.sort_unstable();
    let last = confirmed.last().copied().unwrap_or_default();
    let [ledger, audit] = streams.each_ref().map(Baseline::times);
    let others = [consumers.times(), confirmed, ledger, audit];
    let mut findings = Vec::new();
    for (number, slot) in nemesis.slots.iter().enumerate() {
        // Up to the last command: a worker that makes no progress until then has stalled, too.
        let ends = slot.ends().into_iter().filter(|end| *end < last);
        let ends: Vec<_> = ends.chain([last]).collect();
        for fault in records.journal.iter().filter(|fault| fault.what.starts_with("node")) {
            let longest = |times: &[i64]| longest_pause(times, fault.from_ms, fault.to_ms);
            println!(
                "{}, {}: worker {number} stalled for {} ms, the plain consumers for {}, the producers for {}, the ledger for {}, the record of calls for {}",
                fault.what,
                fault.family,
                longest(&ends),
                longest(&others[0]),
                longest(&others[1]),
                longest(&others[2]),
                longest(&others[3]),
            );
        }
        let (stalled_ms, finding) = stall(number, &ends, &others);
        println!("worker {number} stalled for {stalled_ms} ms longer than the reference clients");
        findings.extend(finding);
    }
    findings
}

async fn declare(url: &str, undo_window: Option<Duration>) -> Result<(), String> {
    let delays = LADDER_MS.map(|(name, ms)| (name.to_owned(), ms)).to_vec();
    let connection = BrokerConnection::open(&url.parse()?, &TlsFiles::default(), "campaign")
        .await
        .map_err(|error| error.to_string())?;
    let topology = Topology {
        provision: Provision::Declare,
        kinds: Kind::ALL.to_vec(),
        delays,
        audit_retention: Duration::from_hours(24 * 90),
        undo_window,
    };
    topology::ensure(&connection, &topology).await.map(drop).map_err(|error| error.to_string())
}

/// `wire` is the address that the workers' proxies forward to, `url` is the broker's URL for all
/// others, and `cluster` is the workers' own URL, if they need another one.
async fn set_up(
    scenario: &Scenario,
    broker: Option<&'static Broker>,
    (wire, (url, cluster)): (String, (&str, Option<&str>)),
    directory: &Path,
) -> Nemesis {
    let tokens = directory.join("tokens");
    fs::create_dir(&tokens).expect("a directory");
    for org in ORGS {
        fs::write(tokens.join(org), TOKEN_MARK).expect("a token file");
    }
    let sandbox = Sandbox::start();
    let mut slots = Vec::new();
    for number in 0..scenario.workers {
        let (wire, api) = (wire.clone(), sandbox.address());
        let slot = Slot::new(number, &scenario.program, directory, wire, api).await;
        let slot = slot.with(scenario.brakes.map(Brakes::settings).unwrap_or_default());
        slots.push(match cluster {
            Some(cluster) => slot.at(cluster),
            None => slot,
        });
    }
    let room = if cluster.is_some() { ROOM_IN_A_CLUSTER } else { ROOM };
    let witness = Witness::start(url, room).await;
    let (journal, retry_after) = (Mutex::default(), Mutex::default());
    Nemesis { broker, slots, sandbox, witness, tokens, journal, retry_after }
}

/// Injects all families of faults side by side; returns when the queues are drained and the workers
/// have ended. The result is the list of unexpected exits of workers.
async fn inject_until_drained(
    scenario: &Scenario,
    rng: &mut Rng,
    (producer, operator): (&Producer, Option<&Operator>),
    nemesis: &Nemesis,
    url: &str,
) -> Vec<String> {
    let (failpoints_on, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let unexpected_exits = Mutex::new(Vec::new());
    let end = Instant::now() + scenario.time;
    let (infrastructure, api) = (rng.fork(), rng.fork());
    let failpoint_rng = Mutex::new(rng.fork());
    nemesis.slots.iter().for_each(|slot| slot.want(true));
    let inject = async {
        inject_into_organisations(scenario, nemesis).await;
        failpoints_on.store(true, Ordering::SeqCst);
        tokio::join!(
            nemesis.inject_until(&scenario.infrastructure, infrastructure, end),
            nemesis.inject_until(&scenario.api, api, end),
        );
    };
    let decide = async {
        if let Some(operator) = operator {
            operator.decide(nemesis, producer, scenario.time).await;
        }
    };
    let undo = async {
        if let Some(operator) = operator {
            operator.undo_until(nemesis, &over).await;
        }
    };
    let campaign = async {
        tokio::join!(producer.send_all(), inject, decide);
        failpoints_on.store(false, Ordering::SeqCst);
        // Faults of the API have a duration and end by themselves.
        println!("all faults are over; {} commands are confirmed", producer.confirmed());
        drain(scenario.patience, (producer, operator), nemesis, url).await;
        stop(nemesis).await;
        over.store(true, Ordering::SeqCst);
    };
    tokio::join!(
        campaign,
        undo,
        supervise(nemesis, url, &failpoint_rng, &failpoints_on, &over, &unexpected_exits),
        report_progress(producer, nemesis, &over)
    );
    unexpected_exits.into_inner().expect("a lock that is not poisoned")
}

/// First only single organisations have faults, so that nothing else can delay the others. Then all
/// workers but one restart, possibly with a failpoint; that one keeps what it has learned.
async fn inject_into_organisations(scenario: &Scenario, nemesis: &Nemesis) {
    if !scenario.organisations.is_empty() {
        nemesis
            .inject_into_organisations(&scenario.organisations, scenario.organisations_time)
            .await;
        nemesis.slots.iter().skip(1).for_each(|slot| slot.signal("TERM"));
    }
}

async fn supervise(
    nemesis: &Nemesis,
    url: &str,
    failpoint_rng: &Mutex<Rng>,
    failpoints_on: &AtomicBool,
    over: &AtomicBool,
    unexpected_exits: &Mutex<Vec<String>>,
) {
    while !over.load(Ordering::SeqCst) {
        for slot in &nemesis.slots {
            let dies_at_pass = {
                let mut rng = failpoint_rng.lock().expect("a lock that is not poisoned");
                (failpoints_on.load(Ordering::SeqCst) && rng.u8(..10) < 7).then(|| rng.u32(PASSES))
            };
            match slot.supervise(url, dies_at_pass) {
                Some(Ok(fault)) => {
                    nemesis.journal.lock().expect("a lock that is not poisoned").push(fault);
                }
                Some(Err(exit)) => {
                    unexpected_exits.lock().expect("a lock that is not poisoned").push(exit);
                }
                None => {}
            }
        }
        sleep(Duration::from_millis(50)).await;
    }
}

async fn report_progress(producer: &Producer, nemesis: &Nemesis, over: &AtomicBool) {
    let (began, mut ticks) = (Instant::now(), interval(Duration::from_secs(10)));
    while !over.load(Ordering::SeqCst) {
        ticks.tick().await;
        let faults = nemesis.journal.lock().expect("a lock that is not poisoned").len();
        let (confirmed, ended) = (producer.confirmed(), nemesis.witness.ended());
        println!(
            "{:>5} s  {confirmed} confirmed, {ended} ended, {faults} faults",
            began.elapsed().as_secs()
        );
    }
}

/// Waits until every confirmed command has its end and all queues are empty, or until the patience
/// is over; the checker then reports what is missing. An operator decides about all held commands.
async fn drain(
    patience: Duration,
    (producer, operator): (&Producer, Option<&Operator>),
    nemesis: &Nemesis,
    url: &str,
) {
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        let is_tidy = match operator {
            Some(operator) => operator.tidy_up().await,
            None => true,
        };
        let all_ended = nemesis.witness.ended() >= producer.confirmed()
            && nemesis.witness.has_every_dead_letter();
        if is_tidy
            && all_ended
            && left(url, operator.is_some())
                .await
                .is_some_and(|left| left.values().all(|messages| *messages == 0))
        {
            return;
        }
        sleep(Duration::from_millis(500)).await;
    }
}

async fn stop(nemesis: &Nemesis) {
    let deadline = Instant::now() + Duration::from_secs(40);
    for slot in &nemesis.slots {
        slot.want(false);
        slot.signal("TERM");
    }
    while nemesis.slots.iter().any(Slot::is_running) && Instant::now() < deadline {
        sleep(Duration::from_millis(100)).await;
    }
    // The witness receives what the workers published last.
    sleep(Duration::from_secs(1)).await;
}

async fn left(url: &str, with_brakes: bool) -> Option<BTreeMap<String, u32>> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.ok()?;
    let channel = connection.create_channel().await.ok()?;
    let of_kind = |kind: Kind| {
        let waits = LADDER_MS.map(|(name, _)| kind.delay_queue(name));
        let others = [kind.queue().to_owned(), kind.held_queue(), kind.dead_letter_queue()];
        waits.into_iter().chain(others)
    };
    let of_kinds = Kind::ALL.into_iter().flat_map(of_kind);
    let others = ["task.events.unrouted", EVENTS].map(str::to_owned);
    let undo = with_brakes.then(|| Kind::TaskDelete.undo_queue());
    let mut left = BTreeMap::new();
    for queue in of_kinds.chain(others).chain(undo) {
        let options = QueueDeclareOptions { durable: true, passive: true, ..Default::default() };
        let declared = channel
            .queue_declare(queue.as_str().into(), options, FieldTable::default())
            .await
            .ok()?;
        left.insert(queue, declared.message_count());
    }
    Some(left)
}

async fn collect(
    producer: &Producer,
    nemesis: &Nemesis,
    (url, with_brakes): (&str, bool),
) -> Result<Records, String> {
    let plan = producer.plan.lock().expect("a lock that is not poisoned").clone();
    let is_there = |state| matches!(state, "present" | "archived");
    let there = plan.iter().filter(|planned| planned.state.is_some_and(is_there));
    let were_there: HashSet<String> =
        there.map(|p| format!("{}/{}", p.command.org, p.command.object)).collect();
    let retry_after = nemesis.retry_after.lock().expect("a lock that is not poisoned").clone();
    let calls = nemesis.sandbox.calls(|fault| retry_after.get(&fault).copied()).await;
    let left =
        left(url, with_brakes).await.ok_or("the broker does not say what is left in its queues")?;
    let mut seen = nemesis.witness.seen.lock().expect("a lock that is not poisoned");
    Ok(Records {
        commands: plan.into_iter().map(|planned| planned.command).collect(),
        events: std::mem::take(&mut seen.events),
        dead_letters: std::mem::take(&mut seen.dead_letters),
        pending: std::mem::take(&mut seen.pending),
        calls,
        decisions: None,
        journal: nemesis.journal.lock().expect("a lock that is not poisoned").clone(),
        were_there,
        left,
        leaks: std::mem::take(&mut seen.leaks),
        unexpected_exits: Vec::new(),
    })
}

fn leaks_in(directory: &TempDir) -> Vec<String> {
    let files = fs::read_dir(directory.path()).expect("the directory of the campaign").flatten();
    let logs =
        files.filter(|file| file.path().extension().is_some_and(|extension| extension == "log"));
    let leaking = logs.filter(|log| {
        fs::read(log.path()).is_ok_and(|text| String::from_utf8_lossy(&text).contains(TOKEN_MARK))
    });
    leaking.map(|log| log.file_name().to_string_lossy().into_owned()).collect()
}
