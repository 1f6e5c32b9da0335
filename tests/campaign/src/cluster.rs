//! A cluster of three RabbitMQ nodes in containers of its own, and the faults that are injected
//! into it.
//!
//! The nodes talk to each other over one network and to their clients over another. So a node can
//! be cut off from the others while its clients still reach it: the connection stays alive but
//! delivers nothing.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use fastrand::Rng;
use testkit::rabbitmq::guardian::guard;
use tokio::time::{Instant, sleep};

use crate::parts::now_ms;
use crate::records::InjectedFault;

const IMAGE: &str = "rabbitmq:4-management";
const NODES: u8 = 3;
const START_WITHIN: Duration = Duration::from_mins(3);
/// A minority stops by itself when it notices that it is one. With Erlang's default of 60 s
/// (`net_ticktime`) it does not notice in time: that is the hard case.
const CONFIGURATION: &str = "loopback_users = none\n\
    cluster_formation.peer_discovery_backend = classic_config\n\
    cluster_formation.classic_config.nodes.1 = rabbit@n1\n\
    cluster_formation.classic_config.nodes.2 = rabbit@n2\n\
    cluster_formation.classic_config.nodes.3 = rabbit@n3\n\
    cluster_partition_handling = pause_minority\n\
    disk_free_limit.absolute = 50MB\n";

/// A fault of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Killed,
    Stopped,
    Frozen,
    CutOff(Duration),
    /// Its leaders move to the other nodes, and its clients with them.
    Drained,
}

/// One of each.
pub(crate) const FAULTS: [Fault; 6] = [
    Fault::Killed,
    Fault::Stopped,
    Fault::Frozen,
    Fault::CutOff(Duration::from_secs(15)),
    Fault::CutOff(Duration::from_secs(45)),
    Fault::Drained,
];
/// How long a node is away.
const AWAY: Duration = Duration::from_secs(20);

/// A running cluster; its containers and networks are removed when this process ends, however it
/// ends.
pub(crate) struct Cluster {
    name: String,
    subnets: [u8; 2],
}

impl Cluster {
    /// Starts three nodes and waits until they are one cluster.
    ///
    /// # Errors
    /// The message of Docker, for example that no engine answers.
    pub(crate) async fn start(net_ticktime: u32) -> Result<Self, String> {
        let run = |arguments: Vec<String>| blocking(move || docker(&arguments));
        run(words("info --format ok"))
            .await
            .map_err(|error| format!("--cluster needs a Docker engine: {error}"))?;
        let name = format!("tallyfy-cluster-{:08x}", fastrand::u32(..));
        let end =
            r#"docker rm -f "$1-n1" "$1-n2" "$1-n3"; docker network rm "$1-inner" "$1-outer""#;
        guard("", end, &[&name])?;
        let cluster = Self { subnets: [fastrand::u8(1..120), fastrand::u8(128..250)], name };
        for (network, third) in ["inner", "outer"].into_iter().zip(cluster.subnets) {
            let create =
                format!("network create --subnet 10.213.{third}.0/24 {}-{network}", cluster.name);
            run(words(&create)).await?;
        }
        let file = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
        std::fs::write(file.path(), CONFIGURATION).map_err(|error| error.to_string())?;
        world_readable(file.path())?;
        for node in 1..=NODES {
            let container = cluster.container(node);
            let mut create = words(&format!(
                "create --name {container} --hostname host{node} --ulimit nofile=20000:20000 --network {}-inner --network-alias n{node} \
                 --ip {} -e RABBITMQ_NODENAME=rabbit@n{node} -e RABBITMQ_CTL_ERL_ARGS=-setcookie\\ campaign",
                cluster.name,
                cluster.address(0, node),
            ));
            create.extend([
                "-e".into(),
                format!("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-setcookie campaign -kernel net_ticktime {net_ticktime}"),
                IMAGE.into(),
            ]);
            run(create).await?;
            let copy = format!(
                "cp {} {container}:/etc/rabbitmq/conf.d/90-cluster.conf",
                file.path().display()
            );
            run(words(&copy)).await?;
            let connect = format!(
                "network connect --ip {} {}-outer {container}",
                cluster.address(1, node),
                cluster.name
            );
            run(words(&connect)).await?;
            run(words(&format!("start {container}"))).await?;
        }
        cluster.is_whole(START_WITHIN).await?;
        Ok(cluster)
    }

    /// Where clients reach the nodes.
    pub(crate) fn hosts(&self) -> Vec<String> {
        (1..=NODES).map(|node| format!("{}:5672", self.address(1, node))).collect()
    }

    /// Creates a virtual host with all permissions for `guest`.
    pub(crate) async fn add_vhost(&self, name: &str) -> Result<(), String> {
        self.ctl(1, &format!("add_vhost {name} --default-queue-type quorum")).await?;
        self.ctl(1, &format!("set_permissions -p {name} guest .* .* .*")).await
    }

    /// Injects a fault into a node, and returns when the cluster is whole again.
    pub(crate) async fn inject(
        &self,
        fault: Fault,
        rng: &mut Rng,
    ) -> Result<InjectedFault, String> {
        let (node, from_ms) = (rng.u8(1..=NODES), now_ms());
        println!("       node {node}: {fault:?}");
        let container = self.container(node);
        let run = |line: String| blocking(move || docker(&words(&line)));
        match fault {
            Fault::Killed => self.away(run(format!("kill {container}")).await, node).await?,
            Fault::Stopped => self.away(run(format!("stop -t 20 {container}")).await, node).await?,
            Fault::Frozen => {
                run(format!("pause {container}")).await?;
                sleep(AWAY).await;
                run(format!("unpause {container}")).await?;
            }
            Fault::CutOff(time) => {
                let inner = format!("{}-inner", self.name);
                run(format!("network disconnect {inner} {container}")).await?;
                sleep(time).await;
                let (alias, address) = (format!("n{node}"), self.address(0, node));
                run(format!("network connect --alias {alias} --ip {address} {inner} {container}"))
                    .await?;
            }
            Fault::Drained => {
                self.exec(node, "rabbitmq-upgrade drain").await?;
                sleep(AWAY).await;
                self.exec(node, "rabbitmq-upgrade revive").await?;
            }
        }
        self.is_whole(START_WITHIN).await?;
        let (family, what) = (fault.name(), format!("node {node}"));
        Ok(InjectedFault {
            from_ms,
            to_ms: now_ms(),
            family,
            org: None,
            stops: false,
            hides: true,
            what,
        })
    }

    async fn away(&self, ended: Result<(), String>, node: u8) -> Result<(), String> {
        ended?;
        sleep(AWAY).await;
        let start = format!("start {}", self.container(node));
        blocking(move || docker(&words(&start))).await
    }

    /// Waits until every node knows all of them.
    async fn is_whole(&self, within: Duration) -> Result<(), String> {
        let deadline = Instant::now() + within;
        loop {
            let mut error = Ok(());
            for node in 1..=NODES {
                error = error.and(self.ctl(node, "await_online_nodes 3 -t 3").await);
            }
            if error.is_ok() || Instant::now() > deadline {
                return error;
            }
            sleep(Duration::from_secs(1)).await;
        }
    }

    async fn ctl(&self, node: u8, command: &str) -> Result<(), String> {
        self.exec(node, &format!("rabbitmqctl -q {command}")).await
    }

    async fn exec(&self, node: u8, command: &str) -> Result<(), String> {
        let line = format!("exec {} {command}", self.container(node));
        blocking(move || docker(&words(&line))).await
    }

    fn container(&self, node: u8) -> String {
        format!("{}-n{node}", self.name)
    }

    fn address(&self, network: usize, node: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, self.subnets[network], 10 + node)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = docker(&words(&format!(
            "rm -f {} {} {}",
            self.container(1),
            self.container(2),
            self.container(3)
        )));
        let _ = docker(&words(&format!("network rm {0}-inner {0}-outer", self.name)));
    }
}

impl Fault {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Killed => "node killed",
            Self::Stopped => "node stopped",
            Self::Frozen => "node frozen",
            Self::CutOff(time) if time.as_secs() < 20 => "node cut off for 15 s",
            Self::CutOff(_) => "node cut off for 45 s",
            Self::Drained => "leaders moved",
        }
    }
}

/// Splits at spaces, except for those with a backslash before them.
fn words(line: &str) -> Vec<String> {
    let words = line.replace("\\ ", "\0");
    words.split_whitespace().map(|word| word.replace('\0', " ")).collect()
}

/// Runs a docker command, with a limit of one minute.
fn docker(arguments: &[String]) -> Result<(), String> {
    let output = Command::new("timeout").args(["60", "docker"]).args(arguments).output();
    let output = output.map_err(|error| format!("timeout: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let what = arguments.iter().take(2).map(String::as_str).collect::<Vec<_>>().join(" ");
    output
        .status
        .success()
        .then_some(())
        .ok_or(format!("docker {what}: {said} ({})", output.status))
}

fn world_readable(path: &std::path::Path) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(path, mode).map_err(|error| error.to_string())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("docker does not panic")
}
