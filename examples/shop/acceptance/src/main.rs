//! Runs the shop on servers of its own, under a load with more demand than stock, kills each of its parts in turn while it
//! runs, and proves in the end that it has come out right. Exit code 1 if it has not.
//!
//! ```text
//!  shop    the parts: processes that are started, killed, started again     (part, broker, http, wait)
//!  load    customers and shopkeepers; poison in each queue
//!  chaos   which part is killed when
//!  proof   what has to hold, from what is in the databases and queues       (truth)
//!  rebuild the view's database is dropped, and told again
//! ```

mod broker;
mod chaos;
mod http;
mod load;
mod part;
mod proof;
mod rebuild;
mod report;
mod shop;
mod truth;
mod wait;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

use load::Load;
use proof::Poison;
use report::{Line, Report};
use shop::{Name, Shop};

/// Runs the shop under load, kills its parts in turn, and proves that it comes out right.
#[derive(Debug, Parser)]
#[command(about, version)]
struct Options {
    /// Chooses the load and the kills; printed, so that it can be had again
    #[arg(long)]
    seed: Option<u64>,

    /// The load goes on for at least so long, until the last kill, and until each way to an order's end was taken
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    seconds: u64,

    /// How many parts are killed: there are nine, so with 18 each one is killed twice
    #[arg(long, default_value_t = 18)]
    kills: usize,

    /// Placed by all customers together
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    orders_per_second: u32,

    /// How long an order waits for its stock before it is cancelled
    #[arg(long, default_value_t = 5000)]
    lock_timeout_ms: u64,

    /// The folder with the programs; that of this one unless set
    #[arg(long)]
    programs: Option<PathBuf>,
}

// All on one thread, for the children's sake: see `part`.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let report = Report::new();
    let options = Options::parse();
    let customers = LocalSet::new();
    let outcome = tokio::select! {
        outcome = customers.run_until(run(options, report)) => outcome,
        stopped = stopped() => stopped.and_then(|()| anyhow::bail!("stopped")),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("{}", report.red("the shop has not come out right"));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{}", report.red(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

async fn stopped() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted.context("SIGINT"),
        _ = terminate.recv() => Ok(()),
    }
}

/// The story. False if a line of the proof does not hold.
async fn run(options: Options, report: Report) -> anyhow::Result<bool> {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let lock_timeout = Duration::from_millis(options.lock_timeout_ms);
    let programs = match options.programs {
        Some(folder) => folder,
        None => std::env::current_exe()?.parent().context("the folder of this program")?.to_owned(),
    };
    let mut shop = Shop::new(programs, lock_timeout)?;

    report.headline("The shop");
    shop.open().await?;
    rebuild::name_the_beginning(&mut shop).await?;
    for name in Name::ALL {
        report.fact(name.title(), &shop.whereabouts(name));
    }
    report.fact("files", &shop.folder().display().to_string());

    report.headline(&format!("Customers order more than there is; each part is killed in turn (seed {seed})"));
    let (orders, inventory) = (shop.address(Name::Orders), shop.address(Name::Inventory));
    load::stock_up(orders, inventory).await?;
    let load = Load::start(orders, inventory, seed, options.orders_per_second);
    broker::poison(&shop.broker_url()).await?;
    report.event("poison in each queue");
    let enough = tokio::time::sleep(Duration::from_secs(options.seconds));
    chaos::play(&mut shop, &chaos::schedule(seed, options.kills, lock_timeout), report).await?;
    enough.await;
    proof::each_way_taken(&shop).await?;
    report.event(&format!("{} orders were placed; no more come", load.placed()));
    let ledger = load.stop().await?;

    report.headline("Proof");
    let mut lines = proof::settle(&mut shop, &ledger, Poison::PutAside).await?;
    lines.push(proof::dead_letters(&shop).await?);
    report.lines(&lines);
    if !all_hold(&lines) {
        return Ok(false);
    }

    report.headline("The view's database is dropped, and told again: twice");
    let lines = rebuild::both_ways(&mut shop).await?;
    report.lines(&lines);
    let again = proof::settle(&mut shop, &ledger, Poison::Taken).await?;
    let wrong: Vec<Line> = again.into_iter().filter(|line| !line.holds).collect();
    report.lines(&wrong);
    let holds = all_hold(&lines) && wrong.is_empty();
    if holds {
        report.event(&report.green("the shop has come out right"));
    }
    Ok(holds)
}

fn all_hold(lines: &[Line]) -> bool {
    lines.iter().all(|line| line.holds)
}
