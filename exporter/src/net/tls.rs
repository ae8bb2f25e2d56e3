//! TLS towards backends: rustls with ring.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use serde::Deserialize;
use tapio_proto::transport::GoDuration;
use tapio_receiver::tls_parameters;

use super::{ConfigError, Opaque};

/// `tls:` of a client, with the Collector's keys.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientTls {
    /// Plaintext. An `https://` endpoint overrules it, an `http://` one makes it needless.
    pub insecure: bool,
    /// TLS, but whoever answers is believed.
    pub insecure_skip_verify: bool,
    /// Certificates that may sign the backend's, PEM; the system's when absent.
    pub ca_file: Option<PathBuf>,
    /// The system's certificates beside those of `ca_file`.
    pub include_system_ca_certs_pool: bool,
    /// The same as `ca_file`, inline.
    pub ca_pem: Option<Opaque>,
    /// Our certificate chain, when the backend wants one.
    pub cert_file: Option<PathBuf>,
    /// The same, inline.
    pub cert_pem: Option<Opaque>,
    /// Our private key.
    pub key_file: Option<PathBuf>,
    /// The same, inline.
    pub key_pem: Option<Opaque>,
    /// The files are read again for a new connection after this time; never when zero.
    pub reload_interval: GoDuration,
    /// Oldest version to speak; `1.2` when absent, which is also the oldest that there is here.
    pub min_version: String,
    /// Newest version to speak; `1.3` when absent.
    pub max_version: String,
    /// Cipher suites of TLS 1.2, by Go's names.
    pub cipher_suites: Vec<String>,
    /// Curves, by Go's names.
    pub curve_preferences: Vec<String>,
    /// The name to expect in the backend's certificate, in place of the endpoint's host.
    pub server_name_override: Option<String>,
}

impl ClientTls {
    /// The same with nothing to read: what can be checked where the files need not be.
    pub fn without_files(&self) -> Self {
        ClientTls {
            insecure_skip_verify: true,
            ca_file: None,
            ca_pem: None,
            cert_file: None,
            cert_pem: None,
            key_file: None,
            key_pem: None,
            ..self.clone()
        }
    }

    pub(crate) fn config(&self, alpn: &[u8]) -> Result<Arc<ClientConfig>, ConfigError> {
        let (provider, versions) = tls_parameters(
            &self.min_version,
            &self.max_version,
            &self.cipher_suites,
            &self.curve_preferences,
        )
        .map_err(|why| ConfigError::new("tls", why))?;
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions)
            .map_err(|error| ConfigError::new("tls", error.to_string()))?;
        let builder = if self.insecure_skip_verify {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
        } else {
            builder.with_root_certificates(self.roots()?)
        };
        let chain = match (&self.cert_file, &self.cert_pem) {
            (Some(_), Some(_)) => return Err(both("tls::cert_file", "certificate")),
            (Some(file), None) => Some(certificates("tls::cert_file", file)?),
            (None, Some(pem)) => Some(inline("tls::cert_pem", pem)?),
            (None, None) => None,
        };
        let key = match (&self.key_file, &self.key_pem) {
            (Some(_), Some(_)) => return Err(both("tls::key_file", "key")),
            (Some(file), None) => Some(
                PrivateKeyDer::from_pem_file(file)
                    .map_err(|error| unreadable("tls::key_file", file, &error))?,
            ),
            (None, Some(pem)) => Some(
                PrivateKeyDer::from_pem_slice(pem.0.as_bytes())
                    .map_err(|error| ConfigError::new("tls::key_pem", error.to_string()))?,
            ),
            (None, None) => None,
        };
        let mut config = match (chain, key) {
            (None, None) => builder.with_no_client_auth(),
            (Some(chain), Some(key)) => builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| ConfigError::new("tls::cert_file", error.to_string()))?,
            (Some(_), None) => {
                return Err(ConfigError::new("tls::key_file", "is needed beside cert_file"));
            }
            (None, Some(_)) => {
                return Err(ConfigError::new("tls::cert_file", "is needed beside key_file"));
            }
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        Ok(Arc::new(config))
    }

    fn roots(&self) -> Result<RootCertStore, ConfigError> {
        let mut roots = RootCertStore::empty();
        if self.ca_file.is_some() && self.ca_pem.is_some() {
            return Err(both("tls::ca_file", "CA"));
        }
        if let Some(pem) = &self.ca_pem {
            for certificate in inline("tls::ca_pem", pem)? {
                roots
                    .add(certificate)
                    .map_err(|error| ConfigError::new("tls::ca_pem", error.to_string()))?;
            }
        }
        if let Some(file) = &self.ca_file {
            for certificate in certificates("tls::ca_file", file)? {
                roots.add(certificate).map_err(|error| unreadable("tls::ca_file", file, &error))?;
            }
        }
        if (self.ca_file.is_none() && self.ca_pem.is_none()) || self.include_system_ca_certs_pool {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        if roots.is_empty() {
            let why = "the system has no root certificates; name the backend's with ca_file";
            return Err(ConfigError::new("tls", why));
        }
        Ok(roots)
    }
}

fn inline(key: &'static str, pem: &Opaque) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem.0.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| ConfigError::new(key, error.to_string()))?;
    if all.is_empty() {
        return Err(ConfigError::new(key, "holds no certificate"));
    }
    Ok(all)
}

fn both(key: &'static str, what: &str) -> ConfigError {
    ConfigError::new(key, format!("provide either {what} file or PEM, but not both"))
}

fn certificates(
    key: &'static str,
    file: &Path,
) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let all: Vec<_> = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|error| unreadable(key, file, &error))?;
    if all.is_empty() {
        return Err(unreadable(key, file, &"holds no certificate"));
    }
    Ok(all)
}

fn unreadable(key: &'static str, file: &Path, why: &dyn std::fmt::Display) -> ConfigError {
    ConfigError::new(key, format!("{}: {why}", file.display()))
}

/// `insecure_skip_verify`: the certificate is not checked, the handshake's signatures are.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
