//! Configuration: Collector-shaped YAML in, a checked [`Config`] out, or every mistake in it with its
//! file, line and column.
//!
//! Text becomes [`node`]s that know their places, `${...}` is [`expand`]ed, sources are joined
//! ([`source`]), bodies are [`decode`]d by serde into the components' own structs, and [`document`]
//! checks that the parts fit.

mod connectors;
mod decode;
mod document;
mod environment;
mod expand;
mod gates;
mod id;
mod identity;
mod node;
mod problem;
pub(crate) mod show;
mod source;
mod suggest;
pub(crate) mod telemetry;
mod yaml;

pub(crate) use self::{
    connectors::depths,
    decode::{Wrong, decode},
    document::{Config, Pipeline},
    gates::GATES,
    id::ComponentId,
    node::Node,
    source::Sources,
};
