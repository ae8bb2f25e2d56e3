//! The `basicauth` extension: users and passwords that senders must know (an htpasswd file or
//! text), or that we show to backends.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use ring::digest;
use serde::Deserialize;
use tapio_exporter::{ClientAuth, Opaque};
use tapio_proto::{Code, Metadata, Status, transport::grpc};
use tapio_receiver::{Attributes, Authenticator, Verified};

use super::{auth::Authenticates, same, watched::Watched};
use crate::components::{Context, Stop};

/// Credentials whose check is remembered: bcrypt takes a tenth of a second, on purpose, and
/// senders show the same ones with every request.
const MAX_KNOWN: usize = 1024;
/// Checks of bcrypt at a time; a flood of wrong passwords takes no more than that.
const MAX_CHECKS: usize = 4;

/// Its keys are the Collector's.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct BasicAuth {
    /// For receivers.
    htpasswd: Option<Htpasswd>,
    /// For exporters.
    client_auth: Option<Client>,
}

/// `user:hash` in each line; both sources together.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Htpasswd {
    file: PathBuf,
    inline: Opaque,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Client {
    username: String,
    password: Opaque,
    /// Read again when it changes, as the one below.
    username_file: PathBuf,
    password_file: PathBuf,
}

type Users = HashMap<String, String>;

struct Server {
    inline: Users,
    file: Option<Watched<Users>>,
    known: Mutex<HashSet<[u8; 32]>>,
    checks: tokio::sync::Semaphore,
}

struct Shown {
    username: Text,
    password: Text,
}

enum Text {
    Given(String),
    File(Watched<String>),
}

impl BasicAuth {
    pub(crate) fn check(&self) -> Result<(), String> {
        match (&self.htpasswd, &self.client_auth) {
            (Some(_), Some(_)) => {
                Err("only one of `htpasswd` or `client_auth` can be specified".into())
            }
            (None, None) => Err("no credential source provided".into()),
            (Some(source), None)
                if source.file.as_os_str().is_empty() && source.inline.0.is_empty() =>
            {
                Err("no credential source provided".into())
            }
            (Some(source), None) => users(&source.inline.0).map(drop),
            (None, Some(client))
                if client.username.is_empty() && client.username_file.as_os_str().is_empty() =>
            {
                Err("client_auth: username or username_file is needed".into())
            }
            (None, Some(_)) => Ok(()),
        }
    }
}

/// Reads htpasswd; empty lines and comments are left out.
fn users(text: &str) -> Result<Users, String> {
    let mut users = Users::new();
    for (number, line) in text.lines().map(str::trim).enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let at = number + 1;
        let Some((user, hash)) = line.split_once(':') else {
            return Err(format!("htpasswd: line {at}: expected user:hash"));
        };
        if hash.starts_with("$apr1$") || hash.starts_with("$5$") || hash.starts_with("$6$") {
            return Err(format!(
                "htpasswd: line {at}: the hash of {user:?} is of a kind that is not known here; make it with htpasswd -B (bcrypt)"
            ));
        }
        users.insert(user.to_owned(), hash.to_owned());
    }
    Ok(users)
}

/// Whether a password is the one of a hash: bcrypt, `{SHA}`, or itself.
fn matches(password: &str, hash: &str) -> bool {
    if hash.starts_with("$2") {
        return bcrypt::verify(password, hash).unwrap_or(false);
    }
    if let Some(encoded) = hash.strip_prefix("{SHA}") {
        let found = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, password.as_bytes());
        return grpc::decode_bin(encoded.as_bytes())
            .is_some_and(|expected| same(&expected, found.as_ref()));
    }
    let plain = hash.strip_prefix("{PLAIN}").unwrap_or(hash);
    same(plain.as_bytes(), password.as_bytes())
}

/// User and password of an `Authorization` header; the errors are the Collector's.
fn credentials(headers: &HeaderMap) -> Result<(String, String), String> {
    let value = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let value = value.filter(|value| !value.is_empty()).ok_or("no basic auth provided")?;
    let encoded = match value.split_at_checked(6) {
        Some((scheme, encoded)) if scheme.eq_ignore_ascii_case("basic ") => encoded,
        _ => return Err("invalid authorization scheme prefix".into()),
    };
    let decoded =
        grpc::decode_bin(encoded.as_bytes()).and_then(|text| String::from_utf8(text).ok());
    let decoded = decoded.ok_or("invalid authorization format")?;
    let (user, password) = decoded.split_once(':').ok_or("invalid authorization format")?;
    Ok((user.to_owned(), password.to_owned()))
}

impl Server {
    fn new(source: Htpasswd) -> Result<Self, String> {
        let file = match source.file.as_os_str().is_empty() {
            true => None,
            false => Some(Watched::open(source.file, users)?),
        };
        Ok(Server {
            inline: users(&source.inline.0)?,
            file,
            known: Mutex::default(),
            checks: tokio::sync::Semaphore::new(MAX_CHECKS),
        })
    }

    async fn verify(&self, headers: &HeaderMap) -> Result<Attributes, String> {
        let (user, password) = credentials(headers)?;
        let wrong = || "invalid credentials".to_owned();
        let from_file = self.file.as_ref().and_then(|file| file.get().get(&user).cloned());
        let hash = self.inline.get(&user).cloned().or(from_file).ok_or_else(wrong)?;
        if !hash.starts_with("$2") {
            return if matches(&password, &hash) {
                Ok(vec![("username", user)])
            } else {
                Err(wrong())
            };
        }
        // The hash is part of what is remembered: a new password makes the old one unknown.
        let mut context = digest::Context::new(&digest::SHA256);
        for part in [user.as_bytes(), hash.as_bytes(), password.as_bytes()] {
            context.update(&part.len().to_le_bytes());
            context.update(part);
        }
        let mut print = [0; 32];
        print.copy_from_slice(context.finish().as_ref());
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known().contains(&print) {
            return Ok(vec![("username", user)]);
        }
        let _turn = self.checks.acquire().await.map_err(|error| error.to_string())?;
        let good = tokio::task::spawn_blocking(move || matches(&password, &hash)).await;
        if !good.unwrap_or(false) {
            return Err(wrong());
        }
        let mut known = known();
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(print);
        Ok(vec![("username", user)])
    }
}

impl Authenticator for Server {
    fn authenticate<'a>(&'a self, headers: &'a HeaderMap) -> Verified<'a> {
        Box::pin(self.verify(headers))
    }
}

impl Text {
    fn new(given: String, file: PathBuf) -> Result<Self, String> {
        if file.as_os_str().is_empty() {
            return Ok(Text::Given(given));
        }
        Watched::open(file, |text| Ok(text.trim_end_matches(['\r', '\n']).to_owned()))
            .map(Text::File)
    }

    fn get(&self) -> String {
        match self {
            Text::Given(text) => text.clone(),
            Text::File(file) => file.get().as_ref().clone(),
        }
    }
}

impl ClientAuth for Shown {
    fn apply(&self, headers: &mut HeaderMap, _: Option<&Metadata>) -> Result<(), Status> {
        let text = format!("{}:{}", self.username.get(), self.password.get());
        let mut encoded = grpc::encode_bin(text.as_bytes());
        while !encoded.len().is_multiple_of(4) {
            encoded.push('=');
        }
        if let Ok(mut value) = HeaderValue::try_from(format!("Basic {encoded}")) {
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
            return Ok(());
        }
        Err(Status::new(Code::Internal, "the credentials do not fit a header"))
    }

    fn needs_tls(&self) -> bool {
        true
    }
}

pub(crate) async fn start(config: BasicAuth, context: Context) -> Result<Stop, String> {
    let mut authenticates = Authenticates::default();
    if let Some(source) = config.htpasswd {
        authenticates.server = Some(Arc::new(Server::new(source)?));
    }
    if let Some(client) = config.client_auth {
        authenticates.client = Some(Arc::new(Shown {
            username: Text::new(client.username, client.username_file)?,
            password: Text::new(client.password.0, client.password_file)?,
        }));
    }
    Ok(super::running(authenticates, context))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(user: &str, password: &str) -> HeaderMap {
        let text = |text: &str| Text::Given(text.to_owned());
        let mut headers = HeaderMap::new();
        Shown { username: text(user), password: text(password) }.apply(&mut headers, None).unwrap();
        headers
    }

    #[tokio::test]
    async fn senders_know_a_password_by_any_kind_of_hash() {
        let bcrypt = bcrypt::hash("secret", 4).unwrap();
        let inline = format!(
            "# people\nada:{bcrypt}\n\nsha:{{SHA}}5en6G6MezRroT3XKqkdPOmY/BfQ=\nplain:secret:with:colons\n"
        );
        let server =
            Server::new(Htpasswd { inline: Opaque(inline), ..Htpasswd::default() }).unwrap();
        for (user, password) in [
            ("ada", "secret"),
            ("ada", "secret"),
            ("sha", "secret"),
            ("plain", "secret:with:colons"),
        ] {
            let told = server.verify(&shown(user, password)).await;
            assert_eq!(told, Ok(vec![("username", user.to_owned())]));
        }
        for (user, password) in
            [("ada", "wrong"), ("sha", "wrong"), ("plain", "secret"), ("eve", "")]
        {
            let told = server.verify(&shown(user, password)).await;
            assert_eq!(told, Err("invalid credentials".to_owned()), "{user}");
        }
        for (value, words) in [
            ("", "no basic auth provided"),
            ("Bearer x", "invalid authorization scheme prefix"),
            ("Basic *", "invalid authorization format"),
            ("Basic YWRh", "invalid authorization format"),
        ] {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(value))]);
            assert_eq!(server.verify(&headers).await, Err(words.to_owned()), "{value}");
        }
    }

    #[test]
    fn what_cannot_work_is_refused() {
        for (json, words) in [
            ("{}", "no credential source provided"),
            (r#"{"htpasswd":{}}"#, "no credential source provided"),
            (
                r#"{"htpasswd":{"inline":"a:b"},"client_auth":{"username":"a"}}"#,
                "only one of `htpasswd` or `client_auth` can be specified",
            ),
            (r#"{"htpasswd":{"inline":"a:b\nc"}}"#, "htpasswd: line 2: expected user:hash"),
        ] {
            let config: BasicAuth = serde_json::from_str(json).unwrap();
            assert_eq!(config.check().unwrap_err(), words, "{json}");
        }
    }
}
