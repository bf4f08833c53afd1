//! The command line of `scripts/bench`.

use std::path::PathBuf;

use clap::Parser as _;

use crate::contestant::Contestant;
use crate::work::Workload;

/// Measures pgsluice against floors and peers, on servers of its own.
#[derive(Debug, clap::Parser)]
#[command(name = "scripts/bench", max_term_width = 100)]
pub(crate) struct Arguments {
    /// Within two minutes, to compare two builds: workloads a and b, pgsluice and the floors
    #[arg(long)]
    pub(crate) quick: bool,

    /// Some of: a b c d e f g h i, and r, the restart
    #[arg(long, value_name = "LETTERS", value_delimiter = ',', value_parser = Workload::of)]
    pub(crate) workload: Vec<Workload>,

    /// Some of: discard discard-lowat discard-naps discard-unix `pg_recvlogical` nothing ready-made-classic relay-classic
    /// amqp-classic ready-made-quorum relay-quorum amqp-quorum forward, and the names of peers
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = Contestant::of)]
    pub(crate) contestants: Vec<Contestant>,

    /// How often each contestant does each workload
    #[arg(long, value_name = "N")]
    pub(crate) runs: Option<usize>,

    /// Multiplies the number of events
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pub(crate) scale: f64,

    /// Every run, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// Puts the tables into this page too, between the marks <!-- results --> and <!-- /results -->
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,

    /// Given by `cargo bench`. Without it, as `cargo test` has it, a little of everything shows that the bench works
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
}

impl Arguments {
    pub(crate) fn parsed() -> Self {
        let mut this = Self::parse();
        if !this.bench {
            this.runs = Some(1);
            this.scale = SMOKE;
            this.workload = vec![Workload::Thousand, Workload::Restart];
            this.contestants = Contestant::all();
            this.contestants.retain(|contestant| !matches!(contestant, Contestant::Peer(_)));
        }
        this
    }

    pub(crate) fn runs(&self) -> usize {
        self.runs.unwrap_or(if self.quick { 3 } else { 5 })
    }

    pub(crate) fn workloads(&self) -> Vec<Workload> {
        match (self.workload.as_slice(), self.quick) {
            ([], true) => Workload::QUICK.to_vec(),
            ([], false) => Workload::ALL.to_vec(),
            (chosen, _) => chosen.to_vec(),
        }
    }

    /// Those that were asked for, of those that this workload has.
    pub(crate) fn chosen(&self, of: &[Contestant]) -> Vec<Contestant> {
        let is_chosen = |contestant: &Contestant| match (self.contestants.as_slice(), self.quick) {
            ([], true) => contestant.is_quick(),
            ([], false) => true,
            (chosen, _) => chosen.contains(contestant),
        };
        of.iter().copied().filter(is_chosen).collect()
    }

    /// So many events, scaled, and never none.
    pub(crate) fn scaled(&self, events: u64) -> u64 {
        let quick = if self.quick { QUICK } else { 1.0 };
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let scaled = (events as f64 * self.scale * quick).round() as u64;
        // Whole transactions.
        scaled.max(THOUSAND) / THOUSAND * THOUSAND
    }
}

/// To see that it works, so much of each workload.
const SMOKE: f64 = 0.002;
/// With `--quick`, so much of each workload.
const QUICK: f64 = 0.4;
const THOUSAND: u64 = 1_000;
