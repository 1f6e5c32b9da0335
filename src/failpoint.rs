//! Failpoints: places at which the worker can be made to die, to prove that no death between two
//! steps loses a command.
//!
//! Compiled in by the feature `failpoints` only, which no production build has; without it hitting
//! one costs nothing.

/// A step of one command's way that a death can come before or after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failpoint {
    /// The broker has delivered it; nothing is done yet.
    AfterReceive,
    /// The call is about to be made.
    BeforeCall,
    /// The API has answered.
    AfterCall,
    /// Something is published, and the broker has not confirmed it.
    BeforeConfirm,
    /// All is confirmed and nothing is acknowledged.
    BeforeAck,
    /// The acknowledgement is on its way.
    AfterAck,
}

/// Goes on, or dies here if `DIE_AT` says so.
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
    struct Doom {
        failpoint: &'static str,
        hits_left: AtomicU32,
    }

    const FAILPOINTS: [&str; 6] =
        ["after_receive", "before_call", "after_call", "before_confirm", "before_ack", "after_ack"];

    fn doom() -> Option<&'static Doom> {
        static DOOM: OnceLock<Option<Doom>> = OnceLock::new();
        DOOM.get_or_init(|| std::env::var("DIE_AT").ok().map(|text| read(&text))).as_ref()
    }

    fn read(text: &str) -> Doom {
        let read = text.split_once(':').and_then(|(name, hit)| {
            let failpoint = FAILPOINTS.into_iter().find(|known| *known == name)?;
            Some(Doom {
                failpoint,
                hits_left: AtomicU32::new(hit.parse().ok().filter(|n| *n > 0)?),
            })
        });
        read.unwrap_or_else(|| {
            panic!("DIE_AT={text} is not FAILPOINT:NUMBER with a failpoint of {FAILPOINTS:?}")
        })
    }

    /// Goes on, or dies here if `DIE_AT` says so.
    pub(crate) async fn hit(failpoint: Failpoint) {
        let Some(doom) = doom().filter(|doom| doom.failpoint == FAILPOINTS[failpoint as usize])
        else {
            return;
        };
        let left = doom.hits_left.fetch_sub(1, Ordering::SeqCst);
        if left == 1 {
            // What the step before has handed to the network is to reach it in some runs and not in
            // others.
            tokio::time::sleep(Duration::from_millis(u64::from(std::process::id() % 3) * 10)).await;
            std::process::abort();
        }
    }
}
