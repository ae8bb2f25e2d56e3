//! A pull reader for JSON text (RFC 8259): exact numbers, a limit on nesting, errors with a place.
//!
//! Its own because `serde_json` rounds doubles by an ulp and 64-bit integers in exponent form unless
//! features are set that then hold for the whole program.

use std::borrow::Cow;

/// What is wrong, and at which byte.
pub(super) struct Bad {
    pub(super) at: usize,
    pub(super) what: Cow<'static, str>,
}

pub(super) type Read<T> = Result<T, Bad>;

/// Reads a JSON text from front to back.
pub(super) struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    depth: u32,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a [u8], depth: u32) -> Self {
        // A byte order mark is no JSON, but files have it.
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        Reader { text, at: 0, depth }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    #[cold]
    pub(super) fn bad<T>(&self, what: impl Into<Cow<'static, str>>) -> Read<T> {
        Err(Bad { at: self.at, what: what.into() })
    }

    /// The first byte of what comes next; 0 at the end.
    #[inline]
    pub(super) fn peek(&mut self) -> u8 {
        loop {
            match self.text.get(self.at) {
                Some(b' ' | b'\n' | b'\r' | b'\t') => self.at += 1,
                Some(&byte) => return byte,
                None => return 0,
            }
        }
    }

    /// Nothing but white space may follow.
    pub(super) fn end(&mut self) -> Read<()> {
        self.peek();
        if self.at == self.text.len() {
            Ok(())
        } else {
            self.bad("unexpected text after the JSON value")
        }
    }

    /// Enters an object or an array; `bracket` is `{` or `[`.
    pub(super) fn enter(&mut self, bracket: u8) -> Read<()> {
        if self.peek() != bracket {
            return self.unexpected(if bracket == b'{' { "an object" } else { "an array" });
        }
        if self.depth == 0 {
            return self.bad("nested too deep");
        }
        self.depth -= 1;
        self.at += 1;
        Ok(())
    }

    /// Steps to the next element before `bracket`, or leaves by it. `first` is true before the first.
    pub(super) fn more(&mut self, bracket: u8, first: &mut bool) -> Read<bool> {
        let next = self.peek();
        if next == bracket {
            self.at += 1;
            self.depth += 1;
            return Ok(false);
        }
        if !std::mem::take(first) {
            if next != b',' {
                return self.unexpected(if bracket == b'}' { "`,` or `}`" } else { "`,` or `]`" });
            }
            self.at += 1;
            if self.peek() == bracket {
                return self.unexpected("a value after `,`");
            }
        }
        Ok(true)
    }

    /// The key of a member, with the colon.
    pub(super) fn key(&mut self) -> Read<Cow<'a, str>> {
        if self.peek() != b'"' {
            return self.unexpected("a key in quotes");
        }
        let key = self.string()?;
        if self.peek() != b':' {
            return self.unexpected("`:`");
        }
        self.at += 1;
        Ok(key)
    }

    /// A text in quotes.
    pub(super) fn string(&mut self) -> Read<Cow<'a, str>> {
        if self.peek() != b'"' {
            return self.unexpected("a text");
        }
        self.at += 1;
        let start = self.at;
        match self.run()? {
            b'"' => {
                let text = self.utf8(start, self.at)?;
                self.at += 1;
                Ok(Cow::Borrowed(text))
            }
            _ => self.escaped(start).map(Cow::Owned),
        }
    }

    /// Runs to the next quote or backslash.
    fn run(&mut self) -> Read<u8> {
        let rest = &self.text[self.at..];
        let Some(len) = memchr::memchr2(b'"', b'\\', rest) else {
            self.at = self.text.len();
            return self.bad("unexpected end of the text: a quote is missing");
        };
        if let Some(control) = rest[..len].iter().position(|byte| *byte < 0x20) {
            self.at += control;
            return self.bad("control character in a text; it must be escaped");
        }
        self.at += len;
        Ok(rest[len])
    }

    fn utf8(&self, from: usize, to: usize) -> Read<&'a str> {
        std::str::from_utf8(&self.text[from..to])
            .map_err(|error| Bad { at: from + error.valid_up_to(), what: "invalid UTF-8".into() })
    }

    /// The rest of a text that has escapes; `start` is behind its quote.
    #[cold]
    fn escaped(&mut self, start: usize) -> Read<String> {
        let mut out = String::new();
        let mut from = start;
        loop {
            let stop = self.text.get(self.at).copied();
            out.push_str(self.utf8(from, self.at)?);
            self.at += 1;
            if stop == Some(b'"') {
                return Ok(out);
            }
            let escape = self.text.get(self.at).copied().unwrap_or(0);
            self.at += 1;
            out.push(match escape {
                b'"' | b'\\' | b'/' => char::from(escape),
                b'b' => '\u{8}',
                b'f' => '\u{c}',
                b'n' => '\n',
                b'r' => '\r',
                b't' => '\t',
                b'u' => self.unicode()?,
                _ => {
                    self.at -= 1;
                    return self.bad("unknown escape in a text");
                }
            });
            from = self.at;
            self.run()?;
        }
    }

    /// Behind `\u`: one code unit, or two that are a surrogate pair. Half a pair is U+FFFD, as Go and
    /// browsers read it: some loggers cut texts in the middle.
    fn unicode(&mut self) -> Read<char> {
        let high = self.hex4()?;
        if (0xd800..0xdc00).contains(&high) && self.text[self.at..].starts_with(b"\\u") {
            let behind_high = self.at;
            self.at += 2;
            let low = self.hex4()?;
            if (0xdc00..0xe000).contains(&low) {
                let code = 0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00);
                return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.at = behind_high;
        }
        Ok(char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn hex4(&mut self) -> Read<u32> {
        let digits =
            self.text.get(self.at..self.at + 4).filter(|d| d.iter().all(u8::is_ascii_hexdigit));
        let value = digits
            .and_then(|d| std::str::from_utf8(d).ok())
            .and_then(|d| u32::from_str_radix(d, 16).ok());
        match value {
            Some(value) => {
                self.at += 4;
                Ok(value)
            }
            None => self.bad("`\\u` needs four hex digits"),
        }
    }

    /// A number as it is written.
    pub(super) fn number(&mut self) -> Read<&'a str> {
        self.peek();
        let start = self.at;
        self.at += self.digits_from(start, b"-");
        let whole = self.at;
        self.at += self.digits();
        let leading_zero = self.text.get(whole) == Some(&b'0') && self.at - whole > 1;
        let mut ok = self.at > whole && !leading_zero;
        if ok && self.text.get(self.at) == Some(&b'.') {
            self.at += 1;
            let digits = self.digits();
            self.at += digits;
            ok = digits > 0;
        }
        if ok && matches!(self.text.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += self.digits_from(self.at, b"+-");
            let digits = self.digits();
            self.at += digits;
            ok = digits > 0;
        }
        if ok {
            return self.utf8(start, self.at);
        }
        self.at = start;
        self.unexpected("a number")
    }

    fn digits(&self) -> usize {
        self.text[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count()
    }

    fn digits_from(&self, at: usize, signs: &[u8]) -> usize {
        usize::from(self.text.get(at).is_some_and(|byte| signs.contains(byte)))
    }

    /// `true`, `false` or `null`.
    pub(super) fn literal(&mut self, word: &'static str) -> Read<()> {
        self.peek();
        if self.text[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            return Ok(());
        }
        self.unexpected(word)
    }

    /// Passes over a value of any kind; nothing is kept, and nesting takes no stack.
    pub(super) fn skip(&mut self) -> Read<()> {
        let mut open: Vec<u8> = Vec::new();
        let mut first = true;
        loop {
            match self.peek() {
                bracket @ (b'{' | b'[') => {
                    self.enter(bracket)?;
                    open.push(bracket + 2);
                    first = true;
                }
                b'"' => {
                    self.string()?;
                }
                b't' => self.literal("true")?,
                b'f' => self.literal("false")?,
                b'n' => self.literal("null")?,
                _ => {
                    self.number()?;
                }
            }
            loop {
                let Some(&bracket) = open.last() else { return Ok(()) };
                if self.more(bracket, &mut first)? {
                    if bracket == b'}' {
                        self.key()?;
                    }
                    break;
                }
                open.pop();
                first = false;
            }
        }
    }

    #[cold]
    pub(super) fn unexpected<T>(&mut self, wanted: &str) -> Read<T> {
        self.peek();
        let rest = &self.text[self.at..];
        if rest.is_empty() {
            return self.bad(format!("unexpected end of the text: expected {wanted}"));
        }
        let found = String::from_utf8_lossy(&rest[..rest.len().min(16)]);
        let found = found.chars().next().unwrap_or_default();
        self.bad(format!("expected {wanted}, found {found:?}"))
    }
}
