//! TLS for servers: rustls with ring, certificates from files or inline PEM.

use std::{path::PathBuf, sync::Arc};

use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use serde::Deserialize;
use tokio_rustls::TlsAcceptor;

/// `tls:` of a server, with the Collector's keys.
#[derive(Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerTls {
    /// Certificate chain, PEM.
    pub cert_file: Option<PathBuf>,
    /// The same, inline.
    pub cert_pem: Option<String>,
    /// Private key, PEM.
    pub key_file: Option<PathBuf>,
    /// The same, inline.
    pub key_pem: Option<String>,
    /// Clients must show a certificate that one of these signed.
    pub client_ca_file: Option<PathBuf>,
    /// `1.2` or `1.3`.
    pub min_version: Option<String>,
}

/// Why TLS could not be set up. The receiver does not start then: never plaintext by accident.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A key that TLS needs is not in the configuration.
    #[error("tls: {0}")]
    Missing(&'static str),
    /// A certificate or key cannot be read.
    #[error("tls: {what}: {why}")]
    Unreadable {
        /// The file, or the key of the inline PEM.
        what: String,
        /// The reader's words.
        why: String,
    },
    /// Certificate and key do not make a server.
    #[error("tls: {0}")]
    Rejected(String),
}

impl std::fmt::Debug for ServerTls {
    // Without the inline PEMs: a key must not reach a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerTls")
            .field("cert_file", &self.cert_file)
            .field("key_file", &self.key_file)
            .field("client_ca_file", &self.client_ca_file)
            .finish_non_exhaustive()
    }
}

impl ServerTls {
    pub(crate) fn acceptor(&self, alpn: &[&[u8]]) -> Result<TlsAcceptor, TlsError> {
        let chain: Vec<CertificateDer<'static>> = match (&self.cert_file, &self.cert_pem) {
            (Some(file), _) => certificates(file)?,
            (None, Some(pem)) => CertificateDer::pem_slice_iter(pem.as_bytes())
                .collect::<Result<_, _>>()
                .map_err(|error| unreadable("cert_pem", error))?,
            (None, None) => return Err(TlsError::Missing("cert_file or cert_pem is needed")),
        };
        let key: PrivateKeyDer<'static> = match (&self.key_file, &self.key_pem) {
            (Some(file), _) => PrivateKeyDer::from_pem_file(file)
                .map_err(|error| unreadable(&file.display().to_string(), error))?,
            (None, Some(pem)) => PrivateKeyDer::from_pem_slice(pem.as_bytes())
                .map_err(|error| unreadable("key_pem", error))?,
            (None, None) => return Err(TlsError::Missing("key_file or key_pem is needed")),
        };
        let versions: &[&rustls::SupportedProtocolVersion] = match self.min_version.as_deref() {
            None | Some("1.2" | "") => rustls::ALL_VERSIONS,
            Some("1.3") => &[&rustls::version::TLS13],
            Some(_) => return Err(TlsError::Missing("min_version must be \"1.2\" or \"1.3\"")),
        };
        let rejected = |error: &dyn std::fmt::Display| TlsError::Rejected(error.to_string());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(|error| rejected(&error))?;
        let builder = match &self.client_ca_file {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(file)? {
                    roots.add(certificate).map_err(|error| rejected(&error))?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                        .build()
                        .map_err(|error| rejected(&error))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| rejected(&error))?;
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

fn certificates(file: &std::path::Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let name = file.display().to_string();
    let all: Vec<_> = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|error| unreadable(&name, error))?;
    if all.is_empty() {
        return Err(TlsError::Unreadable { what: name, why: "holds no certificate".to_owned() });
    }
    Ok(all)
}

fn unreadable(what: &str, error: impl std::fmt::Display) -> TlsError {
    TlsError::Unreadable { what: what.to_owned(), why: error.to_string() }
}
