//! YAML text to [`Node`]s: one document, unique text keys, aliases resolved under a budget.

use std::{collections::HashMap, sync::Arc};

use granit_parser::{Event, Marker, Parser, ScalarStyle, Span};

use super::{
    node::{Key, Node, Place, Value},
    problem::Problem,
};

/// Nodes that one source may hold after its aliases are resolved; an alias bomb ends here.
const MAX_NODES: usize = 100_000;

/// Parses one YAML document. Empty text is [`Value::Null`].
pub(crate) fn parse(source: &str, text: &str) -> Result<Node, Problem> {
    let mut builder = Builder {
        source: source.into(),
        stack: Vec::new(),
        anchors: HashMap::new(),
        root: None,
        nodes: 0,
    };
    for event in Parser::new_from_str(text.strip_prefix('\u{feff}').unwrap_or(text)) {
        let (event, span) = event.map_err(|error| Problem {
            place: Some(builder.place(error.marker())),
            text: format!("the contents are not valid YAML: {}", error.info()),
        })?;
        builder.event(event, span)?;
    }
    let place = Place::start(source);
    Ok(builder.root.unwrap_or(Node { value: Value::Null, place }))
}

struct Builder {
    source: Arc<str>,
    stack: Vec<Open>,
    anchors: HashMap<usize, Node>,
    root: Option<Node>,
    nodes: usize,
}

/// A list or a map whose end has not come yet.
struct Open {
    node: Node,
    anchor: usize,
    /// The key that waits for its value.
    key: Option<Key>,
    /// What `<<` keys named; joined at the end, because keys that are written out win.
    merges: Vec<Node>,
}

impl Builder {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Problem> {
        let place = self.place(&span.start);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain
                    && tag.is_none_or(|tag| !tag.is_yaml_core_schema_tag("str"));
                let null = plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let value = if null {
                    Value::Null
                } else {
                    Value::Scalar { text: text.into_owned(), plain }
                };
                self.finish(Node { value, place }, anchor)
            }
            Event::SequenceStart(_, anchor, _) => self.open(Value::List(Vec::new()), place, anchor),
            Event::MappingStart(_, anchor, _) => self.open(Value::Map(Vec::new()), place, anchor),
            Event::SequenceEnd | Event::MappingEnd => match self.stack.pop() {
                Some(open) => {
                    let anchor = open.anchor;
                    self.finish(open.close(), anchor)
                }
                None => Ok(()),
            },
            Event::Alias(id) => match self.anchors.get(&id).cloned() {
                Some(node) => {
                    self.nodes += count(&node);
                    self.finish(node, 0)
                }
                None => Err(at(place, "an alias may not stand inside of its own anchor")),
            },
            Event::DocumentStart(..) if self.root.is_some() => {
                Err(at(place, "expected one YAML document, found the start of a second one"))
            }
            _ => Ok(()),
        }
    }

    fn open(&mut self, value: Value, place: Place, anchor: usize) -> Result<(), Problem> {
        self.stack.push(Open {
            node: Node { value, place },
            anchor,
            key: None,
            merges: Vec::new(),
        });
        Ok(())
    }

    /// Puts a finished node where it belongs: a key, a value, an element or the root.
    fn finish(&mut self, node: Node, anchor: usize) -> Result<(), Problem> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(at(
                node.place,
                format!("more than {MAX_NODES} values: too large for a configuration"),
            ));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.stack.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut open.node.value {
            Value::List(nodes) => nodes.push(node),
            Value::Map(entries) => match open.key.take() {
                Some(key) if key.text == "<<" => open.merges.push(node),
                Some(key) => insert(entries, key, node)?,
                None => open.key = Some(key(node)?),
            },
            Value::Null | Value::Scalar { .. } => {}
        }
        Ok(())
    }

    /// The parser counts columns from 0, people from 1.
    fn place(&self, mark: &Marker) -> Place {
        Place { source: Arc::clone(&self.source), line: mark.line(), column: mark.col() + 1 }
    }
}

impl Open {
    fn close(mut self) -> Node {
        if let Value::Map(entries) = &mut self.node.value {
            for merge in self.merges {
                let maps = match merge.value {
                    Value::List(maps) => maps,
                    _ => vec![merge],
                };
                for (key, node) in maps.iter().flat_map(Node::entries) {
                    if !entries.iter().any(|(there, _)| there.text == key.text) {
                        entries.push((key.clone(), node.clone()));
                    }
                }
            }
        }
        self.node
    }
}

fn insert(entries: &mut Vec<(Key, Node)>, key: Key, node: Node) -> Result<(), Problem> {
    if let Some((first, _)) = entries.iter().find(|(there, _)| there.text == key.text) {
        let text =
            format!("mapping key {:?} already defined at line {}", key.text, first.place.line);
        return Err(at(key.place, text));
    }
    entries.push((key, node));
    Ok(())
}

fn key(node: Node) -> Result<Key, Problem> {
    match node.value {
        Value::Scalar { text, .. } => Ok(Key { text, place: node.place }),
        Value::Null => Ok(Key { text: String::new(), place: node.place }),
        Value::List(_) | Value::Map(_) => Err(at(node.place, "a mapping key must be text")),
    }
}

fn count(node: &Node) -> usize {
    match &node.value {
        Value::List(nodes) => 1 + nodes.iter().map(count).sum::<usize>(),
        Value::Map(entries) => 1 + entries.iter().map(|(_, node)| count(node)).sum::<usize>(),
        Value::Null | Value::Scalar { .. } => 1,
    }
}

fn at(place: Place, text: impl Into<String>) -> Problem {
    Problem { place: Some(place), text: text.into() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn nodes_know_their_places() {
        let root = parse("a.yaml", "receivers:\n  otlp:\n    protocols: {grpc: }\n").unwrap();
        let protocols =
            root.get("receivers").unwrap().get("otlp").unwrap().get("protocols").unwrap();
        assert_eq!(protocols.place.to_string(), "a.yaml:3:16");
        assert_eq!(protocols.entries()[0].0.place.to_string(), "a.yaml:3:17");
        assert!(protocols.get("grpc").unwrap().is_null());
    }

    #[test]
    fn a_key_may_stand_once() {
        let problem = parse("a.yaml", "a: 1\nb: 2\na: 3\n").unwrap_err();
        assert_eq!(problem.to_string(), "a.yaml:3:1: mapping key \"a\" already defined at line 1");
    }

    #[test]
    fn merge_keys_yield_to_what_is_written_out() {
        let root = parse("a", "base: &b {x: 1, y: 2}\nuse: {<<: *b, x: 3}\n").unwrap();
        let used = root.get("use").unwrap();
        let text = |key| match &used.get(key).unwrap().value {
            Value::Scalar { text, .. } => text.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!((text("x"), text("y")), ("3".into(), "2".into()));
    }

    #[test]
    fn an_alias_bomb_ends_at_the_budget() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..10 {
            let list = vec![format!("*a{}", i - 1); 10].join(", ");
            text += &format!("a{i}: &a{i} [{list}]\n");
        }
        assert!(parse("bomb", &text).unwrap_err().text.contains("too large"));
    }

    #[test]
    fn nonsense_is_an_error_with_its_place() {
        for text in
            ["a: [1, 2", "a: b: c", "a: \"open", "a: *nowhere", "? [a]\n: b", "a: 1\n---\nb: 2"]
        {
            let problem = parse("bad.yaml", text).unwrap_err();
            assert!(problem.to_string().starts_with("bad.yaml:"), "{text:?}: {problem}");
        }
    }
}
