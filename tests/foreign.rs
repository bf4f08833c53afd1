//! SQL that we did not write: every table is rebuilt from nothing but the events, and held against the table itself.
//!
//! The tables are PostgreSQL's own regression suite's, and `pgbench`'s. Everything is streamed while it is applied, and
//! pgsluice is killed a few times meanwhile. `track.sql` makes DDL known among the events; [`mirror`] takes them.

mod mirror;
mod pgbench;
mod regression;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use mirror::{Mirror, Rows};
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use crate::support::{Database, Process, SOON, Vhost, folder, pgsluice, rabbitmq};

/// How long without an event, while something must come.
const PATIENCE: Duration = Duration::from_mins(2);
/// The name of a table that does not exist, whose drop is the last event.
const END: &str = "[\"foreign_test\", \"the end\"]";

/// A database whose every change is published, and a queue that gets all of it.
struct Theatre {
    database: Database,
    vhost: Vhost,
    process: Process,
    mirror: Mirror,
}

/// A client program of PostgreSQL's, from the server's own folder, on this database.
fn program(name: &str, database: &Database) -> Command {
    let pgbin = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/lib/pgbin");
    let bin = Command::new(pgbin).output().expect("run pgbin").stdout;
    let bin = PathBuf::from(String::from_utf8(bin).expect("a path").trim());
    let mut command = Command::new(bin.join(name));
    for (variable, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
        command.env_remove(variable);
    }
    command.env("PGHOST", "127.0.0.1").env("PGPORT", database.port().to_string()).env("PGUSER", "postgres");
    command.env("PGDATABASE", database.name());
    command
}

impl Theatre {
    /// Streams `tables` through `publication`, which may exist already.
    async fn open(database: Database, publication: &str) -> Self {
        let vhost = rabbitmq().vhost();
        vhost.queue_on("all", "foreign.changes").await;
        let checkpoint = folder("foreign").join("checkpoint");
        let config = format!(
            "name = \"foreign\"\n\
             [source]\nurl = \"{}\"\ntables = [\"*.*\"]\nslot = \"{}\"\npublication = \"{publication}\"\n\
             [checkpoint]\npath = \"{}\"\n\
             [rabbitmq]\nurl = \"{}\"\n",
            database.url(),
            database.name(),
            checkpoint.display(),
            vhost.url()
        );
        let process = pgsluice(&config);
        process.wait_for_log("streaming from PostgreSQL", SOON).await;
        Self { database, vhost, process, mirror: Mirror::default() }
    }

    /// Takes events while `work` goes on in a thread of its own, and after it up to the end. Kills pgsluice so many times
    /// during the work.
    async fn play(&mut self, kills: usize, work: impl FnOnce() + Send + 'static) {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let (ended, mut end) = oneshot::channel();
        let worker = std::thread::spawn(move || {
            work();
            let _ = ended.send(());
        });
        let mut consumer = self.vhost.consumer("all").await;
        let mut next_kill = random.usize(1..5000);
        let mut kills_left = kills;
        let mut is_over = false;
        let mut look = tokio::time::interval(Duration::from_secs(1));
        while !self.mirror.has_heard(END) {
            let mut next = std::pin::pin!(consumer.next(PATIENCE));
            let delivery = loop {
                tokio::select! { biased;
                    _ = &mut end, if !is_over => {
                        is_over = true;
                        let last = format!("INSERT INTO foreign_test.log (what, name) VALUES ('dropped', '{END}')");
                        self.database.execute(&last).await;
                    }
                    delivery = &mut next => break delivery,
                    _ = look.tick() => self.runs().await,
                }
            };
            self.mirror.take(&delivery);
            if kills_left > 0 && self.mirror.taken() >= next_kill {
                self.process.restart();
                kills_left -= 1;
                next_kill += random.usize(1..20_000);
            }
        }
        worker.join().expect("the work is done");
        assert_eq!(kills_left, 0, "there was too little to do for all the kills");
    }

    /// A start just when a partitioned table is there and its first partition is not is refused: under which name the
    /// rows will come can't be told. Some scripts leave such tables for good; there is no row in them.
    async fn runs(&mut self) {
        if !self.process.runs() {
            let said = self.process.stderr();
            let refused = said
                .split_once("does not send ")
                .and_then(|(_, rest)| rest.split_once(" under the name that is selected"));
            let (tables, _) = refused.expect("pgsluice has ended");
            let client = self.database.client().await;
            for table in tables.split(", ") {
                // A script may be quicker.
                client.batch_execute(&format!("DROP TABLE IF EXISTS {table}")).await.ok();
            }
            self.process.restart();
        }
    }

    /// Every table as it is must be as the events tell; `excused` are those of which DDL says nothing to us. How many
    /// tables and rows were compared.
    async fn compare(&self, excused: &[&str]) -> (usize, usize) {
        let client = self.database.client().await;
        let pinned = "SET search_path = ''; SET DateStyle = ISO; SET IntervalStyle = iso_8601; SET TimeZone = UTC; \
                      SET extra_float_digits = 1; SET bytea_output = hex; SET lc_monetary = 'C'";
        client.batch_execute(pinned).await.expect("pin the settings");
        let tables = "SELECT name, foreign_test.query_of(oid) FROM foreign_test.present ORDER BY name";
        let tables = client.query(tables, &[]).await.expect("the tables");
        let (mut compared, mut wrong) = ((0, 0), Vec::new());
        for table in &tables {
            let (name, query): (String, Option<String>) = (table.get(0), table.get(1));
            let Some(query) = query else { continue };
            let rows = client.query(&query, &[]).await.unwrap_or_else(|error| panic!("{error:?}: {query}"));
            let rows: Rows = rows.iter().map(|row| mirror::row(row.get::<_, &str>(0))).collect();
            let difference = self.mirror.difference(&name, &rows);
            match difference {
                Some(_) if excused.contains(&name.as_str()) => {}
                Some(difference) => wrong.push(format!("{name}: {difference}")),
                None => compared = (compared.0 + 1, compared.1 + rows.len()),
            }
        }
        let names: Vec<String> = tables.iter().map(|table| table.get(0)).collect();
        wrong.extend(
            self.mirror.others(&names).map(|name| format!("{name}: is not there any more, and no event said so")),
        );
        assert!(wrong.is_empty(), "{} of {} tables differ:\n{}", wrong.len(), tables.len(), wrong.join("\n"));
        compared
    }
}

/// The value of a field, as it is written.
fn raw(text: &str) -> &RawValue {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}
