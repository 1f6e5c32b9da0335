//! Writes the records of destructive calls for as long as a session lasts.

use std::time::Duration;

use tokio::time::sleep;
use tracing::error;

use super::engine::Engine;
use crate::health::Component;
use crate::rabbitmq::Session;

const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How long a record waits for others while calls are in flight. Each message costs the broker and
/// this worker some wake-ups, and only the acknowledgement waits for it.
const GATHER: Duration = Duration::from_millis(10);

/// Writes the records until it is aborted at the end of the session. One message is in flight at a
/// time; it holds everything that arrived while the previous one was in flight.
pub(super) async fn write_audit(session: &Session, engine: &Engine) {
    loop {
        engine.audit.has_records().await;
        if engine.permits.with(|access, _| access.in_flight()) > 0 {
            sleep(GATHER).await;
        }
        let Some((message, number)) = engine.audit.batch() else { continue };
        match session.publisher().publish(&message).await {
            Ok(()) => {
                engine.audit.confirm(number);
                engine.health.set(Component::Audit, None);
            }
            Err(error) => {
                let reason = format!(
                    "the audit stream cannot be written, so nothing is acknowledged: {error}"
                );
                let is_lost = session.lost.is_cancelled();
                if engine.health.set(Component::Audit, Some(reason.clone())) && !is_lost {
                    error!("{reason}");
                }
                session.declare_again().await;
                sleep(TRY_AGAIN_AFTER).await;
            }
        }
    }
}
