//! JSON in colours, for a terminal.
//!
//! Knows of JSON only what it takes to tell names, strings, numbers and words apart; what it is given is valid. Nothing that
//! could move the terminal's cursor gets through: JSON escapes the ASCII control characters itself, the others become U+FFFD.

use std::fmt::Write as _;

const NAME: &str = "\x1b[34m";
const STRING: &str = "\x1b[32m";
const NUMBER: &str = "\x1b[33m";
const WORD: &str = "\x1b[35m";
const PLAIN: &str = "\x1b[0m";

/// The same text, with colours.
#[must_use]
pub fn json(text: &str) -> String {
    let mut painted = String::with_capacity(text.len() * 2);
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = match first {
            '"' => end_of_string(rest),
            '-' | '0'..='9' | 'a'..='z' => {
                rest.find(|it: char| !(it.is_ascii_alphanumeric() || "+-.".contains(it))).unwrap_or(rest.len())
            }
            _ => first.len_utf8(),
        };
        let (token, after) = rest.split_at(end);
        let colour = match first {
            '"' if after.trim_start().starts_with(':') => NAME,
            '"' => STRING,
            '-' | '0'..='9' => NUMBER,
            'a'..='z' => WORD,
            _ => "",
        };
        let token = token.replace(char::is_control, "\u{FFFD}");
        // Writing to a String can't fail.
        let _ = if colour.is_empty() { painted.write_str(&token) } else { write!(painted, "{colour}{token}{PLAIN}") };
        rest = after;
    }
    painted
}

fn end_of_string(text: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            b'"' if !escaped => return at + 1,
            b'\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn without_colours(painted: &str) -> String {
        [NAME, STRING, NUMBER, WORD, PLAIN].iter().fold(painted.to_owned(), |text, colour| text.replace(colour, ""))
    }

    #[test]
    fn names_strings_numbers_and_words_have_their_colours() {
        let text = r#"{"a\"b": "x:\\", "n" :[-1.5e+3,true,null], "ü": {}}"#;
        let painted = json(text);
        assert_eq!(without_colours(&painted), text);
        for part in [
            r#"[34m"a\"b""#,
            r#"[32m"x:\\""#,
            r#"[34m"n""#,
            "[33m-1.5e+3\x1b",
            "[35mtrue\x1b",
            "[35mnull\x1b",
            "[34m\"ü\"",
        ] {
            assert!(painted.contains(part), "{part} in {painted:?}");
        }
    }

    #[test]
    fn nothing_moves_the_cursor() {
        assert_eq!(without_colours(&json("\"\u{9b}2J\u{7f}\"")), "\"\u{FFFD}2J\u{FFFD}\"");
    }
}
