//! One reader for each kind of setting. A wrong one becomes a line that names the variable and what it takes.

use std::fmt::Display;
use std::io::{self, IsTerminal, stderr};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::SignedDuration;
use lapin::uri::{AMQPScheme, AMQPUri};
use tracing_subscriber::EnvFilter;
use url::{Host, Url};

use super::args::BrokerArgs;
use super::core_args::CoreArgs;
use crate::credentials::{self, CredentialsSource};
use crate::kind::Kind;
use crate::messages::{ObjectId, OrgId};
use crate::policy::retry_schedule::RetryDelays;
use crate::rabbitmq::connection::parse_amqp_url;
use crate::rabbitmq::tls::{ClientFiles, TlsFiles};
use crate::spans::OtlpSettings;
use crate::telemetry::{self, LogFormat};

const DURATION_FORM: &str = "a duration such as 500ms, 5s, 2m or 24h";
const ID_FORM: &str = "1 to 64 of A-Z a-z 0-9 _ -";

/// Collects what is wrong while it reads.
#[derive(Default)]
pub(super) struct Reader {
    /// One line each.
    pub(super) problems: Vec<String>,
}

impl Reader {
    pub(super) fn problem<T>(&mut self, name: &str, text: impl Display) -> Option<T> {
        self.problems.push(format!("{name}: {text}"));
        None
    }

    pub(super) fn flag(&mut self, name: &str, text: &str) -> Option<bool> {
        match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Some(true),
            "false" | "0" | "no" | "off" => Some(false),
            _ => self.problem(name, format!("takes true or false, not {text:?}")),
        }
    }

    pub(super) fn number(
        &mut self,
        name: &str,
        text: &str,
        range: RangeInclusive<u32>,
    ) -> Option<u32> {
        match text.trim().parse() {
            Ok(number) if range.contains(&number) => Some(number),
            _ => self.problem(
                name,
                format!("takes a number from {} to {}, not {text:?}", range.start(), range.end()),
            ),
        }
    }

    pub(super) fn duration(
        &mut self,
        name: &str,
        text: &str,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        match parse_duration(text) {
            Some(duration) if range.contains(&duration) => Some(duration),
            Some(_) => self.problem(
                name,
                format!("takes from {:?} to {:?}, not {text:?}", range.start(), range.end()),
            ),
            None => self.problem(name, format!("takes {DURATION_FORM}, not {text:?}")),
        }
    }

    pub(super) fn delays(&mut self, name: &str, text: &str) -> Option<RetryDelays> {
        let Some(waits) = text.split(',').map(parse_duration).collect() else {
            return self.problem(
                name,
                format!("takes rising durations separated by commas, 5s,30s,2m say, not {text:?}"),
            );
        };
        RetryDelays::new(waits)
            .map_or_else(|error| self.problem(name, format!("{error}, not {text:?}")), Some)
    }

    pub(super) fn kind(&mut self, name: &str, text: &str) -> Option<Kind> {
        Kind::named(text.trim()).or_else(|| {
            let known = Kind::ALL.map(Kind::as_str).join(", ");
            self.problem(name, format!("takes one of {known}, not {text:?}"))
        })
    }

    /// At least one, each once.
    pub(super) fn kinds(&mut self, name: &str, text: &str) -> Option<Vec<Kind>> {
        let kinds: Vec<_> = text.split(',').map(|kind| self.kind(name, kind)).collect();
        let kinds: Vec<_> = kinds.into_iter().collect::<Option<_>>()?;
        let is_twice = (1..kinds.len()).any(|at| kinds[..at].contains(&kinds[at]));
        if is_twice {
            self.problem(name, format!("names a kind twice: {text:?}"))
        } else {
            Some(kinds)
        }
    }

    pub(super) fn socket_address(&mut self, name: &str, text: &str) -> Option<SocketAddr> {
        let parsed = text.trim().parse().ok();
        parsed.or_else(|| {
            self.problem(name, format!("takes IP:PORT, 127.0.0.1:9464 say, not {text:?}"))
        })
    }

    /// Address and, for `amqps`, the files, which are read once to see whether they can be.
    pub(super) fn broker_address(&mut self, args: &BrokerArgs) -> Option<(AMQPUri, TlsFiles)> {
        let uri = self.amqp_url("AMQP_URL", &args.url);
        let client = match (&args.client_cert_file, &args.client_key_file) {
            (Some(certificate), Some(key)) => {
                Some(ClientFiles { certificate: certificate.clone(), key: key.clone() })
            }
            (None, None) => None,
            (Some(_), None) => {
                self.problem("AMQP_CLIENT_KEY_FILE", "is needed with AMQP_CLIENT_CERT_FILE")
            }
            (None, Some(_)) => {
                self.problem("AMQP_CLIENT_CERT_FILE", "is needed with AMQP_CLIENT_KEY_FILE")
            }
        };
        let tls = TlsFiles { ca: args.ca_file.clone(), client };
        if let Err(error) = tls.read() {
            self.problems.push(format!("AMQP_CA_FILE, AMQP_CLIENT_*_FILE: {error}"));
        }
        let uri = uri?;
        if uri.scheme == AMQPScheme::AMQP && tls != TlsFiles::default() {
            return self.problem(
                "AMQP_URL",
                "must begin with amqps:// where AMQP_CA_FILE or a client certificate is set",
            );
        }
        Some((uri, tls))
    }

    fn amqp_url(&mut self, name: &str, text: &str) -> Option<AMQPUri> {
        parse_amqp_url(text.trim()).map_or_else(|error| self.problem(name, error), Some)
    }

    pub(super) fn log_format(&mut self, name: &str, text: Option<&str>) -> Option<LogFormat> {
        match text.filter(|text| !text.is_empty()) {
            None if stderr().is_terminal() => Some(LogFormat::Pretty),
            None | Some("json") => Some(LogFormat::Json),
            Some("pretty") => Some(LogFormat::Pretty),
            Some(other) => self.problem(name, format!("takes json or pretty, not {other:?}")),
        }
    }

    pub(super) fn log_filter(&mut self, name: &str, text: &str) -> Option<EnvFilter> {
        let filter = telemetry::filter(text);
        filter.map_or_else(
            |error| {
                self.problem(
                    name,
                    format!("takes a level such as info, or target=level pairs: {error}"),
                )
            },
            Some,
        )
    }

    pub(super) fn base_url(&mut self, name: &str, text: &str, allow_http: &str) -> Option<Url> {
        let allow_http = self.flag("TALLYFY_ALLOW_HTTP", allow_http)?;
        let Ok(url) = Url::parse(text.trim()) else {
            return self.problem(name, "takes an absolute URL, https://go.tallyfy.com/api say");
        };
        let trouble = match url.scheme() {
            "https" => None,
            "http" if allow_http || is_loopback(&url) => None,
            "http" => Some(
                "is http:// to a host that is not a loopback address; the token would travel in the clear. \
                            Use https://, or set TALLYFY_ALLOW_HTTP=true",
            ),
            _ => Some("must begin with https://"),
        };
        let plain = url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        match trouble {
            Some(trouble) => self.problem(name, trouble),
            None if !plain => self.problem(name, "takes a URL without user, query and fragment"),
            None => Some(url),
        }
    }

    /// `None` too where none is set.
    pub(super) fn proxy(&mut self, name: &str, text: Option<&str>) -> Option<Url> {
        let text = text.map(str::trim).filter(|text| !text.is_empty())?;
        match Url::parse(text) {
            Ok(url) if url.has_host() && matches!(url.scheme(), "http" | "https") => Some(url),
            // It may hold a password.
            _ => self
                .problem(name, "takes an http:// or https:// URL, http://proxy.example:3128 say"),
        }
    }

    /// `None` too where no collector is set.
    pub(super) fn otlp(
        &mut self,
        endpoint: Option<&str>,
        service_name: &str,
    ) -> Option<OtlpSettings> {
        let text = endpoint.map(str::trim).filter(|text| !text.is_empty())?;
        match Url::parse(text) {
            Ok(endpoint)
                if endpoint.has_host() && matches!(endpoint.scheme(), "http" | "https") =>
            {
                Some(OtlpSettings { endpoint, service_name: service_name.to_owned() })
            }
            _ => self.problem(
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                format!(
                    "takes an http:// or https:// URL, http://127.0.0.1:4318 say, not {text:?}"
                ),
            ),
        }
    }

    pub(super) fn org(&mut self, name: &str, text: &str) -> Option<OrgId> {
        let org = OrgId::try_from(text.trim().to_owned()).ok();
        org.or_else(|| {
            self.problem(name, format!("takes an organisation's id, {ID_FORM}, not {text:?}"))
        })
    }

    /// One of the three sources of tokens, and the allow-list. `only` is the organisation of the `delete` command: there it
    /// is the allow-list itself, and where one is set too it must be on it.
    pub(super) fn credentials(
        &mut self,
        args: &CoreArgs,
        only: Option<&OrgId>,
    ) -> Option<CredentialsSource> {
        let listed = match args.org_id.as_deref().filter(|text| !text.is_empty()) {
            Some(text) => Some(self.orgs(text)?),
            None => None,
        };
        if let (Some(only), Some(listed)) = (only, &listed)
            && !listed.contains(only)
        {
            return self.problem(
                "--org",
                format!("{only} is not among the organisations of TALLYFY_ORG_ID"),
            );
        }
        let orgs = only.map(|org| vec![org.clone()]).or(listed);
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        match (
            given(&args.access_token),
            given(&args.access_token_file),
            given(&args.credentials_dir),
        ) {
            (None, None, Some(dir)) => {
                Some(CredentialsSource::Directory { only: orgs, path: PathBuf::from(dir) })
            }
            (None, Some(file), None) => {
                Some(CredentialsSource::File { orgs: self.required(orgs)?, path: file.into() })
            }
            (Some(text), None, None) => {
                let orgs = self.required(orgs);
                let token = credentials::token(&text, Path::new("TALLYFY_ACCESS_TOKEN"));
                let token = token.map_err(|error| self.problems.push(error.to_string())).ok();
                Some(CredentialsSource::Fixed { orgs: orgs?, token: token? })
            }
            (None, None, None) => {
                let _ = self.required(orgs);
                self.problem("TALLYFY_ACCESS_TOKEN", format!("no token: {TOKEN_SOURCES}"))
            }
            _ => self.problem(
                "TALLYFY_ACCESS_TOKEN",
                format!("more than one source of tokens: {TOKEN_SOURCES}"),
            ),
        }
    }

    fn required(&mut self, orgs: Option<Vec<OrgId>>) -> Option<Vec<OrgId>> {
        orgs.or_else(|| {
            self.problem(
                "TALLYFY_ORG_ID",
                "is required: the organisations that may be touched, separated by commas",
            )
        })
    }

    fn orgs(&mut self, text: &str) -> Option<Vec<OrgId>> {
        let orgs: Vec<_> = text.split(',').map(|id| self.org("TALLYFY_ORG_ID", id)).collect();
        orgs.into_iter().collect()
    }

    /// The ids from the arguments, or from `input` for a single `-`. One wrong id, or a line that cannot be read, refuses the
    /// whole list: nothing is deleted on half a mistake.
    pub(super) fn ids(
        &mut self,
        kind: Kind,
        args: &[String],
        input: impl Iterator<Item = io::Result<String>>,
    ) -> Option<Vec<ObjectId>> {
        if args != ["-"] {
            if let Some(at) = args.iter().position(|arg| arg == "-") {
                return self.problem(
                    &format!("TASK {}", at + 1),
                    "\"-\" is for standard input, and stands alone",
                );
            }
            return self.valid_ids(kind, "ID", args);
        }
        let numbered = (1..).zip(input).map(|(number, line)| line.map_err(|error| (number, error)));
        match numbered.collect::<Result<Vec<_>, _>>() {
            Ok(lines) => self.valid_ids(kind, "line", &lines),
            Err((number, error)) => {
                self.problem(&format!("line {number}"), format!("cannot be read: {error}"))
            }
        }
    }

    fn valid_ids(&mut self, kind: Kind, what: &str, texts: &[String]) -> Option<Vec<ObjectId>> {
        let mut ids = Vec::new();
        let before = self.problems.len();
        for (number, text) in
            (1..).zip(texts.iter().map(|text| text.trim())).filter(|(_, text)| !text.is_empty())
        {
            match ObjectId::try_from(text.to_owned()) {
                Ok(id) => ids.push(id),
                Err(_) => {
                    let _ = self.problem::<()>(
                        &format!("{what} {number}"),
                        format!(
                            "takes the id of a {}, {ID_FORM}, not {text:?}",
                            kind.spec().object
                        ),
                    );
                }
            }
        }
        (self.problems.len() == before).then_some(ids)
    }
}

const TOKEN_SOURCES: &str = "set exactly one of TALLYFY_ACCESS_TOKEN, TALLYFY_ACCESS_TOKEN_FILE and TALLYFY_CREDENTIALS_DIR";

fn parse_duration(text: &str) -> Option<Duration> {
    let duration: SignedDuration = text.trim().parse().ok()?;
    Duration::try_from(duration).ok()
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => IpAddr::from(ip).is_loopback(),
        Some(Host::Ipv6(ip)) => IpAddr::from(ip).is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}
