//! JSON strings (RFC 8259, section 7) and LSNs, appended to a buffer.
//!
//! Invariant: whatever the bytes, what is appended is valid UTF-8 and a complete JSON string.

use crate::lsn::Lsn;

const HEX_LOWER: &[u8; 16] = b"0123456789abcdef";

/// Appends `bytes` as a JSON string, quotes included.
///
/// The server sends UTF-8 (it was told to, and it verifies); should a byte sequence not be UTF-8 all the
/// same, U+FFFD takes its place.
pub fn json_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    if plain::<true>(bytes) == bytes.len() {
        // Most texts: one look at them is enough, which saves a twentieth of what an event costs.
        out.extend_from_slice(bytes);
    } else {
        match std::str::from_utf8(bytes) {
            Ok(text) => json_escaped(out, text),
            Err(_) => {
                for chunk in bytes.utf8_chunks() {
                    json_escaped(out, chunk.valid());
                    if !chunk.invalid().is_empty() {
                        out.extend_from_slice("\u{FFFD}".as_bytes());
                    }
                }
            }
        }
    }
    out.push(b'"');
}

/// Appends `text` as the inside of a JSON string, without quotes.
pub fn json_escaped(out: &mut Vec<u8>, text: &str) {
    let mut rest = text.as_bytes();
    loop {
        let plain = plain::<false>(rest);
        out.extend_from_slice(&rest[..plain]);
        let Some(byte) = rest.get(plain).copied() else { return };
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[byte >> 4, byte & 15].map(|digit| HEX_LOWER[usize::from(digit)]));
            }
        }
        rest = &rest[plain + 1..];
    }
}

/// How many bytes at the front stand for themselves; with `ASCII`, and are ASCII. In blocks, for which there are vector
/// instructions.
fn plain<const ASCII: bool>(bytes: &[u8]) -> usize {
    // Bits, because for the branches of `||` there are no vector instructions.
    let is_escaped = |byte: u8| {
        let is_outside = if ASCII { byte.wrapping_sub(b' ') >= 0x60 } else { byte < b' ' };
        u8::from(is_outside) | u8::from(byte == b'"') | u8::from(byte == b'\\')
    };
    let is_plain = |block: &&[u8; 16]| block.iter().fold(0, |found, byte| found | is_escaped(*byte)) == 0;
    let blocks = bytes.as_chunks().0.iter().take_while(is_plain).count() * 16;
    let rest = bytes[blocks..].iter().position(|&byte| is_escaped(byte) != 0);
    rest.map_or(bytes.len(), |rest| blocks + rest)
}

/// A name as it stands before a value in a JSON object.
#[derive(Debug, Clone)]
pub(super) struct Label(Vec<u8>);

impl Label {
    pub(super) fn new(name: &str) -> Self {
        let mut label = Vec::with_capacity(name.len() + 3);
        json_string(&mut label, name.as_bytes());
        label.push(b':');
        Self(label)
    }

    /// `"name":`
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// `"name"`
    pub(super) fn quoted(&self) -> &[u8] {
        self.0.strip_suffix(b":").unwrap_or(&self.0)
    }
}

/// Appends an LSN as PostgreSQL writes it, `16/B374D848`.
pub fn lsn(out: &mut Vec<u8>, lsn: Lsn) {
    out.extend_from_slice(lsn.text().as_bytes());
}

/// Appends an array of strings that are escaped already.
pub(super) fn list<'a>(out: &mut Vec<u8>, names: impl Iterator<Item = &'a [u8]>) {
    out.push(b'[');
    for (index, name) in names.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(name);
    }
    out.push(b']');
}

/// Appends a number's digits.
pub(super) fn integer(out: &mut Vec<u8>, number: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Appends `true` or `false`.
pub(super) fn boolean(out: &mut Vec<u8>, value: bool) {
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        json_string(&mut out, bytes);
        String::from_utf8(out).expect("what is written is UTF-8")
    }

    #[test]
    fn every_code_point_below_u0300_survives_and_so_do_larger_ones() {
        let larger = ['\u{2028}', '\u{FFFD}', '\u{FFFF}', '😀', '\u{10FFFF}'];
        for code_point in ('\0'..'\u{300}').chain(larger) {
            for text in [code_point.to_string(), format!("a{code_point}b"), format!("{code_point}{code_point}ü")] {
                let json = string(text.as_bytes());
                assert_eq!(serde_json::from_str::<String>(&json).expect(&json), text);
            }
        }
    }

    #[test]
    fn escapes_are_the_short_ones() {
        assert_eq!(string(b"a\"b\\c\nd\re\tf\x01\x1f\x7f/"), "\"a\\\"b\\\\c\\nd\\re\\tf\\u0001\\u001f\x7f/\"");
        assert_eq!(string(b""), "\"\"");
    }

    #[test]
    fn what_is_not_utf8_is_replaced() {
        assert_eq!(string(b"\xffa\xe2\x82\"\xc3"), "\"\u{FFFD}a\u{FFFD}\\\"\u{FFFD}\"");
    }

    #[test]
    fn an_lsn_is_written_as_its_display() {
        for number in [0, 1, 0xF, 0x10, 0xFFFF_FFFF, 0x1_0000_0000, 0x16_B374_D848, u64::MAX] {
            let mut out = Vec::new();
            lsn(&mut out, Lsn(number));
            assert_eq!(out, Lsn(number).to_string().as_bytes());
        }
    }
}
