//! Access: who may look, who may act, and which requests are answered at all. Each handler takes a
//! [`Viewer`] or an [`Actor`], so none can forget the check.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{ConnectInfo, FromRequestParts, Request, State};
use axum::http::header::{AUTHORIZATION, HOST, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderName, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;
use subtle::ConstantTimeEq;
use tracing::warn;

use super::Shared;
use super::page;
use super::viewer::{Rights, Viewer};

/// How long the answer to a wrong password is delayed.
const WRONG_PASSWORD: Duration = Duration::from_secs(1);
const LONGEST_NAME: usize = 64;

/// How users are identified, and what they may do.
#[derive(Debug, Clone)]
pub struct Access {
    pub who: Who,
    pub rights: Rights,
    /// Host names of the console, besides those of the loopback addresses.
    pub hosts: Vec<String>,
    /// Whether other names are refused even if no name is configured.
    pub is_loopback: bool,
}

/// How the console identifies a user.
#[derive(Debug, Clone)]
pub enum Who {
    /// Everyone on this machine is this person.
    Local(String),
    /// By user name and password.
    Password(Passwords),
    /// By a header that only these proxies may set.
    Header(HeaderName, Vec<IpNet>),
}

/// A file with one `name:password` a line; read again for each request.
#[derive(Debug, Clone)]
pub struct Passwords(pub PathBuf);

impl Passwords {
    /// # Errors
    /// What is wrong with the file, never its content.
    pub fn read(&self) -> Result<Vec<(String, String)>, String> {
        let path = self.0.display();
        let text = fs::read_to_string(&self.0).map_err(|error| format!("{path}: {error}"))?;
        let lines = text.lines().map(str::trim).enumerate();
        let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let users = lines.map(|(number, line)| match line.split_once(':') {
            Some((name, password)) if is_name(name) && !password.is_empty() => {
                Ok((name.to_owned(), password.to_owned()))
            }
            _ => Err(format!("{path}: line {} is not name:password", number + 1)),
        });
        let users = users.collect::<Result<Vec<_>, _>>()?;
        if users.is_empty() { Err(format!("{path}: no line name:password")) } else { Ok(users) }
    }

    /// The name, if the password matches.
    fn check(&self, name: &str, password: &str) -> Option<String> {
        let users = self.read().inspect_err(|error| warn!("nobody gets in: {error}")).ok()?;
        // Compares with every user, so that the time taken does not depend on which one matches.
        let found = users.iter().fold(None, |found, (user, secret)| {
            let is_it = user.as_bytes().ct_eq(name.as_bytes())
                & secret.as_bytes().ct_eq(password.as_bytes());
            if bool::from(is_it) { Some(user) } else { found }
        });
        found.cloned()
    }
}

/// Whether this may stand as a name in an audit event.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= LONGEST_NAME && name.chars().all(|c| !c.is_control())
}

/// A user who may act.
pub(super) struct Actor(pub(super) Viewer);

impl FromRequestParts<Arc<Shared>> for Viewer {
    type Rejection = Response;

    async fn from_request_parts(
        parts: &mut Parts,
        shared: &Arc<Shared>,
    ) -> Result<Self, Self::Rejection> {
        let access = &shared.settings.access;
        let by = match &access.who {
            Who::Local(by) => by.clone(),
            Who::Password(passwords) => by_password(parts, passwords).await?,
            Who::Header(name, proxies) => by_header(parts, name, proxies)?,
        };
        Ok(Self { by, rights: access.rights })
    }
}

impl FromRequestParts<Arc<Shared>> for Actor {
    type Rejection = Response;

    async fn from_request_parts(
        parts: &mut Parts,
        shared: &Arc<Shared>,
    ) -> Result<Self, Self::Rejection> {
        let viewer = Viewer::from_request_parts(parts, shared).await?;
        if viewer.rights == Rights::Act {
            return Ok(Self(viewer));
        }
        let why = "This console is read-only: it was started without CONSOLE_WRITE=true.";
        Err(page::refusal(&viewer, StatusCode::FORBIDDEN, why))
    }
}

async fn by_password(parts: &Parts, passwords: &Passwords) -> Result<String, Response> {
    let refused = || {
        let ask = [(WWW_AUTHENTICATE, "Basic realm=\"console\", charset=\"UTF-8\"")];
        (StatusCode::UNAUTHORIZED, ask, "name and password, please\n").into_response()
    };
    let given = parts.headers.get(AUTHORIZATION).ok_or_else(refused)?;
    let named = given.to_str().ok().and_then(|text| {
        let (scheme, coded) = text.split_once(' ')?;
        let decoded = STANDARD.decode(coded.trim()).ok()?;
        let pair = String::from_utf8(decoded).ok()?;
        let (name, password) = pair.split_once(':')?;
        scheme.eq_ignore_ascii_case("basic").then(|| passwords.check(name, password))?
    });
    if named.is_none() {
        warn!("console: a wrong name or password");
        tokio::time::sleep(WRONG_PASSWORD).await;
    }
    named.ok_or_else(refused)
}

/// # A header counts only from the proxy
///
/// Anyone who can reach the port can send any header. So a request that does not come from one of
/// the proxies is refused, and so is one that has the header twice.
fn by_header(parts: &Parts, name: &HeaderName, proxies: &[IpNet]) -> Result<String, Response> {
    let caller = parts.extensions.get::<ConnectInfo<SocketAddr>>();
    let caller = caller.map(|ConnectInfo(caller)| caller.ip().to_canonical());
    let refused = |why: &'static str| (StatusCode::FORBIDDEN, why).into_response();
    if !caller.is_some_and(|caller: IpAddr| proxies.iter().any(|net| net.contains(&caller))) {
        return Err(refused("only through the proxy\n"));
    }
    let mut given = parts.headers.get_all(name).iter();
    match (given.next().and_then(|value| value.to_str().ok()).map(str::trim), given.next()) {
        (Some(by), None) if is_name(by) => Ok(by.to_owned()),
        _ => Err(refused("the proxy does not say who you are\n")),
    }
}

/// # Another site cannot pose as the console
///
/// The owner of a domain can point it at 127.0.0.1, and a browser then takes the console for a part
/// of that site. But the browser sends that site's name as the host. So on a loopback address the
/// console answers only to its own names.
pub(super) async fn known_hosts(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    let access = &shared.settings.access;
    let is_checked = access.is_loopback || !access.hosts.is_empty();
    let header = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let line = request.uri().authority().map(Authority::as_str);
    let is_known = |host: &str| is_known_host(host, &access.hosts);
    if is_checked && !(header.is_some_and(is_known) && line.is_none_or(is_known)) {
        let why = "this console is not known by that name: see CONSOLE_HOSTS\n";
        return (StatusCode::MISDIRECTED_REQUEST, why).into_response();
    }
    next.run(request).await
}

fn is_known_host(host: &str, hosts: &[String]) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    // A Host has no user name before an @.
    if authority.as_str().contains('@') {
        return false;
    }
    let name = authority.host().to_ascii_lowercase();
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost"
        || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
        || hosts.iter().any(|host| host.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_site_cannot_pose_as_the_console() {
        let hosts = ["Console.example".to_owned()];
        for host in ["127.0.0.1:9465", "localhost", "LOCALHOST:1", "[::1]:9465", "console.example"]
        {
            assert!(is_known_host(host, &hosts), "{host}");
        }
        for host in ["evil.example:9465", "localhost.evil.example", "localhost@evil.example", ""] {
            assert!(!is_known_host(host, &hosts), "{host}");
        }
        assert!(!is_known_host("console.example", &[]));
    }

    #[test]
    fn a_password_opens_for_its_own_name_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users");
        let passwords = Passwords(path.clone());
        assert!(passwords.read().is_err(), "not there");
        fs::write(&path, "# operators\nann:first:secret\n\nbob:second\n").unwrap();
        assert_eq!(passwords.check("ann", "first:secret").as_deref(), Some("ann"));
        assert_eq!(passwords.check("bob", "second").as_deref(), Some("bob"));
        for (name, password) in [("ann", "second"), ("bob", ""), ("", "second"), ("eve", "x")] {
            assert_eq!(passwords.check(name, password), None, "{name}");
        }
        for wrong in ["", "ann\n", "ann:\n", ":x\n"] {
            fs::write(&path, wrong).unwrap();
            assert!(passwords.read().is_err(), "{wrong:?}");
        }
    }
}
