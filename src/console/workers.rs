//! What the workers report on their own ports: breaker and organisations.

use std::time::Duration;

use futures_util::future::join_all;
use reqwest::{Client, Url};
use serde::Deserialize;

const WITHIN: Duration = Duration::from_secs(2);

/// Queries the workers.
pub(super) struct Workers {
    client: Client,
    bases: Vec<Url>,
}

/// One worker's answer.
pub(super) struct Worker {
    pub(super) name: String,
    /// Empty: it is ready.
    pub(super) not_ready: Option<String>,
    pub(super) status: Result<Status, String>,
}

/// The shown members of `/status`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Status {
    #[serde(default)]
    pub(super) dry_run: bool,
    pub(super) breaker: Breaker,
    pub(super) organisations: Vec<Organisation>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Breaker {
    pub(super) state: String,
    pub(super) open_since: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Organisation {
    pub(super) org_id: String,
    pub(super) state: String,
    pub(super) reason: Option<String>,
    pub(super) since: Option<String>,
    #[serde(default)]
    pub(super) waiting: u64,
    #[serde(default)]
    pub(super) in_flight: u64,
}

impl Workers {
    pub(super) fn new(bases: &[Url]) -> reqwest::Result<Self> {
        let client = Client::builder().timeout(WITHIN).no_proxy().build()?;
        Ok(Self { client, bases: bases.to_vec() })
    }

    /// Queries all workers at once.
    pub(super) async fn ask(&self) -> Vec<Worker> {
        join_all(self.bases.iter().map(|base| self.ask_one(base))).await
    }

    async fn ask_one(&self, base: &Url) -> Worker {
        let name = base.as_str().trim_end_matches('/').to_owned();
        let page = |path: &str| format!("{name}{path}");
        let (ready, status) = (page("/readyz"), page("/status"));
        let (ready, status) = tokio::join!(self.get(&ready), self.get(&status));
        let not_ready = match &ready {
            Ok((true, _)) => None,
            Ok((false, text)) => Some(text.trim().trim_start_matches("not ready: ").to_owned()),
            Err(error) => Some(error.clone()),
        };
        let status = status.and_then(|(is_ok, text)| match serde_json::from_str(&text) {
            Ok(status) if is_ok => Ok(status),
            _ if is_ok => Err("its /status is of another version".to_owned()),
            _ => Err(format!("/status says: {}", text.trim())),
        });
        Worker { name, not_ready, status }
    }

    async fn get(&self, url: &str) -> Result<(bool, String), String> {
        let answer = self.client.get(url).send().await;
        let answer = answer.map_err(|error| error.without_url().to_string())?;
        let is_ok = answer.status().is_success();
        let text = answer.text().await.map_err(|error| error.without_url().to_string())?;
        Ok((is_ok, text))
    }
}
