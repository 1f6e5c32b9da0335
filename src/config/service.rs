//! The settings of a worker: engine, topology, broker.

use std::time::Duration;

use super::args::RunArgs;
use super::broker_args::BrokerArgs;
use super::core_args::CoreArgs;
use super::read::Reader;
use super::topology_args::RetryDelayArgs;
use crate::descriptors;
use crate::kind::Kind;
use crate::messages::OrgId;
use crate::messages::ledger::GuardLimit;
use crate::policy::api_access::rate::RateLimits;
use crate::policy::dry_run::CallMode;
use crate::policy::producers::Producers;
use crate::policy::retry_schedule::{RetryDelays, RetrySchedule};
use crate::policy::undo::DeleteMode;
use crate::rabbitmq::BrokerSettings;
use crate::rabbitmq::tls::certificates;
use crate::rabbitmq::topology::{Provision, Topology};
use crate::service::{CoreSettings, ServiceSettings};
use crate::tallyfy_api::ApiSettings;

/// RabbitMQ's cap for quorum queues.
pub(super) const LARGEST_PREFETCH: u16 = 2000;
/// Unacknowledged commands beyond those with a call in flight.
const MOST_SPARE: usize = 256;

pub(super) fn service(reader: &mut Reader, args: &RunArgs) -> Option<ServiceSettings> {
    let provision = reader.take(&args.declare_topology);
    let provision =
        provision.map(|declare| if declare { Provision::Declare } else { Provision::Check });
    let core = core(reader, &args.core, &args.delays, None);
    let producers = reader.producers(&args.require_user_id, args.allowed_producers.as_ref());
    let core = core.zip(producers).map(|(core, producers)| CoreSettings { producers, ..core });
    let kinds = reader.take(&args.kinds.kinds);
    let delays = core.as_ref().map(|core| &core.schedule.delays);
    let retention = reader.take(&args.audit.audit_retention);
    let mode = core.as_ref().map(|core| core.delete_mode);
    if let Some(kinds) = &kinds {
        reader.archives_all(mode, kinds);
    }
    let topology =
        topology(provision.unwrap_or(Provision::Check), kinds.clone(), delays, retention, mode);
    let concurrency = core.as_ref().map(|core| core.concurrency);
    has_descriptors_for(reader, concurrency);
    let kinds = kinds.as_ref().map_or(1, Vec::len);
    let prefetch = concurrency.map_or(LARGEST_PREFETCH, |calls| prefetch(calls, kinds));
    let trusted_users = trusted_users(&args.trusted_users);
    let broker = broker(reader, &args.broker, topology, prefetch)
        .map(|broker| BrokerSettings { trusted_users, ..broker });
    let http_addr = reader.take(&args.http_addr);
    let shutdown_grace = reader.take(&args.shutdown_grace);
    Some(ServiceSettings {
        core: core?,
        broker: broker?,
        http_addr: http_addr?,
        shutdown_grace: shutdown_grace?,
    })
}

pub(super) fn core(
    reader: &mut Reader,
    args: &CoreArgs,
    delays: &RetryDelayArgs,
    org: Option<&OrgId>,
) -> Option<CoreSettings> {
    let base_url = reader.base_url(args);
    let credentials = reader.credentials(args, org);
    let concurrency = reader.take(&args.concurrency);
    let is_dry_run = reader.take(&args.dry_run);
    let organisation = reader.take_if(args.rate_limit.as_ref()).flatten();
    let total = reader.take_if(args.rate_limit_total.as_ref()).flatten();
    let request_timeout = reader.take(&args.request_timeout);
    let max_attempts = reader.take(&args.max_attempts);
    let max_age = reader.take(&args.max_age);
    let guard_max = reader.take(&args.guard_max_deletes);
    let guard_window = reader.take(&args.guard_window);
    let delays = reader.take(&delays.wait_ladder);
    let otlp = reader.otlp(args);
    let delete_mode = reader.delete_mode(&args.undo);
    let (proxy, ca_file) = (reader.take_if(args.proxy.as_ref()).flatten(), args.ca_file.clone());
    if let Some(Err(error)) = ca_file.as_deref().map(certificates) {
        reader.problems.push(format!("TALLYFY_CA_FILE: {error}"));
    }
    let request_timeout = request_timeout?;
    Some(CoreSettings {
        api: ApiSettings { base_url: base_url?, request_timeout, proxy, ca_file },
        credentials: credentials?,
        otlp,
        schedule: RetrySchedule { max_attempts: max_attempts?, max_age: max_age?, delays: delays? },
        concurrency: concurrency? as usize,
        limits: RateLimits { organisation, total },
        mode: if is_dry_run? { CallMode::Look } else { CallMode::Destroy },
        guard: guard(guard_max?, guard_window?),
        delete_mode: delete_mode?,
        producers: Producers::default(),
    })
}

fn guard(max_deletes: Option<u32>, window: Duration) -> Option<GuardLimit> {
    let window_s = u32::try_from(window.as_secs()).unwrap_or(u32::MAX);
    max_deletes.map(|max_deletes| GuardLimit { max_deletes, window_s })
}

pub(super) fn topology(
    provision: Provision,
    kinds: Option<Vec<Kind>>,
    delays: Option<&RetryDelays>,
    audit_retention: Option<Duration>,
    mode: Option<DeleteMode>,
) -> Option<Topology> {
    let delays = delays?.all().iter().map(|delay| (delay.name(), delay.ttl_ms())).collect();
    Some(Topology {
        provision,
        kinds: kinds?,
        delays,
        audit_retention: audit_retention?,
        undo_window: undo_window(mode?),
    })
}

fn trusted_users(listed: &[String]) -> Vec<String> {
    let users = listed.iter().map(|user| user.trim()).filter(|user| !user.is_empty());
    users.map(str::to_owned).collect()
}

fn undo_window(mode: DeleteMode) -> Option<Duration> {
    match mode {
        DeleteMode::ArchiveThenDelete(window) => Some(window),
        DeleteMode::Delete | DeleteMode::Archive => None,
    }
}

pub(super) fn broker(
    reader: &mut Reader,
    args: &BrokerArgs,
    topology: Option<Topology>,
    prefetch: u16,
) -> Option<BrokerSettings> {
    let (url, tls) = reader.broker_address(args)?;
    Some(BrokerSettings { url, tls, topology: topology?, prefetch, trusted_users: Vec::new() })
}

/// # Calls leave descriptors for the broker
///
/// Each call needs one. Without any left, neither a session with the broker nor a call could be
/// opened, and the API would seem to be unreachable.
fn has_descriptors_for(reader: &mut Reader, concurrency: Option<usize>) -> Option<()> {
    let (calls, most) = (u64::try_from(concurrency?).ok()?, descriptors::most()?);
    let needed = calls + descriptors::BESIDE_CALLS;
    if needed <= most {
        return Some(());
    }
    reader.problem(
        "CONCURRENCY",
        format!("{calls} calls at once need {needed} open files, and this process may have {most}: lower it, or raise the hard limit (ulimit -n, LimitNOFILE=)"),
    )
}

/// Of each kind: more than the calls, so that the next commands are ready while outcomes are being
/// confirmed; but not many more, because each may hold a body of 64 KiB.
fn prefetch(concurrency: usize, kinds: usize) -> u16 {
    let spare = concurrency.min(MOST_SPARE) / kinds.max(1);
    u16::try_from(concurrency + spare).unwrap_or(LARGEST_PREFETCH).min(LARGEST_PREFETCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spaces_and_commas_in_a_list_of_users_are_no_users() {
        let listed = ["a", " b ", ""].map(str::to_owned);
        assert_eq!(trusted_users(&listed), ["a", "b"]);
    }

    #[test]
    fn all_kinds_together_fetch_as_many_in_advance_as_one() {
        let fetched = |calls| [1, 5].map(|kinds| prefetch(calls, kinds));
        assert_eq!(fetched(64), [128, 76]);
        assert_eq!(fetched(1000), [1256, 1051]);
    }
}
