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

use super::ConfigError;

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
    /// Our certificate chain, when the backend wants one.
    pub cert_file: Option<PathBuf>,
    /// Our private key.
    pub key_file: Option<PathBuf>,
    /// The name to expect in the backend's certificate, in place of the endpoint's host.
    pub server_name_override: Option<String>,
}

impl ClientTls {
    pub(crate) fn config(&self, alpn: &[u8]) -> Result<Arc<ClientConfig>, ConfigError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| ConfigError::new("tls", error.to_string()))?;
        let builder = if self.insecure_skip_verify {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
        } else {
            builder.with_root_certificates(self.roots()?)
        };
        let mut config = match (&self.cert_file, &self.key_file) {
            (None, None) => builder.with_no_client_auth(),
            (Some(cert), Some(key)) => {
                let chain = certificates("tls::cert_file", cert)?;
                let key = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| unreadable("tls::key_file", key, &error))?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| ConfigError::new("tls::cert_file", error.to_string()))?
            }
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
        if let Some(file) = &self.ca_file {
            for certificate in certificates("tls::ca_file", file)? {
                roots.add(certificate).map_err(|error| unreadable("tls::ca_file", file, &error))?;
            }
        }
        if self.ca_file.is_none() || self.include_system_ca_certs_pool {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        if roots.is_empty() {
            let why = "the system has no root certificates; name the backend's with ca_file";
            return Err(ConfigError::new("tls", why));
        }
        Ok(roots)
    }
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
