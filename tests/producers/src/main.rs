//! Checks the producers of `docs/producers` against a real RabbitMQ: each command arrives as
//! expected, and a producer fails if no queue takes its command. Also checks the Python snippets of
//! the documents.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "this is a check, and what it prints is for people"
)]

mod snippets;

use std::process::{Command, ExitCode, Output};

use lapin::options::BasicGetOptions;
use lapin::{Channel, Connection, ConnectionProperties};
use tallyfy_delete_worker::kind::Kind;
use tallyfy_delete_worker::messages;
use tallyfy_delete_worker::rabbitmq::Connection as BrokerConnection;
use tallyfy_delete_worker::rabbitmq::tls::TlsFiles;
use tallyfy_delete_worker::rabbitmq::topology::{self, Provision, Topology};
use testkit::rabbitmq::broker;

const LANGUAGES: [&str; 6] = ["python", "cpp", "java", "go", "javascript", "csharp"];
/// The exit code for a language that cannot run here: `EX_TEMPFAIL` of sysexits.h.
const CANNOT: i32 = 75;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let vhost = broker().new_vhost().await;
    let url = broker().amqp_url(&vhost);
    let connection =
        BrokerConnection::open(&url.parse().unwrap(), &TlsFiles::default(), "producers")
            .await
            .unwrap();
    let topology = Topology {
        audit_retention: std::time::Duration::from_hours(24),
        undo_window: None,
        provision: Provision::Declare,
        kinds: vec![Kind::TaskDelete, Kind::TaskArchive],
        delays: Vec::new(),
    };
    topology::ensure(&connection, &topology).await.unwrap();
    let reader = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
    let channel = reader.create_channel().await.unwrap();
    let mut failed = false;
    for language in LANGUAGES {
        let found = look_at(language, &url, &channel).await;
        failed |= found.is_err();
        println!("{language}: {}", found.unwrap_or_else(|fault| format!("FAILED: {fault}")));
    }
    broker().delete_vhost(&vhost).await;
    let found = snippets::look_at().await;
    failed |= found.is_err();
    println!("snippets: {}", found.unwrap_or_else(|fault| format!("FAILED: {fault}")));
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

async fn look_at(language: &str, url: &str, channel: &Channel) -> Result<String, String> {
    let delete = ["acme", "t1"];
    if let Some(why) = look_at_command(language, url, channel, Kind::TaskDelete, &delete).await? {
        return Ok(format!("skipped: {why}"));
    }
    // The routing key is the kind.
    let archive = ["acme", "t1", "task.commands", Kind::TaskArchive.queue()];
    look_at_command(language, url, channel, Kind::TaskArchive, &archive).await?;
    let nowhere = run(language, url, &["acme", "t2", "task.commands", "nowhere"]).await;
    if nowhere.status.success() || nowhere.status.code() == Some(CANNOT) {
        return Err("it does not notice that no queue takes a command".to_owned());
    }
    Ok("its command arrives as expected, and it fails if no queue takes one".to_owned())
}

/// Publishes a command and checks it in the queue of this kind. Returns the reason if the language
/// cannot run here.
async fn look_at_command(
    language: &str,
    url: &str,
    channel: &Channel,
    kind: Kind,
    args: &[&str],
) -> Result<Option<String>, String> {
    let output = run(language, url, args).await;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    match output.status.code() {
        Some(CANNOT) if language == "python" => {
            return Err(format!("it must run everywhere: {said}"));
        }
        Some(CANNOT) => return Ok(Some(said)),
        Some(0) => {}
        code => return Err(format!("exit {code:?}: {said}")),
    }
    let got = channel.basic_get(kind.queue().into(), BasicGetOptions { no_ack: true }).await;
    let message = got.map_err(|error| error.to_string())?.ok_or("no command has arrived")?.delivery;
    let command =
        messages::Command::decode(kind, &message.data).map_err(|error| error.to_string())?;
    let id = message.properties.message_id().as_ref().map(ToString::to_string).unwrap_or_default();
    let printed = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let is_as_it_should = command.target.id.as_str() == "t1"
        && *message.properties.delivery_mode() == Some(2)
        && message
            .properties
            .content_type()
            .as_ref()
            .is_some_and(|kind| kind.as_str() == "application/json")
        && id.len() == 36
        && printed == id;
    if !is_as_it_should {
        return Err(format!(
            "{command:?} with {:?}, and it printed {printed:?}",
            message.properties
        ));
    }
    Ok(None)
}

/// On a thread of its own, so that the reader's heartbeats go on: installing a language may take
/// minutes.
async fn run(language: &str, url: &str, args: &[&str]) -> Output {
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/run"));
    command.arg(language).args(args).env("AMQP_URL", url);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}
