//! The command line of `console`, and who may use it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use axum::http::HeaderName;
use std::time::Duration;

use clap::Args;
use ipnet::IpNet;

use super::broker_args::BrokerArgs;
use super::log_args::LogArgs;
use super::read::Reader;
use super::topology_args::{KindsArgs, RetryDelayArgs};
use super::values::{Setting, checked, flag, socket_address};
use crate::console::{Access, ConsoleSettings, Passwords, Rights, Who};
use crate::rabbitmq::topology::{Provision, Topology};

const EXAMPLE: &str = "\
Example, on the machine where the browser is, or through `kubectl port-forward` or `ssh -L`:
  AMQP_URL=amqps://tallyfy-operator:SECRET@rabbit.example/tallyfy tallyfy-delete-worker console --write=true
Then open http://127.0.0.1:9465/.

The broker's user needs to read <kind>.dead, <kind>.dead.log, <kind>.held and task.delete.ledger, and to write amq.default, task.events,
task.ledger and task.dlx: docs/deploying.md has the operator's permissions.";

#[derive(Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct ConsoleArgs {
    /// Address of the console; an address other than loopback needs a password file or a header.
    #[arg(long = "addr", env = "CONSOLE_ADDR", default_value = "127.0.0.1:9465", value_name = "IP:PORT", help_heading = "Console", value_parser = checked(socket_address))]
    address: Setting<SocketAddr>,
    /// Let people act; otherwise they can only look.
    #[arg(long, env = "CONSOLE_WRITE", default_value = "false", value_name = "BOOL", help_heading = "Console", value_parser = checked(flag))]
    write: Setting<bool>,
    /// File with one name:password per line, for the people who may use it; read again for each
    /// request.
    #[arg(
        id = "console_password_file",
        long = "password-file",
        env = "CONSOLE_PASSWORD_FILE",
        value_name = "FILE",
        help_heading = "Console",
        conflicts_with = "user_header"
    )]
    password_file: Option<PathBuf>,
    /// Header in which a trusted proxy names the user.
    #[arg(long, env = "CONSOLE_USER_HEADER", value_name = "NAME", help_heading = "Console", value_parser = checked(header))]
    user_header: Option<Setting<HeaderName>>,
    /// Addresses or networks of the proxies that may set that header, separated by commas.
    #[arg(long, env = "CONSOLE_TRUSTED_PROXIES", default_value = "127.0.0.0/8,::1", value_name = "NETWORKS", help_heading = "Console", value_parser = checked(networks))]
    trusted_proxies: Setting<Vec<IpNet>>,
    /// Host names under which browsers reach the console, separated by commas, besides localhost.
    #[arg(
        long,
        env = "CONSOLE_HOSTS",
        value_delimiter = ',',
        value_name = "HOSTS",
        help_heading = "Console"
    )]
    hosts: Vec<String>,
    /// File to which discarded dead letters are appended, as JSON lines; without it none can be
    /// discarded here.
    #[arg(
        long = "discarded",
        env = "CONSOLE_DISCARDED",
        value_name = "FILE",
        help_heading = "Console"
    )]
    discarded: Option<PathBuf>,
    /// The acting user, for the audit event, if there is neither a password file nor a header.
    #[arg(long, env = "USER", value_name = "NAME", help_heading = "Console")]
    by: Option<String>,
    #[command(flatten)]
    kinds: KindsArgs,
    #[command(flatten)]
    delays: RetryDelayArgs,
    #[command(flatten)]
    broker: BrokerArgs,
    #[command(flatten)]
    pub(super) log: LogArgs,
}

fn header(text: &str) -> Result<HeaderName, String> {
    text.parse()
        .map_err(|_| format!("takes the name of a header, X-Forwarded-User say, not {text:?}"))
}

fn networks(text: &str) -> Result<Vec<IpNet>, String> {
    let network = |text: &str| {
        text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
    };
    let networks: Option<_> = text.split(',').map(|text| network(text.trim())).collect();
    networks.ok_or_else(|| format!("takes addresses or networks, 10.1.2.0/24 say, not {text:?}"))
}

impl Reader {
    pub(super) fn console(&mut self, args: &ConsoleArgs) -> Option<ConsoleSettings> {
        let address = self.take(&args.address);
        let write = self.take(&args.write);
        let who = address.and_then(|address| self.who(args, address));
        let (kinds, delays) = (self.take(&args.kinds.kinds), self.take(&args.delays.wait_ladder));
        let broker = self.broker_address(&args.broker);
        let (address, (url, tls)) = (address?, broker?);
        let delays = delays?.all().iter().map(|delay| (delay.name(), delay.ttl_ms())).collect();
        let access = Access {
            who: who?,
            rights: if write? { Rights::Act } else { Rights::Look },
            hosts: args.hosts.iter().map(|host| host.trim().to_owned()).collect(),
            is_loopback: address.ip().is_loopback(),
        };
        // Only the names of the queues matter here.
        let (audit_retention, undo_window) = (Duration::MAX, None);
        let topology = Topology {
            provision: Provision::Check,
            kinds: kinds?,
            delays,
            audit_retention,
            undo_window,
        };
        let discarded = args.discarded.clone();
        Some(ConsoleSettings { address, url, tls, topology, access, discarded })
    }

    /// # A console is not opened to a network by mistake
    ///
    /// Only people on this machine can reach a loopback address. On any other address the console
    /// does not start unless it can identify its users.
    fn who(&mut self, args: &ConsoleArgs, address: SocketAddr) -> Option<Who> {
        let proxies = self.take(&args.trusted_proxies);
        match (&args.password_file, &args.user_header) {
            (Some(file), _) => {
                let passwords = Passwords(file.clone());
                match passwords.read() {
                    Ok(_) => Some(Who::Password(passwords)),
                    Err(error) => self.problem("CONSOLE_PASSWORD_FILE", error),
                }
            }
            (None, Some(header)) => Some(Who::Header(self.take(header)?, proxies?)),
            (None, None) if address.ip().is_loopback() => {
                let by = args.by.as_deref().map(str::trim).filter(|by| !by.is_empty());
                let Some(by) = by else { return self.problem("--by", "is needed: who acts?") };
                Some(Who::Local(by.to_owned()))
            }
            (None, None) => self.problem(
                "CONSOLE_ADDR",
                "is no loopback address: set CONSOLE_PASSWORD_FILE, or CONSOLE_USER_HEADER behind a proxy that you trust",
            ),
        }
    }
}
