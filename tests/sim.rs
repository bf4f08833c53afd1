//! A seeded simulation of PostgreSQL, RabbitMQ and the checkpoint's store around the real pipeline, under paused time.
//!
//! Everything between the three traits is the product's own code: loop, decoder, router, encoder, publisher, lane, window
//! and checkpointer; and so is the verdict on slot and server (`postgres::slot`). Around it, a seed decides all that can
//! go wrong ([`schedule`]):
//!
//! - the connection to PostgreSQL breaks, a report is late or lost, a stream begins with what was confirmed; the server
//!   crashes and forgets what was confirmed, fails over to a standby that has everything or lacks something, is restored,
//!   or replaced; the slot is dropped, created again, invalidated, or moved by hand ([`database`], [`source`], [`walsender`])
//! - the connection to RabbitMQ breaks within a frame, falls silent, is blocked; confirms come late, in another order, for
//!   many, negative, never; messages are returned; the broker crashes and forgets what it has not confirmed, or answers
//!   what was not asked; what a dead connection had in flight is read later ([`channel`], [`rabbit`])
//! - a checkpoint is stored slowly, not at all, or although the answer says that it is not; it is in a file or in a
//!   table ([`disk`])
//! - the process is killed at any step of a peer, or stopped, and started again; another one stands by and takes over,
//!   perhaps while the first one still lives ([`machine`])
//!
//! In the end all that stops, and the [`oracle`] judges, as the peers do all the time:
//!
//! - every selected change is in the queue within a bounded time, or given up if the policy says so and no queue took it;
//!   nothing else ever is. Each event has its one `message_id` and body, at every delivery
//! - a checkpoint covers only what a process was told to be delivered; PostgreSQL is told only LSNs that it named itself,
//!   that the stored checkpoint covers, and never less than before
//! - a stream goes on where nothing is skipped; reports come in time, whatever broker and disk do
//! - changes that may be missing end in [`Kind::InDoubt`](pgsluice::failure::Kind), and nothing else ends in a definite
//!   failure, but for a process whose successor has stored
//! - in the queue, the last deliveries of all events are in commit order; the first ones too, but behind an event that was
//!   refused. What arrives late from a connection that was given up, or from a process that was superseded, doesn't count
//!   for that. On a live channel all is in order, and all again only after a failure, when all is answered, one event first
//! - in flight and in memory are no more events and bytes than configured; who is told to stop does it in time, and leaves
//!   nothing to repeat if there was time enough
//!
//! A schedule is replayed to the last byte: `SIM_SEED=n cargo test --test sim` runs one and tells its story (add
//! `-- --nocapture` to read it when it succeeds), `SIM_SCHEDULES=n` says how many are run, from `SIM_SEED` on if it is set.
//!
//! MUTATIONS

#[path = "sim/amqp.rs"]
mod amqp;
#[path = "sim/channel.rs"]
mod channel;
#[path = "sim/database.rs"]
mod database;
#[path = "sim/disk.rs"]
mod disk;
#[path = "sim/frames.rs"]
mod frames;
#[path = "sim/machine.rs"]
mod machine;
#[path = "sim/oracle.rs"]
mod oracle;
#[path = "sim/rabbit.rs"]
mod rabbit;
#[path = "sim/run.rs"]
mod run;
#[path = "sim/schedule.rs"]
mod schedule;
#[path = "sim/source.rs"]
mod source;
#[path = "sim/wal.rs"]
mod wal;
#[path = "sim/walsender.rs"]
mod walsender;
#[path = "sim/world.rs"]
mod world;

use std::time::Instant;

use run::{Outcome, campaign, run, settings};

/// How many schedules are run unless `SIM_SCHEDULES` says so.
const SCHEDULES: u64 = 5_000;
/// How many schedules are run twice.
const REPLAYED: u64 = 200;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn no_schedule_breaks_the_promise() {
    if let (Some(seed), None) = (number("SIM_SEED"), number("SIM_SCHEDULES")) {
        let Outcome { violation, story, .. } = run(seed, &settings(), true);
        println!("{}", story.join("\n"));
        assert_eq!(violation, None, "SIM_SEED={seed}");
        return;
    }
    let first = number("SIM_SEED").unwrap_or_else(|| fastrand::u64(..1 << 40));
    let schedules = number("SIM_SCHEDULES").unwrap_or(SCHEDULES);
    println!("{schedules} schedules from SIM_SEED={first} on");
    let begun = Instant::now();
    match campaign(first, schedules) {
        Ok(doubts) => {
            println!("{schedules} schedules in {:.1} s, {doubts} ended in doubt", begun.elapsed().as_secs_f32());
            assert!(schedules < 1_000 || (1..schedules / 2).contains(&doubts), "most end well, and some do not");
        }
        Err(failed) => panic!("{failed}"),
    }
}

/// To the millisecond and the byte; on another thread, too.
#[test]
fn a_schedule_is_replayed_exactly() {
    let first = number("SIM_SEED").unwrap_or_else(|| fastrand::u64(..1 << 40));
    let run_all = move || -> Vec<Outcome> {
        let settings = settings();
        (first..first + REPLAYED).map(|seed| run(seed, &settings, true)).collect()
    };
    let again = std::thread::spawn(run_all);
    for (index, (once, again)) in run_all().into_iter().zip(again.join().expect("ends")).enumerate() {
        let line = once.story.iter().zip(&again.story).find(|(once, again)| once != again);
        assert!(once == again, "SIM_SEED={} is another one when it is run again: {line:?}", first + index as u64);
    }
}
