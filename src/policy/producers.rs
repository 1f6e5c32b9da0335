//! Who may ask for a deletion: the users that RabbitMQ has validated as producers of commands.

use std::collections::BTreeSet;

use crate::messages::OrgId;

/// One entry of the allow-list: this producer may ask for commands of this organisation or, if none
/// is given, of every organisation without its own entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedProducer {
    pub org: Option<OrgId>,
    pub user: String,
}

/// Which producers are believed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Producers {
    /// Whether a command is refused if RabbitMQ has not validated its producer.
    pub require_user_id: bool,
    /// Without an entry, every producer may ask for everything.
    pub allowed: Vec<AllowedProducer>,
}

impl Producers {
    /// Why this producer may not ask for a command of this organisation; `None` if it may.
    ///
    /// # An allow-list admits only producers that it names
    ///
    /// If an organisation has no entry and there is no entry for all others, its commands are
    /// refused.
    pub fn refuse(&self, org: &OrgId, published_by: Option<&str>) -> Option<String> {
        if !self.require_user_id && self.allowed.is_empty() {
            return None;
        }
        let Some(user) = published_by else {
            return Some("it has no user_id that RabbitMQ could validate".to_owned());
        };
        if self.allowed.is_empty() {
            return None;
        }
        let of = |org: Option<&OrgId>| -> BTreeSet<&str> {
            let entries = self.allowed.iter().filter(|entry| entry.org.as_ref() == org);
            entries.map(|entry| entry.user.as_str()).collect()
        };
        let own = of(Some(org));
        let users = if own.is_empty() { of(None) } else { own };
        let may = users.contains(user);
        (!may).then(|| format!("{user} may not ask for commands of organisation {org}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn org(id: &str) -> OrgId {
        OrgId::try_from(id.to_owned()).unwrap()
    }

    fn entry(id: &str, user: &str) -> AllowedProducer {
        AllowedProducer { org: (id != "*").then(|| org(id)), user: user.to_owned() }
    }

    fn may(producers: &Producers, id: &str, user: Option<&str>) -> bool {
        producers.refuse(&org(id), user).is_none()
    }

    #[test]
    fn without_a_rule_everybody_may_ask() {
        assert!(may(&Producers::default(), "a", None));
    }

    #[test]
    fn who_is_not_validated_is_refused_where_that_is_required() {
        let producers = Producers { require_user_id: true, allowed: Vec::new() };
        assert_eq!([None, Some("crm")].map(|user| may(&producers, "a", user)), [false, true]);
    }

    #[test]
    fn an_allow_list_admits_only_producers_that_it_names() {
        let allowed = vec![entry("a", "crm"), entry("a", "billing")];
        let mut producers = Producers { require_user_id: false, allowed };
        let users = [Some("crm"), Some("billing"), Some("ops"), None];
        assert_eq!(users.map(|user| may(&producers, "a", user)), [true, true, false, false]);
        assert_eq!(users.map(|user| may(&producers, "b", user)), [false; 4]);
        producers.allowed.push(entry("*", "ops"));
        assert_eq!(users.map(|user| may(&producers, "b", user)), [false, false, true, false]);
        assert!(!may(&producers, "a", Some("ops")), "an entry of its own is all there is");
    }
}
