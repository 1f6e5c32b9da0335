//! The one implementation of cryptography that the whole process uses for TLS.

/// Installs it. `main` calls this once, before any client is built, and so does every test that
/// builds a client.
pub fn install() {
    // A second installation is refused and changes nothing, which is fine for tests that share a
    // process.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
