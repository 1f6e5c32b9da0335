//! Commands in line that wait for a token of the rate limit: counts them, and serves them when
//! there is one.

use std::sync::Arc;
use std::time::Instant;

use tokio::runtime::Handle;

use super::{Permits, Shared};
use crate::policy::api_access::rate::TokenWait;

impl Permits {
    pub(super) fn count_wait(&self, wait: Option<TokenWait>) {
        let place = match wait {
            None => return,
            Some(TokenWait::Here) => "memory",
            Some(TokenWait::Aside(_)) => "delay_queue",
        };
        self.rate_limit_waits.get_or_create(&[("where", place)]).inc();
    }

    /// Schedules serving the line when the next token is available, because no answer signals that.
    /// One timer at a time is enough.
    pub(super) fn look_at_the_next_token(self: &Arc<Self>, shared: &mut Shared, now: Instant) {
        let next = shared.access.next_token_in(shared.lines.orgs(), now);
        let (Some(wait), false, Ok(runtime)) = (next, shared.is_timed, Handle::try_current())
        else {
            return;
        };
        shared.is_timed = true;
        let permits = Arc::clone(self);
        runtime.spawn(async move {
            tokio::time::sleep(wait).await;
            let mut shared = permits.lock();
            shared.is_timed = false;
            permits.serve_lines(&mut shared);
        });
    }
}
