//! The flags of everything that talks to RabbitMQ.

use std::path::PathBuf;

use clap::Args;

#[derive(Args)]
pub(super) struct BrokerArgs {
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
        help_heading = "RabbitMQ",
        conflicts_with = "url"
    )]
    pub(super) url_file: Option<PathBuf>,
    /// File with the password, which replaces the URL's; read again at each connect.
    #[arg(
        global = true,
        long = "amqp-password-file",
        env = "AMQP_PASSWORD_FILE",
        value_name = "FILE",
        help_heading = "RabbitMQ"
    )]
    pub(super) password_file: Option<PathBuf>,
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
