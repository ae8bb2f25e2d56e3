//! "Did you mean": the known name nearest to a mistyped one.

/// ` (did you mean "endpoint"?)`, or nothing when no known name is near.
pub(crate) fn did_you_mean(wrong: &str, known: &[&str]) -> String {
    let allowed = 1 + wrong.len() / 4;
    let nearest = known.iter().map(|name| (distance(wrong, name), name)).min();
    match nearest {
        Some((distance, name)) if distance <= allowed => format!(" (did you mean {name:?}?)"),
        _ => String::new(),
    }
}

/// Levenshtein's edit distance, in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_suggested_and_far_ones_are_not() {
        assert_eq!(did_you_mean("endpont", &["tls", "endpoint"]), " (did you mean \"endpoint\"?)");
        assert_eq!(
            did_you_mean("procesors", &["receivers", "processors"]),
            " (did you mean \"processors\"?)"
        );
        assert_eq!(did_you_mean("banana", &["batch", "memory_limiter"]), "");
        assert_eq!(did_you_mean("x", &[]), "");
    }
}
