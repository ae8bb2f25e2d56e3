//! What the end-to-end cases stand on: the program under test, its neighbours, and how to speak to them.

pub(crate) mod backend;
pub(crate) mod cases;
pub(crate) mod client;
pub(crate) mod items;
pub(crate) mod parts;
pub(crate) mod program;
pub(crate) mod runner;
pub(crate) mod wire;
