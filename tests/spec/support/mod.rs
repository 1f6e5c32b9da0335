//! The test vocabulary.

pub(crate) mod crowd;
pub(crate) mod process;
pub(crate) mod raw_amqp;
pub(crate) mod stand_in;
pub(crate) mod tester;
pub(crate) mod world;

use std::future::Future;
use std::time::Duration;

pub(crate) use testkit::{proxy, rabbitmq, sandbox};

/// How long anything may take that a test waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Asks again and again until there is something; fails with `what` when patience is over.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    ask: impl FnMut() -> F,
) -> T {
    eventually_within(PATIENCE, what, ask).await
}

/// The same for what may take longer, or must not.
pub(crate) async fn eventually_within<T, F: Future<Output = Option<T>>>(
    patience: Duration,
    what: &str,
    mut ask: impl FnMut() -> F,
) -> T {
    let asking = async {
        loop {
            if let Some(found) = ask().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(patience, asking)
        .await
        .unwrap_or_else(|_| panic!("not within {patience:?}: {what}"))
}
