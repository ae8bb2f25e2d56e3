//! Asking an extension who sends.

use std::{future::Future, pin::Pin};

use http::HeaderMap;

/// What an authenticator says about a sender, by name: `username` and the like.
pub type Attributes = Vec<(&'static str, String)>;

/// An authenticator's answer; a refusal is the text that the sender is told.
pub type Verified<'a> = Pin<Box<dyn Future<Output = Result<Attributes, String>> + Send + 'a>>;

/// Decides by a request's headers whether it may come in.
pub trait Authenticator: Send + Sync + 'static {
    /// Looks at the headers of one request.
    fn authenticate<'a>(&'a self, headers: &'a HeaderMap) -> Verified<'a>;
}
