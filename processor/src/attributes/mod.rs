//! The processors `attributes` and `resource`: change attributes of records, or of resources, by a list
//! of actions. Keys, defaults and texts are the Collector's.
//!
//! They work on the bytes of a request (`tapio_proto::edit`). An action on a key acts on all attributes
//! with that key; the Collector takes the first one and leaves what hides behind it.

mod action;
mod filter;
mod pattern;
mod value;

#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use serde::Deserialize;
use tapio_proto::{
    Batching, CanBatch, Consumer, Metadata, Next, Pending, Request, Signal,
    edit::{AttributeList, Editor, Unread, edit_records, edit_resources},
    view::{ResourceView, ScopeGroup},
};

use self::{
    action::{Action, ActionConfig},
    filter::{MatchConfig, Matcher},
};
pub(crate) use self::{
    pattern::compile,
    value::{text, texts},
};

/// `processors: attributes:`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AttributesConfig {
    include: Option<MatchConfig>,
    exclude: Option<MatchConfig>,
    actions: Vec<ActionConfig>,
}

/// `processors: resource:`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ResourceConfig {
    attributes: Vec<ActionConfig>,
}

/// Changes the attributes of spans, log records and data points.
pub struct Attributes {
    rules: Rules,
    next: Next,
}

/// Changes the attributes of resources.
pub struct Resource {
    actions: Vec<Action>,
    next: Next,
}

struct Rules {
    actions: Vec<Action>,
    include: Option<Matcher>,
    exclude: Option<Matcher>,
}

impl AttributesConfig {
    /// Refuses what cannot work, in the Collector's words.
    pub fn check(&self) -> Result<(), String> {
        if self.actions.is_empty() {
            return Err("missing required field \"actions\"".into());
        }
        Action::compile(&self.actions).map(drop)
    }

    /// Refuses filters that a pipeline of this signal has no use for.
    pub fn fits(&self, signal: Signal) -> Result<(), String> {
        self.rules(signal).map(drop)
    }

    fn rules(&self, signal: Signal) -> Result<Rules, String> {
        let matcher = |config: &Option<MatchConfig>| {
            config.as_ref().map(|c| Matcher::new(c, signal)).transpose()
        };
        Ok(Rules {
            actions: Action::compile(&self.actions)?,
            include: matcher(&self.include)?,
            exclude: matcher(&self.exclude)?,
        })
    }
}

impl ResourceConfig {
    /// Refuses what cannot work, in the Collector's words.
    pub fn check(&self) -> Result<(), String> {
        if self.attributes.is_empty() {
            return Err("missing required field \"attributes\"".into());
        }
        Action::compile(&self.attributes).map(drop)
    }
}

impl Attributes {
    /// Stands before `next` in a pipeline of this signal.
    pub fn new(config: &AttributesConfig, signal: Signal, next: Next) -> Result<Self, String> {
        Ok(Attributes { rules: config.rules(signal)?, next })
    }
}

impl Resource {
    /// Stands before `next`.
    pub fn new(config: &ResourceConfig, next: Next) -> Result<Self, String> {
        Ok(Resource { actions: Action::compile(&config.attributes)?, next })
    }
}

impl Consumer for Attributes {
    fn can_batch(&self, signal: Signal, batching: &Batching) -> CanBatch {
        self.next.can_batch(signal, batching)
    }

    fn batch(&self, signal: Signal, batching: &Arc<Batching>) {
        self.next.batch(signal, batching);
    }

    fn consume(&self, request: Request) -> Pending<'_> {
        let sender = request.metadata.as_deref();
        let mut work =
            Work { rules: &self.rules, sender, excluded_resource: false, excluded: false };
        let edited = edit_records(request.signal, &request.bytes, &mut work);
        self.next.consume(with(edited.ok(), request))
    }
}

impl Consumer for Resource {
    fn can_batch(&self, signal: Signal, batching: &Batching) -> CanBatch {
        self.next.can_batch(signal, batching)
    }

    fn batch(&self, signal: Signal, batching: &Arc<Batching>) {
        self.next.batch(signal, batching);
    }

    fn consume(&self, request: Request) -> Pending<'_> {
        let edited = edit_resources(request.signal, &request.bytes, |attributes| {
            let sender = request.metadata.as_deref();
            self.actions.iter().for_each(|action| action.apply(attributes, sender));
        });
        self.next.consume(with(edited.ok(), request))
    }
}

/// The request with other bytes. It passed the check at the door; whatever cannot be edited goes on as
/// it came.
pub(crate) fn with(edited: Option<bytes::Bytes>, request: Request) -> Request {
    match edited {
        Some(bytes) => Request { bytes, ..request },
        None => request,
    }
}

/// One request on its way through the rules.
struct Work<'a> {
    rules: &'a Rules,
    sender: Option<&'a Metadata>,
    /// Does the resource match `exclude`, as far as it is asked for one?
    excluded_resource: bool,
    /// Do the resource and the scope?
    excluded: bool,
}

impl<'a> Editor<'a> for Work<'a> {
    fn resource(&mut self, resource: &ResourceView<'a>) -> bool {
        let Rules { include, exclude, .. } = self.rules;
        self.excluded_resource = exclude.as_ref().is_some_and(|e| e.resource(resource));
        include.as_ref().is_none_or(|include| include.resource(resource))
    }

    fn scope(&mut self, scope: &ScopeGroup<'a>) -> bool {
        let Rules { include, exclude, .. } = self.rules;
        let exclude = exclude.as_ref().filter(|_| self.excluded_resource);
        self.excluded = exclude.is_some_and(|exclude| exclude.scope(scope));
        include.as_ref().is_none_or(|include| include.scope(scope))
            && !(self.excluded && exclude.is_some_and(Matcher::ends_at_scope))
    }

    fn record(&mut self, record: &Unread<'a>) -> bool {
        let Rules { include, exclude, .. } = self.rules;
        let include = include.as_ref().filter(|include| !include.ends_at_scope());
        let exclude = exclude.as_ref().filter(|_| self.excluded);
        if include.is_none() && exclude.is_none() {
            return true;
        }
        record.read().is_some_and(|record| {
            include.is_none_or(|include| include.record(&record))
                && !exclude.is_some_and(|exclude| exclude.record(&record))
        })
    }

    fn edit(&mut self, attributes: &mut AttributeList<'a>) {
        self.rules.actions.iter().for_each(|action| action.apply(attributes, self.sender));
    }
}
