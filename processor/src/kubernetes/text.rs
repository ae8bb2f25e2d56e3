//! What changed inside the text of a ConfigMap: by field where the text has fields, else by line.

use serde_json::{Map, Value};

/// Longest text, in bytes, that is parsed; ConfigMaps hold at most 1 MiB.
const MAX_PARSED: usize = 256 * 1024;
/// Most lines on either side between which the common ones are sought (quadratic).
const MAX_LINES: usize = 400;

/// Both texts as trees of the same notation (JSON, YAML, `key=value` lines), when they have one.
pub(super) fn trees(old: &str, new: &str) -> Option<(Value, Value)> {
    if old.len() > MAX_PARSED || new.len() > MAX_PARSED {
        return None;
    }
    [json, yaml, pairs].iter().find_map(|parse| Some((parse(old)?, parse(new)?)))
}

/// The lines that only one side has, each side's in its order, trimmed and joined by ` | `.
pub(super) fn differing_lines(old: &str, new: &str) -> (String, String) {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let head = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let (old, new) = (&old[head..], &new[head..]);
    let tail = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
    let (old, new) = (&old[..old.len() - tail], &new[..new.len() - tail]);
    let (old_common, new_common) = common(old, new);
    let join = |lines: &[&str], common: &[bool]| {
        let only =
            lines.iter().zip(common).filter(|(line, common)| !**common && !line.trim().is_empty());
        only.map(|(line, _)| line.trim()).collect::<Vec<_>>().join(" | ")
    };
    (join(old, &old_common), join(new, &new_common))
}

/// Which lines of each side belong to a longest common subsequence.
fn common(old: &[&str], new: &[&str]) -> (Vec<bool>, Vec<bool>) {
    let (mut in_old, mut in_new) = (vec![false; old.len()], vec![false; new.len()]);
    if old.len() > MAX_LINES || new.len() > MAX_LINES {
        return (in_old, in_new);
    }
    let width = new.len() + 1;
    let mut longest = vec![0_u16; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            longest[i * width + j] = if old[i] == new[j] {
                longest[(i + 1) * width + j + 1] + 1
            } else {
                longest[(i + 1) * width + j].max(longest[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < old.len() && j < new.len() {
        if old[i] == new[j] {
            (in_old[i], in_new[j]) = (true, true);
            (i, j) = (i + 1, j + 1);
        } else if longest[(i + 1) * width + j] >= longest[i * width + j + 1] {
            i += 1;
        } else {
            j += 1;
        }
    }
    (in_old, in_new)
}

fn json(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok().filter(|value: &Value| value.is_object() || value.is_array())
}

fn yaml(text: &str) -> Option<Value> {
    // Anchors and aliases can unfold without measure; such a text is compared by line.
    if text.contains('&') && text.contains('*') {
        return None;
    }
    serde_saphyr::from_str(text).ok().filter(Value::is_object)
}

/// `key=value` lines with `#`, `;` and `!` comments and `[sections]`: properties, env files, INI.
fn pairs(text: &str) -> Option<Value> {
    let mut tree = Map::new();
    let mut section: Option<String> = None;
    for line in text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with(['#', ';', '!']))
    {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = Some(name.trim().to_owned());
            continue;
        }
        let (key, value) = line.split_once('=')?;
        let key = key.trim();
        if key.is_empty()
            || !key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte))
        {
            return None;
        }
        let key =
            section.as_ref().map_or_else(|| key.to_owned(), |section| format!("{section}.{key}"));
        tree.insert(key, Value::String(value.trim().to_owned()));
    }
    (!tree.is_empty()).then_some(Value::Object(tree))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn texts_with_fields_become_trees() {
        assert_eq!(trees("{\"a\": 8}\n", "{\"a\": 200}").unwrap().1, json!({"a": 200}));
        assert_eq!(
            trees("a: 1\nb:\n  c: x\n", "a: 2\n").unwrap().0,
            json!({"a": 1, "b": {"c": "x"}})
        );
        assert_eq!(
            trees("# c\n[db]\npool = 8\n", "[db]\npool=9\n").unwrap().1,
            json!({"db.pool": "9"})
        );
        assert_eq!(trees(".:53 {\n  errors\n}\n", ".:53 {\n}\n"), None);
        assert_eq!(trees("{\"a\": 8}", "{\"a\": "), None);
    }

    #[test]
    fn only_the_lines_that_differ_are_told() {
        let old = ".:53 {\n    errors\n    kubernetes cluster.local in-addr.arpa {\n    }\n    cache 30\n}\n";
        let new = ".:53 {\n    errors\n    kubernetes cluster.internal in-addr.arpa {\n    }\n    log\n    cache 30\n}\n";
        assert_eq!(
            differing_lines(old, new),
            (
                "kubernetes cluster.local in-addr.arpa {".into(),
                "kubernetes cluster.internal in-addr.arpa { | log".into()
            )
        );
    }

    #[test]
    fn a_bomb_of_aliases_is_no_tree() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let before = format!("*a{}, ", level - 1).repeat(10);
            bomb.push_str(&format!("a{level}: &a{level} [{}]\n", before.trim_end_matches(", ")));
        }
        assert_eq!(trees(&bomb, &bomb), None);
    }
}
