//! A producer with confirms: sends each command until the broker has confirmed it, and records the
//! attempts and confirms.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::parts::now_ms;
use crate::plan::Planned;

const LANES: usize = 4;
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);

/// The commands and their state.
pub(crate) struct Producer {
    url: String,
    pub(crate) plan: Mutex<Vec<Planned>>,
    next: AtomicUsize,
}

impl Producer {
    pub(crate) fn new(url: String, plan: Vec<Planned>) -> Self {
        Self { url, plan: Mutex::new(plan), next: AtomicUsize::new(0) }
    }

    /// Sends each at its time; returns when all are confirmed.
    pub(crate) async fn send_all(&self) {
        let begin = Instant::now();
        futures_util::future::join_all((0..LANES).map(|_| self.lane(begin))).await;
    }

    /// How many are confirmed.
    pub(crate) fn confirmed(&self) -> usize {
        self.lock().iter().filter(|planned| planned.command.acknowledged > 0).count()
    }

    async fn lane(&self, begin: Instant) {
        let mut channel = None;
        loop {
            let number = self.next.fetch_add(1, Ordering::SeqCst);
            let Some(planned) = self.lock().get(number).cloned() else { return };
            sleep_until(begin + planned.after).await;
            let times = if planned.twice { 2 } else { 1 };
            for _ in 0..times {
                self.send_until_confirmed(&mut channel, number, &planned).await;
            }
        }
    }

    async fn send_until_confirmed(
        &self,
        lane: &mut Option<(Connection, Channel)>,
        number: usize,
        planned: &Planned,
    ) {
        loop {
            if lane.is_none() {
                *lane =
                    timeout(CONFIRM_TIMEOUT, connect(&self.url)).await.ok().and_then(Result::ok);
            }
            if let Some((_, channel)) = lane {
                self.lock()[number].command.attempted += 1;
                if matches!(timeout(CONFIRM_TIMEOUT, send(channel, planned)).await, Ok(Ok(true))) {
                    let command = &mut self.lock()[number].command;
                    command.acknowledged += 1;
                    command.published_ms.get_or_insert_with(now_ms);
                    return;
                }
            }
            *lane = None;
            sleep(Duration::from_millis(200)).await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Planned>> {
        self.plan.lock().expect("a lock that is not poisoned")
    }
}

async fn connect(url: &str) -> lapin::Result<(Connection, Channel)> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok((connection, channel))
}

async fn send(channel: &Channel, planned: &Planned) -> lapin::Result<bool> {
    let mut properties = BasicProperties::default().with_delivery_mode(2);
    if let Some(id) = &planned.message_id {
        properties = properties.with_message_id(id.as_str().into());
    }
    let exchange = if planned.straight { "" } else { "task.commands" };
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let sent = channel.basic_publish(
        exchange.into(),
        planned.command.kind.queue().into(),
        options,
        &planned.body,
        properties,
    );
    Ok(sent.await?.await? == Confirmation::Ack(None))
}
