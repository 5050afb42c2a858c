//! Splits a byte stream into JSON values: newline-delimited, bare concatenated, split or merged at will.
//!
//! Only objects and arrays are messages. [clause 8.2.3-b] size and depth are bounded before parsing: a message
//! over a limit ends the connection, because where it ends can no longer be known cheaply.
#![forbid(unsafe_code)]

use zeroize::Zeroizing;

/// Limits of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest message, bytes.
    pub max_bytes: usize,
    /// Deepest nesting of objects and arrays.
    pub max_depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_bytes: 256 * 1024, max_depth: 32 }
    }
}

/// Why the stream cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A message is longer than the limit.
    #[error("a message is longer than {0} bytes")]
    TooLarge(usize),
    /// A message is nested deeper than the limit.
    #[error("a message is nested deeper than {0} levels")]
    TooDeep(usize),
    /// Something other than an object or an array stands where a message should begin, or brackets do not match.
    #[error("expected a JSON object or array, found byte 0x{0:02x}")]
    NotAMessage(u8),
}

const BUFFER: usize = 16 * 1024;

/// An incremental splitter. Feed bytes, take messages.
#[derive(Debug)]
pub struct Splitter {
    limits: Limits,
    /// Wiped at the end: a PIN or a key may have passed through. Begins large enough not to move for those.
    buffer: Zeroizing<Vec<u8>>,
    scanned: usize,
    start: usize,
    /// Open brackets of the message being read: `true` for `{`.
    open: Vec<bool>,
    in_string: bool,
    escaped: bool,
}

impl Splitter {
    /// A splitter with these limits.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            buffer: Zeroizing::new(Vec::with_capacity(BUFFER)),
            scanned: 0,
            start: 0,
            open: Vec::new(),
            in_string: false,
            escaped: false,
        }
    }

    /// Takes bytes in.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.scanned = self.scanned.saturating_sub(self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether part of a message is waiting for its rest.
    #[must_use]
    pub fn is_midway(&self) -> bool {
        !self.open.is_empty()
    }

    /// The next whole message, if its last byte has come.
    // [clause 8.2.3-b] the limits stand here, before a parser sees a byte
    pub fn take(&mut self) -> Result<Option<Vec<u8>>, FrameError> {
        while let Some(&byte) = self.buffer.get(self.scanned) {
            if self.open.is_empty() && byte.is_ascii_whitespace() {
                self.scanned += 1;
                self.start = self.scanned;
                continue;
            }
            self.scanned += 1;
            if self.scanned - self.start > self.limits.max_bytes {
                return Err(FrameError::TooLarge(self.limits.max_bytes));
            }
            if self.in_string {
                if self.escaped {
                    self.escaped = false;
                } else if byte == b'\\' {
                    self.escaped = true;
                } else if byte == b'"' {
                    self.in_string = false;
                }
                continue;
            }
            match byte {
                b'{' | b'[' => {
                    if self.open.len() >= self.limits.max_depth {
                        return Err(FrameError::TooDeep(self.limits.max_depth));
                    }
                    self.open.push(byte == b'{');
                }
                b'}' | b']' => {
                    if self.open.pop() != Some(byte == b'}') {
                        return Err(FrameError::NotAMessage(byte));
                    }
                    if self.open.is_empty() {
                        let message = self.buffer.get(self.start..self.scanned).unwrap_or_default().to_vec();
                        self.start = self.scanned;
                        return Ok(Some(message));
                    }
                }
                _ if self.open.is_empty() => return Err(FrameError::NotAMessage(byte)),
                b'"' => self.in_string = true,
                _ => {}
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(splitter: &mut Splitter) -> Vec<String> {
        let mut out = Vec::new();
        while let Some(m) = splitter.take().unwrap() {
            out.push(String::from_utf8(m).unwrap());
        }
        out
    }

    #[test]
    fn values_come_out_whole_however_they_are_cut() {
        let stream = "{\"a\":\"}{\\\"]\"}\n [1,{\"b\":2}]{\"c\":[]}\r\n{}";
        let expected = ["{\"a\":\"}{\\\"]\"}", "[1,{\"b\":2}]", "{\"c\":[]}", "{}"];
        for cut in 1..stream.len() {
            let mut splitter = Splitter::new(Limits::default());
            let mut out = Vec::new();
            for chunk in stream.as_bytes().chunks(cut) {
                splitter.feed(chunk);
                out.extend(all(&mut splitter));
            }
            assert_eq!(out, expected, "chunks of {cut}");
            assert!(!splitter.is_midway());
        }
    }

    // [clause 8.2.3-b] test
    #[test]
    fn limits_hold_before_the_message_is_complete() {
        let mut splitter = Splitter::new(Limits { max_bytes: 10, max_depth: 2 });
        splitter.feed(b"{\"aaaaaaaaaaaaa");
        assert_eq!(splitter.take(), Err(FrameError::TooLarge(10)));
        let mut splitter = Splitter::new(Limits { max_bytes: 100, max_depth: 2 });
        splitter.feed(b"[[[");
        assert_eq!(splitter.take(), Err(FrameError::TooDeep(2)));
        for bad in ["x", "1 ", "\"s\"", "}", "[}", "GET / HTTP/1.1"] {
            let mut splitter = Splitter::new(Limits::default());
            splitter.feed(bad.as_bytes());
            assert!(matches!(splitter.take(), Err(FrameError::NotAMessage(_))), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_neither_panic_nor_grow(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..64), 0..64)) {
            let mut splitter = Splitter::new(Limits { max_bytes: 128, max_depth: 8 });
            'outer: for chunk in chunks {
                splitter.feed(&chunk);
                loop {
                    match splitter.take() {
                        Ok(Some(m)) => prop_assert!(m.len() <= 128),
                        Ok(None) => break,
                        Err(_) => break 'outer,
                    }
                }
                prop_assert!(splitter.buffer.len() <= 128 + 64);
            }
        }
    }
}
