//! Failpoints: places where the worker can be made to die, to prove that no crash between two steps
//! loses a command.
//!
//! Compiled in only with the feature `failpoints`, which no production build has. Without it,
//! hitting one costs nothing.

/// A step in the handling of a command, before or after which the worker can die.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failpoint {
    /// The broker has delivered it; nothing is done yet.
    AfterReceive,
    /// The call is about to be made.
    BeforeCall,
    /// The API has answered.
    AfterCall,
    /// A message is published but not confirmed.
    BeforeConfirm,
    /// Everything is confirmed and nothing is acknowledged.
    BeforeAck,
    /// The acknowledgement is on its way.
    AfterAck,
}

/// Continues, or dies here if `DIE_AT` says so.
#[cfg(not(feature = "failpoints"))]
pub(crate) fn hit(_: Failpoint) -> std::future::Ready<()> {
    std::future::ready(())
}

#[cfg(feature = "failpoints")]
pub(crate) use armed::hit;

#[cfg(feature = "failpoints")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::Failpoint;

    /// `DIE_AT=before_ack:17` dies at the 17th hit.
    struct ArmedFailpoint {
        failpoint: &'static str,
        hits_left: AtomicU32,
    }

    const FAILPOINTS: [&str; 6] =
        ["after_receive", "before_call", "after_call", "before_confirm", "before_ack", "after_ack"];

    fn armed_failpoint() -> Option<&'static ArmedFailpoint> {
        static ARMED: OnceLock<Option<ArmedFailpoint>> = OnceLock::new();
        ARMED.get_or_init(|| std::env::var("DIE_AT").ok().map(|text| read(&text))).as_ref()
    }

    fn read(text: &str) -> ArmedFailpoint {
        let read = text.split_once(':').and_then(|(name, hit)| {
            let failpoint = FAILPOINTS.into_iter().find(|known| *known == name)?;
            Some(ArmedFailpoint {
                failpoint,
                hits_left: AtomicU32::new(hit.parse().ok().filter(|n| *n > 0)?),
            })
        });
        read.unwrap_or_else(|| {
            panic!("DIE_AT={text} is not FAILPOINT:NUMBER with a failpoint of {FAILPOINTS:?}")
        })
    }

    /// Continues, or dies here if `DIE_AT` says so.
    pub(crate) async fn hit(failpoint: Failpoint) {
        let is_this = |armed: &&ArmedFailpoint| armed.failpoint == FAILPOINTS[failpoint as usize];
        let Some(armed) = armed_failpoint().filter(is_this) else { return };
        let left = armed.hits_left.fetch_sub(1, Ordering::SeqCst);
        if left == 1 {
            // In some runs the previous step's data should reach the network, in others not.
            tokio::time::sleep(Duration::from_millis(u64::from(std::process::id() % 3) * 10)).await;
            std::process::abort();
        }
    }
}
