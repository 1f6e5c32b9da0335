//! Certificates for the test broker's TLS port: an authority of our own, the broker's and a
//! client's.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

/// Texts in PEM form.
pub struct Certificates {
    /// The authority that signed the others.
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
    /// Where none can be made.
    pub(super) fn new() -> Self {
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

    /// The broker's files: names and contents.
    pub(super) fn of_the_broker(&self) -> [(&'static str, &str); 3] {
        [("ca.pem", &self.ca), ("server.pem", &self.server), ("server.key", &self.server_key)]
    }

    /// What the broker's configuration says of a TLS port where only those come in who show a
    /// certificate.
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
