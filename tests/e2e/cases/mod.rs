//! The cases, by what they guarantee.

pub(crate) mod accounting;
pub(crate) mod collector;
pub(crate) mod deploy;
pub(crate) mod differential;
pub(crate) mod durable;
pub(crate) mod hostile;
pub(crate) mod losses;
pub(crate) mod lossless;
pub(crate) mod pipelines;
pub(crate) mod reload;
pub(crate) mod sdk;
pub(crate) mod selfobs;
pub(crate) mod swapped;
