//! The flags of everything that talks to RabbitMQ.

use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, Error, FromArgMatches};

/// The flags and variables that are in force.
pub(super) struct BrokerArgs {
    pub(super) given: BrokerFlags,
    pub(super) url_file: Option<PathBuf>,
    pub(super) password_file: Option<PathBuf>,
    /// There are two URLs, and neither is preferred.
    pub(super) has_two_urls: bool,
}

impl FromArgMatches for BrokerArgs {
    /// # A URL on the command line replaces the files of the environment
    ///
    /// Operators use their own credentials where a worker's variables are set: in its pod.
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        use ValueSource::{CommandLine, EnvVariable};
        let is = |id, source| matches.value_source(id) == Some(source);
        let given = BrokerFlags::from_arg_matches(matches)?;
        let set = |file: &String| Some(PathBuf::from(file)).filter(|_| !file.is_empty());
        let mut url_file = given.url_file.as_ref().and_then(set);
        let mut password_file = given.password_file.as_ref().and_then(set);
        if is("url", CommandLine) {
            url_file.take_if(|_| is("url_file", EnvVariable));
            let has_password = has_password(&given.url);
            password_file.take_if(|_| is("password_file", EnvVariable) && has_password);
        }
        let both = |source| is("url", source) && is("url_file", source);
        let has_two_urls = (both(CommandLine) || both(EnvVariable))
            && url_file.is_some()
            && !given.url.trim().is_empty();
        Ok(Self { given, url_file, password_file, has_two_urls })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for BrokerArgs {
    fn augment_args(command: Command) -> Command {
        BrokerFlags::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        BrokerFlags::augment_args_for_update(command)
    }
}

fn has_password(url: &str) -> bool {
    let rest = url.split_once("//").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
}

#[derive(Args)]
pub(super) struct BrokerFlags {
    /// Broker, credentials and virtual host; amqps:// for TLS. Several hosts of a cluster are
    /// separated by commas.
    #[arg(
        global = true,
        long = "amqp-url",
        env = "AMQP_URL",
        hide_env_values = true,
        value_name = "URL",
        help_heading = "RabbitMQ",
        default_value = "amqp://guest:guest@127.0.0.1:5672/%2f"
    )]
    pub(super) url: String,
    /// File with that URL, instead of the URL itself; read again at each connect.
    #[arg(
        global = true,
        long = "amqp-url-file",
        env = "AMQP_URL_FILE",
        value_name = "FILE",
        help_heading = "RabbitMQ"
    )]
    url_file: Option<String>,
    /// File with the password, which replaces the URL's; read again at each connect.
    #[arg(
        global = true,
        long = "amqp-password-file",
        env = "AMQP_PASSWORD_FILE",
        value_name = "FILE",
        help_heading = "RabbitMQ"
    )]
    password_file: Option<String>,
    /// For amqps: additional CA certificates (PEM).
    #[arg(
        global = true,
        id = "amqp_ca_file",
        long = "amqp-ca-file",
        env = "AMQP_CA_FILE",
        value_name = "FILE",
        help_heading = "RabbitMQ"
    )]
    pub(super) ca_file: Option<PathBuf>,
    /// For amqps: our own certificate (PEM), if the broker asks for one.
    #[arg(
        global = true,
        long = "amqp-client-cert-file",
        env = "AMQP_CLIENT_CERT_FILE",
        value_name = "FILE",
        help_heading = "RabbitMQ"
    )]
    pub(super) client_cert_file: Option<PathBuf>,
    /// For amqps: the private key (PEM) of that certificate.
    #[arg(
        global = true,
        long = "amqp-client-key-file",
        env = "AMQP_CLIENT_KEY_FILE",
        value_name = "FILE",
        help_heading = "RabbitMQ"
    )]
    pub(super) client_key_file: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_a_password_if_its_user_has_one() {
        for url in ["amqp://a:b@host", "amqps://a:b@one:1,two:2/v", "amqp://a:@host?x=1"] {
            assert!(has_password(url), "{url}");
        }
        for url in ["amqp://host:5672/", "amqp://a@host:5672/v", "amqp://host/a:b@c", "nonsense"] {
            assert!(!has_password(url), "{url}");
        }
    }
}
