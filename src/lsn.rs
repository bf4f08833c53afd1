//! A position in the write-ahead log, as PostgreSQL writes it: `16/B374D848`.

use std::fmt;
use std::str::FromStr;

/// A byte position in the WAL. Only ever received from the server, never computed: PostgreSQL does
/// not check a flush position that is too high, and skips what lies below it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// `0/0`, PostgreSQL's `InvalidXLogRecPtr`.
    pub const ZERO: Self = Self(0);

    /// As PostgreSQL writes it. Every event has its LSN in several places, for which `fmt` would be a tenth of its cost.
    #[must_use]
    pub fn text(self) -> LsnText {
        let mut text = LsnText { bytes: [b'/'; LSN_BYTES_MAX], start: LSN_BYTES_MAX };
        text.put(self.0 & 0xFFFF_FFFF);
        text.start -= 1;
        text.put(self.0 >> 32);
        text
    }
}

/// Eight digits, a slash, eight digits.
const LSN_BYTES_MAX: usize = 17;

/// The text of an LSN.
#[derive(Debug, Clone, Copy)]
pub struct LsnText {
    bytes: [u8; LSN_BYTES_MAX],
    start: usize,
}

impl LsnText {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    /// The same in bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Upper-case digits without leading zeros, before what is there; at most eight.
    fn put(&mut self, number: u64) {
        let mut left = number;
        loop {
            self.start -= 1;
            self.bytes[self.start] = b"0123456789ABCDEF"[(left & 15) as usize];
            left >>= 4;
            if left == 0 {
                break;
            }
        }
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text().as_str())
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is no LSN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an LSN (two hexadecimal numbers of up to 8 digits, as in `16/B374D848`)")]
pub struct ParseLsnError(String);

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let half = |digits: &str| {
            let plain = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
            plain.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Self(half(high)? << 32 | half(low)?)))
            .ok_or_else(|| ParseLsnError(text.to_owned()))
    }
}

/// The place of one change in the stream: total, and the same at every re-delivery.
///
/// Written `16/B374D848:3`. A bare LSN is no key, because several changes can share one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Position {
    /// Where the transaction's commit record starts (`final_lsn` of Begin).
    pub commit_lsn: Lsn,
    /// The change's number within its transaction, from 0, counted before any filter.
    pub ordinal: u64,
}

impl Position {
    /// Appends its text.
    pub fn write(self, out: &mut String) {
        out.extend([self.commit_lsn.text().as_str(), ":", itoa::Buffer::new().format(self.ordinal)]);
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.commit_lsn, self.ordinal)
    }
}

impl FromStr for Position {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = text
            .split_once(':')
            .and_then(|(lsn, ordinal)| Some(Self { commit_lsn: lsn.parse().ok()?, ordinal: ordinal.parse().ok()? }));
        parsed.ok_or_else(|| ParseLsnError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_lsn_reads_what_it_writes() {
        for text in ["0/0", "0/A", "1/0", "16/B374D848", "FFFFFFFF/FFFFFFFF"] {
            assert_eq!(text.parse::<Lsn>().map(|lsn| lsn.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn what_is_no_lsn_is_refused() {
        for text in ["", "/", "1", "1/", "/1", "+1/0", "1/123456789", "x/0", "1/0/0", " 1/0"] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
    }

    #[test]
    fn positions_order_by_commit_then_ordinal() {
        let at = |text: &str| text.parse::<Position>().expect(text);
        assert!(at("0/1:9") < at("0/2:0"));
        assert!(at("0/2:0") < at("0/2:1"));
        let mut text = "shop:".to_owned();
        at("16/B374D848:3").write(&mut text);
        assert_eq!([text, at("16/B374D848:3").to_string()], ["shop:16/B374D848:3", "16/B374D848:3"]);
    }
}
