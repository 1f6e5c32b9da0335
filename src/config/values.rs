//! What each kind of setting takes. clap checks a value where the setting is declared, but a wrong
//! value does not end the parsing: it becomes the line that names the setting, so that all mistakes
//! are reported together.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::time::Duration;

use clap::builder::{StringValueParser, TypedValueParser};
use clap::{Arg, Command};
use jiff::SignedDuration;
use url::Url;

use crate::kind::Kind;
use crate::messages::{FailureReason, ObjectId, OrgId};
use crate::policy::api_access::rate::Rate;
use crate::policy::producers::AllowedProducer;
use crate::policy::retry_schedule::RetryDelays;
use crate::telemetry::LogFormat;

pub(super) const ID_FORM: &str = "1 to 64 of A-Z a-z 0-9 _ -";

/// A checked value, or the line that says what the setting takes.
pub(super) type Setting<T> = Result<T, String>;

/// A parser for clap from a function that returns what the setting takes if the text is wrong.
#[derive(Clone)]
pub(super) struct Checked<F>(F);

pub(super) fn checked<T, F: Fn(&str) -> Result<T, String>>(read: F) -> Checked<F> {
    Checked(read)
}

/// The same for a setting that counts as unset if it is empty.
pub(super) fn if_set<T>(
    read: impl Fn(&str) -> Result<T, String> + Clone + Send + Sync,
) -> Checked<impl Fn(&str) -> Result<Option<T>, String> + Clone + Send + Sync> {
    Checked(move |text: &str| if text.is_empty() { Ok(None) } else { read(text).map(Some) })
}

impl<T, F> TypedValueParser for Checked<F>
where
    T: Clone + Send + Sync + 'static,
    F: Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static,
{
    type Value = Setting<T>;

    fn parse_ref(
        &self,
        cmd: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<Setting<T>, clap::Error> {
        let text = StringValueParser::new().parse_ref(cmd, arg, value)?;
        Ok((self.0)(text.trim())
            .map_err(|takes| format!("{}: {takes}", arg.map(name).unwrap_or_default())))
    }
}

/// The variable; the flag, if it has none.
fn name(arg: &Arg) -> String {
    match (arg.get_env(), arg.get_long()) {
        (Some(variable), _) => variable.to_string_lossy().into_owned(),
        (None, Some(flag)) => format!("--{flag}"),
        (None, None) => arg.get_id().to_string(),
    }
}

pub(super) fn flag(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(format!("takes true or false, not {text:?}")),
    }
}

pub(super) fn number(
    range: RangeInclusive<u32>,
) -> impl Fn(&str) -> Result<u32, String> + Clone + Send + Sync {
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| {
            format!("takes a number from {} to {}, not {text:?}", range.start(), range.end())
        })
    }
}

/// The word of `DELETE_MODE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ModeName {
    Delete,
    Archive,
    ArchiveThenDelete,
}

pub(super) fn delete_mode(text: &str) -> Result<ModeName, String> {
    match text {
        "delete" => Ok(ModeName::Delete),
        "archive" => Ok(ModeName::Archive),
        "archive_then_delete" => Ok(ModeName::ArchiveThenDelete),
        _ => Err(format!("takes delete, archive or archive_then_delete, not {text:?}")),
    }
}

/// How many deletions the guard lets pass; `None` is `off`.
pub(super) fn guard_max(text: &str) -> Result<Option<u32>, String> {
    let number = text.parse().ok().filter(|number| (1..=100_000_000).contains(number));
    match (text, number) {
        ("off", _) => Ok(None),
        (_, Some(number)) => Ok(Some(number)),
        _ => Err(format!(
            "takes a number from 1 to 100000000, or off, which lets any number of deletions pass; not {text:?}"
        )),
    }
}

/// A number that is not 0.
pub(super) fn up_to(
    most: u32,
) -> impl Fn(&str) -> Result<NonZeroU32, String> + Clone + Send + Sync {
    let number = number(1..=most);
    move |text| NonZeroU32::try_from(number(text)?).map_err(|error| error.to_string())
}

pub(super) fn duration(
    range: RangeInclusive<Duration>,
) -> impl Fn(&str) -> Result<Duration, String> + Clone + Send + Sync {
    move |text| match any_duration(text)? {
        duration if range.contains(&duration) => Ok(duration),
        _ => Err(format!("takes from {:?} to {:?}, not {text:?}", range.start(), range.end())),
    }
}

pub(super) fn any_duration(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .ok_or_else(|| format!("takes a duration such as 500ms, 5s, 2m, 24h or 7d, not {text:?}"))
}

pub(super) fn object(text: &str) -> Result<ObjectId, String> {
    ObjectId::try_from(text.to_owned()).map_err(|_| format!("takes an id, {ID_FORM}, not {text:?}"))
}

/// An AMQP short string, as messages carry it.
pub(super) fn command_id(text: &str) -> Result<String, String> {
    let is_id = (1..=255).contains(&text.len());
    is_id
        .then(|| text.to_owned())
        .ok_or_else(|| format!("takes an id of 1 to 255 bytes, not {text:?}"))
}

/// Pairs of an organisation (or `*`) and a producer.
pub(super) fn producers(text: &str) -> Result<Vec<AllowedProducer>, String> {
    let wrong = || {
        format!(
            "takes pairs of an organisation (or *) and a RabbitMQ user, acme=billing,*=ops say, not {text:?}"
        )
    };
    let pairs = text.split(',').map(|pair| {
        let (id, user) = pair.trim().split_once('=')?;
        let (id, user) = (id.trim(), user.trim());
        let org = match id {
            "*" => None,
            id => Some(OrgId::try_from(id.to_owned()).ok()?),
        };
        (!user.is_empty()).then(|| AllowedProducer { org, user: user.to_owned() })
    });
    pairs.collect::<Option<_>>().ok_or_else(wrong)
}

/// Calls per second, minute or hour.
pub(super) fn rate(text: &str) -> Result<Rate, String> {
    let wrong =
        || format!("takes a number of calls in a second, minute or hour, 600/m say, not {text:?}");
    let (calls, per) = text.split_once('/').ok_or_else(wrong)?;
    let seconds = match per.trim() {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(wrong()),
    };
    let calls = up_to(1_000_000)(calls.trim()).map_err(|_| wrong())?;
    Ok(Rate::new(calls, Duration::from_secs(seconds)))
}

fn parse_duration(text: &str) -> Option<Duration> {
    if let Some(days) = text.trim().strip_suffix('d') {
        return days.parse::<u64>().ok()?.checked_mul(86_400).map(Duration::from_secs);
    }
    let duration: SignedDuration = text.trim().parse().ok()?;
    Duration::try_from(duration).ok()
}

pub(super) fn delays(text: &str) -> Result<RetryDelays, String> {
    let waits = text.split(',').map(parse_duration).collect::<Option<_>>();
    let waits = waits.ok_or_else(|| {
        format!("takes rising durations separated by commas, 5s,30s,2m say, not {text:?}")
    })?;
    RetryDelays::new(waits).map_err(|error| format!("{error}, not {text:?}"))
}

pub(super) fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("takes IP:PORT, 127.0.0.1:9464 say, not {text:?}"))
}

/// Any `http` or `https` URL to which a path can be added. Whether `http` is allowed depends on
/// another setting.
pub(super) fn base_url(text: &str) -> Result<Url, String> {
    let url =
        Url::parse(text).map_err(|_| "takes an absolute URL, https://go.tallyfy.com/api say")?;
    let is_plain = url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    match url.scheme() {
        "https" | "http" if is_plain => Ok(url),
        "https" | "http" => Err("takes a URL without user, query and fragment".to_owned()),
        _ => Err("must begin with https://".to_owned()),
    }
}

/// It may hold a password, so the line does not repeat it.
pub(super) fn proxy(text: &str) -> Result<Url, String> {
    http_url(text)
        .ok_or_else(|| "takes an http:// or https:// URL, http://proxy.example:3128 say".to_owned())
}

pub(super) fn collector(text: &str) -> Result<Url, String> {
    http_url(text).ok_or_else(|| {
        format!("takes an http:// or https:// URL, http://127.0.0.1:4318 say, not {text:?}")
    })
}

fn http_url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    (url.has_host() && matches!(url.scheme(), "http" | "https")).then_some(url)
}

pub(super) fn org(text: &str) -> Result<OrgId, String> {
    OrgId::try_from(text.to_owned())
        .map_err(|_| format!("takes an organisation's id, {ID_FORM}, not {text:?}"))
}

pub(super) fn orgs(text: &str) -> Result<Vec<OrgId>, String> {
    let ids = text.split(',').map(str::trim);
    let (orgs, wrong): (Vec<_>, Vec<_>) = ids
        .map(|id| OrgId::try_from(id.to_owned()).map_err(|_| format!("{id:?}")))
        .partition(Result::is_ok);
    if wrong.is_empty() {
        return Ok(orgs.into_iter().flatten().collect());
    }
    let wrong: Vec<_> = wrong.into_iter().filter_map(Result::err).collect();
    Err(format!(
        "takes ids of organisations, {ID_FORM}, separated by commas, not {}",
        wrong.join(", ")
    ))
}

pub(super) fn kind(text: &str) -> Result<Kind, String> {
    let known = || Kind::ALL.map(Kind::as_str).join(", ");
    Kind::named(text).ok_or_else(|| format!("takes one of {}, not {text:?}", known()))
}

/// At least one, each once.
pub(super) fn kinds(text: &str) -> Result<Vec<Kind>, String> {
    let kinds: Vec<_> = text.split(',').map(|name| kind(name.trim())).collect::<Result<_, _>>()?;
    let is_twice = (1..kinds.len()).any(|at| kinds[..at].contains(&kinds[at]));
    if is_twice { Err(format!("names a kind twice: {text:?}")) } else { Ok(kinds) }
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "json" => Ok(LogFormat::Json),
        "pretty" => Ok(LogFormat::Pretty),
        other => Err(format!("takes json or pretty, not {other:?}")),
    }
}

/// The reason of a dead letter.
pub(super) fn reason(text: &str) -> Result<String, String> {
    FailureReason::named(text)
        .map(|reason| reason.as_str().to_owned())
        .ok_or_else(|| format!("takes {}, not {text:?}", reasons()))
}

/// All words that [`reason`] takes.
pub(super) fn reasons() -> String {
    FailureReason::ALL.map(FailureReason::as_str).join(", ")
}
