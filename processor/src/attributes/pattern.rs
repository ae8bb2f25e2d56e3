//! Regular expressions as the Collector (Go, RE2) reads them.

use regex::Regex;

/// Compiles a pattern that was written for Go. The languages are the same but for what is rewritten
/// here: `\d`, `\s`, `\w` and `\b` mean ASCII in Go, brackets do not nest there, and `\Q...\E` quotes.
pub(crate) fn compile(pattern: &str) -> Result<Regex, String> {
    Regex::new(&translate(pattern)).map_err(|error| {
        // The last line of the message says what, the others draw an arrow.
        let text = error.to_string();
        let what = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
        format!("error parsing regexp: {what}: `{pattern}`")
    })
}

fn translate(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 8);
    let mut rest = pattern.chars().peekable();
    let mut class = false;
    // A bracket right behind the opening one is a letter.
    let mut opening = false;
    while let Some(c) = rest.next() {
        let first = std::mem::take(&mut opening);
        match c {
            '\\' => match rest.next() {
                Some('Q') if !class => {
                    let mut quoted = String::new();
                    while let Some(c) = rest.next() {
                        if c == '\\' && rest.next_if_eq(&'E').is_some() {
                            break;
                        }
                        quoted.push(c);
                    }
                    out.push_str(&regex::escape(&quoted));
                }
                Some('d') => out.push_str("[0-9]"),
                Some('D') => out.push_str("[^0-9]"),
                Some('s') => out.push_str(r"[\t\n\x0C\r ]"),
                Some('S') => out.push_str(r"[^\t\n\x0C\r ]"),
                Some('w') => out.push_str("[0-9A-Za-z_]"),
                Some('W') => out.push_str("[^0-9A-Za-z_]"),
                Some('b') if !class => out.push_str(r"(?-u:\b)"),
                Some('B') if !class => out.push_str(r"(?-u:\B)"),
                Some(other) => out.extend(['\\', other]),
                None => out.push('\\'),
            },
            '[' if !class => {
                (class, opening) = (true, true);
                out.push('[');
                if rest.next_if_eq(&'^').is_some() {
                    out.push('^');
                }
            }
            '[' if rest.peek() == Some(&':') => {
                // A named class such as [:alpha:] goes on to its own bracket.
                out.push('[');
                for c in rest.by_ref() {
                    out.push(c);
                    if c == ']' {
                        break;
                    }
                }
            }
            ']' if class && first => out.push_str(r"\]"),
            ']' => {
                class = false;
                out.push(']');
            }
            '[' | '&' | '~' if class => out.extend(['\\', c]),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_mean_in_go() {
        for (pattern, matching, other) in [
            (r"^\d+$", "42", "٤٢"),
            (r"^[\d.]+$", "1.2", "a"),
            (r"^\w+$", "a_1", "ä"),
            (r"^[[a]$", "[", "b"),
            (r"^[]a]+$", "]a", "["),
            (r"^[^]]$", "a", "]"),
            (r"^[a&&b]+$", "a&b", "c"),
            (r"^[[:alpha:]_]+$", "ab_", "1"),
            (r"^\Qa.b\E.$", "a.bc", "axbc"),
            (r"\bcart\b", "the cart", "carts"),
            (r"^/api/v1/document/(?P<id>.*)/update$", "/api/v1/document/7/update", "/"),
        ] {
            let pattern = compile(pattern).unwrap();
            assert!(pattern.is_match(matching), "{pattern} on {matching}");
            assert!(!pattern.is_match(other), "{pattern} on {other}");
        }
    }

    #[test]
    fn a_wrong_pattern_is_one_line() {
        let text = compile("(a").unwrap_err();
        assert!(text.starts_with("error parsing regexp: ") && text.ends_with(": `(a`"), "{text}");
        assert_eq!(text.lines().count(), 1);
    }
}
