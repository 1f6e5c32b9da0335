//! The one implementation of cryptography that the whole process uses for TLS.

/// Installs it. `main` does so once, before any client is built; so does every test that builds one
/// in its own process.
pub fn install() {
    // A second installation is refused, and changes nothing: fine for tests, which share their
    // process.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
