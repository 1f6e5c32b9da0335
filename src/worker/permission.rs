//! The permission for one call: no pause, the guard's permit, a clock that is right, a token of the
//! organisation, and a permit. Makes no call.

use super::call::Call;
use super::engine::Engine;
use super::ledger::{Admission, Braked};
use super::permits::{PermitRequest, Refused};
use super::stop::Stop;
use crate::messages::Target;
use crate::messages::ledger::Scope;
use crate::policy::dry_run::CallMode;

/// Why no call may be made now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoCall {
    /// No permit.
    Refused(Refused),
    /// Its organisation has no token at the moment.
    NoToken,
    /// An operator or the guard forbids it.
    Braked(Braked),
}

impl From<Braked> for NoCall {
    fn from(why: Braked) -> Self {
        if why == Braked::Stopped { Self::Refused(Refused::Stopped) } else { Self::Braked(why) }
    }
}

impl Engine {
    /// Waits for the permission to call the API for this target.
    ///
    /// # The guard counts a command once, and a look never
    ///
    /// The guard's permit is spent last, right before the call: a command that is sent aside before
    /// that, even by the rate limit, has spent none. And a command with a permit for the call does
    /// not wait long for the guard: calls that were allowed one after another but are made together
    /// would break the rate limit. It returns that permit with its token, and asks again. A dry run
    /// destroys nothing, so the guard neither counts nor holds its commands; a pause stops it too.
    ///
    /// # A worker whose clock is wrong makes no calls for new commands
    ///
    /// The guard counts in a time window, by the clocks of all workers. A slow clock would let more
    /// commands pass; a fast one would hold commands that may pass.
    ///
    /// # Errors
    /// [`NoCall`]: then no call may be made.
    pub(super) async fn call(
        &self,
        target: &Target,
        request: PermitRequest,
        stop: &Stop,
    ) -> Result<Call<'_>, NoCall> {
        let org = &target.org;
        let scope = Scope { org_id: org.clone(), kind: target.kind };
        let is_counted = !request.was_tried && self.mode() == CallMode::Destroy;
        self.ledger.check(&scope, is_counted)?;
        if is_counted && self.ledger.is_counting() && self.is_clock_wrong() {
            return Err(NoCall::Braked(Braked::ClockWrong));
        }
        if self.credentials.token(org).is_none() {
            return Err(NoCall::NoToken);
        }
        let admission = Admission::begin(&self.ledger, &scope, stop, is_counted);
        loop {
            admission.wait_for_permit().await?;
            let permit = self.permits.acquire(org, request, stop).await.map_err(NoCall::Refused)?;
            // The wait may have been long: check the current pauses and trips, and take the current
            // token.
            self.ledger.check(&scope, is_counted)?;
            if admission.admit().await? {
                let token = self.credentials.token(org).ok_or(NoCall::NoToken)?;
                return Ok(Call { engine: self, permit, token });
            }
        }
    }
}
