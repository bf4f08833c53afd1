//! How a fatal error looks: the error, its causes, an empty line, the hint.

use std::fmt::Write as _;

use crate::failure::Definite;
use crate::telemetry::logging;

/// Prints the error to standard error.
pub fn print(definite: &Definite) {
    eprint!("{}", render(definite, logging::colours()));
}

/// The text of [`print()`].
#[must_use]
pub fn render(definite: &Definite, colours: bool) -> String {
    let paint = |code: &str, text: &str| {
        if colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    };
    let mut text = format!("{} {}\n", paint("1;31", "error:"), indented(&definite.error.to_string()));
    for cause in definite.error.chain().skip(1) {
        // Writing to a String can't fail.
        let _ = writeln!(text, "  {} {}", paint("1", "cause:"), indented(&cause.to_string()));
    }
    if !definite.hint.is_empty() {
        let _ = writeln!(text, "\n{} {}", paint("1;36", "hint:"), indented(&definite.hint));
    }
    text
}

/// A message of several lines stays below its label.
fn indented(message: &str) -> String {
    message.trim_end().replace('\n', "\n    ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Kind;

    #[test]
    fn an_error_shows_its_causes_and_its_hint() {
        let error = anyhow::anyhow!("connection refused").context("cannot reach db1:5432");
        let definite = Definite::new(Kind::Unreachable, error, "is PostgreSQL running?");
        assert_eq!(
            render(&definite, false),
            "error: cannot reach db1:5432\n  cause: connection refused\n\nhint: is PostgreSQL running?\n"
        );
        assert!(render(&definite, true).starts_with("\x1b[1;31merror:\x1b[0m cannot"));
    }
}
