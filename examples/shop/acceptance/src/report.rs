//! What is printed.

use std::io::IsTerminal as _;
use std::time::Instant;

/// Prints lines, with the time since the beginning where it matters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Report {
    began: Instant,
    is_coloured: bool,
}

/// One line of the proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Whether it is so.
    pub(crate) holds: bool,
    /// What it is about.
    pub(crate) what: &'static str,
    /// The numbers; where it does not hold, what is wrong.
    pub(crate) found: String,
}

impl Line {
    /// It holds if there is nothing wrong.
    pub(crate) fn new(what: &'static str, found: String, wrong: &[String]) -> Self {
        let more = if wrong.len() > 3 { format!(" … and {} more", wrong.len() - 3) } else { String::new() };
        let wrong_shown: String = wrong.iter().take(3).flat_map(|text| ["\n         ", text]).collect();
        Self { holds: wrong.is_empty(), what, found: found + &wrong_shown + &more }
    }
}

impl Report {
    pub(crate) fn new() -> Self {
        let is_coloured = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { began: Instant::now(), is_coloured }
    }

    pub(crate) fn headline(self, text: &str) {
        println!("\n{}", self.paint("1", text));
    }

    pub(crate) fn fact(self, name: &str, text: &str) {
        println!("  {} {text}", self.paint("2", &format!("{name:<22}")));
    }

    pub(crate) fn event(self, text: &str) {
        println!("  {:>6.1} s  {text}", self.began.elapsed().as_secs_f64());
    }

    pub(crate) fn lines(self, lines: &[Line]) {
        for Line { holds, what, found } in lines {
            let mark = if *holds { self.paint("32", "ok    ") } else { self.paint("31", "FAILED") };
            println!("  {mark} {what:<28} {found}");
        }
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.paint("31", text)
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.paint("32", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.is_coloured { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
