//! The broker user of this process, and whose copies of commands are believed.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use lapin::types::ShortString;
use lapin::{BasicProperties, ErrorKind};

/// The name that the broker knows us by. Initially the URL's, until the broker says that it is
/// another: after a login by certificate, say.
#[derive(Debug, Clone, Default)]
pub(super) struct OwnUser(Arc<RwLock<Known>>);

#[derive(Debug, Default)]
struct Known {
    in_the_url: String,
    name: String,
    /// The broker has said so.
    is_certain: bool,
}

impl OwnUser {
    /// The URL now has this user: what was known of another one is forgotten.
    pub(super) fn connects_as(&self, user: &str) {
        let mut known = self.write();
        if known.in_the_url != user {
            *known =
                Known { in_the_url: user.to_owned(), name: user.to_owned(), is_certain: false };
        }
    }

    pub(super) fn name(&self) -> String {
        self.read().name.clone()
    }

    pub(super) fn is_certain(&self) -> bool {
        self.read().is_certain
    }

    /// The broker has accepted the name.
    pub(super) fn accepted(&self) {
        self.write().is_certain = true;
    }

    /// Whether a publish was refused because our user has another name; remembers that name.
    pub(super) fn learns_from(&self, error: &lapin::Error) -> bool {
        let Some(name) = real_name(error) else { return false };
        let mut known = self.write();
        (known.name, known.is_certain) = (name, true);
        true
    }

    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The message of `RabbitMQ` 3.10 to 4 about a wrong `user_id` (`rabbit_channel.erl`,
/// `check_user_id_header`).
pub(super) fn real_name(error: &lapin::Error) -> Option<String> {
    let ErrorKind::ProtocolError(word) = error.kind() else { return None };
    let (_, name) = word.get_message().as_str().split_once("but authenticated user was '")?;
    name.rsplit_once('\'').map(|(name, _)| name.to_owned())
}

/// The users whose copies are believed.
///
/// # Our headers are believed only with the user id of a worker
///
/// Any producer may put `x-attempts` or `x-published-by` into a command. But `RabbitMQ` does not
/// let a user publish with another user's `user_id` (unless it has the tag `impersonator`). So a
/// copy's headers about earlier deliveries are believed only if its `user_id` is ours, or that of a
/// user whom the operator trusts.
#[derive(Debug, Clone)]
pub struct Trust {
    own: OwnUser,
    others: Arc<[String]>,
}

impl Trust {
    pub(super) fn new(own: OwnUser, others: &[String]) -> Self {
        Self { own, others: others.into() }
    }

    pub(super) fn believes(&self, properties: &BasicProperties) -> bool {
        let Some(user) = properties.user_id().as_ref().map(ShortString::as_str) else {
            return false;
        };
        self.others.iter().any(|other| other == user) || self.own.read().name == user
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapin::protocol::{AMQPError, AMQPSoftError};

    fn refused(text: &str) -> lapin::Error {
        ErrorKind::ProtocolError(AMQPError::new(
            AMQPSoftError::PRECONDITIONFAILED.into(),
            text.into(),
        ))
        .into()
    }

    #[test]
    fn who_we_are_is_learnt_from_the_broker() {
        let user = OwnUser::default();
        user.connects_as("guest");
        let text = "PRECONDITION_FAILED - user_id property set to 'guest' but authenticated user was 'CN=it's me'";
        assert!(user.learns_from(&refused(text)));
        assert_eq!(user.name(), "CN=it's me");
        assert!(!user.learns_from(&refused("message size 2 is larger than configured max size 1")));
        assert_eq!(user.name(), "CN=it's me");
        user.connects_as("guest");
        assert!(user.is_certain() && user.name() == "CN=it's me", "the next session knows it");
        user.connects_as("other");
        assert!(!user.is_certain() && user.name() == "other");
    }

    #[test]
    fn our_headers_are_believed_only_with_the_user_id_of_a_worker() {
        let own = OwnUser::default();
        own.connects_as("worker");
        let trust = Trust::new(own, &["operator".to_owned()]);
        let of = |user: &str| BasicProperties::default().with_user_id(user.into());
        assert!(trust.believes(&of("worker")) && trust.believes(&of("operator")));
        assert!(!trust.believes(&of("billing")) && !trust.believes(&BasicProperties::default()));
    }
}
