//! TLS for servers: rustls with ring, certificates from files or inline PEM, read again in time.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustls::{
    RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use serde::Deserialize;
use tapio_proto::transport::GoDuration;
use tokio_rustls::TlsAcceptor;

/// How often `client_ca_file_reload` looks at the file.
const CLIENT_CA_INTERVAL: Duration = Duration::from_secs(10);

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
    /// The file above is read again when it may have changed.
    pub client_ca_file_reload: bool,
    /// The files are read again after this time; never when zero.
    pub reload_interval: GoDuration,
    /// Oldest version to speak; `1.2` when absent, which is also the oldest that there is here.
    pub min_version: String,
    /// Newest version to speak; `1.3` when absent.
    pub max_version: String,
    /// Cipher suites of TLS 1.2, by Go's names.
    pub cipher_suites: Vec<String>,
    /// Curves, by Go's names.
    pub curve_preferences: Vec<String>,
}

/// Why TLS could not be set up. The receiver does not start then: never plaintext by accident.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The keys do not go together, or one of them has a value that does not exist.
    #[error("tls: {0}")]
    Invalid(String),
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

/// TLS that is set up, and set up again when its files are due to be read again.
pub(crate) struct Tls {
    config: ServerTls,
    alpn: Vec<Vec<u8>>,
    every: Option<Duration>,
    current: Mutex<(Arc<ServerConfig>, Instant)>,
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

/// What `min_version`, `max_version`, `cipher_suites` and `curve_preferences` allow, of what ring
/// and rustls have. Texts are the Collector's where it has one.
pub fn tls_parameters(
    min_version: &str,
    max_version: &str,
    cipher_suites: &[String],
    curve_preferences: &[String],
) -> Result<(Arc<CryptoProvider>, Vec<&'static SupportedProtocolVersion>), String> {
    let version = |key: &str, text: &str, default: u8| match text {
        "" => Ok(default),
        "1.0" => Ok(0),
        "1.1" => Ok(1),
        "1.2" => Ok(2),
        "1.3" => Ok(3),
        other => Err(format!("invalid TLS {key}: unsupported TLS version: {other:?}")),
    };
    let min = version("min_version", min_version, 2)?;
    let max = version("max_version", max_version, 3)?;
    if min > max {
        return Err("min_version cannot be greater than max_version".to_owned());
    }
    let versions: Vec<_> = [(2, &rustls::version::TLS12), (3, &rustls::version::TLS13)]
        .into_iter()
        .filter(|(version, _)| (min..=max).contains(version))
        .map(|(_, version)| version)
        .collect();
    if versions.is_empty() {
        return Err(format!("max_version {max_version:?} is too old; use \"1.2\" or \"1.3\""));
    }
    let mut provider = rustls::crypto::ring::default_provider();
    if !cipher_suites.is_empty() {
        let name = |suite: &rustls::SupportedCipherSuite| format!("{:?}", suite.suite());
        let unknown: Vec<_> = cipher_suites
            .iter()
            .filter(|wanted| !provider.cipher_suites.iter().any(|suite| name(suite) == **wanted))
            .map(|wanted| format!("invalid TLS cipher suite: {wanted:?}"))
            .collect();
        if !unknown.is_empty() {
            return Err(unknown.join("\n"));
        }
        // As in Go, the suites of TLS 1.3 are not a matter of choice.
        provider
            .cipher_suites
            .retain(|suite| suite.tls13().is_some() || cipher_suites.contains(&name(suite)));
    }
    if !curve_preferences.is_empty() {
        let group = |name: &str| match name {
            "X25519" => Ok(rustls::NamedGroup::X25519),
            "P256" => Ok(rustls::NamedGroup::secp256r1),
            "P384" => Ok(rustls::NamedGroup::secp384r1),
            "X25519MLKEM768" | "P521" => Err(format!(
                "{name} in curve_preferences is not in the cryptography that Tapio is built with: leave it out. It has [P256 P384 X25519]"
            )),
            other => Err(format!(
                "invalid curve type in curve_preferences: {other}. Expected values are [P256 P384 X25519]"
            )),
        };
        let wanted =
            curve_preferences.iter().map(|name| group(name)).collect::<Result<Vec<_>, _>>()?;
        provider.kx_groups.retain(|group| wanted.contains(&group.name()));
        provider
            .kx_groups
            .sort_by_key(|group| wanted.iter().position(|name| *name == group.name()));
    }
    Ok((Arc::new(provider), versions))
}

// === impl ServerTls ===

impl ServerTls {
    /// Refuses what no start can make up for. Files are for the start: they may not be here yet.
    pub fn check(&self) -> Result<(), String> {
        let cert = self.cert_file.is_some() || self.cert_pem.is_some();
        let key = self.key_file.is_some() || self.key_pem.is_some();
        match cert && key {
            true => Ok(()),
            false => Err(
                "tls: TLS configuration must include both certificate and key for server connections: cert_file (or cert_pem) and key_file (or key_pem); without `tls` it is plaintext"
                    .into(),
            ),
        }
    }

    pub(crate) fn start(self, alpn: &[&[u8]]) -> Result<Tls, TlsError> {
        let alpn: Vec<_> = alpn.iter().map(|name| name.to_vec()).collect();
        let current = Mutex::new((Arc::new(self.load(&alpn)?), Instant::now()));
        let every = match (self.reload_interval.is_zero(), self.client_ca_file_reload) {
            (false, _) => Some(*self.reload_interval),
            (true, true) => Some(CLIENT_CA_INTERVAL),
            (true, false) => None,
        };
        Ok(Tls { config: self, alpn, every, current })
    }

    fn load(&self, alpn: &[Vec<u8>]) -> Result<ServerConfig, TlsError> {
        let invalid = |why: &str| TlsError::Invalid(why.to_owned());
        let chain: Vec<CertificateDer<'static>> = match (&self.cert_file, &self.cert_pem) {
            (Some(_), Some(_)) => {
                return Err(invalid("provide either certificate file or PEM, but not both"));
            }
            (Some(file), None) => certificates(file)?,
            (None, Some(pem)) => CertificateDer::pem_slice_iter(pem.as_bytes())
                .collect::<Result<_, _>>()
                .map_err(|error| unreadable("cert_pem", error))?,
            (None, None) => return Err(invalid("cert_file or cert_pem is needed")),
        };
        let key: PrivateKeyDer<'static> = match (&self.key_file, &self.key_pem) {
            (Some(_), Some(_)) => {
                return Err(invalid("provide either key file or PEM, but not both"));
            }
            (Some(file), None) => PrivateKeyDer::from_pem_file(file)
                .map_err(|error| unreadable(&file.display().to_string(), error))?,
            (None, Some(pem)) => PrivateKeyDer::from_pem_slice(pem.as_bytes())
                .map_err(|error| unreadable("key_pem", error))?,
            (None, None) => return Err(invalid("key_file or key_pem is needed")),
        };
        let (provider, versions) = tls_parameters(
            &self.min_version,
            &self.max_version,
            &self.cipher_suites,
            &self.curve_preferences,
        )
        .map_err(TlsError::Invalid)?;
        let rejected = |error: &dyn std::fmt::Display| TlsError::Rejected(error.to_string());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions)
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
        config.alpn_protocols = alpn.to_vec();
        Ok(config)
    }
}

// === impl Tls ===

impl Tls {
    /// For the next connection. Files that cannot be read any more change nothing but the log.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if self.every.is_some_and(|every| current.1.elapsed() >= every) {
            current.1 = Instant::now();
            match self.config.load(&self.alpn) {
                Ok(config) => current.0 = Arc::new(config),
                Err(error) => {
                    tracing::warn!(%error, "Reading the certificates again failed. Those read before are kept.");
                }
            }
        }
        TlsAcceptor::from(Arc::clone(&current.0))
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_by_gos_names() {
        let none: &[String] = &[];
        let names = |list: &[&str]| list.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let versions = |min, max| tls_parameters(min, max, none, none).map(|(_, v)| v.len());
        assert_eq!(versions("", ""), Ok(2));
        assert_eq!(versions("1.0", ""), Ok(2));
        assert_eq!(versions("1.3", ""), Ok(1));
        assert_eq!(versions("", "1.2"), Ok(1));
        for (min, max, words) in [
            ("1.4", "", "invalid TLS min_version: unsupported TLS version: \"1.4\""),
            ("1.3", "1.2", "min_version cannot be greater than max_version"),
            ("1.0", "1.1", "max_version \"1.1\" is too old"),
        ] {
            assert!(versions(min, max).unwrap_err().contains(words), "{min} {max}");
        }
        let one = names(&["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"]);
        let (provider, _) = tls_parameters("", "", &one, &names(&["P384", "X25519"])).unwrap();
        let old = provider.cipher_suites.iter().filter(|suite| suite.tls13().is_none()).count();
        assert_eq!((old, provider.kx_groups[0].name()), (1, rustls::NamedGroup::secp384r1));
        let error = tls_parameters("", "", &names(&["TLS_FOO"]), none).unwrap_err();
        assert_eq!(error, "invalid TLS cipher suite: \"TLS_FOO\"");
    }
}
