//! Where the broker is: the address that an operator writes, read strictly, and shown without its password.

use std::fmt;
use std::str::FromStr;

use lapin::uri::{AMQPScheme, AMQPUri};
use url::{Host, Position, Url};

/// A dead peer is noticed after twice this many seconds; the server's default would be 60.
const HEARTBEAT_SECONDS: u16 = 10;
/// lapin keeps, and fills with zeros, room for 32 frames in each direction of each connection: with the server's 128 KiB
/// that would be 16 MiB. Larger bodies come in several frames; no header of ours is larger, and none that we let in
/// (`lapin_guard`).
const FRAME_MAX: u32 = 16 * 1024;
/// What a short string of the protocol holds; lapin panics on a longer one.
const LONGEST_VHOST: usize = 255;
const KNOWN_PARAMETERS: [&str; 5] =
    ["heartbeat", "connection_timeout", "channel_max", "frame_max", "auth_mechanism"];

/// Address, credentials and virtual host of the broker.
///
/// Only this folder sees what is inside, so that it can become several hosts of one cluster. [`fmt::Display`] shows host,
/// port and virtual host: what may stand in a log line.
#[derive(Clone)]
pub struct AmqpUrl(AMQPUri);

impl AmqpUrl {
    /// Whether the connection is encrypted.
    pub fn is_tls(&self) -> bool {
        self.0.scheme == AMQPScheme::AMQPS
    }

    /// As lapin takes it.
    pub(super) fn to_lapin(&self) -> AMQPUri {
        self.0.clone()
    }
}

impl fmt::Display for AmqpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls() { "amqps" } else { "amqp" };
        let AMQPUri { authority, vhost, .. } = &self.0;
        write!(f, "{scheme}://{}:{} (vhost {vhost})", authority.host, authority.port)
    }
}

impl fmt::Debug for AmqpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AmqpUrl({self})")
    }
}

impl FromStr for AmqpUrl {
    /// What is wrong, in one line, without the URL's password.
    type Err = String;

    /// lapin's parser would ignore what it does not know and turn an IPv6 address into `localhost`, so both are refused here.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // The parser would leave out line feeds and tabs: another password, perhaps, than the one that was meant.
        if text.contains(char::is_control) {
            return Err("has a control character in it".to_owned());
        }
        let url = Url::parse(text).map_err(|error| {
            format!("is no URL ({error}); it takes amqp://user:password@host:port/vhost")
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
        // A password with one of / ? # ends the host too early, and its rest would show in the log as the virtual host.
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
        uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
        uri.query.frame_max.get_or_insert(FRAME_MAX);
        // "amqp://host/" names the virtual host "", which nobody has: the default one is meant.
        if uri.vhost.is_empty() {
            "/".clone_into(&mut uri.vhost);
        }
        Ok(Self(uri))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(url: &str) -> String {
        url.parse::<AmqpUrl>().expect_err(url)
    }

    fn parsed(url: &str) -> AMQPUri {
        url.parse::<AmqpUrl>().unwrap().to_lapin()
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
