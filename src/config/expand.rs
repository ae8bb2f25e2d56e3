//! `${env:X}`, `${X}`, `${env:X:-default}`, `${file:PATH}` and `$$` in scalars, as the Collector expands them.

use super::{
    node::{Node, Value},
    problem::Problems,
    yaml,
};

/// Expansions inside of the values of expansions; deeper is a loop.
const MAX_DEPTH: usize = 16;

/// Where the values of variables come from; a test has its own.
pub(crate) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What was noticed on the way that is no error: a line for the log each.
pub(crate) type Warnings = Vec<String>;

/// Expands every scalar below `node` in place.
pub(crate) fn expand(
    node: &mut Node,
    lookup: Lookup<'_>,
    warnings: &mut Warnings,
    problems: &mut Problems,
) {
    match &mut node.value {
        Value::List(nodes) => {
            nodes.iter_mut().for_each(|node| expand(node, lookup, warnings, problems))
        }
        Value::Map(entries) => {
            entries.iter_mut().for_each(|(_, node)| expand(node, lookup, warnings, problems))
        }
        Value::Scalar { text, .. } if text.contains('$') => {
            let text = std::mem::take(text);
            match value(&text, node, lookup, warnings, 0) {
                Ok(value) => node.value = value,
                Err(text) => problems.add(&node.place, text),
            }
        }
        Value::Null | Value::Scalar { .. } => {}
    }
}

/// The value of one scalar: a lone `${...}` takes the YAML type of what it names, text around it makes text.
fn value(
    text: &str,
    node: &Node,
    lookup: Lookup<'_>,
    warnings: &mut Warnings,
    depth: usize,
) -> Result<Value, String> {
    if depth > MAX_DEPTH {
        return Err(format!("expansion of {text:?} goes deeper than {MAX_DEPTH}: it names itself"));
    }
    if let Some(reference) =
        text.strip_prefix("${").and_then(|rest| closing(rest).filter(|(_, after)| after.is_empty()))
    {
        let Some(raw) = resolve(reference.0, node, lookup, warnings, depth)? else {
            return Ok(Value::Null);
        };
        let parsed = yaml::parse(&node.place.to_string(), &raw).map(|node| node.value);
        return match parsed {
            // What looks like a number stays the text it was, for the fields that are text.
            Ok(Value::Scalar { plain, .. }) => {
                match value(&raw, node, lookup, warnings, depth + 1)? {
                    Value::Scalar { text, .. } => Ok(Value::Scalar { text, plain }),
                    other => Ok(other),
                }
            }
            Ok(Value::Null) => Ok(Value::Null),
            Ok(mut map_or_list) => {
                let mut problems = Problems::default();
                let mut inner = Node {
                    value: std::mem::replace(&mut map_or_list, Value::Null),
                    place: node.place.clone(),
                };
                expand(&mut inner, lookup, warnings, &mut problems);
                if problems.is_empty() { Ok(inner.value) } else { Err(problems.to_string()) }
            }
            Err(_) => Ok(Value::Scalar { text: raw, plain: false }),
        };
    }
    let text = splice(text, node, lookup, warnings, depth)?;
    let plain = matches!(node.value, Value::Scalar { plain: true, .. });
    Ok(Value::Scalar { text, plain })
}

/// Replaces each `${...}` inside of a longer text, and `$$` by `$`.
fn splice(
    text: &str,
    node: &Node,
    lookup: Lookup<'_>,
    warnings: &mut Warnings,
    depth: usize,
) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        out.push_str(&rest[..dollar]);
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((reference, after)) = rest.strip_prefix('{').and_then(closing) {
            out.push_str(&resolve(reference, node, lookup, warnings, depth)?.unwrap_or_default());
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// Splits at the brace that closes the one before `text`.
fn closing(text: &str) -> Option<(&str, &str)> {
    let mut depth = 1;
    for (i, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some((&text[..i], &text[i + 1..]));
        }
    }
    None
}

/// What a reference names; `None` for a variable that is not set.
fn resolve(
    reference: &str,
    node: &Node,
    lookup: Lookup<'_>,
    warnings: &mut Warnings,
    depth: usize,
) -> Result<Option<String>, String> {
    if depth > MAX_DEPTH {
        return Err(format!(
            "expansion of ${{{reference}}} goes deeper than {MAX_DEPTH}: it names itself"
        ));
    }
    let reference = splice(reference, node, lookup, warnings, depth + 1)?;
    let (scheme, name) = match reference.split_once(':') {
        Some((scheme, _)) if scheme.is_empty() || scheme.contains('-') => {
            ("env", reference.as_str())
        }
        Some((scheme, rest)) if !rest.starts_with('-') => (scheme, rest),
        _ => ("env", reference.as_str()),
    };
    match scheme {
        "env" => {
            let (name, default) = match name.split_once(":-") {
                Some((name, default)) => (name, Some(default)),
                None => (name, None),
            };
            if !is_variable(name) {
                return Err(format!(
                    "environment variable {name:?} has invalid name: must match regex ^[a-zA-Z_][a-zA-Z0-9_]*$"
                ));
            }
            match (lookup(name), default) {
                (Some(value), _) => Ok(Some(value)),
                (None, Some(default)) => Ok(Some(default.to_owned())),
                (None, None) => {
                    warnings.push(format!("Configuration references unset environment variable {name:?} at {}; it is empty", node.place));
                    Ok(None)
                }
            }
        }
        "file" => std::fs::read_to_string(name)
            .map(|text| Some(text.trim_end_matches('\n').to_owned()))
            .map_err(|error| format!("unable to read the file {reference}: {error}")),
        _ => Err(format!(
            "scheme {scheme:?} is not supported for uri {reference:?}; use env or file"
        )),
    }
}

fn is_variable(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn expanded(text: &str) -> (Value, Warnings, Problems) {
        let lookup = |name: &str| match name {
            "PORT" => Some("04317".to_owned()),
            "HOST" => Some("example".to_owned()),
            "LIST" => Some("[a, '${HOST}']".to_owned()),
            "SELF" => Some("${SELF}".to_owned()),
            _ => None,
        };
        let (mut warnings, mut problems) = (Vec::new(), Problems::default());
        let mut node = yaml::parse("t", text).unwrap();
        expand(&mut node, &lookup, &mut warnings, &mut problems);
        (node.value, warnings, problems)
    }

    fn scalar(text: &str) -> (String, bool) {
        match expanded(text).0 {
            Value::Scalar { text, plain } => (text, plain),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_lone_reference_keeps_text_and_type() {
        assert_eq!(scalar("${env:PORT}"), ("04317".into(), true));
        assert_eq!(scalar("${PORT}"), ("04317".into(), true));
        assert_eq!(scalar("${env:NO:-7}"), ("7".into(), true));
        assert_eq!(scalar("${NO:-a:b}"), ("a:b".into(), true));
    }

    #[test]
    fn references_inside_of_text() {
        assert_eq!(scalar("\"${HOST}:${env:PORT}\"").0, "example:04317");
        assert_eq!(scalar("${env:NO:-${HOST}}:1").0, "example:1");
        assert_eq!(scalar("a$$b$c").0, "a$b$c");
        assert_eq!(scalar("\"$${HOST}\"").0, "${HOST}");
    }

    #[test]
    fn lists_come_out_as_lists() {
        let Value::List(nodes) = expanded("${env:LIST}").0 else { panic!("not a list") };
        assert!(matches!(&nodes[1].value, Value::Scalar { text, .. } if text == "example"));
    }

    #[test]
    fn unset_is_null_and_a_warning() {
        let (value, warnings, problems) = expanded("${env:NO}");
        assert!(matches!(value, Value::Null) && problems.is_empty());
        assert!(warnings[0].contains("unset environment variable \"NO\" at t:1:1"));
    }

    #[test]
    fn loops_and_unknown_schemes_are_errors() {
        assert!(expanded("${SELF}").2.to_string().contains("names itself"));
        assert!(
            expanded("${vault:x}")
                .2
                .to_string()
                .contains("scheme \"vault\" is not supported for uri \"vault:x\"")
        );
        assert!(expanded("${env:1X}").2.to_string().contains("invalid name"));
    }
}
