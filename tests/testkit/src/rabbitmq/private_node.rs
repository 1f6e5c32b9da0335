//! RabbitMQ as a private node of this machine's own rabbitmq-server, with its own ports, directory
//! and epmd. It needs no root and no system service, and leaves nothing behind.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, Instant},
};

use url::Url;

use super::{
    Broker, Certificates, Control, QUICK_DEAD_LETTERING, QUICK_STATISTICS, STARTUP, guardian::guard,
};

/// Runs a command as the node's administrator, with its name, ports and directory, and nothing of
/// our environment. The limit of open files is as high as the system allows: with 1,024, RabbitMQ
/// 3.10 stalls under the tests that run at the same time.
const WITH_ITS_ENVIRONMENT: &str = r#"#!/bin/sh
ulimit -n "$(ulimit -H -n)" 2>/dev/null
exec env -i PATH="$PATH" HOME="{dir}" LANG=C.UTF-8 ERL_EPMD_PORT={epmd} ERL_EPMD_ADDRESS=127.0.0.1 \
  RABBITMQ_NODENAME=tallyfy@localhost RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 \
  RABBITMQ_NODE_PORT={amqp} RABBITMQ_DIST_PORT={distribution} \
  RABBITMQ_MNESIA_BASE="{dir}/data" RABBITMQ_LOG_BASE="{dir}/log" \
  RABBITMQ_CONFIG_FILE="{dir}/rabbitmq.conf" RABBITMQ_ENABLED_PLUGINS_FILE="{dir}/enabled_plugins" \
  RABBITMQ_PID_FILE="{dir}/pid" RABBITMQ_CONF_ENV_FILE=/dev/null \
  RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="{erlang}" "$@"
"#;

/// $1 the directory, $2 the server's start script, $3 the port of epmd. The start script would
/// leave an epmd behind. So we start one first, in the foreground, which we can end.
const BEGIN: &str = r#"
dir=$1 server=$2
epmd=$(command -v epmd || ls /usr/lib*/erlang/erts-*/bin/epmd /opt/*/lib/erlang/erts-*/bin/epmd | head -n 1)
"$epmd" -port "$3" -address 127.0.0.1 </dev/null & epmd_pid=$!
sleep 0.2
"$dir/with" sh -c '"$1"; echo ended' node "$server" </dev/null >"$dir/output" 2>&1 &
node=$!"#;

/// The node's pid file may appear late, if this process died while the node was starting.
const END: &str = r#"
for i in 1 2 3 4 5 6 7 8 9 10; do [ ! -s "$dir/pid" ] || break; kill -0 $node || break; sleep 1; done
kill -9 "$(cat "$dir/pid")" $node $epmd_pid
wait
rm -rf "$dir""#;

/// Starts `server` (its plain start script).
pub(super) async fn start(server: &str) -> Result<Broker, String> {
    let failed = |error: std::io::Error| format!("a private node of {server}: {error}");
    let [epmd, amqp, amqps, distribution, management] = free_ports().map_err(failed)?;
    let dir = std::env::temp_dir().join(format!("tallyfy-test-{}", uuid::Uuid::new_v4().simple()));
    fs::create_dir_all(&dir).map_err(failed)?;
    let certificates = Certificates::new();
    for (name, text) in certificates.of_the_broker() {
        fs::write(dir.join(name), text).map_err(failed)?;
    }
    let tls = Certificates::settings(&format!("127.0.0.1:{amqps}"), &dir.to_string_lossy());
    let config = format!(
        "management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {management}\nlog.console = true\nlog.file = false\n\
         disk_free_limit.absolute = 50MB\n{QUICK_STATISTICS}{tls}"
    );
    fs::write(dir.join("rabbitmq.conf"), config).map_err(failed)?;
    fs::write(dir.join("enabled_plugins"), "[rabbitmq_management].\n").map_err(failed)?;
    let names = [
        ("{dir}", dir.display().to_string()),
        ("{epmd}", epmd.to_string()),
        ("{amqp}", amqp.to_string()),
        ("{distribution}", distribution.to_string()),
        ("{erlang}", QUICK_DEAD_LETTERING.to_owned()),
    ];
    let with = names.into_iter().fold(WITH_ITS_ENVIRONMENT.to_owned(), |script, (name, value)| {
        script.replace(name, &value)
    });
    fs::write(dir.join("with"), with).map_err(failed)?;
    fs::set_permissions(dir.join("with"), fs::Permissions::from_mode(0o700)).map_err(failed)?;
    guard(BEGIN, END, &[&dir.to_string_lossy(), server, &epmd.to_string()])?;
    started(&dir.join("output"))
        .await
        .map_err(|tail| format!("a private node of {server}: {tail}"))?;
    let amqp = Url::parse(&format!("amqp://guest:guest@127.0.0.1:{amqp}"))
        .map_err(|error| error.to_string())?;
    Ok(Broker {
        description: "as a private node on this machine".into(),
        amqp,
        management: format!("http://127.0.0.1:{management}"),
        control: Control::Node { dir, server: server.into() },
        tls: Some((amqps, certificates)),
    })
}

/// Waits for the line that says that it has started; otherwise returns the end of its output.
async fn started(output: &Path) -> Result<(), String> {
    let deadline = Instant::now() + STARTUP;
    loop {
        let said = String::from_utf8_lossy(&fs::read(output).unwrap_or_default()).into_owned();
        if said.contains("Server startup complete") {
            return Ok(());
        }
        if said.ends_with("ended\n") || Instant::now() > deadline {
            let lines: Vec<_> =
                said.lines().rev().filter(|line| !line.trim().is_empty()).take(6).collect();
            return Err(format!(
                "it did not start: {}",
                lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
            ));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Ports that were free a moment ago. All are held at once, so that they differ. They are below
/// those that the kernel gives to programs that bind port 0 (Linux: from 32768), so that no other
/// program gets one before the broker binds it.
pub(super) fn free_ports<const N: usize>() -> std::io::Result<[u16; N]> {
    let mut held = Vec::new();
    let mut ports = [0; N];
    for port in &mut ports {
        let mut tries = (0..100)
            .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, fastrand::u16(20_000..32_000))));
        let listener = tries.find_map(Result::ok).ok_or(std::io::ErrorKind::AddrInUse)?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}
