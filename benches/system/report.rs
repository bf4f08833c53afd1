//! Tables of medians, in Markdown; and every run, in JSON.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::arguments::Arguments;
use crate::bench::{MISSING, mebibytes};
use crate::contestant::{Contestant, Group};
use crate::machine::Machine;
use crate::run::Measured;
use crate::statistics::median;
use crate::work::Workload;

/// Where the tables stand in a page.
const MARKS: [&str; 2] = ["<!-- results -->", "<!-- /results -->"];

/// Everything that was measured.
pub(crate) struct Report {
    machine: Machine,
    sections: Vec<String>,
    runs: Vec<Value>,
    took: Option<Duration>,
    has_failures: bool,
}

impl Report {
    /// A page that can't be written to is told now, and not after the first workload.
    pub(crate) fn new(machine: Machine, arguments: &Arguments) -> Self {
        if let Some(path) = &arguments.out {
            let [_, results, _] = parts(path);
            put(path, &results);
        }
        Self { machine, sections: Vec::new(), runs: Vec::new(), took: None, has_failures: false }
    }

    pub(crate) fn add(&mut self, table: &Table) {
        self.sections.push(table.markdown());
        self.runs.extend(table.json());
    }

    /// A section that is no table of throughput.
    pub(crate) fn add_section(&mut self, markdown: String, runs: impl IntoIterator<Item = Value>) {
        eprintln!("{markdown}");
        self.sections.push(markdown);
        self.runs.extend(runs);
    }

    /// Says so at once. Who is not on the machine has not failed.
    pub(crate) fn failed(&mut self, contestant: Contestant, why: &str) {
        eprintln!("  {:<20} {why}", contestant.name());
        self.has_failures |= !why.starts_with(MISSING);
    }

    /// Whether nobody has failed.
    pub(crate) fn is_whole(&self) -> bool {
        !self.has_failures
    }

    pub(crate) fn took(&mut self, took: Duration) {
        self.took = Some(took);
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("{}\n", self.machine.text);
        if let Some(took) = self.took {
            let _ = writeln!(text, "\nMeasured in {:.0} minutes.", took.as_secs_f64() / 60.0);
        }
        for section in &self.sections {
            let _ = write!(text, "\n{section}");
        }
        text
    }

    /// What there is so far, to the files that were asked for.
    pub(crate) fn save(&self, arguments: &Arguments) {
        if let Some(path) = &arguments.json {
            let all = json!({"machine": self.machine.text, "runs": self.runs});
            std::fs::write(path, format!("{all:#}\n")).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
        if let Some(path) = &arguments.out {
            put(path, &self.markdown());
        }
    }
}

/// Replaces what is between the marks.
fn put(path: &Path, text: &str) {
    let [before, _, after] = parts(path);
    let page = format!("{before}{}\n\n{}\n{}{after}", MARKS[0], text.trim(), MARKS[1]);
    std::fs::write(path, page).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// What is before, between and after the marks. A page that is not there is nothing but them.
fn parts(path: &Path) -> [String; 3] {
    let page = std::fs::read_to_string(path).unwrap_or_else(|_| MARKS.join("\n"));
    let parts = page.split_once(MARKS[0]).and_then(|(before, rest)| Some((before, rest.split_once(MARKS[1])?)));
    let Some((before, (between, after))) = parts else {
        panic!("{} has no {} … {}", path.display(), MARKS[0], MARKS[1])
    };
    [before, between, after].map(str::to_owned)
}

/// One workload's runs, by contestant.
pub(crate) struct Table {
    workload: Workload,
    lines: Vec<Line>,
}

struct Line {
    contestant: Contestant,
    runs: Vec<Measured>,
    failure: Option<String>,
}

impl Table {
    pub(crate) fn new(workload: Workload) -> Self {
        Self { workload, lines: Vec::new() }
    }

    pub(crate) fn add(&mut self, contestant: Contestant, measured: Measured) {
        self.line(contestant).runs.push(measured);
    }

    pub(crate) fn fail(&mut self, contestant: Contestant, why: String) {
        self.line(contestant).failure = Some(why);
    }

    fn line(&mut self, contestant: Contestant) -> &mut Line {
        let index = self.lines.iter().position(|line| line.contestant == contestant).unwrap_or_else(|| {
            self.lines.push(Line { contestant, runs: Vec::new(), failure: None });
            self.lines.len() - 1
        });
        &mut self.lines[index]
    }

    /// One table for who reads, and one for each kind of queue.
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("### ({}) {}\n", self.workload.letter(), self.workload.title());
        let mut groups: Vec<Group> = Vec::new();
        for line in &self.lines {
            if !groups.contains(&line.contestant.group()) {
                groups.push(line.contestant.group());
            }
        }
        for group in groups {
            self.write(&mut text, group);
        }
        text
    }

    fn write(&self, text: &mut String, group: Group) {
        let lines = || self.lines.iter().filter(|line| line.contestant.group() == group);
        let (what, floor) = match group {
            Group::Source => ("From PostgreSQL to nothing", "× best TCP floor"),
            Group::Queue(queue) => match queue.name() {
                "quorum" => ("To a quorum queue", "× floor"),
                _ => ("To a classic queue", "× floor"),
            },
        };
        let events = lines().flat_map(|line| &line.runs).map(|run| run.events).min().unwrap_or(0);
        let runs = lines().map(|line| line.runs.len()).max().unwrap_or(0);
        let _ = writeln!(text, "\n{what}: {} events, medians of {runs}.\n", thousands(events));
        let _ = writeln!(
            text,
            "| | k events/s | range | {floor} | own CPU-s/M | walsender | broker | peak RSS, MiB | bytes/event |\n\
             |---|---:|---:|---:|---:|---:|---:|---:|---:|"
        );
        let best = lines().filter(|line| line.contestant.is_floor()).filter_map(Line::rate).reduce(f64::max);
        for line in lines() {
            let _ = writeln!(text, "{}", line.markdown(best, runs));
        }
    }

    fn json(&self) -> Vec<Value> {
        let of = |line: &Line| -> Vec<Value> {
            let name = line.contestant.name();
            let letter = self.workload.letter();
            let failure =
                line.failure.iter().map(|why| json!({"workload": letter, "contestant": name, "failure": why}));
            let runs = line.runs.iter().map(|run| json!({"workload": letter, "contestant": name, "run": run}));
            runs.chain(failure).collect()
        };
        self.lines.iter().flat_map(of).collect()
    }
}

impl Line {
    fn rate(&self) -> Option<f64> {
        median(self.runs.iter().map(Measured::events_per_s))
    }

    fn markdown(&self, best: Option<f64>, runs: usize) -> String {
        let title = self.contestant.title();
        let Some(rate) = self.rate() else {
            let why = self.failure.as_deref().unwrap_or("not run").replace(['\n', '|'], " ");
            return format!("| {title} | {why} | | | | | | | |");
        };
        let per_million = |of: fn(&Measured) -> Option<f64>| {
            let all = self.runs.iter().filter_map(|run| Some(run.per_million(of(run)?)));
            median(all).map_or(String::new(), |value| format!("{value:.2}"))
        };
        let rates: Vec<f64> = self.runs.iter().map(Measured::events_per_s).collect();
        let (least, most) =
            rates.iter().fold((f64::MAX, 0.0_f64), |(least, most), rate| (least.min(*rate), most.max(*rate)));
        let ratio = best.map_or(String::new(), |best| format!("{:.2}", rate / best));
        #[allow(clippy::cast_precision_loss)]
        let bytes =
            |run: &Measured| run.stream_bytes.or(run.message_bytes).map(|bytes| bytes as f64 / run.events as f64);
        let bytes = median(self.runs.iter().filter_map(bytes)).map_or(String::new(), |bytes| format!("{bytes:.0}"));
        // Of memory the worst counts.
        let rss = self.runs.iter().map(|run| run.peak_rss_kib).max().unwrap_or(0);
        let failed = match self.runs.len() {
            _ if self.failure.is_some() => " (then failed)".to_owned(),
            count if count < runs => format!(" ({count} runs)"),
            _ => String::new(),
        };
        format!(
            "| {title}{failed} | {:.1} | {:.1}–{:.1} | {ratio} | {} | {} | {} | {:.1} | {bytes} |",
            rate / 1e3,
            least / 1e3,
            most / 1e3,
            per_million(|run| Some(run.cpu_s)),
            per_million(|run| run.walsender_cpu_s),
            per_million(|run| run.broker_cpu_s),
            mebibytes(rss),
        )
    }
}

/// 1,000,000
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let first = (digits.len() - 1) % 3 + 1;
    let groups = (first..digits.len()).step_by(3).map(|at| &digits[at..at + 3]);
    std::iter::once(&digits[..first]).chain(groups).collect::<Vec<_>>().join(",")
}
