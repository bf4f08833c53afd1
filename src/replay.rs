//! A replay: events that were delivered before, sent once more, beside the pgsluice that runs.
//!
//! It is a pipeline of its own, with two differences: its source is the past of the slot (`postgres::copied_slot`) or what
//! is still in the outbox table (`postgres::outbox_table`), and its checkpoint dies with it. So each event is what it was
//! at its first delivery, but for the header `replayed_at_us`. Nothing that the running one depends on is changed.

pub(crate) mod nowhere;

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::anyhow;

use crate::broker::Broker;
use crate::checkpoint::memory::MemoryStore;
use crate::config::{OutboxTableSettings, PoisonPolicy, Retain, Settings};
use crate::encode::Delivery;
use crate::encode::message::Event;
use crate::encode::time::rfc3339;
use crate::failure::{Definite, Failure, Kind};
use crate::lsn::Lsn;
use crate::pipeline::scope::{Range, Scope, Tally};
use crate::pipeline::{Announce, Outcome, Pipeline, Replay};
use crate::postgres::copied_slot::{CopiedSlot, past};
use crate::postgres::ident::parse_qualified;
use crate::postgres::open::StartAt;
use crate::postgres::outbox_table::{END, OutboxTable, Rows};
use crate::rabbit::channel::RabbitBroker;
use crate::route::messages::Prefixes;
use crate::route::select::Selection;
use crate::route::template::Template;
use crate::route::topology;
use crate::source::Source;
use crate::telemetry::health::Health;
use crate::telemetry::otlp::span;
use crate::telemetry::otlp::tracer::{Open, Tracer};
use nowhere::Nowhere;

/// Where a replay begins.
#[derive(Debug, Clone)]
pub enum From {
    /// At a place in the WAL.
    At(StartAt),
    /// At the first transaction that was committed then or later: microseconds since 2000-01-01 00:00 UTC.
    Time(i64),
}

/// Where a replay ends.
#[derive(Debug, Clone, Copy)]
pub enum To {
    /// Before the transactions whose commit record starts there or later.
    Lsn(Lsn),
    /// With what was committed then: microseconds since 2000-01-01 00:00 UTC.
    Time(i64),
}

/// Changes of the configuration that hold for one replay.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// Of what the configuration selects, only these tables.
    pub tables: Option<Selection>,
    /// For all events.
    pub exchange: Option<String>,
    /// For all events.
    pub routing_key: Option<String>,
    /// Publish nothing, print what would be.
    pub dry_run: bool,
}

impl Overrides {
    /// Settings for the replay.
    ///
    /// # Errors
    /// They select nothing that the configuration does, or name an exchange that can't be.
    pub fn apply(&self, mut settings: Settings) -> Result<Settings, Definite> {
        // Nobody is there to wait for a server that was never reached; later it is waited for.
        settings.fail_fast = true;
        // Nor to mend an event.
        if settings.rabbitmq.poison == PoisonPolicy::Wait {
            settings.rabbitmq.poison = PoisonPolicy::Stop;
        }
        // That is about the slot; its copy lets go of what was replayed.
        settings.source.retain = Retain::default();
        if let Some(tables) = &self.tables {
            known(&settings, tables)?;
            let is_chosen = |table: &OutboxTableSettings| tables.selects(&table.schema, &table.table);
            settings.outboxes.retain(|outbox| outbox.table().is_some_and(is_chosen));
            settings.source.tables = settings.source.tables.and(tables.clone());
            for rule in &mut settings.rules {
                rule.tables = std::mem::take(&mut rule.tables).and(tables.clone());
            }
            // They are of no table.
            settings.messages.prefixes = Prefixes::default();
        }
        for (flag, text) in [("--exchange", &self.exchange), ("--routing-key", &self.routing_key)] {
            if text.as_ref().is_some_and(|text| text.len() > 255) {
                return Err(usage(anyhow!("{flag} is longer than 255 bytes"), "allowed: at most 255 bytes, by AMQP"));
            }
        }
        if let Some(exchange) = &self.exchange {
            if exchange.is_empty() {
                return Err(usage(anyhow!("--exchange is empty"), "name an exchange"));
            }
            settings.changes.exchange = Template::fixed(exchange);
            settings.messages.exchange = Template::fixed(exchange);
            settings.outboxes.iter_mut().for_each(|outbox| outbox.exchange = Template::fixed(exchange));
            settings.rules.iter_mut().for_each(|rule| rule.exchange = Template::fixed(exchange));
        }
        if let Some(key) = &self.routing_key {
            settings.changes.routing_key = Template::fixed(key);
            settings.messages.routing_key = Template::fixed(key);
            settings.outboxes.iter_mut().for_each(|outbox| outbox.routing_key = Template::fixed(key));
            settings.rules.iter_mut().for_each(|rule| rule.routing_key = Template::fixed(key));
        }
        Ok(settings)
    }
}

/// A table that is named, and that the configuration does not select, would be looked for in vain.
fn known(settings: &Settings, tables: &Selection) -> Result<(), Definite> {
    let is_outbox = |schema: &str, table: &str| settings.outboxes.iter().any(|outbox| outbox.is(schema, table));
    for pattern in tables.patterns().filter(|pattern| !pattern.starts_with('!')) {
        // One with a wildcard may match nothing.
        if let Ok((schema, table)) = parse_qualified(pattern)
            && !settings.source.tables.selects(&schema, &table)
            && !is_outbox(&schema, &table)
            && !settings.rules.iter().any(|rule| rule.tables.selects(&schema, &table))
        {
            let error = anyhow!("--table {pattern}: the configuration does not select this table");
            return Err(usage(error, "of what source.tables, outbox.table and the rules select, --table chooses some"));
        }
    }
    Ok(())
}

/// A replay that can begin.
#[derive(Debug)]
pub struct Plan {
    settings: Settings,
    dry_run: bool,
    events: Events,
    scope: Scope,
    /// What is replayed, in words.
    what: String,
}

/// Where the events come from.
#[derive(Debug)]
enum Events {
    Slot {
        source: CopiedSlot,
        /// Everything before it is left out.
        start: Lsn,
    },
    Table(OutboxTable),
}

/// What came of a replay.
#[derive(Debug)]
pub struct Summary {
    /// In one line, what was done.
    pub text: String,
    /// Why it ended before its end, if it did.
    pub result: Result<(), Definite>,
}

impl Plan {
    /// Of the past of the slot.
    ///
    /// # Errors
    /// The past that was asked for makes no sense; the server is away.
    pub async fn of_slot(
        settings: Settings,
        overrides: &Overrides,
        from: From,
        to: Option<To>,
    ) -> Result<Self, Definite> {
        let settings = overrides.apply(settings)?;
        let past = past(&settings.source).await.map_err(unreachable)?;
        let (start, from_time) = match from {
            From::At(start) => (Some(start), None),
            From::Time(time) => (None, Some(time)),
        };
        let (to, to_time) = match to {
            None => (past.end, None),
            Some(To::Lsn(lsn)) => (lsn, None),
            Some(To::Time(time)) => (past.end, Some(time)),
        };
        let start_lsn = match &start {
            None => past.earliest,
            Some(StartAt::Lsn(lsn)) => *lsn,
            Some(StartAt::Checkpoint(checkpoint)) => checkpoint.flushed,
        };
        if to > past.end {
            let error = anyhow!("--to {to} is in the future: the server's WAL ends at {}", past.end);
            return Err(usage(error, "without --to, everything that is committed now is replayed"));
        }
        if start_lsn > to || from_time.zip(to_time).is_some_and(|(from, to)| from > to) {
            let error = anyhow!("the replay would end (at {to}) before it begins (at {start_lsn})");
            return Err(usage(error, "--from comes before --to, and both before the end of the server's WAL"));
        }
        let held = past.held_bytes;
        tracing::info!(from = %start_lsn, %to, earliest = %past.earliest, wal_held_bytes = held, "replaying the slot's past");
        Ok(Self {
            events: Events::Slot { source: CopiedSlot::new(settings.source.clone(), start), start: start_lsn },
            scope: Scope::new(Range { from_time, to, to_time }),
            what: format!("{start_lsn} to {to}"),
            dry_run: overrides.dry_run,
            settings,
        })
    }

    /// Of the rows that are still in the outbox table.
    ///
    /// # Errors
    /// There is no outbox, or more than one.
    pub fn of_table(settings: Settings, overrides: &Overrides, rows: Rows) -> Result<Self, Definite> {
        let settings = overrides.apply(settings)?;
        let tables = settings.outboxes.iter().filter_map(|outbox| Some((outbox, outbox.table()?)));
        let (outbox, table) = match tables.collect::<Vec<_>>().as_slice() {
            [(outbox, table)] => ((*outbox).clone(), (*table).clone()),
            [] => {
                let error = anyhow!("--from-table: no [outbox] is configured, or none that --table selects");
                return Err(usage(error, "it sends the rows of outbox.table"));
            }
            [_, _, ..] => {
                let error = anyhow!("--from-table: several outboxes are configured");
                return Err(usage(error, "choose one with --table"));
            }
        };
        let filter = settings.source.filters.iter().find(|filter| filter.is(&table.schema, &table.table));
        let rows = Rows { filter: filter.and_then(|filter| filter.rows.clone()), ..rows };
        Ok(Self {
            what: format!("{}.{}", table.schema, table.table),
            events: Events::Table(OutboxTable::new(settings.source.conninfo.clone(), table, outbox.columns.id, rows)),
            scope: Scope::new(Range { from_time: None, to: END, to_time: None }),
            dry_run: overrides.dry_run,
            settings,
        })
    }

    /// Replays until the end, or `shutdown` completes, or it has to stop. It has one span; its events have none, because their
    /// traces ended long ago.
    pub async fn run(self, tracer: &Tracer, shutdown: impl Future<Output = ()>) -> Summary {
        let Self { settings, dry_run, events, scope, what } = self;
        let (begun, at_us) = (Instant::now(), now_us());
        let span = tracer.start("replay".to_owned(), span::Kind::Internal, None);
        let replay = |delivery| Replay { scope, delivery, announce: None };
        let (outcome, resume) = match events {
            Events::Slot { source, start } => {
                let outcome = run(settings, dry_run, source, replay(Delivery::Replayed { at_us }), shutdown).await;
                let settled = outcome.settled.max(start);
                (outcome, Some(settled.to_string()))
            }
            Events::Table(source) => {
                let replay = replay(Delivery::FromTable { at_us });
                let outcome = run(settings, dry_run, source.clone(), replay, shutdown).await;
                let settled = source.settled(outcome.settled);
                (outcome, settled.map(|value| format!("'{}'", value.replace('\'', "'\\''"))))
            }
        };
        if let Some(span) = span {
            end(span, &outcome, &what);
        }
        summary(outcome, dry_run, &what, resume, begun.elapsed())
    }
}

async fn run<S: Source>(
    settings: Settings,
    dry_run: bool,
    source: S,
    replay: Replay,
    shutdown: impl Future<Output = ()>,
) -> Outcome {
    if dry_run {
        let max_message_bytes = settings.rabbitmq.max_message_bytes.unwrap_or(usize::MAX);
        let announce: Option<Announce> = Some(print);
        return pipeline(settings, source, Nowhere { max_message_bytes }, Replay { announce, ..replay }, shutdown)
            .await;
    }
    let broker = RabbitBroker::new(&settings.rabbitmq, &settings.name, topology(&settings));
    pipeline(settings, source, broker, replay, shutdown).await
}

async fn pipeline<S: Source, B: Broker + Clone>(
    settings: Settings,
    source: S,
    broker: B,
    replay: Replay,
    shutdown: impl Future<Output = ()>,
) -> Outcome {
    let store = Arc::new(MemoryStore::default());
    Box::pin(Pipeline::new(settings, source, broker, store, Health::default()).replaying(replay).run_to_end(shutdown))
        .await
}

/// One line of a dry run: what is known of an event, with tabs between.
fn print(event: &Event) -> std::io::Result<()> {
    let mut line = String::new();
    let committed_at = event.committed_at.map(|time| {
        let mut text = Vec::new();
        rfc3339(&mut text, time);
        String::from_utf8_lossy(&text).into_owned()
    });
    let fields = [
        event.headers.all().text("position").unwrap_or("-"),
        committed_at.as_deref().unwrap_or("-"),
        &event.origin,
        &event.message_id,
        &event.exchange,
        &event.routing_key,
    ];
    for field in fields {
        // Values of columns, which may hold anything, must not move the terminal's cursor.
        line.extend(field.chars().map(|character| if character.is_control() { '\u{FFFD}' } else { character }));
        line.push('\t');
    }
    // Writing to a String can't fail.
    let _ = writeln!(line, "{}", event.body.len());
    std::io::stdout().write_all(line.as_bytes())
}

fn end(mut span: Open, outcome: &Outcome, what: &str) {
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    span.set("pgsluice.replay.of", what);
    span.set("pgsluice.replay.transactions", number(outcome.tally.transactions));
    span.set("pgsluice.replay.events", number(outcome.tally.events));
    if !outcome.is_complete || outcome.result.is_err() {
        span.fail("ended early");
    }
    span.end(now_us());
}

/// `resume`: the `--from` with which it goes on from what is settled.
fn summary(outcome: Outcome, dry_run: bool, what: &str, resume: Option<String>, took: Duration) -> Summary {
    let Outcome { result, is_complete, tally: Tally { transactions, events }, confirmed, .. } = outcome;
    let seconds = took.as_secs_f64();
    let done = if dry_run {
        format!("{what}: {events} events of {transactions} transactions would be published")
    } else {
        format!("{what}: {events} events of {transactions} transactions published, {confirmed} confirmed")
    };
    let go_on = resume.map_or_else(|| "nothing is confirmed".to_owned(), |resume| format!("to go on: --from {resume}"));
    let text = match (is_complete, &result) {
        (true, Ok(())) => format!("{done}, in {seconds:.1} s"),
        (false, _) | (_, Err(_)) => format!("ended early: {done}; {go_on}"),
    };
    Summary { text, result }
}

/// Microseconds since 1970.
fn now_us() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_1970.as_micros()).unwrap_or(i64::MAX)
}

fn usage(error: anyhow::Error, hint: &str) -> Definite {
    Definite::new(Kind::Usage, error, hint)
}

fn unreachable(failure: Failure) -> Definite {
    match failure {
        Failure::Definite(definite) => definite,
        Failure::Transient(error) => {
            Definite::new(Kind::Unreachable, error.context("can't reach PostgreSQL"), "check source.url; try again")
        }
    }
}
