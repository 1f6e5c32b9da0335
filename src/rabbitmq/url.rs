//! The broker's address as an operator writes it: parsed strictly, and shown without its password.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use lapin::uri::{AMQPScheme, AMQPUri};
use url::{Host, Position, Url};

/// A dead peer is noticed after twice this many seconds; the server's default would be 60.
const HEARTBEAT_SECONDS: u16 = 10;
/// lapin allocates and zeroes buffers for 32 frames in each direction of each connection: with the
/// server's 128 KiB that would be 16 MiB. Larger bodies come in several frames; none of our headers
/// is larger, and none that we let in (`lapin_guard`).
const FRAME_MAX: u32 = 16 * 1024;
/// The longest short string of the protocol; lapin panics on a longer one.
const LONGEST_VHOST: usize = 255;
const KNOWN_PARAMETERS: [&str; 5] =
    ["heartbeat", "connection_timeout", "channel_max", "frame_max", "auth_mechanism"];

/// The time limit of a TCP connect if the URL sets none: a lost SYN is sent again after one second.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
const LONGEST_CONNECT: Duration = Duration::from_mins(1);

/// Hosts, credentials and virtual host of the broker.
///
/// Only this folder sees the content. [`fmt::Display`] shows hosts, ports and virtual host, which
/// may appear in a log line.
#[derive(Clone)]
pub struct AmqpUrl {
    /// One per host, at least one; they differ only in host and port.
    hosts: Vec<AMQPUri>,
}

impl AmqpUrl {
    /// Whether the connections are encrypted.
    pub fn is_tls(&self) -> bool {
        self.hosts.iter().all(|uri| uri.scheme == AMQPScheme::AMQPS)
    }

    /// The hosts, in lapin's form.
    pub(super) fn hosts(&self) -> &[AMQPUri] {
        &self.hosts
    }

    /// How long the TCP connect to one address may take.
    pub(super) fn connect_within(&self) -> Duration {
        let set = self.hosts.iter().find_map(|uri| uri.query.connection_timeout);
        set.map_or(CONNECT_WITHIN, Duration::from_millis)
    }

    /// The same with another password.
    pub(super) fn with_password(mut self, password: &str) -> Self {
        for uri in &mut self.hosts {
            password.clone_into(&mut uri.authority.userinfo.password);
        }
        self
    }
}

impl fmt::Display for AmqpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls() { "amqps" } else { "amqp" };
        let hosts = self.hosts.iter().map(|uri| &uri.authority);
        let hosts = hosts.map(|at| format!("{}:{}", at.host, at.port)).collect::<Vec<_>>();
        let vhost = self.hosts.first().map_or("/", |uri| &uri.vhost);
        write!(f, "{scheme}://{} (vhost {vhost})", hosts.join(","))
    }
}

impl fmt::Debug for AmqpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AmqpUrl({self})")
    }
}

impl FromStr for AmqpUrl {
    /// What is wrong with the URL, in one line, without its password.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // The parser would drop line feeds and tabs, which could change the password.
        if text.contains(char::is_control) {
            return Err("has a control character in it".to_owned());
        }
        let urls = one_for_each_host(text);
        Ok(Self { hosts: urls.iter().map(|url| one_host(url)).collect::<Result<_, _>>()? })
    }
}

/// Commas separate hosts; user, password, virtual host and parameters apply to all.
fn one_for_each_host(text: &str) -> Vec<String> {
    let Some((scheme, rest)) = text.split_once("://") else { return vec![text.to_owned()] };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, behind) = rest.split_at(end);
    let user = authority.rfind('@').map_or(0, |at| at + 1);
    let (user, hosts) = authority.split_at(user);
    hosts.split(',').map(|host| format!("{scheme}://{user}{host}{behind}")).collect()
}

/// lapin's parser would ignore unknown parts and turn an IPv6 address into `localhost`, so both are
/// refused here.
fn one_host(text: &str) -> Result<AMQPUri, String> {
    let url = Url::parse(text).map_err(|error| {
        format!(
            "is not a URL ({error}); it takes amqp://user:password@host:port/vhost, with several hosts separated by commas"
        )
    })?;
    if !matches!(url.scheme(), "amqp" | "amqps") {
        return Err("must begin with amqp:// or amqps://".to_owned());
    }
    match url.host() {
        Some(Host::Ipv6(_)) => {
            return Err(
                "names an IPv6 address, which the client library takes for localhost; use a host name"
                    .to_owned(),
            );
        }
        None | Some(Host::Domain("")) => return Err("names no host".to_owned()),
        Some(_) => {}
    }
    // A password with / ? or # ends the host too early, and the rest of it would appear in the log
    // as the virtual host.
    let behind_the_host = &url[Position::BeforePath..];
    if behind_the_host.contains(['@', '#']) {
        return Err("has an @ or a # behind the host; in user, password and virtual host / is %2f, ? is %3f, # is %23, \
                    @ is %40"
            .to_owned());
    }
    if let Some((name, _)) =
        url.query_pairs().find(|(name, _)| !KNOWN_PARAMETERS.contains(&name.as_ref()))
    {
        return Err(format!(
            "has an unknown parameter, {name:?}; known are {}",
            KNOWN_PARAMETERS.join(", ")
        ));
    }
    let mut uri: AMQPUri =
        text.parse().map_err(|_| "has a parameter with a wrong value".to_owned())?;
    if uri.vhost.len() > LONGEST_VHOST {
        return Err(format!("names a virtual host of more than {LONGEST_VHOST} bytes"));
    }
    let limits = 1..=LONGEST_CONNECT.as_millis();
    if uri.query.connection_timeout.is_some_and(|limit| !limits.contains(&limit.into())) {
        return Err(format!(
            "has a connection_timeout that is not from 1 to {} milliseconds",
            limits.end()
        ));
    }
    uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
    uri.query.frame_max.get_or_insert(FRAME_MAX);
    // "amqp://host/" names the virtual host "", which nobody uses: the default one is meant.
    if uri.vhost.is_empty() {
        "/".clone_into(&mut uri.vhost);
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(url: &str) -> String {
        url.parse::<AmqpUrl>().expect_err(url)
    }

    fn parsed(url: &str) -> AMQPUri {
        url.parse::<AmqpUrl>().unwrap().hosts()[0].clone()
    }

    #[test]
    fn what_the_library_would_silently_misread_is_refused() {
        assert!(refusal("amqp://guest:guest@[::1]:5672/").contains("IPv6"));
        assert!(refusal("amqp://h/?heartbeet=5").contains("unknown parameter, \"heartbeet\""));
        assert!(refusal("amqp://h/?heartbeat=often").contains("wrong value"));
        assert!(refusal("http://h/").contains("amqp://"));
        assert!(refusal("rabbit").contains("amqp://user"));
        assert!(refusal("amqp:///vhost").contains("host"));
        assert!(refusal("amqp://u:pass\nword@h/").contains("control character"));
        // The password is 12/3: the library would take u for the host and 12 for the port.
        for url in
            ["amqp://u:12/3@h/", "amqp://u:12?3@h/", "amqp://u:12#3@h/", "amqp://u:p@h/#fragment"]
        {
            assert!(refusal(url).contains("%40"), "{}", refusal(url));
        }
    }

    #[test]
    fn several_hosts_share_user_password_virtual_host_and_parameters() {
        let url: AmqpUrl = "amqps://u,v:p,q@a,b:5673,10.0.0.1/x%2Fy?heartbeat=5".parse().unwrap();
        assert_eq!(url.to_string(), "amqps://a:5671,b:5673,10.0.0.1:5671 (vhost x/y)");
        for uri in url.hosts() {
            let user = &uri.authority.userinfo;
            assert_eq!((user.username.as_str(), user.password.as_str()), ("u,v", "p,q"));
            assert_eq!((uri.vhost.as_str(), uri.query.heartbeat), ("x/y", Some(5)));
        }
        let plain: AmqpUrl = "amqp://a,b".parse().unwrap();
        assert_eq!(plain.to_string(), "amqp://a:5672,b:5672 (vhost /)");
    }

    #[test]
    fn one_wrong_host_among_several_is_refused() {
        assert!(refusal("amqp://u:p@a,/").contains("host"));
        assert!(refusal("amqp://u:p@a,,b/").contains("host"));
        assert!(refusal("amqp://u:p@a,[::1]:5672/").contains("IPv6"));
        assert!(refusal("amqp://u:p@a,b:x/").contains("port"));
        assert!(refusal("amqp://u:p@a,c@b/c@d/").contains("%40"));
    }

    #[test]
    fn a_connection_timeout_is_honoured_or_refused() {
        let url = |limit| format!("amqp://a,b/?connection_timeout={limit}");
        let limit = |text: &str| text.parse::<AmqpUrl>().unwrap().connect_within();
        assert_eq!(limit(&url("250")), Duration::from_millis(250));
        assert_eq!(limit("amqp://a,b"), CONNECT_WITHIN);
        for wrong in ["0", "60001", "18446744073709551615"] {
            assert!(refusal(&url(wrong)).contains("from 1 to 60000 milliseconds"), "{wrong}");
        }
    }

    #[test]
    fn a_virtual_host_that_is_too_long_for_the_protocol_is_refused() {
        let url = |bytes| format!("amqp://h/{}", "v".repeat(bytes));
        assert!(refusal(&url(256)).contains("255"));
        assert_eq!(parsed(&url(255)).vhost.len(), 255);
    }

    #[test]
    fn a_refusal_is_one_line() {
        assert!(!refusal("amqp://h/?heart%0abeat=1").contains('\n'));
    }

    #[test]
    fn no_refusal_repeats_the_password() {
        for url in [
            "http://u:s3cret@h/",
            "amqp://u:s3cret@[::1]/",
            "amqp://u:s3cret@h/?x=1",
            "amqp://u:s3cret@h:99999/",
            "amqp://u:12/s3cret@h/",
            "amqp://u:12?s3cret@h/",
            "amqp://u:12#s3cret@h/",
            "amqp://u:s3cret@a,b:x/",
            "amqp://u:s3cret@a,,b/",
            "amqp://u:s3cret@a,b/?connection_timeout=0",
        ] {
            assert!(!refusal(url).contains("s3cret"), "{}", refusal(url));
        }
    }

    #[test]
    fn a_heartbeat_is_asked_for_and_an_empty_virtual_host_is_the_default_one() {
        let uri = parsed("amqp://u:p@127.0.0.1/");
        assert_eq!((uri.query.heartbeat, uri.vhost.as_str()), (Some(10), "/"));
        assert_eq!(parsed("amqp://h/a%2Fb?heartbeat=5").query.heartbeat, Some(5));
    }

    #[test]
    fn what_is_shown_holds_no_password() {
        let url: AmqpUrl = "amqp://u:s3cret@h/a%2Fb".parse().unwrap();
        assert_eq!(url.to_string(), "amqp://h:5672 (vhost a/b)");
        assert_eq!(format!("{url:?}"), "AmqpUrl(amqp://h:5672 (vhost a/b))");
        assert!("amqps://h".parse::<AmqpUrl>().unwrap().is_tls() && !url.is_tls());
    }
}
