//! Credentials never leave: what looks like one is replaced before it is stored in a row.

use std::sync::LazyLock;

use regex::{Captures, Regex};

/// What stands in the place of a credential.
pub(super) const REDACTED: &str = "(redacted)";

/// Names whose values are credentials whatever they look like.
#[expect(clippy::expect_used, reason = "constant patterns, compiled by the tests")]
static SECRET_NAME: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"(?i)(passw|passphrase|pwd$|secret|credential|private[-_.]?key|htpasswd|dockerconfigjson)",
    )
    .expect("constant pattern")
});

/// Names whose values are credentials unless they are plain numbers or switches (`max_tokens: 4096`).
#[expect(clippy::expect_used, reason = "constant patterns, compiled by the tests")]
static TOKEN_NAME: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)(token|api[-_.]?key|access[-_.]?key|encryption[-_.]?key|signing[-_.]?key|auth[-_.]?key|(^|[-_.])(auth|dsn|key)$)")
        .expect("constant pattern")
});

/// Credentials inside a longer text; what is captured around them may be shown.
#[expect(clippy::expect_used, reason = "constant patterns, compiled by the tests")]
static INLINE: LazyLock<[Regex; 4]> = LazyLock::new(|| {
    [
        r"(://[^/\s:@]*:)[^@\s/]+(@)",
        r#"(?i)((?:passw(?:or)?d|passphrase|pwd|secret|credentials?|token|api[-_]?key|access[-_]?key|private[-_]?key)["']?\s*[=:]\s*["']?)[^\s"',;&]+"#,
        r"(?i)(\b(?:bearer|basic)\s+)[A-Za-z0-9+/_.=~-]{8,}",
        r"()(?:\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_.-]+|\bAKIA[A-Z0-9]{16}\b|\bgh[pousr]_[A-Za-z0-9]{20,}|\bxox[abprs]-[A-Za-z0-9-]{10,}|\bsk-[A-Za-z0-9_-]{20,})",
    ]
    .map(|pattern| Regex::new(pattern).expect("constant pattern"))
});

/// Fields that are named like credentials and only point to them.
const REFERENCES: [&str; 8] = [
    "secretName",
    "automountServiceAccountToken",
    "expirationSeconds",
    "optional",
    "name",
    "namespace",
    "path",
    "kind",
];

/// The value of a field as it may be shown: `path` are the names that lead to it, the last one last.
pub(super) fn value(path: &[&str], value: &str) -> String {
    let Some((leaf, parents)) = path.split_last() else { return text(value) };
    let named = match *leaf {
        // Of an environment variable, an argument or a header the name of the element counts.
        "value" => parents.last().copied().unwrap_or(leaf),
        leaf if REFERENCES.contains(&leaf)
            || parents.iter().any(|parent| parent.ends_with("Ref")) =>
        {
            ""
        }
        leaf => leaf,
    };
    let harmless = value.is_empty() || matches!(value, "true" | "false" | "null");
    let short_number = value.len() <= 9 && value.bytes().all(|byte| byte.is_ascii_digit());
    if !harmless && (SECRET_NAME.is_match(named) || (TOKEN_NAME.is_match(named) && !short_number)) {
        return REDACTED.to_owned();
    }
    text(value)
}

/// A text with the credentials in it replaced.
pub(super) fn text(text: &str) -> String {
    if text.contains("-----BEGIN") || random(text.trim()) {
        return REDACTED.to_owned();
    }
    let mut text = std::borrow::Cow::Borrowed(text);
    for pattern in INLINE.iter() {
        if pattern.is_match(&text) {
            let shown = |found: &Captures<'_>, group| {
                found.get(group).map_or("", |part| part.as_str()).to_owned()
            };
            let redacted =
                |found: &Captures<'_>| format!("{}{REDACTED}{}", shown(found, 1), shown(found, 2));
            text = pattern.replace_all(&text, redacted).into_owned().into();
        }
    }
    text.into_owned()
}

/// One long word of mixed characters: nothing that people write by hand. Digests, UUIDs and object
/// names have one case only and stay.
fn random(word: &str) -> bool {
    let has = |class: fn(&u8) -> bool| word.as_bytes().iter().any(class);
    if word.len() < 24
        || !word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/_=-".contains(&byte))
        || !(has(u8::is_ascii_digit) && has(u8::is_ascii_lowercase) && has(u8::is_ascii_uppercase))
    {
        return false;
    }
    let mut counts = [0_u32; 256];
    word.bytes().for_each(|byte| counts[usize::from(byte)] += 1);
    let length = word.len() as f64;
    let bits: f64 = counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| f64::from(*count) / length)
        .map(|share| -share * share.log2())
        .sum();
    // English has about 4.1 bits a letter over long texts and less over short ones with one case;
    // base64 of random bytes has 4.3 at 24 characters already.
    bits > 4.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_replaced() {
        for (path, secret) in [
            (&["data", "db_password"][..], "hunter2"),
            (&["env", "API_KEY", "value"], "abc-123"),
            (&["env", "DB_PASSWORD", "value"], "123456"),
            (&["data", "tls.crt"], "-----BEGIN CERTIFICATE-----\nMIIB"),
            (&["data", "anything"], "9fK2lQx7Zp0RtYvBn4WmEs8HcUaJ"),
        ] {
            assert_eq!(value(path, secret), REDACTED, "{path:?}");
        }
        assert_eq!(
            value(&["data", "DATABASE_URL"], "postgres://shop:hunter2@db:5432/x"),
            "postgres://shop:(redacted)@db:5432/x"
        );
        assert_eq!(
            value(&["args"], "[\"--password=hunter2\",\"-v\"]"),
            "[\"--password=(redacted)\",\"-v\"]"
        );
        assert_eq!(
            text("get http://10.88.2.9:8080/healthz of a@b"),
            "get http://10.88.2.9:8080/healthz of a@b"
        );
        assert_eq!(text("Authorization: Bearer abcdefgh1234"), "Authorization: Bearer (redacted)");
    }

    #[test]
    fn what_is_no_credential_stays() {
        for (path, plain) in [
            (&["volumes", "bank", "secret", "secretName"][..], "bank-credentials"),
            (&["env", "K", "valueFrom", "secretKeyRef", "key"], "api-key"),
            (&["data", "max_tokens"], "4096"),
            (
                &["image"],
                "registry.rig:5000/shop@sha256:915534be41a42521838e8563cbdc71b1285d6ae59d3d1aa77f147fe664a2e35e",
            ),
            (&["env", "DB_ADDR", "value"], "inventory-db:5432"),
            (&["metadata", "uid"], "ad4fab12-c3ed-44a5-b989-ad85048b770b"),
            (&["name"], "InventoryServiceConfiguration"),
        ] {
            assert_eq!(value(path, plain), plain, "{path:?}");
        }
    }
}
