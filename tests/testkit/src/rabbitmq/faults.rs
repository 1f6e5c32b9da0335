//! Faults for a broker of our own: it can be killed, frozen, started again, and put into a memory
//! alarm.

use std::{
    io::{Read, Write},
    net::{TcpStream, ToSocketAddrs},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use super::{Broker, STARTUP};

/// How to control a broker's process.
pub(super) enum Control {
    /// It was not started by us.
    NotOurs,
    /// A container of the engine at `endpoint`.
    Container { endpoint: String, name: String },
    /// A private node with its directory and its start script.
    Node { dir: PathBuf, server: PathBuf },
}

impl Broker {
    /// Ends it as a power failure would. Blocks, as all of these methods do.
    pub fn kill(&self) {
        match &self.control {
            Control::NotOurs => unreachable!("`own_broker` gives no such broker"),
            Control::Container { .. } => self.docker("kill", &[]),
            Control::Node { dir, .. } => {
                let pid = pid(dir);
                run(Command::new("kill").args(["-9", &pid]));
                until("the node is gone", || !is_alive(&pid));
                let _ = std::fs::remove_file(dir.join("pid"));
            }
        }
    }

    /// Starts it again after [`Broker::kill`], with its data, and waits until it takes connections.
    pub fn start_again(&self) {
        match &self.control {
            Control::NotOurs => unreachable!("`own_broker` gives no such broker"),
            Control::Container { .. } => self.docker("start", &[]),
            Control::Node { dir, server } => {
                // Not our child, so we need not wait for it.
                let script = r#""$1/with" "$2" </dev/null >>"$1/output" 2>&1 &"#;
                run(Command::new("sh")
                    .args(["-c", script, "node"])
                    .args([dir, server])
                    .process_group(0));
            }
        }
        self.until_it_takes_connections();
    }

    /// Stops it in the middle of its work; its connections stay open.
    pub fn freeze(&self) {
        self.signal_or("pause", "-STOP");
    }

    /// Lets it go on after [`Broker::freeze`].
    pub fn thaw(&self) {
        self.signal_or("unpause", "-CONT");
    }

    /// Runs `rabbitmqctl`.
    pub fn ctl(&self, arguments: &[&str]) {
        match &self.control {
            Control::NotOurs => unreachable!("`own_broker` gives no such broker"),
            Control::Container { .. } => {
                self.docker("exec", &[&["rabbitmqctl"], arguments].concat());
            }
            Control::Node { dir, server } => {
                let ctl = server.with_file_name("rabbitmqctl");
                run(Command::new(dir.join("with")).arg(ctl).args(arguments));
            }
        }
    }

    /// Switches a plugin on.
    pub fn enable_plugin(&self, plugin: &str) {
        let arguments = ["rabbitmq-plugins", "enable", plugin];
        match &self.control {
            Control::NotOurs => unreachable!("`own_broker` gives no such broker"),
            Control::Container { .. } => self.docker("exec", &arguments),
            Control::Node { dir, server } => {
                let plugins = server.with_file_name(arguments[0]);
                run(Command::new(dir.join("with")).arg(plugins).args(&arguments[1..]));
            }
        }
    }

    fn signal_or(&self, docker: &str, signal: &str) {
        match &self.control {
            Control::NotOurs => unreachable!("`own_broker` gives no such broker"),
            Control::Container { .. } => self.docker_until_it_works(docker),
            Control::Node { dir, .. } => run(Command::new("kill").args([signal, &pid(dir)])),
        }
    }

    fn docker(&self, verb: &str, arguments: &[&str]) {
        run(self.docker_command(verb).args(arguments));
    }

    /// On a busy machine the engine may be "unable to freeze" a container at the first try.
    fn docker_until_it_works(&self, verb: &str) {
        let mut command = self.docker_command(verb);
        until(verb, || command.output().is_ok_and(|output| output.status.success()));
    }

    fn docker_command(&self, verb: &str) -> Command {
        let Control::Container { endpoint, name } = &self.control else {
            unreachable!("asked of a container only")
        };
        let mut command = Command::new("docker");
        command.args(["-H", endpoint, verb, name]);
        command
    }

    fn until_it_takes_connections(&self) {
        let (host, port) = self.host_port();
        until("RabbitMQ takes connections", || {
            let address =
                (host.as_str(), port).to_socket_addrs().ok().and_then(|mut all| all.next());
            address.is_some_and(|address| greets(&address).is_ok())
        });
    }
}

/// RabbitMQ's first frame comes only when the node is up; Docker's proxy accepts connections
/// earlier.
fn greets(address: &std::net::SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(b"AMQP\x00\x00\x09\x01")?;
    stream.read_exact(&mut [0; 8])
}

fn pid(dir: &Path) -> String {
    let pid = std::fs::read_to_string(dir.join("pid")).expect("the node's pid");
    pid.trim().to_owned()
}

fn is_alive(pid: &str) -> bool {
    Command::new("kill")
        .args(["-0", pid])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().expect("a program that starts");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + STARTUP;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {STARTUP:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
