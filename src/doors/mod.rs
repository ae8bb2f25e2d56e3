//! The doors through which people look into the store, and the commands' way through them.

pub(crate) mod client;
pub(crate) mod postgres;
pub(crate) mod table;
