//! The addresses of the broker's hosts, and the order in which they are tried.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use lapin::uri::{AMQPScheme, AMQPUri};
use tokio::net::lookup_host;
use tokio::time::timeout;

use super::broker_error::BrokerError;
use super::url::AmqpUrl;

const LOOKUP_WITHIN: Duration = Duration::from_secs(3);

/// One address of one host, and how to connect to it.
#[derive(Clone)]
pub(super) struct Endpoint {
    pub(super) uri: AMQPUri,
    pub(super) address: SocketAddr,
}

/// Without the password.
impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({})", self.name())
    }
}

impl Endpoint {
    pub(super) fn is_tls(&self) -> bool {
        self.uri.scheme == AMQPScheme::AMQPS
    }

    /// The host as configured.
    pub(super) fn host(&self) -> String {
        format!("{}:{}", self.uri.authority.host, self.uri.authority.port)
    }

    /// For log lines: the host, with its address if that adds anything.
    pub(super) fn name(&self) -> String {
        let host = self.host();
        let address = self.address.to_string();
        if address == host { host } else { format!("{host} ({address})") }
    }
}

/// Which addresses to try first and last.
#[derive(Debug, Clone, Default)]
pub struct Preference {
    /// The address of the session's other connection.
    pub first: Option<SocketAddr>,
    /// Addresses where sessions have failed, the latest at the end.
    pub last: Vec<SocketAddr>,
}

/// All addresses of all hosts, resolved concurrently and shuffled; and the hosts without one.
pub(super) async fn resolve(url: &AmqpUrl) -> (Vec<Endpoint>, Vec<(String, BrokerError)>) {
    let lookups = url.hosts().iter().map(async |uri| {
        let host = (uri.authority.host.as_str(), uri.authority.port);
        let found = timeout(LOOKUP_WITHIN, lookup_host(host)).await.unwrap_or_else(|_| {
            Err(io::Error::new(io::ErrorKind::TimedOut, "the name server did not answer in time"))
        });
        let endpoints = found.map(|all| {
            all.map(|address| Endpoint { uri: uri.clone(), address }).collect::<Vec<_>>()
        });
        let host = format!("{}:{}", host.0, host.1);
        endpoints.map_err(|source| (host.clone(), BrokerError::NoAddress { host, source }))
    });
    let (mut all, mut errors) = (Vec::new(), Vec::new());
    for found in join_all(lookups).await {
        match found {
            Ok(endpoints) => all.extend(endpoints),
            Err(error) => errors.push(error),
        }
    }
    fastrand::shuffle(&mut all);
    (all, errors)
}

/// Stable: addresses that are neither preferred nor avoided keep their order.
pub(super) fn in_order(mut endpoints: Vec<Endpoint>, preference: &Preference) -> Vec<Endpoint> {
    endpoints.sort_by_key(|endpoint| {
        let failed = preference.last.iter().position(|other| *other == endpoint.address);
        (preference.first != Some(endpoint.address), failed)
    });
    endpoints
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(port: u16) -> Endpoint {
        let uri = "amqp://h".parse().unwrap();
        Endpoint { uri, address: SocketAddr::from(([127, 0, 0, 1], port)) }
    }

    #[test]
    fn the_preferred_address_comes_first_and_the_one_that_failed_last() {
        let order = |first: Option<u16>, last: &[u16]| {
            let address = |port: u16| endpoint(port).address;
            let last = last.iter().copied().map(address).collect();
            let preference = Preference { first: first.map(address), last };
            let all = in_order((1..=4).map(endpoint).collect(), &preference);
            all.iter().map(|endpoint| endpoint.address.port()).collect::<Vec<_>>()
        };
        for (first, last, expected) in [
            (None, &[][..], [1, 2, 3, 4]),
            (Some(3), &[], [3, 1, 2, 4]),
            (None, &[1], [2, 3, 4, 1]),
            (None, &[2, 1], [3, 4, 2, 1]),
            (Some(4), &[2], [4, 1, 3, 2]),
            (Some(9), &[9], [1, 2, 3, 4]),
            // The session is already there.
            (Some(2), &[2], [2, 1, 3, 4]),
        ] {
            assert_eq!(order(first, last), expected, "{first:?} {last:?}");
        }
    }

    #[tokio::test]
    async fn every_host_is_resolved_and_an_unknown_one_is_reported() {
        let url = "amqp://127.0.0.1:1,127.0.0.2:2,no-such-host.invalid/".parse().unwrap();
        let (endpoints, errors) = resolve(&url).await;
        let mut names: Vec<_> = endpoints.iter().map(Endpoint::name).collect();
        names.sort();
        assert_eq!(names, ["127.0.0.1:1", "127.0.0.2:2"]);
        let (host, error) = &errors[0];
        assert_eq!(host, "no-such-host.invalid:5672");
        assert!(error.to_string().contains(host), "{error}");
    }
}
