//! Certificates for the test broker's TLS port: of a CA of our own, of the broker and of a client.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Texts in PEM form.
pub struct Certificates {
    /// The CA that signed the others.
    pub ca: String,
    /// A client's certificate.
    pub client: String,
    /// Its key.
    pub client_key: String,
    server: String,
    server_key: String,
}

impl Certificates {
    /// # Panics
    /// If they cannot be made.
    #[allow(clippy::new_without_default, reason = "it makes keys, which takes time")]
    pub fn new() -> Self {
        let mut ca = params("tallyfy test authority");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(ca, key()).expect("an authority");
        let signed = |name: &str| {
            let key = key();
            let certificate = params(name).signed_by(&key, &ca).expect("a certificate");
            (certificate.pem(), key.serialize_pem())
        };
        let ((server, server_key), (client, client_key)) = (signed("localhost"), signed("client"));
        Self { ca: ca.pem(), client, client_key, server, server_key }
    }

    /// The certificate of a server on this machine, and its key.
    ///
    /// # Panics
    /// If they cannot be read.
    pub fn of_a_server(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let chain = CertificateDer::from_pem_slice(self.server.as_bytes()).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(self.server_key.as_bytes()).expect("a key");
        (vec![chain], key)
    }

    /// The broker's files: names and contents.
    pub(super) fn of_the_broker(&self) -> [(&'static str, &str); 3] {
        [("ca.pem", &self.ca), ("server.pem", &self.server), ("server.key", &self.server_key)]
    }

    /// The broker's configuration of a TLS port that requires a client certificate.
    pub(super) fn settings(listener: &str, dir: &str) -> String {
        format!(
            "listeners.ssl.default = {listener}\nssl_options.cacertfile = {dir}/ca.pem\n\
             ssl_options.certfile = {dir}/server.pem\nssl_options.keyfile = {dir}/server.key\n\
             ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n"
        )
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()])
        .expect("two names");
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params
}

fn key() -> KeyPair {
    KeyPair::generate().expect("a key")
}
