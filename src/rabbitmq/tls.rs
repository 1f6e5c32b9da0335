//! The files of a TLS connection to the broker. Read at each connect, so that renewed certificates
//! need no restart.

use std::path::{Path, PathBuf};
use std::{fs, io};

use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;

/// Files in PEM form.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Additional CA certificates.
    pub ca: Option<PathBuf>,
    /// Our certificate, for a broker that asks for one.
    pub client: Option<ClientFiles>,
}

/// A client's certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFiles {
    /// The certificate and its intermediate certificates.
    pub certificate: PathBuf,
    /// The private key, not encrypted.
    pub key: PathBuf,
}

/// Why a file cannot be used; never repeats its content.
#[derive(Debug, Error)]
pub enum TlsError {
    /// It does not exist, or there is no permission.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("{path} holds no {what} in PEM form")]
    NotPem {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
}

impl TlsFiles {
    /// Reads them all.
    ///
    /// # Errors
    /// [`TlsError`] names the file.
    pub fn read(&self) -> Result<OwnedTLSConfig, TlsError> {
        let cert_chain = self.ca.as_deref().map(certificates).transpose()?;
        let identity = self.client.as_ref().map(|files| {
            let key = read(&files.key)?;
            PrivateKeyDer::from_pem_slice(key.as_bytes())
                .map_err(|_| TlsError::NotPem { path: files.key.clone(), what: "private key" })?;
            let pem = certificates(&files.certificate)?.into_bytes();
            Ok(OwnedIdentity::PKCS8 { pem, key: key.into_bytes() })
        });
        Ok(OwnedTLSConfig { identity: identity.transpose()?, cert_chain })
    }
}

/// Reads a file that holds one certificate or more.
///
/// # Errors
/// [`TlsError`] names the file.
pub fn certificates(path: &Path) -> Result<String, TlsError> {
    let text = read(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(text),
        _ => Err(TlsError::NotPem { path: path.to_owned(), what: "certificate" }),
    }
}

fn read(path: &Path) -> Result<String, TlsError> {
    fs::read_to_string(path)
        .map_err(|source| TlsError::Unreadable { path: path.to_owned(), source })
}
