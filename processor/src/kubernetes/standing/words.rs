//! Of what a program says at length, the sentence that matters.

use std::sync::LazyLock;

use regex::Regex;

/// Letters of a quoted sentence.
const MOST: usize = 220;
/// Letters of it that stand before what matters.
const BEFORE: usize = 90;

/// Words of a sentence that says what is wrong.
static WRONG: LazyLock<Regex> = LazyLock::new(|| {
    let words = r"(?i)\b(panic|fatal|errors?|\w*exception|fail(ed|ure|s)?|cannot|can't|could not|unable|denied|refused|not found|missing|invalid|forbidden|illegal|unknown|violat\w+|not (set|specified|defined|provided|supported)|no such)\b";
    #[allow(clippy::expect_used)]
    Regex::new(words).expect("constant pattern")
});

/// The line around a place in a text; of a long one the part around it.
pub(super) fn sentence(text: &str, from: usize, to: usize) -> String {
    let start = text[..from].rfind('\n').map_or(0, |at| at + 1);
    let end = text[to..].find('\n').map_or(text.len(), |at| to + at);
    let line = &text[start..end];
    let whole = line.trim();
    if whole.chars().count() <= MOST {
        return whole.to_owned();
    }
    // Of structured lines the message.
    let body = [r#""message":""#, r#""msg":""#, r#"msg=""#, r#""error":""#]
        .iter()
        .filter_map(|key| text[start..from].rfind(key).map(|at| at + key.len()))
        .max();
    let before = text[start..from].chars().count();
    let body = body.map(|at| text[start..start + at].chars().count());
    let body = body.filter(|at| before - at <= BEFORE);
    let skipped = body.unwrap_or(before.saturating_sub(BEFORE));
    let part: String = line.chars().skip(skipped).take(MOST).collect();
    // Not in the middle of a word.
    let word = part.find(' ').filter(|at| body.is_none() && skipped > 0 && *at < BEFORE / 2);
    let part = match word {
        Some(at) => &part[at + 1..],
        None => &part[..],
    };
    let cut = skipped + MOST < line.chars().count();
    let part = match body {
        Some(_) => part.split("\",\"").next().unwrap_or(part).trim_end_matches('\\'),
        None => part,
    };
    format!("{}{}{}", if skipped > 0 { "… " } else { "" }, part.trim(), if cut { " …" } else { "" })
}

/// The line of a text that says what is wrong: the last that names a cause, else the one that ends the program, else
/// the first with such words, else the last that is more than marks and places in a program.
pub(crate) fn telling(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| {
        line.chars().filter(|c| c.is_alphabetic()).count() > 3
            && !line.starts_with("at ")
            && !line.starts_with("File \"")
            && !line.starts_with("goroutine ")
            && !line.starts_with("...")
            && !line.to_uppercase().eq(line)
    });
    let lines: Vec<&str> = lines.collect();
    let cause = lines.iter().rev().find(|line| line.starts_with("Caused by:"));
    let python = text.contains("Traceback (most recent call last)");
    let wrong = || match python {
        true => lines.iter().rev().find(|line| WRONG.is_match(line)),
        false => lines.iter().find(|line| WRONG.is_match(line)),
    };
    let ends =
        |line: &&&str| ["PANIC", "FATAL", "panic:", "fatal"].iter().any(|w| line.contains(w));
    let line = cause
        .or_else(|| lines.iter().find(ends))
        .or_else(wrong)
        .or(lines.last())
        .copied()
        .unwrap_or(text.trim());
    sentence(line, 0, 0)
}

/// The lines of a text that speak of something that is not reached.
pub(super) fn unreached(text: &str) -> impl Iterator<Item = &str> {
    static WORDS: LazyLock<Regex> = LazyLock::new(|| {
        let words = r"(?i)refused|timed? ?out|deadline exceeded|unreachable|no route|no such host|reset by peer|no endpoints|unavailable|could not (connect|translate|resolve)|(unable|fail(ed|s)?|cannot|can't) to (connect|reach|resolve|call|open)|bad address|not known|name resolution|ENOTFOUND|EAI_AGAIN|UnknownHost|\b50[0234]\b|broken pipe|connection (lost|closed)|not (reachable|available)";
        #[allow(clippy::expect_used)]
        Regex::new(words).expect("constant pattern")
    });
    text.lines().filter(|line| WORDS.is_match(line))
}

/// Does a line complain of who resolves names, and not of the name?
pub(super) fn unresolved(line: &str) -> bool {
    const WORDS: [&str; 4] =
        ["failure in name resolution", "eai_again", "server misbehaving", "servfail"];
    let line = line.to_lowercase();
    let unanswered = ["timeout", "refused", "timed out", "unreachable"];
    WORDS.iter().any(|word| line.contains(word))
        || line.contains("lookup ") && unanswered.iter().any(|word| line.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guarantees: of what a program says at its end the line is quoted that says what is wrong, whole or the part
    /// that matters.
    #[test]
    fn the_line_that_matters_is_quoted() {
        for (text, line) in [
            (
                "*****\nAPPLICATION FAILED TO START\n*****\n\nDescription:\n\nFailed to bind a thing\n",
                "Failed to bind a thing",
            ),
            (
                "java.lang.RuntimeException: x failed\n\tat a.b(C.java:1)\nCaused by: java.io.IOException: disk gone\n\tat d.e(F.java:2)\n",
                "Caused by: java.io.IOException: disk gone",
            ),
            (
                "Traceback (most recent call last):\n  File \"a.py\", line 1\nKeyError: 'X'\n",
                "KeyError: 'X'",
            ),
            (
                "starting\nstore: invariant violated: page 17\ngoroutine 1 [running]:\n",
                "store: invariant violated: page 17",
            ),
            ("bye", "bye"),
        ] {
            assert_eq!(telling(text), line);
        }
        let long = format!("{} no such thing {}", "a ".repeat(200), "b ".repeat(200));
        let at = long.find("no such").unwrap_or_default();
        let part = sentence(&long, at, at + 7);
        assert!(
            part.starts_with("… ") && part.contains("no such thing") && part.ends_with(" …"),
            "{part}"
        );
    }
}
