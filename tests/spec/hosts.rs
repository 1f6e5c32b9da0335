//! Several hosts of one cluster: one that is away, mute or deaf is left for another. Two wires to
//! one broker stand for two hosts.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tallyfy_delete_worker::rabbitmq::Connection;
use tallyfy_delete_worker::rabbitmq::tls::TlsFiles;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;

use crate::command_line::{signal, with_settings};
use crate::support::process::{Running, output};
use crate::support::proxy::Proxy;
use crate::support::rabbitmq::{broker, http, own_broker};
use crate::support::world::World;
use crate::support::{eventually, eventually_within};

/// A port that answers no SYN: its queue of connections is full, and nobody takes any.
struct BlackHole {
    address: SocketAddr,
    _full: (TcpListener, Vec<tokio::task::JoinHandle<()>>),
}

impl BlackHole {
    fn open() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let hold = |_| {
            tokio::spawn(async move {
                let _connection = TcpStream::connect(address).await;
                std::future::pending::<()>().await;
            })
        };
        Self { address, _full: (listener, (0..4).map(hold).collect()) }
    }

    async fn is_black(&self) {
        eventually("a port that answers nothing", async || {
            let connect = TcpStream::connect(self.address);
            tokio::time::timeout(Duration::from_millis(300), connect).await.is_err().then_some(())
        })
        .await;
    }
}

/// The URL of the world's virtual host, at these hosts.
fn at(world: &World, hosts: &[SocketAddr], parameters: &str) -> String {
    let url = broker().amqp_url(&world.vhost);
    let (user, rest) = url.split_once('@').unwrap();
    let (_, vhost) = rest.split_once('/').unwrap();
    let hosts = hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    format!("{user}@{hosts}/{vhost}{parameters}")
}

async fn wire() -> Proxy {
    let (host, port) = broker().host_port();
    Proxy::start(format!("{host}:{port}")).await
}

async fn nobody_listens() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn a_host_that_refuses_and_one_that_does_not_answer_do_not_hold_up_the_third() {
    let (black, wire) = (BlackHole::open(), wire().await);
    black.is_black().await;
    let mut world = World::without_worker(|_| {}).await;
    let hosts = [black.address, nobody_listens().await, wire.addr];
    world.connect_worker_with(&at(&world, &hosts, "?connection_timeout=500"));
    world.start_worker().await;
    world.is_ready().await;
    assert_eq!(world.end(&world.delete("t1").await).await["outcome"], "deleted");
    world.assert_drained().await;
}

#[tokio::test]
async fn all_connections_go_to_one_host_and_the_next_session_to_another() {
    let wires = [wire().await, wire().await, wire().await];
    let mut world = World::without_worker(|_| {}).await;
    let hosts = wires.each_ref().map(|wire| wire.addr);
    world.connect_worker_with(&at(&world, &hosts, ""));
    world.start_worker().await;
    let mut before = [0; 3];
    let mut last = None;
    for _ in 0..4 {
        // Consuming, publishing, and undeliverable commands. What belonged to the session before
        // may have tried once more where that was.
        let used = eventually("three connections to one host", async || {
            let accepted = wires.each_ref().map(Proxy::accepted);
            let used = (0..3).filter(|at| accepted[*at] >= before[*at] + 3).collect::<Vec<_>>();
            assert!(used.len() <= 1, "one host for all, not {used:?}");
            used.first().copied()
        })
        .await;
        world.is_ready().await;
        assert_ne!(Some(used), last, "the one that has just failed");
        (before, last) = (wires.each_ref().map(Proxy::accepted), Some(used));
        wires[used].cut();
        world.is_not_ready_because("not consuming").await;
        wires[used].restore();
    }
    world.is_ready().await;
    world.assert_drained().await;
}

#[tokio::test]
async fn a_host_that_falls_silent_is_left_long_before_its_heartbeat_would_tell() {
    let wires = [wire().await, wire().await];
    let mut world = World::without_worker(|_| {}).await;
    let hosts = wires.each_ref().map(|wire| wire.addr);
    world.connect_worker_with(&at(&world, &hosts, "?heartbeat=60"));
    world.start_worker().await;
    world.is_ready().await;
    let at = usize::from(wires[1].accepted() > 0);
    wires[at].freeze();
    world.is_not_ready_because("RabbitMQ does not answer").await;
    eventually("a session at the other host", async || {
        (wires[1 - at].accepted() >= 2).then_some(())
    })
    .await;
    world.is_ready().await;
    // The broker still believes that the old connection lives, and would give it messages.
    wires[at].thaw();
    assert_eq!(world.end(&world.delete("t1").await).await["outcome"], "deleted");
    world.assert_drained().await;
}

/// Every reply takes a while. Opening a channel and asking for a majority takes five of them.
#[tokio::test]
async fn a_slow_broker_is_not_taken_for_a_mute_one() {
    let wire = wire().await;
    let mut world = World::without_worker(|_| {}).await;
    world.connect_worker_with(&at(&world, &[wire.addr], "?heartbeat=60"));
    world.start_worker().await;
    world.is_ready().await;
    let (accepted, replies) = (wire.accepted(), wire.replies());
    wire.slow_down(Duration::from_millis(900));
    let looked = async || (wire.replies() >= replies + 40).then_some(());
    eventually_within(Duration::from_mins(2), "some looks", looked).await;
    assert_eq!(world.page("/readyz").await.0, 200);
    assert_eq!(wire.accepted(), accepted, "no other session");
    wire.slow_down(Duration::ZERO);
    assert_eq!(world.end(&world.delete("t1").await).await["outcome"], "deleted");
    world.assert_drained().await;
}

/// A host that accepts connections and never says a word, and whether another host was connected
/// to before each of them was left.
async fn mute(wire: &Arc<Proxy>) -> (SocketAddr, mpsc::UnboundedReceiver<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, (left, was_left)) = (listener.local_addr().unwrap(), mpsc::unbounded_channel());
    let wire = Arc::clone(wire);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (wire, left, before) = (Arc::clone(&wire), left.clone(), wire.accepted());
            tokio::spawn(async move {
                let mut nothing = Vec::new();
                let _ = stream.read_to_end(&mut nothing).await;
                let _ = left.send(wire.accepted() > before);
            });
        }
    });
    (address, was_left)
}

#[tokio::test]
async fn a_host_that_accepts_and_says_nothing_is_waited_for_while_the_next_one_is_tried() {
    let wire = Arc::new(wire().await);
    let world = World::without_worker(|_| {}).await;
    let (mute, mut was_left) = mute(&wire).await;
    let url = at(&world, &[mute, wire.addr], "?connection_timeout=300");
    // The order of the hosts is random.
    let mut is_waited_for = false;
    for _ in 0..20 {
        let source = url.parse().unwrap();
        let connection = Connection::open(&source, &TlsFiles::default(), "spec").await.unwrap();
        connection.close().await;
        is_waited_for |= was_left.try_recv() == Ok(true);
    }
    assert!(is_waited_for, "a mute host was left before the next one was tried");
    broker().delete_vhost(&world.vhost).await;
}

/// A node that has lost the others answers what it remembers, and nothing that needs a majority.
#[tokio::test]
async fn a_host_whose_node_has_lost_the_others_is_left() {
    let (host, port) = broker().host_port();
    let alone = Proxy::losing(format!("{host}:{port}"), "majority").await;
    let whole = wire().await;
    let mut world = World::without_worker(|_| {}).await;
    whole.cut();
    world.connect_worker_with(&at(&world, &[alone.addr, whole.addr], ""));
    world.start_worker().await;
    world.is_ready().await;
    let before = whole.accepted();
    whole.restore();
    world.is_not_ready_because("does not answer what needs a majority of its nodes").await;
    eventually("a session at the other host", async || {
        (whole.accepted() >= before + 2).then_some(())
    })
    .await;
    world.is_ready().await;
    assert_eq!(world.end(&world.delete("t1").await).await["outcome"], "deleted");
    world.assert_drained().await;
}

/// Behind a balancer that sends every other connection to the node that was left.
#[tokio::test]
async fn a_session_that_follows_one_that_was_given_up_proves_itself_first() {
    let (host, port) = broker().host_port();
    let alone = Proxy::losing(format!("{host}:{port}"), "majority").await;
    let whole = wire().await;
    let nodes = [alone.addr, whole.addr].map(|node| node.to_string());
    let balancer = Proxy::balancing(nodes.to_vec()).await;
    let mut world = World::without_worker(|_| {}).await;
    world.connect_worker_with(&at(&world, &[balancer.addr], ""));
    world.start_worker().await;
    world.is_ready().await;
    world.is_not_ready_because("does not answer what needs a majority of its nodes").await;
    world.is_ready().await;
    assert_eq!(world.end(&world.delete("t1").await).await["outcome"], "deleted");
    // One of the first session, two of the next, and one for undeliverable commands at most.
    let accepted = whole.accepted();
    assert!(accepted <= 4, "{accepted} connections to the node that works");
    world.assert_drained().await;
}

#[tokio::test]
async fn a_consumer_that_its_queue_has_forgotten_is_told_and_comes_back() {
    let broker = own_broker();
    let world = World::without_worker(|_| {}).await;
    let mut command = with_settings(&world, &["run"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let worker = Running::start_and_listen(&mut command);
    assert_eq!(world.end(&world.delete("t1").await).await["outcome"], "deleted");
    // Nobody tells the consumer, as if the queue had moved to a node that never knew of it.
    broker.ctl(&[
        "eval",
        &format!(
            "{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<\"{}\">>, queue, <<\"task.delete\">>)), \
             [ra:process_command(amqqueue:get_pid(Q), rabbit_fifo:make_checkout({{element(2, C), element(1, C)}}, cancel, #{{}})) \
             || C <- rabbit_amqqueue:consumers(Q)].",
            world.vhost
        ),
    ]);
    world.delete("t2").await;
    assert_eq!(world.end("t2").await["outcome"], "deleted");
    signal(&worker, "TERM");
    let output = worker.output().await;
    let log = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let lost = "the session before was lost: deaf: nothing comes from task.delete";
    assert!(log.contains(lost), "{log}");
    broker.delete_vhost(&world.vhost).await;
}

/// What a busy worker looks like: messages are ready, it gets none, and all that it may have is in
/// work.
#[tokio::test]
async fn a_worker_that_has_as_much_as_it_may_have_is_not_deaf() {
    let mut world = World::without_worker(|settings| {
        settings.broker.prefetch = 2;
        settings.core.api.request_timeout = Duration::from_secs(20);
    })
    .await;
    world.sandbox.fault_for_all(json!({"latency_ms": 9000})).await;
    for task in ["t1", "t2", "t3", "t4"] {
        world.delete(task).await;
    }
    world.start_worker().await;
    for task in ["t3", "t4"] {
        world.end(task).await;
    }
    assert_eq!(world.metric("tallyfy_delete_worker_reconnects_total").await, Some(0.0));
    world.assert_drained().await;
}

/// As an operator does in a worker's pod.
#[tokio::test]
async fn a_url_on_the_command_line_replaces_the_files_of_the_environment() {
    let world = World::without_worker(|_| {}).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "amqp://worker:secret@127.0.0.1:1/").unwrap();
    let with_files = |args: &[&str]| {
        let mut command = with_settings(&world, args);
        command.env_remove("AMQP_URL").env("AMQP_URL_FILE", file.path());
        command.env("AMQP_PASSWORD_FILE", file.path());
        command
    };
    let own = broker().amqp_url_as("guest", "guest", &world.vhost);
    let replaced = output(with_files(&["dead", "list", "--amqp-url", &own])).await;
    assert_eq!(replaced.status.code(), Some(0), "{}", String::from_utf8_lossy(&replaced.stderr));
    let mut unset = with_files(&["dead", "list"]);
    unset.env("AMQP_URL", &own).env("AMQP_URL_FILE", "").env("AMQP_PASSWORD_FILE", "");
    assert_eq!(output(unset).await.status.code(), Some(0), "an empty variable is unset");
    let mut both = with_files(&["dead", "list"]);
    both.env("AMQP_URL", &own);
    let both = output(both).await;
    let said = String::from_utf8_lossy(&both.stderr).into_owned();
    assert_eq!(both.status.code(), Some(64), "{said}");
    assert_eq!(said, "AMQP_URL: is set, and AMQP_URL_FILE too: set one of them\n");
    broker().delete_vhost(&world.vhost).await;
}

#[tokio::test]
async fn a_rotated_password_needs_no_restart() {
    let world = World::without_worker(|_| {}).await;
    let (user, dir) = (format!("worker-{}", world.vhost), tempfile::tempdir().unwrap());
    let (url, password) = (dir.path().join("url"), dir.path().join("password"));
    broker().put_user(&user, "first").await;
    broker().set_permissions(&world.vhost, &user, ".*", ".*", ".*").await;
    let wire = wire().await;
    let own = broker().amqp_url_as(&user, "of-no-use", &world.vhost);
    let (_, vhost) = own.rsplit_once('/').unwrap();
    std::fs::write(&url, format!("amqp://{user}:of-no-use@{}/{vhost}\n", wire.addr)).unwrap();
    std::fs::write(&password, "first\n").unwrap();
    let port = nobody_listens().await;
    let mut command = with_settings(&world, &["run"]);
    command.env_remove("AMQP_URL").env("AMQP_URL_FILE", &url).env("AMQP_PASSWORD_FILE", &password);
    command.env("HTTP_ADDR", port.to_string()).stderr(Stdio::null());
    let mut worker = Running::start(&mut command);
    world.delete("t1").await;
    assert_eq!(world.end("t1").await["outcome"], "deleted");
    broker().put_user(&user, "second").await;
    wire.cut();
    std::fs::write(&password, "second\n").unwrap();
    wire.restore();
    world.delete("t2").await;
    assert_eq!(world.end("t2").await["outcome"], "deleted");
    let ready = http().get(format!("http://{port}/readyz")).send().await.unwrap();
    assert_eq!(ready.status(), 200);
    signal(&worker, "TERM");
    assert_eq!(worker.wait().unwrap().code(), Some(0));
    broker().delete_vhost(&world.vhost).await;
}
