//! Collects a line for each wrong setting, and checks what depends on several settings, on a file
//! or on standard input.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::io::{self, IsTerminal, stderr};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use tracing_subscriber::EnvFilter;
use url::{Host, Url};

use super::broker_args::BrokerArgs;
use super::core_args::CoreArgs;
use super::values::{ID_FORM, Setting};
use crate::credentials::{self, CredentialsSource};
use crate::kind::Kind;
use crate::messages::ledger::GuardLimit;
use crate::messages::{ObjectId, OrgId};
use crate::rabbitmq::AmqpSource;
use crate::rabbitmq::tls::{ClientFiles, TlsFiles};
use crate::spans::OtlpSettings;
use crate::telemetry::{self, LogFormat};

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

    /// The value of a setting; a wrong one is reported.
    pub(super) fn take<T: Clone>(&mut self, setting: &Setting<T>) -> Option<T> {
        setting.clone().map_err(|line| self.problems.push(line)).ok()
    }

    /// The same for an optional setting.
    pub(super) fn take_if<T: Clone>(&mut self, setting: Option<&Setting<T>>) -> Option<T> {
        self.take(setting?)
    }

    /// The URL or the file that holds it and, for `amqps`, the TLS files. Reads every file once to
    /// prove that it is readable.
    pub(super) fn broker_address(&mut self, args: &BrokerArgs) -> Option<(AmqpSource, TlsFiles)> {
        if args.has_two_urls {
            return self.problem("AMQP_URL", "is set, and AMQP_URL_FILE too: set one of them");
        }
        let (BrokerArgs { url_file, password_file, .. }, args) = (args, &args.given);
        let source = if let Some(path) = url_file {
            Some(AmqpSource::file(path.clone()))
        } else {
            let source = args.url.trim().parse::<AmqpSource>();
            source.map_or_else(|error| self.problem("AMQP_URL", error), Some)
        };
        let source = source.map(|source| source.with_password_file(password_file.clone()));
        let url = source.as_ref().and_then(|source| {
            let names = if password_file.is_none() {
                "AMQP_URL_FILE"
            } else {
                "AMQP_URL_FILE, AMQP_PASSWORD_FILE"
            };
            source.read().map_or_else(|error| self.problem(names, error), Some)
        });
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
        let url = url?;
        if !url.is_tls() && tls != TlsFiles::default() {
            return self.problem(
                "AMQP_URL",
                "must begin with amqps:// if AMQP_CA_FILE or a client certificate is set",
            );
        }
        Some((source?, tls))
    }

    /// # A list that is longer than the guard allows is refused before the first call
    ///
    /// The length is known up front, so nothing is deleted before someone has agreed to the number.
    pub(super) fn is_short_enough(
        &mut self,
        ids: &[ObjectId],
        max: Option<u32>,
        guard: Option<GuardLimit>,
    ) -> Option<()> {
        let Some(most) = max.or(guard.map(|guard| guard.max_deletes)) else { return Some(()) };
        let ids = ids.iter().collect::<BTreeSet<_>>().len();
        if ids <= most as usize {
            return Some(());
        }
        self.problem(
            "--max",
            format!("the list has {ids} ids, and no more than {most} are allowed; if all are meant, say --max {ids}"),
        )
    }

    pub(super) fn log_format(
        &mut self,
        setting: Option<&Setting<Option<LogFormat>>>,
    ) -> Option<LogFormat> {
        let by_default = if stderr().is_terminal() { LogFormat::Pretty } else { LogFormat::Json };
        setting
            .map_or(Some(None), |setting| self.take(setting))
            .map(|format| format.unwrap_or(by_default))
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

    pub(super) fn base_url(&mut self, args: &CoreArgs) -> Option<Url> {
        let (url, allow_http) = (self.take(&args.base_url), self.take(&args.allow_http));
        let (url, allow_http) = url.zip(allow_http)?;
        if url.scheme() == "http" && !allow_http && !is_loopback(&url) {
            return self.problem(
                "TALLYFY_BASE_URL",
                "is http:// to a host that is not a loopback address; the token would travel in the clear. \
                 Use https://, or set TALLYFY_ALLOW_HTTP=true",
            );
        }
        Some(url)
    }

    /// Also `None` if no collector is set.
    pub(super) fn otlp(&mut self, args: &CoreArgs) -> Option<OtlpSettings> {
        let endpoint = self.take_if(args.otel_exporter_otlp_endpoint.as_ref())??;
        Some(OtlpSettings { endpoint, service_name: args.otel_service_name.clone() })
    }

    /// One of the three sources of tokens, and the allow-list. `only` is the organisation of the
    /// `delete` command: there it is the whole allow-list, and must be on the configured one if
    /// there is one.
    pub(super) fn credentials(
        &mut self,
        args: &CoreArgs,
        only: Option<&OrgId>,
    ) -> Option<CredentialsSource> {
        let orgs = self.allow_list(args, only);
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        match (
            given(&args.access_token),
            given(&args.access_token_file),
            given(&args.credentials_dir),
        ) {
            (None, None, Some(dir)) => {
                Some(CredentialsSource::Directory { only: orgs.ok()?, path: PathBuf::from(dir) })
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

    /// `Ok(None)` if none is set.
    fn allow_list(
        &mut self,
        args: &CoreArgs,
        only: Option<&OrgId>,
    ) -> Result<Option<Vec<OrgId>>, AlreadyReported> {
        let listed = match args.org_id.as_ref() {
            Some(setting) => self.take(setting).ok_or(AlreadyReported)?,
            None => None,
        };
        match (only, listed) {
            (Some(only), Some(listed)) if !listed.contains(only) => {
                let problem = format!("{only} is not among the organisations of TALLYFY_ORG_ID");
                self.problem("--org", problem).ok_or(AlreadyReported)
            }
            (Some(only), _) => Ok(Some(vec![only.clone()])),
            (None, listed) => Ok(listed),
        }
    }

    fn required(
        &mut self,
        orgs: Result<Option<Vec<OrgId>>, AlreadyReported>,
    ) -> Option<Vec<OrgId>> {
        orgs.ok()?.or_else(|| {
            self.problem(
                "TALLYFY_ORG_ID",
                "is required: the organisations that may be touched, separated by commas",
            )
        })
    }

    /// The ids from the arguments, or from `input` for a single `-`. One wrong id or unreadable
    /// line refuses the whole list, so that a mistake never deletes half of it.
    pub(super) fn ids(
        &mut self,
        kind: Kind,
        args: &[String],
        input: impl Iterator<Item = io::Result<String>>,
    ) -> Option<Vec<ObjectId>> {
        if args != ["-"] {
            if let Some(at) = args.iter().position(|arg| arg == "-") {
                return self.problem(
                    &format!("ID {}", at + 1),
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

/// The problem has its line already; what depends on it is not reported.
struct AlreadyReported;

const TOKEN_SOURCES: &str = "set exactly one of TALLYFY_ACCESS_TOKEN, TALLYFY_ACCESS_TOKEN_FILE and TALLYFY_CREDENTIALS_DIR";

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => IpAddr::from(ip).is_loopback(),
        Some(Host::Ipv6(ip)) => IpAddr::from(ip).is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}
