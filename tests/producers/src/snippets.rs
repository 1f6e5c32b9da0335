//! The Python snippets of the documents, run as they are printed, as the users of
//! `deploy/rabbitmq/definitions.json`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use lapin::options::{BasicGetOptions, BasicPublishOptions};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use serde_json::Value;

use testkit::rabbitmq::{Broker, broker_to_harm};

const VHOST: &str = "tallyfy";
const README: &str = include_str!("../../../README.md");
const MESSAGES: &str = include_str!("../../../docs/messages.md");
/// Pika is installed first, if it is missing.
const PATIENCE: Duration = Duration::from_mins(2);

/// Runs the producer of the README and the consumer of docs/messages.md.
///
/// # Errors
/// What is wrong with one of them.
pub(crate) async fn look_at() -> Result<String, String> {
    let (_turn, broker) = broker_to_harm().await;
    let definitions = include_str!("../../../deploy/rabbitmq/definitions.json");
    broker.import(&serde_json::from_str(definitions).map_err(|error| error.to_string())?).await;
    broker.set_permissions(VHOST, "guest", ".*", ".*", ".*").await;
    let url = broker.amqp_url(VHOST);
    let connection = Connection::connect(&url, ConnectionProperties::default()).await;
    let connection = connection.map_err(|error| error.to_string())?;
    let channel = connection.create_channel().await.map_err(|error| error.to_string())?;
    let found = match the_producer_is_taken(broker, &channel).await {
        Ok(()) => the_consumer_gets_each_event_once(broker, &channel).await,
        Err(fault) => Err(fault),
    };
    broker.delete_vhost(VHOST).await;
    found.map(|()| {
        "the producer of README.md and the consumer of docs/messages.md run as printed".into()
    })
}

/// The first block of this language.
fn printed<'a>(text: &'a str, language: &str) -> Result<&'a str, String> {
    let (_, rest) = text.split_once(&format!("```{language}\n")).ok_or("no such snippet")?;
    rest.split("```").next().ok_or_else(|| "it has no end".to_owned())
}

async fn start(broker: &Broker, user: &str, name: &str, snippet: &str) -> Result<Child, String> {
    broker.put_user(user, "pw").await;
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../");
    let file = format!("{root}target/producers/{name}");
    fs::create_dir_all(format!("{root}target/producers")).map_err(|error| error.to_string())?;
    fs::write(&file, snippet).map_err(|error| format!("{file}: {error}"))?;
    Command::new(format!("{root}tests/producers/run"))
        .args(["snippet", &file])
        .env("AMQP_URL", broker.amqp_url_as(user, "pw", VHOST))
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())
}

async fn the_producer_is_taken(broker: &Broker, channel: &Channel) -> Result<(), String> {
    let snippet = printed(README, "python")?;
    let mut child = start(broker, "tallyfy-producer", "readme.py", snippet).await?;
    let status = tokio::task::spawn_blocking(move || child.wait()).await;
    let status = status.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
    if !status.success() {
        return Err(format!("the producer of README.md: {status}"));
    }
    let got = channel.basic_get("task.delete".into(), BasicGetOptions { no_ack: true }).await;
    let message = got.map_err(|e| e.to_string())?.ok_or("the README's command has not arrived")?;
    let body = |text: &[u8]| serde_json::from_slice::<Value>(text).map_err(|e| e.to_string());
    let published_by = message.delivery.properties.user_id().as_ref().map(ToString::to_string);
    let is_as_printed = body(&message.delivery.data)? == body(printed(README, "json")?.as_bytes())?;
    if is_as_printed && published_by.as_deref() == Some("tallyfy-producer") {
        Ok(())
    } else {
        Err(format!("README.md: {:?}", message.delivery))
    }
}

async fn the_consumer_gets_each_event_once(
    broker: &Broker,
    channel: &Channel,
) -> Result<(), String> {
    let snippet = printed(MESSAGES, "python")?;
    let mut child = start(broker, "tallyfy-consumer", "messages.py", snippet).await?;
    let lines = lines_of(&mut child);
    let found = feed(channel, &lines, &mut child).await;
    let _ = child.kill();
    let _ = child.wait();
    found
}

fn lines_of(child: &mut Child) -> Receiver<String> {
    let (sender, receiver) = channel();
    let stdout = child.stdout.take();
    std::thread::spawn(move || {
        for line in stdout.into_iter().flat_map(|out| BufReader::new(out).lines()).flatten() {
            let _ = sender.send(line);
        }
    });
    receiver
}

/// Publishes one event repeatedly, because its queue is bound only after a while, and a few times
/// more after it was seen. Then it publishes the failure that the event supersedes, too late, and
/// the two ends of another command.
async fn feed(
    channel: &Channel,
    lines: &Receiver<String>,
    child: &mut Child,
) -> Result<(), String> {
    let (_, section) = MESSAGES.split_once("## The outcome event").ok_or("no section")?;
    let event = printed(section, "json")?;
    let json: Value = serde_json::from_str(event).map_err(|error| error.to_string())?;
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let data = &json["data"];
    let expected =
        [word(&json["type"]), word(&data["command_id"]), word(&data["outcome"])].join(" ");
    let other = |id: &str, command: &str, superseded: Option<&str>| {
        let mut event = json.clone();
        (event["id"], event["data"]["command_id"]) = (id.into(), command.into());
        let outcome = if superseded.is_some() { "deleted" } else { "dead_lettered" };
        (event["supersedes"], event["data"]["outcome"]) = (superseded.into(), outcome.into());
        if superseded.is_none() {
            event.as_object_mut().map(|event| event.remove("supersedes"));
        }
        event.to_string()
    };
    let failure = other(json["supersedes"].as_str().unwrap_or_default(), "too late", None);
    // And two ends of another command, in the order in which they usually come.
    let two_ends =
        [other("f2", "c2", None), other("s2", "c2", Some("f2")), other("f2", "c2", None)];
    let (deadline, mut seen) = (Instant::now() + PATIENCE, Vec::new());
    let mut repeats = 5;
    while repeats > 0 {
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            return Err(format!("the consumer of docs/messages.md: {status}"));
        }
        if Instant::now() > deadline {
            return Err("the consumer of docs/messages.md got no event in time".to_owned());
        }
        publish_event(channel, event).await?;
        tokio::time::sleep(Duration::from_millis(200)).await;
        seen.extend(lines.try_iter());
        repeats -= usize::from(!seen.is_empty());
    }
    for event in [failure].iter().chain(&two_ends) {
        publish_event(channel, event).await?;
    }
    let kind = word(&json["type"]);
    let expected = [expected, format!("{kind} c2 dead_lettered"), format!("{kind} c2 deleted")];
    while seen.len() < expected.len() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(200)).await;
        seen.extend(lines.try_iter());
    }
    if seen == expected {
        Ok(())
    } else {
        Err(format!("the consumer printed {seen:?} and not {expected:?}"))
    }
}

async fn publish_event(channel: &Channel, event: &str) -> Result<(), String> {
    let json: Value = serde_json::from_str(event).map_err(|error| error.to_string())?;
    let (exchange, key) = ("task.events".into(), json["type"].as_str().unwrap_or_default());
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    let published =
        channel.basic_publish(exchange, key.into(), options, event.as_bytes(), properties);
    published.await.map(|_| ()).map_err(|error| error.to_string())
}
