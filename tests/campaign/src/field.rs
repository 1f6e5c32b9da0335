//! The field of one campaign: puts the parts in place, lets producer and nemesis loose, waits for
//! the drain, and collects the books.

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
use tallyfy_delete_worker::rabbitmq::Connection as BrokerConnection;
use tallyfy_delete_worker::rabbitmq::tls::TlsFiles;
use tallyfy_delete_worker::rabbitmq::topology::{self, Provision, Topology};
use tempfile::TempDir;
use testkit::proxy::Proxy;
use testkit::rabbitmq::{Broker, broker_to_harm};
use tokio::time::{Instant, interval, sleep};

use crate::checker::{Balance, Finding, check, longest_pause, stood_still};
use crate::cluster::{Cluster, Fault};
use crate::decisions;
use crate::ledgers::Ledgers;
use crate::nemesis::{Family, Nemesis, burst};
use crate::operator::Operator;
use crate::parts::{Sandbox, Slot, TOKEN_MARK, guard_workers};
use crate::plan::{ORGS, Planned, plan};
use crate::producer::Producer;
use crate::safety::{self, Brakes, UNDO_WINDOW};
use crate::witness::{EVENTS, ROOM, Witness};
use crate::yardstick::Yardstick;

const LADDER_MS: [(&str, u32); 4] = [("500ms", 500), ("1s", 1000), ("2s", 2000), ("4s", 4000)];
/// A witness at a node that was cut off gets nothing, and must not make the broker refuse events.
const ROOM_IN_A_CLUSTER: i32 = 100_000;
/// Between the faults of a cluster.
const REST: Duration = Duration::from_secs(12);
/// A worker that is to die at a seam dies at one of this many passages.
const PASSAGES: std::ops::RangeInclusive<u32> = 1..=40;

/// What a campaign is made of.
pub(crate) struct Scenario {
    pub(crate) seed: u64,
    pub(crate) commands: usize,
    /// For how long commands are given.
    pub(crate) time: Duration,
    /// For how long, of that, single organisations are struck before anything else is.
    pub(crate) organisations_time: Duration,
    pub(crate) workers: usize,
    /// How long all may take to come to its end when the faults are over.
    pub(crate) patience: Duration,
    pub(crate) program: PathBuf,
    /// All brakes on, and an operator that decides.
    pub(crate) brakes: Option<Brakes>,
    pub(crate) organisations: Vec<Family>,
    pub(crate) world: Vec<Family>,
    pub(crate) api: Vec<Family>,
}

/// What it has come to.
pub(crate) struct Outcome {
    pub(crate) balance: Balance,
    pub(crate) ledgers: Ledgers,
    pub(crate) broker: String,
    pub(crate) took: Duration,
}

/// One campaign, from the empty broker to the balance.
pub(crate) async fn fight(scenario: &Scenario) -> Result<Outcome, String> {
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
    let nemesis = place(scenario, Some(broker), (wire, urls), directory.path()).await;
    let planned = producer.plan.lock().expect("the plan").clone();
    nemesis.sandbox.tell_of_objects(&planned).await;
    // RabbitMQ 3.10 may break a queue that was declared in the seconds before a `kill -9`.
    sleep(Duration::from_secs(5)).await;
    let operator = scenario.brakes.map(|brakes| {
        let (paths, api) = ((&*scenario.program, directory.path()), nemesis.sandbox.address());
        Operator::new(paths, (&url, api), (brakes, scenario.workers), &mut rng)
    });
    let operator = operator.as_ref();
    let bad_exits = rage(scenario, &mut rng, (&producer, operator), &nemesis, &url).await;
    let mut ledgers = collect(&producer, &nemesis, (&url, operator.is_some())).await?;
    ledgers.bad_exits = bad_exits;
    ledgers.leaks.extend(leaks_in(&directory));
    ledgers.decisions = operator.map(Operator::decisions);
    decisions::settle(&mut ledgers);
    let balance = check(&ledgers);
    if !balance.findings.is_empty() {
        println!("the logs are kept in {}", directory.keep().display());
    }
    broker.delete_vhost(&vhost).await;
    Ok(Outcome { balance, ledgers, broker: broker.describe().to_owned(), took: began.elapsed() })
}

fn planned(scenario: &Scenario, rng: &mut Rng) -> Vec<Planned> {
    if scenario.brakes.is_some() {
        return safety::plan(rng, scenario.commands, scenario.time);
    }
    let bursts: Vec<_> = scenario.organisations.iter().map(|family| burst(*family)).collect();
    plan(rng, scenario.commands, scenario.time, &bursts)
}

/// One campaign against a cluster: each fault once, in an order by the seed. `is_balanced`: the
/// workers are behind a balancer, and do not have the nodes' addresses.
pub(crate) async fn fight_cluster(
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
    let of_workers = if is_balanced { url.clone() } else { url_of(&cluster.hosts().join(",")) };
    declare(&url, None).await?;
    let mut rng = Rng::with_seed(scenario.seed);
    let producer =
        Producer::new(url.clone(), plan(&mut rng, scenario.commands, scenario.time, &[]));
    let wires = (balancer.addr.to_string(), (url.as_str(), Some(of_workers.as_str())));
    let nemesis = place(scenario, None, wires, directory.path()).await;
    let planned = producer.plan.lock().expect("the plan").clone();
    nemesis.sandbox.tell_of_objects(&planned).await;
    let hosts: Vec<_> = cluster.hosts().iter().map(|host| url_of(host)).collect();
    let ledger = Yardstick::of_the_ledger(hosts.clone());
    let yardstick = Yardstick::start(hosts);
    let bad_exits =
        rage_in((cluster, faults), scenario, &mut rng, &producer, &nemesis, &url).await?;
    let mut ledgers = collect(&producer, &nemesis, (&url, false)).await?;
    ledgers.bad_exits = bad_exits;
    ledgers.leaks.extend(leaks_in(&directory));
    let mut balance = check(&ledgers);
    balance.findings.extend(who_stood_still(&nemesis, [&yardstick, &ledger], &ledgers));
    if !balance.findings.is_empty() {
        println!("the logs are kept in {}", directory.keep().display());
    }
    let broker = format!("three nodes in containers, {vhost}");
    Ok(Outcome { balance, ledgers, broker, took: began.elapsed() })
}

/// All faults, one after the other, until all is drained and the workers have ended; returns the
/// ends of workers that nobody asked for.
async fn rage_in(
    (cluster, faults): (&Cluster, &[Fault]),
    scenario: &Scenario,
    rng: &mut Rng,
    producer: &Producer,
    nemesis: &Nemesis,
    url: &str,
) -> Result<Vec<String>, String> {
    let (never, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let (bad_exits, no_doom) = (Mutex::new(Vec::new()), Mutex::new(rng.fork()));
    nemesis.slots.iter().for_each(|slot| slot.want(true));
    let strike = async {
        let mut faults = faults.to_vec();
        rng.shuffle(&mut faults);
        for fault in faults {
            sleep(REST).await;
            let blow = cluster.strike(fault, rng).await?;
            nemesis.journal.lock().expect("nobody panics with it").push(blow);
        }
        Ok(())
    };
    let war = async {
        let ((), struck) = tokio::join!(producer.send_all(), strike);
        println!("all is healed; {} commands are confirmed", producer.confirmed());
        drain(scenario.patience, (producer, None), nemesis, url).await;
        stop(nemesis).await;
        over.store(true, Ordering::SeqCst);
        struck
    };
    let (struck, (), ()) = tokio::join!(
        war,
        look_after(nemesis, url, &no_doom, &never, &over, &bad_exits),
        tell(producer, nemesis, &over)
    );
    struck.map(|()| bad_exits.into_inner().expect("nobody panics with it"))
}

/// Holds what each worker did beside what went on beside it, fault by fault.
fn who_stood_still(
    nemesis: &Nemesis,
    yardsticks: [&Yardstick; 2],
    ledgers: &Ledgers,
) -> Vec<Finding> {
    let confirmed = ledgers.commands.iter().filter_map(|command| command.published_ms);
    let mut confirmed: Vec<_> = confirmed.collect();
    confirmed.sort_unstable();
    let last = confirmed.last().copied().unwrap_or_default();
    let [consumers, ledger] = yardsticks.map(Yardstick::times);
    let others = [consumers, confirmed, ledger];
    let mut findings = Vec::new();
    for (number, slot) in nemesis.slots.iter().enumerate() {
        // Up to the last command: what stands still then has stood still, too.
        let ends = slot.ends().into_iter().filter(|end| *end < last);
        let ends: Vec<_> = ends.chain([last]).collect();
        for blow in ledgers.journal.iter().filter(|blow| blow.what.starts_with("node")) {
            let longest = |times: &[i64]| longest_pause(times, blow.from_ms, blow.to_ms);
            println!(
                "{}, {}: worker {number} stood still for {} ms, the plain consumers {}, the producers {}, the ledger {}",
                blow.what,
                blow.family,
                longest(&ends),
                longest(&others[0]),
                longest(&others[1]),
                longest(&others[2]),
            );
        }
        let (still, finding) = stood_still(number, &ends, &others);
        println!("worker {number} stood still for {still} ms longer than what went on beside it");
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

/// `wire` goes to the broker, `url` is everybody's, `cluster` the workers' where they need another
/// one.
async fn place(
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

/// Everything at once, until all is drained and the workers have ended; returns the ends of workers
/// that nobody asked for.
async fn rage(
    scenario: &Scenario,
    rng: &mut Rng,
    (producer, operator): (&Producer, Option<&Operator>),
    nemesis: &Nemesis,
    url: &str,
) -> Vec<String> {
    let (doom_reigns, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let bad_exits = Mutex::new(Vec::new());
    let end = Instant::now() + scenario.time;
    let (world, api, doom) = (rng.fork(), rng.fork(), Mutex::new(rng.fork()));
    nemesis.slots.iter().for_each(|slot| slot.want(true));
    let strike = async {
        strike_organisations(scenario, nemesis).await;
        doom_reigns.store(true, Ordering::SeqCst);
        tokio::join!(
            nemesis.strike_until(&scenario.world, world, end),
            nemesis.strike_until(&scenario.api, api, end),
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
    let war = async {
        tokio::join!(producer.send_all(), strike, decide);
        doom_reigns.store(false, Ordering::SeqCst);
        // What was done to the API was done for a time, and ends by itself.
        println!("all is healed; {} commands are confirmed", producer.confirmed());
        drain(scenario.patience, (producer, operator), nemesis, url).await;
        stop(nemesis).await;
        over.store(true, Ordering::SeqCst);
    };
    tokio::join!(
        war,
        undo,
        look_after(nemesis, url, &doom, &doom_reigns, &over, &bad_exits),
        tell(producer, nemesis, &over)
    );
    bad_exits.into_inner().expect("nobody panics with it")
}

/// First act: only single organisations are struck, so that nothing else can delay the others. Then
/// the workers start again and may be doomed, all but one, which goes on with what it has learned.
async fn strike_organisations(scenario: &Scenario, nemesis: &Nemesis) {
    if !scenario.organisations.is_empty() {
        nemesis.strike_organisations(&scenario.organisations, scenario.organisations_time).await;
        nemesis.slots.iter().skip(1).for_each(|slot| slot.signal("TERM"));
    }
}

async fn look_after(
    nemesis: &Nemesis,
    url: &str,
    doom: &Mutex<Rng>,
    doom_reigns: &AtomicBool,
    over: &AtomicBool,
    bad_exits: &Mutex<Vec<String>>,
) {
    while !over.load(Ordering::SeqCst) {
        for slot in &nemesis.slots {
            let doomed = {
                let mut rng = doom.lock().expect("nobody panics with it");
                (doom_reigns.load(Ordering::SeqCst) && rng.u8(..10) < 7).then(|| rng.u32(PASSAGES))
            };
            match slot.look_after(url, doomed) {
                Some(Ok(blow)) => nemesis.journal.lock().expect("nobody panics with it").push(blow),
                Some(Err(exit)) => bad_exits.lock().expect("nobody panics with it").push(exit),
                None => {}
            }
        }
        sleep(Duration::from_millis(50)).await;
    }
}

async fn tell(producer: &Producer, nemesis: &Nemesis, over: &AtomicBool) {
    let (began, mut ticks) = (Instant::now(), interval(Duration::from_secs(10)));
    while !over.load(Ordering::SeqCst) {
        ticks.tick().await;
        let blows = nemesis.journal.lock().expect("nobody panics with it").len();
        let (confirmed, ended) = (producer.confirmed(), nemesis.witness.ended());
        println!(
            "{:>5} s  {confirmed} confirmed, {ended} ended, {blows} blows",
            began.elapsed().as_secs()
        );
    }
}

/// Until every confirmed command has its end and nothing lies in a queue, or patience is over; then
/// the checker says so. An operator decides about all that is held.
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
    // What had come to nobody's hands before comes to the witness now.
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
) -> Result<Ledgers, String> {
    let plan = producer.plan.lock().expect("nobody panics with the plan").clone();
    let is_there = |state| matches!(state, "present" | "archived");
    let there = plan.iter().filter(|planned| planned.state.is_some_and(is_there));
    let were_there: HashSet<String> =
        there.map(|p| format!("{}/{}", p.command.org, p.command.object)).collect();
    let retry_after = nemesis.retry_after.lock().expect("nobody panics with it").clone();
    let calls = nemesis.sandbox.calls(|fault| retry_after.get(&fault).copied()).await;
    let left =
        left(url, with_brakes).await.ok_or("the broker does not say what is left in its queues")?;
    let mut seen = nemesis.witness.seen.lock().expect("nobody panics with it");
    Ok(Ledgers {
        commands: plan.into_iter().map(|planned| planned.command).collect(),
        events: std::mem::take(&mut seen.events),
        dead_letters: std::mem::take(&mut seen.dead_letters),
        pending: std::mem::take(&mut seen.pending),
        calls,
        decisions: None,
        journal: nemesis.journal.lock().expect("nobody panics with it").clone(),
        were_there,
        left,
        leaks: std::mem::take(&mut seen.leaks),
        bad_exits: Vec::new(),
    })
}

fn leaks_in(directory: &TempDir) -> Vec<String> {
    let files = fs::read_dir(directory.path()).expect("our own directory").flatten();
    let logs =
        files.filter(|file| file.path().extension().is_some_and(|extension| extension == "log"));
    let leaking = logs.filter(|log| {
        fs::read(log.path()).is_ok_and(|text| String::from_utf8_lossy(&text).contains(TOKEN_MARK))
    });
    leaking.map(|log| log.file_name().to_string_lossy().into_owned()).collect()
}
