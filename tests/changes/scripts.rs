//! Scripts that a seed writes: rows and alterations of tables in any order, in transactions and savepoints of which some are
//! rolled back, read at once or later. Every event is what the judge noted.

use super::{ALL, Changes};
use crate::support::{SOON, eventually};

/// A value of a column, by its type; some are stored elsewhere.
const VALUES: [(&str, &[&str]); 4] = [
    ("int", &["NULL", "0", "-7", "2147483647"]),
    ("text", &["NULL", "''", "'x'", "'größe'", "(SELECT string_agg(md5(n::text), '') FROM generate_series(1, 100) n)"]),
    ("bool", &["NULL", "true", "false"]),
    ("bigint", &["NULL", "1", "9007199254740993"]),
];

#[derive(Debug, Clone)]
struct Table {
    name: String,
    /// Name, and index into [`VALUES`]; `id` comes before them.
    columns: Vec<(String, usize)>,
    is_full: bool,
}

#[derive(Debug, Clone)]
struct Script {
    tables: Vec<Table>,
    /// Counts names and ids up.
    next: usize,
}

fn one<'a, T>(random: &mut fastrand::Rng, all: &'a [T]) -> &'a T {
    &all[random.usize(..all.len())]
}

impl Script {
    fn new() -> (Self, String) {
        let mut script = Self { tables: Vec::new(), next: 0 };
        let setup = (0..3).map(|_| script.create()).collect();
        (script, setup)
    }

    fn name(&mut self, what: &str) -> String {
        self.next += 1;
        format!("{what}{}", self.next)
    }

    fn create(&mut self) -> String {
        let table = Table { name: self.name("t"), columns: vec![("a".into(), 0), ("b".into(), 1)], is_full: false };
        let sql = format!("CREATE TABLE {} (id int PRIMARY KEY, a int, b text);", table.name);
        self.tables.push(table);
        sql
    }

    /// The next statement, and what the tables are after it.
    fn statement(&mut self, random: &mut fastrand::Rng) -> String {
        if random.u8(..4) == 0 { self.alter(random) } else { self.write(random) }
    }

    fn write(&mut self, random: &mut fastrand::Rng) -> String {
        self.next += 1;
        let (id, table) = (self.next, one(random, &self.tables));
        let name = &table.name;
        let values: Vec<_> =
            table.columns.iter().map(|(column, kind)| (column, *one(random, VALUES[*kind].1))).collect();
        let some = |random: &mut fastrand::Rng| ["true", "id % 2 = 0", "id % 3 = 1"][random.usize(..3)];
        match random.u8(..10) {
            0..5 => {
                let join = |all: Vec<&str>| all.iter().flat_map(|one| [", ", one]).collect::<String>();
                let columns = join(values.iter().map(|(column, _)| column.as_str()).collect());
                let values = join(values.iter().map(|(_, value)| *value).collect());
                format!("INSERT INTO {name} (id{columns}) VALUES ({id}{values})")
            }
            5..8 if !values.is_empty() => {
                let (column, value) = one(random, &values);
                format!("UPDATE {name} SET {column} = {value} WHERE {}", some(random))
            }
            8 if random.u8(..3) == 0 => {
                self.next += 1_000;
                // So much that it does not wait for its commit where it need not.
                format!("INSERT INTO {name} (id) SELECT {id} + n FROM generate_series(1, 400) n")
            }
            5..9 => format!("UPDATE {name} SET id = -id WHERE {}", some(random)),
            _ if random.bool() => format!("DELETE FROM {name} WHERE {}", some(random)),
            _ => format!("DELETE FROM {name} WHERE id % 5 = 0"),
        }
    }

    fn alter(&mut self, random: &mut fastrand::Rng) -> String {
        let at = random.usize(..self.tables.len());
        let (column, new) = (self.name("c"), self.name("t"));
        let table = &mut self.tables[at];
        let name = table.name.clone();
        let chosen = random.usize(..table.columns.len().max(1));
        let has_column = chosen < table.columns.len();
        match random.u8(..10) {
            0 | 1 => {
                let kind = random.usize(..VALUES.len());
                let (kind_name, values) = VALUES[kind];
                table.columns.push((column.clone(), kind));
                let default = if random.bool() { format!(" DEFAULT {}", values[1]) } else { String::new() };
                format!("ALTER TABLE {name} ADD {column} {kind_name}{default}")
            }
            2 if has_column => {
                let (gone, _) = table.columns.remove(chosen);
                format!("ALTER TABLE {name} DROP {gone}")
            }
            3 if has_column => {
                let old = std::mem::replace(&mut table.columns[chosen].0, column.clone());
                format!("ALTER TABLE {name} RENAME {old} TO {column}")
            }
            4 if has_column => {
                // What was a column's default may not be one of the new type.
                let (column, kind) = &mut table.columns[chosen];
                *kind = 1;
                format!(
                    "ALTER TABLE {name} ALTER {column} DROP DEFAULT, ALTER {column} TYPE text USING {column}::text || '!'"
                )
            }
            5 => {
                table.name.clone_from(&new);
                format!("ALTER TABLE {name} RENAME TO {new}")
            }
            6 => {
                table.is_full = !table.is_full;
                format!("ALTER TABLE {name} REPLICA IDENTITY {}", if table.is_full { "FULL" } else { "DEFAULT" })
            }
            7 => {
                // Under the name of one that is gone.
                *table = Table { name: name.clone(), columns: vec![("b".into(), 2)], is_full: false };
                format!("DROP TABLE {name}; CREATE TABLE {name} (b bool, id int PRIMARY KEY)")
            }
            8 => format!("TRUNCATE {name}"),
            _ => format!("ALTER TABLE {name} ALTER id TYPE bigint; ALTER TABLE {name} ALTER id TYPE int"),
        }
    }

    /// Some transactions.
    fn piece(&mut self, random: &mut fastrand::Rng) -> String {
        let mut statements = Vec::new();
        for _ in 0..random.usize(1..6) {
            let before = self.clone();
            let within = random.u8(..4) > 0;
            statements.extend(within.then(|| "BEGIN".to_owned()));
            for _ in 0..random.usize(1..8) {
                statements.push(self.statement(random));
                if within && random.u8(..5) == 0 {
                    let (before, undone) = (self.clone(), random.bool());
                    statements.push("SAVEPOINT s".to_owned());
                    statements.extend((0..random.usize(1..5)).map(|_| self.statement(random)));
                    statements.push(if undone { "ROLLBACK TO s" } else { "RELEASE s" }.to_owned());
                    if undone {
                        // Names and ids are not used twice.
                        *self = Self { next: self.next, ..before };
                    }
                }
            }
            if within && random.u8(..5) == 0 {
                statements.push("ROLLBACK".to_owned());
                *self = Self { next: self.next, ..before };
            } else if within {
                statements.push("COMMIT".to_owned());
            }
        }
        statements.join(";")
    }
}

#[tokio::test]
async fn whatever_a_seed_does_to_tables_each_event_fits_its_place() {
    play("").await;
}

#[tokio::test]
async fn so_it_does_when_it_is_streamed_before_its_commit() {
    let changes = play("streaming = true\n").await;
    let slot = changes.database.name();
    let streamed = format!("SELECT stream_txns > 0 FROM pg_stat_replication_slots WHERE slot_name = '{slot}'");
    eventually("it was streamed", SOON, async || (changes.database.query_one(&streamed).await == "t").then_some(()))
        .await;
}

#[tokio::test]
async fn so_it_does_in_binary_form() {
    let changes = play("binary = true\n").await;
    let log = changes.process.stderr();
    assert!(!log.contains("as with source.binary = false"), "{log}");
}

async fn play(source: &str) -> Changes {
    let seed = std::env::var("CHANGES_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().expect("a number"));
    println!("CHANGES_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut script, setup) = Script::new();
    let mut changes = Changes::with(source, &format!("{ALL}{setup}")).await;
    let mut events = 0;
    for _ in 0..25 {
        let piece = script.piece(&mut random);
        println!("{piece};\n");
        if random.u8(..5) == 0 {
            changes.behind_its_back(&piece).await;
        } else {
            changes.run(&piece).await;
        }
        events += changes.judged().await.len();
    }
    assert!(events > 100, "{events}");
    changes
}
