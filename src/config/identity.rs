//! Whether a component of one configuration is the same in another, so that a reload may keep it.

use super::{
    id::ComponentId,
    node::{Node, Value},
};

/// A text that two configurations share when the component would be the same in both. `None` when it
/// depends on what its body does not show - files, other components - and so is always made anew.
pub(crate) fn identity(id: &ComponentId, body: &Node) -> Option<String> {
    if id.kind() == "file" {
        // What it writes to may have been moved away: a reload is how log rotation asks for a new one.
        return None;
    }
    let mut text = id.to_string();
    write(body, &mut text).then_some(text)
}

fn write(node: &Node, text: &mut String) -> bool {
    match &node.value {
        Value::Null => text.push('~'),
        Value::Scalar { text: scalar, plain } => *text += &format!("{plain}{scalar:?}"),
        Value::List(nodes) => {
            text.push('[');
            for node in nodes {
                if !write(node, text) {
                    return false;
                }
                text.push(',');
            }
            text.push(']');
        }
        Value::Map(entries) => {
            // The order of keys means nothing.
            let mut entries: Vec<_> = entries.iter().collect();
            entries.sort_by(|(a, _), (b, _)| a.text.cmp(&b.text));
            text.push('{');
            for (key, node) in entries {
                *text += &format!("{:?}:", key.text);
                if looks_outside(&key.text) || !write(node, text) {
                    return false;
                }
                text.push(',');
            }
            text.push('}');
        }
    }
    true
}

/// Keys whose value names a file that is read at start (a reload is how certificates are renewed), or
/// another component, which may be a new one.
fn looks_outside(key: &str) -> bool {
    key.ends_with("_file")
        || matches!(key, "auth" | "storage" | "middlewares" | "filename" | "file" | "patterns")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::yaml;

    fn same(a: &str, b: &str) -> bool {
        let of =
            |text| identity(&ComponentId::parse("otlp").unwrap(), &yaml::parse("t", text).unwrap());
        of(a).is_some() && of(a) == of(b)
    }

    #[test]
    fn a_body_is_the_same_whatever_its_order_and_its_place() {
        assert!(same("{a: 1, b: {c: [x, y]}}", "\n\nb:\n  c: [x, y]\na: 1\n"));
        assert!(!same("a: 1", "a: 2"));
        assert!(!same("a: 1", "a: '1'"));
        assert!(!same("a: [x, y]", "a: [y, x]"));
    }

    #[test]
    fn what_reads_files_or_leans_on_others_is_made_anew() {
        let files = ["ca", "cert", "key", "client_ca", "value", "username", "password"];
        let files = files.map(|file| format!("deep: [{{tls: {{{file}_file: x}}}}]"));
        let others = [
            "auth: {authenticator: y}",
            "sending_queue: {storage: z}",
            "htpasswd: {file: x}",
            "filename: x",
            "patterns: [x]",
        ];
        for body in files.iter().map(String::as_str).chain(others) {
            assert!(!same(body, body), "{body}");
        }
        let file = ComponentId::parse("file/spans").unwrap();
        assert_eq!(identity(&file, &yaml::parse("t", "path: x").unwrap()), None);
    }
}
