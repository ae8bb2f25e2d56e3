//! Who speaks: the resource of Tapio's own telemetry.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    sync::LazyLock,
};

use tapio_proto::{attr, splice::encode_attributes};

/// The attributes of this Tapio, as its configuration wants them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Resource(BTreeMap<String, String>);

/// One for the life of the process: a reload makes no new instance.
static INSTANCE: LazyLock<String> = LazyLock::new(|| {
    // Two draws from the standard library's random keys are enough to tell instances apart.
    let random = || RandomState::new().hash_one(0_u8);
    let (a, b) = (random(), random());
    // A UUID of version 4, as the Collector has.
    format!(
        "{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}",
        a >> 32,
        a >> 16 & 0xffff,
        a & 0xfff,
        b >> 48 & 0xfff,
        b & 0xffff_ffff_ffff
    )
});

impl Resource {
    /// The usual three, over which lies what the configuration says; null takes one away.
    pub(crate) fn new(over: &BTreeMap<String, Option<String>>) -> Self {
        let mut attributes = BTreeMap::from([
            ("service.name".to_owned(), "tapio".to_owned()),
            ("service.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
            ("service.instance.id".to_owned(), INSTANCE.clone()),
        ]);
        for (name, value) in over {
            match value {
                Some(value) => attributes.insert(name.clone(), value.clone()),
                None => attributes.remove(name),
            };
        }
        Resource(attributes)
    }

    pub(crate) fn attributes(&self) -> &BTreeMap<String, String> {
        &self.0
    }

    /// A serialized `Resource`.
    pub(super) fn encoded(&self) -> Vec<u8> {
        let attributes: Vec<_> =
            self.0.iter().map(|(name, value)| (name.as_str(), attr::Value::Text(value))).collect();
        encode_attributes(1, &attributes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_names_and_takes_away() {
        let over = BTreeMap::from([
            ("service.name".to_owned(), Some("hop".to_owned())),
            ("service.version".to_owned(), None),
        ]);
        let identity = Resource::new(&over);
        assert_eq!(identity.0["service.name"], "hop");
        assert!(!identity.0.contains_key("service.version"));
        assert_eq!(identity.0["service.instance.id"].len(), 36);
        assert_eq!(identity, Resource::new(&over), "an instance keeps its id");
    }
}
