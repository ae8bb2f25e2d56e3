//! Where a configuration comes from: `--config` locations, `--set` properties, or the embedded default.

use super::{
    environment,
    expand::{self, Lookup, Warnings},
    gates,
    node::{Key, Node, Place, Value},
    problem::{Problem, Problems},
    yaml,
};

/// What `tapio` runs when it is told nothing.
const DEFAULT: &str = include_str!("../default.yaml");

/// The flags that name the configuration; the same for every command.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Sources {
    /// Configuration to load: PATH, file:PATH, env:NAME or yaml:TEXT. May be repeated: maps are joined, lists
    /// and values of later ones replace those of earlier ones. Without it Tapio runs its own default
    #[arg(long = "config", value_name = "LOCATION", global = true)]
    pub(crate) config: Vec<String>,
    /// Sets one property over the configuration, e.g. --set=processors.batch.timeout=2s. May be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", global = true)]
    pub(crate) set: Vec<String>,
    /// Feature gates of a Collector, with commas between them, each with - before it to switch it off. Tapio has
    /// none; those that it would have to obey it tells of. May be repeated
    #[arg(long = "feature-gates", value_name = "GATES", global = true, allow_hyphen_values = true)]
    pub(crate) feature_gates: Vec<String>,
}

/// A configuration as one tree, with its variables expanded.
pub(crate) struct Loaded {
    pub(crate) root: Node,
    pub(crate) warnings: Warnings,
}

impl Sources {
    /// Was nothing named?
    pub(crate) fn is_empty(&self) -> bool {
        self.config.is_empty() && self.set.is_empty()
    }

    /// Reads, joins and expands all sources.
    pub(crate) fn load(&self) -> Result<Loaded, Problems> {
        self.load_with(&|name: &str| std::env::var(name).ok())
    }

    /// As `load`, as if no environment variable were set: nothing leaves for the user's own backend.
    pub(crate) fn load_local(&self) -> Result<Loaded, Problems> {
        self.load_with(&|_: &str| None)
    }

    fn load_with(&self, variable: Lookup<'_>) -> Result<Loaded, Problems> {
        let mut warnings = Warnings::new();
        warnings.extend(gates::warnings(&self.feature_gates));
        let mut root = match self.config.as_slice() {
            [] => {
                let mut root = yaml::parse("default.yaml", DEFAULT)?;
                root.merge(environment::exporters(variable, &mut warnings)?);
                root
            }
            locations => {
                let mut root: Option<Node> = None;
                for location in locations {
                    let node = read(location)?;
                    match &mut root {
                        // A file of comments says nothing.
                        Some(_) if node.is_null() => {}
                        Some(root) if !root.is_null() => root.merge(node),
                        _ => root = Some(node),
                    }
                }
                root.unwrap_or_else(|| Node::empty("--config"))
            }
        };
        for property in &self.set {
            root.merge(set(property)?);
        }
        let mut problems = Problems::default();
        expand::expand(&mut root, variable, &mut warnings, &mut problems);
        if problems.is_empty() { Ok(Loaded { root, warnings }) } else { Err(problems) }
    }
}

/// Reads one location.
fn read(location: &str) -> Result<Node, Problem> {
    let (scheme, rest) = match location.split_once(':') {
        Some((scheme, rest)) if is_scheme(scheme) => (scheme, rest),
        _ => ("file", location),
    };
    let wrong = |text: String| Problem {
        place: None,
        text: format!("failed to get config: cannot resolve the configuration: {text}"),
    };
    let node = match scheme {
        "file" => {
            let text = std::fs::read_to_string(rest).map_err(|error| {
                wrong(format!(
                    "cannot retrieve the configuration: unable to read the file file:{rest}: {}",
                    plainly(&error)
                ))
            })?;
            yaml::parse(rest, &text)?
        }
        "env" => {
            let text = std::env::var(rest).map_err(|_| {
                wrong(format!(
                    "environment variable {rest:?} named by --config={location} is not set"
                ))
            })?;
            yaml::parse(location, &text)?
        }
        // `yaml:processors::batch::timeout: 2s` is the short form of nested maps.
        "yaml" => nest(yaml::parse("yaml", rest)?, "::"),
        _ => {
            return Err(wrong(format!(
                "scheme {scheme:?} is not supported for uri {location:?}; use a path, file:, env: or yaml:"
            )));
        }
    };
    match node.value {
        Value::Map(_) | Value::Null => Ok(node),
        _ => Err(Problem {
            place: Some(node.place),
            text: "expected a map with receivers, processors, exporters and service".into(),
        }),
    }
}

/// A scheme has two letters or more, so that no path with a drive letter looks like one.
fn is_scheme(text: &str) -> bool {
    text.len() > 1
        && text.bytes().all(|b| b.is_ascii_alphanumeric())
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
}

/// `no such file or directory` rather than `No such file or directory (os error 2)`.
fn plainly(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut letters = text.chars();
    letters
        .next()
        .map(|first| first.to_ascii_lowercase().to_string() + letters.as_str())
        .unwrap_or_default()
}

/// The tree of one `--set` property.
fn set(property: &str) -> Result<Node, Problem> {
    let place = Place::start("--set");
    let Some((path, value)) = property.split_once('=').filter(|(path, _)| !path.is_empty()) else {
        return Err(Problem {
            place: Some(place),
            text: format!("missing equal sign in {property:?}: expected KEY=VALUE"),
        });
    };
    let path = path.replace("::", ".");
    let value = yaml::parse("--set", value)?;
    let entry = (Key { text: path, place: place.clone() }, value);
    Ok(nest(Node { value: Value::Map(vec![entry]), place }, "."))
}

/// Turns keys such as `a::b` of the top level into nested maps.
fn nest(node: Node, separator: &str) -> Node {
    let Value::Map(entries) = node.value else { return node };
    let mut root = Node { value: Value::Map(Vec::new()), place: node.place };
    for (key, node) in entries {
        let nested = key.text.rsplit(separator).fold(node, |inner, text| {
            let entry = (Key { text: text.to_owned(), place: key.place.clone() }, inner);
            Node { value: Value::Map(vec![entry]), place: key.place.clone() }
        });
        root.merge(nested);
    }
    root
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn text<'n>(node: &'n Node, path: &str) -> &'n str {
        let found = path.split('.').try_fold(node, |node, key| node.get(key)).unwrap();
        let Value::Scalar { text, .. } = &found.value else { return "not a scalar" };
        text
    }

    #[test]
    fn later_sources_join_maps_and_replace_lists() {
        let mut root = read("yaml:{a: {b: 1, c: 2}, list: [1, 2]}").unwrap();
        root.merge(read("yaml:a::b: 3").unwrap());
        root.merge(read("yaml:list: [4]").unwrap());
        root.merge(set("a.d.e=5").unwrap());
        assert_eq!((text(&root, "a.b"), text(&root, "a.c"), text(&root, "a.d.e")), ("3", "2", "5"));
        assert!(matches!(&root.get("list").unwrap().value, Value::List(nodes) if nodes.len() == 1));
    }

    #[test]
    fn an_empty_source_says_nothing() {
        for order in [["yaml:a: 1", "yaml:# nothing"], ["yaml:# nothing", "yaml:a: 1"]] {
            let config = order.map(str::to_owned).to_vec();
            let loaded = Sources { config, ..Sources::default() }.load().unwrap();
            assert_eq!(text(&loaded.root, "a"), "1");
        }
    }

    #[test]
    fn bad_locations_say_what_is_expected() {
        let missing = read("/nonexist.yaml").unwrap_err().to_string();
        assert!(
            missing.ends_with(
                "unable to read the file file:/nonexist.yaml: no such file or directory"
            ),
            "{missing}"
        );
        assert!(
            read("vault:x")
                .unwrap_err()
                .text
                .contains("scheme \"vault\" is not supported for uri \"vault:x\"")
        );
        assert_eq!(
            read("yaml:[1]").unwrap_err().to_string(),
            "yaml:1:1: expected a map with receivers, processors, exporters and service"
        );
        assert!(set("novalue").unwrap_err().text.contains("missing equal sign"));
    }
}
