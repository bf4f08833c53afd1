//! A mixed load: writers that know their own rows, and so which changes each of their statements makes.
//!
//! Small transactions and large ones, some that last; savepoints, some of them undone; rollbacks; inserts, updates,
//! deletes, changes of the key, TRUNCATE; an outbox that is written and cleaned in the same transactions; logical messages,
//! and a table that is not published. A COMMIT that gets no answer is looked up when the server is back.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::pgsluice::lsn::Lsn;
use fastrand::Rng;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::ledger::{Ledger, Op, Statement, Table, Turn};
use crate::support::Database;

const WRITERS: i64 = 5;
/// So many changes may be committed and not yet delivered before the writers wait.
const BACKLOG_MAX: u64 = 40_000;
/// The ids and the changes of a writer begin at its number times this.
const SPACE: i64 = 1_000_000_000_000;
/// A server that does not answer for so long is asked anew.
const PATIENCE: Duration = Duration::from_secs(20);

/// Beyond the tables of the scene. `noise` is not published.
pub(super) fn tables() -> String {
    let scratch = |writer| format!("CREATE TABLE scratch_{writer} (id bigint PRIMARY KEY, change bigint NOT NULL);");
    let tables = "
        CREATE TABLE turns (id bigint, change bigint, PRIMARY KEY (change, id));
        CREATE TABLE plain (id bigint PRIMARY KEY, change bigint NOT NULL, filler text NOT NULL);
        CREATE TABLE wide (id bigint PRIMARY KEY, change bigint NOT NULL, filler text NOT NULL);
        ALTER TABLE wide REPLICA IDENTITY FULL, ALTER COLUMN filler SET STORAGE EXTERNAL;
        CREATE TABLE noise (id bigint);";
    (0..WRITERS).map(scratch).fold(tables.to_owned(), |all, one| all + &one)
}

/// The writers, until they are stopped.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<()>>,
}

impl Load {
    pub(super) fn start(database: &Database, ledger: &Arc<Ledger>, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let writers = (0..WRITERS).map(|number| {
            let session = Session { url: database.url(), client: None };
            let writer = Writer {
                number,
                random: Rng::with_seed(seed.wrapping_add(number.unsigned_abs())),
                turn: 0,
                // Of other tables' rows too, so that a mistake shows.
                next_id: number * SPACE + 1,
                next_change: number * SPACE + 1,
                rows: Rows::default(),
            };
            tokio::spawn(writer.run(session, Arc::clone(ledger), Arc::clone(&stop)))
        });
        Self { writers: writers.collect(), stop }
    }

    /// Returns when what every writer has done is known.
    pub(super) async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers {
            writer.await.expect("a writer of the load");
        }
    }
}

/// A last transaction, by nobody of them.
pub(super) async fn mark_the_end(database: &Database, ledger: &Ledger) {
    database.execute(&format!("INSERT INTO turns VALUES (1, {WRITERS})")).await;
    let marker = Statement { table: Table::Turns, op: Op::Insert, ids: 1..=1, change: WRITERS };
    let turn = Turn { number: 1, statements: vec![marker], commit_lsn: Lsn::ZERO..Lsn(u64::MAX) };
    ledger.commit(usize::try_from(WRITERS).expect("not negative"), turn);
}

/// The rows that a writer has, by ranges of their ids.
#[derive(Debug, Clone, Default)]
struct Rows {
    plain: Vec<RangeInclusive<i64>>,
    wide: Vec<RangeInclusive<i64>>,
    scratch: Vec<RangeInclusive<i64>>,
}

impl Rows {
    fn of(&mut self, table: Table) -> &mut Vec<RangeInclusive<i64>> {
        match table {
            Table::Plain => &mut self.plain,
            Table::Wide => &mut self.wide,
            Table::Scratch => &mut self.scratch,
            Table::Turns | Table::Outbox => unreachable!("nobody changes its rows"),
        }
    }
}

/// A transaction that is to be run.
#[derive(Debug, Default)]
struct Plan {
    sql: Vec<String>,
    /// What is left of it when it is committed.
    statements: Vec<Statement>,
    commit: bool,
    /// Before each step.
    pause: Duration,
}

struct Writer {
    number: i64,
    random: Rng,
    turn: i64,
    next_id: i64,
    next_change: i64,
    rows: Rows,
}

impl Writer {
    async fn run(mut self, mut session: Session, ledger: Arc<Ledger>, stop: Arc<AtomicBool>) {
        while !stop.load(Ordering::Relaxed) {
            if ledger.backlog() > BACKLOG_MAX {
                sleep(Duration::from_millis(50)).await;
                continue;
            }
            let before = self.rows.clone();
            let plan = self.plan();
            let committed = match session.run(&plan).await {
                Outcome::Committed(begin, end) => Some(begin..end),
                Outcome::Undone => None,
                Outcome::Unknown(begin) => session.has(self.number, self.turn).await.then_some(begin..Lsn(u64::MAX)),
            };
            if let Some(commit_lsn) = committed {
                let turn = Turn { number: self.turn, statements: plan.statements, commit_lsn };
                ledger.commit(usize::try_from(self.number).expect("not negative"), turn);
            } else {
                self.rows = before;
                ledger.undo();
            }
        }
    }

    fn plan(&mut self) -> Plan {
        self.turn += 1;
        let (turn, writer) = (self.turn, self.number);
        // Steps, rows in each, pauses.
        let (steps, rows, pause_ms) = match self.random.u8(0..100) {
            0..=1 => (self.random.usize(1..3), self.random.i64(10_000..15_000), 0),
            2..=6 => (self.random.usize(2..6), 20, self.random.u64(50..400)),
            7..=20 => (self.random.usize(1..5), 200, 0),
            _ => (self.random.usize(1..6), 5, 0),
        };
        let commit = self.random.u8(0..100) < 85;
        let mut plan = Plan { commit, pause: Duration::from_millis(pause_ms), ..Plan::default() };
        plan.sql.push("BEGIN".into());
        plan.sql.push(format!("INSERT INTO turns VALUES ({turn}, {writer})"));
        plan.statements.push(Statement { table: Table::Turns, op: Op::Insert, ids: turn..=turn, change: writer });
        for _ in 0..steps {
            if self.random.u8(0..4) == 0 { self.savepoint(&mut plan, rows) } else { self.step(&mut plan, rows) }
        }
        plan
    }

    fn savepoint(&mut self, plan: &mut Plan, rows: i64) {
        let before = (self.rows.clone(), plan.statements.len());
        plan.sql.push("SAVEPOINT s".into());
        for _ in 0..self.random.usize(1..4) {
            if self.random.u8(0..6) == 0 { self.savepoint(plan, rows) } else { self.step(plan, rows) }
        }
        if self.random.bool() {
            plan.sql.push("RELEASE s".into());
        } else {
            // It stays, below the one that an outer level has made.
            plan.sql.push("ROLLBACK TO s; RELEASE s".into());
            self.rows = before.0;
            plan.statements.truncate(before.1);
        }
    }

    fn step(&mut self, plan: &mut Plan, rows: i64) {
        let count = self.random.i64(1..=rows);
        match self.random.u8(0..100) {
            0..=29 => self.insert(plan, Table::Plain, "'x' || i", count),
            30..=34 => self.insert(plan, Table::Wide, "repeat(md5(i::text), 160)", count.min(3)),
            35..=51 => self.update(plan, Table::Plain),
            52..=56 => self.update(plan, Table::Wide),
            57..=66 => self.delete(plan, Table::Plain),
            67..=68 => self.delete(plan, Table::Wide),
            69..=74 => self.change_key(plan),
            75..=84 => self.outbox(plan, count),
            85..=86 => plan.sql.push(format!("DELETE FROM outbox WHERE aggregateid = '{}'", self.number)),
            87..=91 => self.insert(plan, Table::Scratch, "", count),
            92..=94 => self.truncate(plan),
            95..=97 => plan.sql.push(format!("INSERT INTO noise SELECT * FROM generate_series(1, {count})")),
            _ => plan.sql.push("SELECT pg_logical_emit_message(true, 'note', 'nobody listens')".into()),
        }
    }

    fn name(&self, table: Table) -> String {
        match table {
            Table::Turns => "turns".into(),
            Table::Plain => "plain".into(),
            Table::Wide => "wide".into(),
            Table::Outbox => "outbox".into(),
            Table::Scratch => format!("scratch_{}", self.number),
        }
    }

    /// Ids that were never used, and a number for the statement.
    fn fresh(&mut self, count: i64) -> (RangeInclusive<i64>, i64) {
        let first = self.next_id;
        self.next_id += count;
        self.next_change += 1;
        (first..=first + count - 1, self.next_change)
    }

    fn insert(&mut self, plan: &mut Plan, table: Table, filler: &str, count: i64) {
        let (ids, change) = self.fresh(count);
        let (name, first, last) = (self.name(table), ids.start(), ids.end());
        let comma = if filler.is_empty() { "" } else { ", " };
        let rows = format!("FROM generate_series({first}::bigint, {last}) i");
        plan.sql.push(format!("INSERT INTO {name} SELECT i, {change}{comma}{filler} {rows}"));
        self.rows.of(table).push(ids.clone());
        plan.statements.push(Statement { table, op: Op::Insert, ids, change });
    }

    fn update(&mut self, plan: &mut Plan, table: Table) {
        let Some(range) = self.random.choice(self.rows.of(table).clone()) else { return };
        let first = self.random.i64(range.clone());
        let ids = first..=self.random.i64(first..=*range.end());
        let (_, change) = self.fresh(0);
        let name = self.name(table);
        plan.sql.push(format!("UPDATE {name} SET change = {change} WHERE id BETWEEN {first} AND {}", ids.end()));
        plan.statements.push(Statement { table, op: Op::Update, ids, change });
    }

    /// The end of a range.
    fn delete(&mut self, plan: &mut Plan, table: Table) {
        let Some(range) = self.take(table) else { return };
        let first = self.random.i64(range.clone());
        let ids = first..=*range.end();
        if *range.start() < first {
            self.rows.of(table).push(*range.start()..=first - 1);
        }
        let name = self.name(table);
        plan.sql.push(format!("DELETE FROM {name} WHERE id BETWEEN {first} AND {}", ids.end()));
        plan.statements.push(Statement { table, op: Op::Delete, ids, change: 0 });
    }

    fn change_key(&mut self, plan: &mut Plan) {
        let Some(range) = self.take(Table::Plain) else { return };
        let (first, last) = (*range.start(), *range.end());
        let (ids, change) = self.fresh(last - first + 1);
        let by = ids.start() - first;
        let sql = format!("UPDATE plain SET id = id + {by}, change = {change} WHERE id BETWEEN {first} AND {last}");
        plan.sql.push(sql);
        self.rows.plain.push(ids.clone());
        plan.statements.push(Statement { table: Table::Plain, op: Op::Update, ids, change });
    }

    fn outbox(&mut self, plan: &mut Plan, count: i64) {
        let (ids, change) = self.fresh(count.min(50));
        let (writer, first, last) = (self.number, ids.start(), ids.end());
        plan.sql.push(format!(
            "INSERT INTO outbox (aggregatetype, aggregateid, type, payload)
             SELECT 'order', '{writer}', 'Placed', jsonb_build_object('id', i, 'change', {change})
             FROM generate_series({first}::bigint, {last}) i"
        ));
        plan.statements.push(Statement { table: Table::Outbox, op: Op::Insert, ids, change });
    }

    fn truncate(&mut self, plan: &mut Plan) {
        plan.sql.push(format!("TRUNCATE {}", self.name(Table::Scratch)));
        self.rows.scratch.clear();
        let ids = self.number..=self.number;
        plan.statements.push(Statement { table: Table::Scratch, op: Op::Truncate, ids, change: 0 });
    }

    /// A range of rows that the writer has no more.
    fn take(&mut self, table: Table) -> Option<RangeInclusive<i64>> {
        let ranges = self.rows.of(table);
        (!ranges.is_empty()).then(|| ranges.swap_remove(self.random.usize(..ranges.len())))
    }
}

/// What became of a transaction.
enum Outcome {
    /// Its commit record lies between.
    Committed(Lsn, Lsn),
    Undone,
    /// COMMIT had no answer; its record would lie after this.
    Unknown(Lsn),
}

/// A connection to the server, while it is there.
struct Session {
    url: String,
    client: Option<Client>,
}

impl Session {
    async fn run(&mut self, plan: &Plan) -> Outcome {
        let Some(client) = self.client().await else { return Outcome::Undone };
        let changes = async {
            let mut last = None;
            let where_it_is = ["SELECT pg_current_wal_insert_lsn()".to_owned()];
            if plan.pause.is_zero() {
                last = lsn(&client.simple_query(&[&plan.sql[..], &where_it_is].concat().join("; ")).await?);
            } else {
                for sql in plan.sql.iter().chain(&where_it_is) {
                    sleep(plan.pause).await;
                    last = lsn(&client.simple_query(sql).await?);
                }
            }
            Ok::<_, tokio_postgres::Error>(last)
        };
        let begin = match changes.await {
            Ok(lsn) => lsn.expect("an LSN"),
            Err(error) => {
                self.lost(&error);
                return Outcome::Undone;
            }
        };
        if !plan.commit {
            let _ = client.simple_query("ROLLBACK").await;
            return Outcome::Undone;
        }
        if let Err(error) = client.simple_query("COMMIT").await {
            self.lost(&error);
            return Outcome::Unknown(begin);
        }
        let end = client.simple_query("SELECT pg_current_wal_insert_lsn()").await;
        Outcome::Committed(begin, end.ok().and_then(|rows| lsn(&rows)).unwrap_or(Lsn(u64::MAX)))
    }

    /// Whether the transaction was committed.
    async fn has(&mut self, writer: i64, turn: i64) -> bool {
        let sql = format!("SELECT count(*) FROM turns WHERE id = {turn} AND change = {writer}");
        loop {
            let Some(client) = self.client().await else { continue };
            match client.simple_query(&sql).await {
                Ok(rows) => return first(&rows) == Some("1"),
                Err(error) => self.lost(&error),
            }
        }
    }

    /// None when the server is away; only after a while, so that it may be asked again at once.
    async fn client(&mut self) -> Option<&Client> {
        if self.client.as_ref().is_none_or(Client::is_closed) {
            self.client = None;
            let connecting = timeout(PATIENCE, tokio_postgres::connect(&self.url, NoTls));
            if let Ok(Ok((client, connection))) = connecting.await {
                tokio::spawn(connection);
                self.client = Some(client);
            } else {
                sleep(Duration::from_millis(100)).await;
            }
        }
        self.client.as_ref()
    }

    /// Only a server that goes away may fail a statement.
    fn lost(&mut self, error: &tokio_postgres::Error) {
        let class = error.code().map(|code| code.code()[..2].to_owned());
        // Shutdown, crash of another backend, still starting.
        assert!(matches!(class.as_deref(), None | Some("57")), "{error}: {:?}", error.as_db_error());
        self.client = None;
    }
}

fn first(messages: &[SimpleQueryMessage]) -> Option<&str> {
    messages.iter().rev().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    })
}

fn lsn(messages: &[SimpleQueryMessage]) -> Option<Lsn> {
    first(messages)?.parse().ok()
}
