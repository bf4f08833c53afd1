//! Tables that are rebuilt from events: the consumer that a user would write, which keeps rows by their key, or by the
//! whole row where there is none, and drops what it has had.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::raw;
use crate::support::Delivery;

/// A row: its columns with their values, all as [`canonical`] writes them.
pub(super) type Row = BTreeMap<String, String>;

/// A table's rows, in any order.
pub(super) type Rows = Vec<Row>;

#[derive(Deserialize)]
struct Event<'a> {
    schema: String,
    table: String,
    op: String,
    key: Vec<String>,
    commit_lsn: String,
    ordinal: u64,
    #[serde(borrow)]
    before: Option<BTreeMap<String, &'a RawValue>>,
    #[serde(borrow)]
    after: Option<BTreeMap<String, &'a RawValue>>,
    unchanged: Vec<String>,
}

/// The tables, by `["schema", "name"]`.
#[derive(Default)]
pub(super) struct Mirror {
    tables: HashMap<String, Table>,
    /// The position of the last event that was new.
    last: Option<(u64, u64)>,
    taken: usize,
    repeated: usize,
    dropped: HashSet<String>,
    /// How many events of each operation.
    ops: BTreeMap<String, usize>,
}

#[derive(Default)]
struct Table {
    rows: HashMap<u64, Row>,
    next: u64,
    index: Option<Index>,
    /// The first event that did not fit.
    trouble: Option<String>,
}

/// The columns by which rows were last looked for, and where they are by their values.
type Index = (Vec<String>, HashMap<Vec<String>, Vec<u64>>);

impl Mirror {
    /// Takes an event, unless it was taken before.
    pub(super) fn take(&mut self, delivery: &Delivery) {
        let text = std::str::from_utf8(&delivery.body).expect("events are UTF-8");
        let event: Event<'_> = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        let lsn: ::pgsluice::lsn::Lsn = event.commit_lsn.parse().expect("an LSN");
        let position = (lsn.0, event.ordinal);
        if self.last >= Some(position) {
            self.repeated += 1;
            return;
        }
        self.last = Some(position);
        self.taken += 1;
        *self.ops.entry(event.op.clone()).or_default() += 1;
        let canonical = |image: Option<BTreeMap<String, &RawValue>>| image.map(canonical_row);
        let (before, after) = (canonical(event.before), canonical(event.after));
        if event.schema == "foreign_test" {
            if let ("log", Some(row)) = (event.table.as_str(), &after) {
                self.ddl(row);
            }
            return;
        }
        let table = self.tables.entry(name(&event.schema, &event.table)).or_default();
        table.apply(&event.op, &event.key, before, after, &event.unchanged, position);
    }

    /// What `track.sql` says.
    fn ddl(&mut self, row: &Row) {
        let name = &row["name"];
        match row["what"].as_str() {
            "dropped" => {
                self.tables.remove(name);
                self.dropped.insert(name.clone());
            }
            "renamed" => {
                let table = self.tables.remove(name).unwrap_or_default();
                self.tables.insert(row["new_name"].clone(), table);
            }
            "rewritten" => {
                let content = &row["content"];
                let rows: Vec<&RawValue> =
                    if content == NULL { Vec::new() } else { serde_json::from_str(content).expect("rows") };
                let mut table = Table::default();
                for row in rows {
                    table.insert(self::row(row.get()));
                }
                self.tables.insert(name.clone(), table);
            }
            other => panic!("{other}"),
        }
    }

    /// Whether an event has said that a table of this name was dropped.
    pub(super) fn has_heard(&self, name: &str) -> bool {
        self.dropped.contains(name)
    }

    /// How many events were new.
    pub(super) fn taken(&self) -> usize {
        self.taken
    }

    /// How many events were not.
    pub(super) fn repeated(&self) -> usize {
        self.repeated
    }

    /// How many events were new, of each operation.
    pub(super) fn ops(&self) -> &BTreeMap<String, usize> {
        &self.ops
    }

    /// What is wrong with a table, if it should have these rows.
    pub(super) fn difference(&self, name: &str, expected: &Rows) -> Option<String> {
        let none = Table::default();
        let table = self.tables.get(name).unwrap_or(&none);
        let sorted = |rows: &mut dyn Iterator<Item = &Row>| {
            let mut rows: Vec<Row> = rows.cloned().collect();
            rows.sort_unstable();
            rows
        };
        let (have, want) = (sorted(&mut table.rows.values()), sorted(&mut expected.iter()));
        if have == want && table.trouble.is_none() {
            return None;
        }
        let at = have.iter().zip(&want).position(|(have, want)| have != want).unwrap_or(have.len().min(want.len()));
        let show = |row: Option<&Row>| format!("{row:?}").chars().take(400).collect::<String>();
        Some(format!(
            "{} rows came for {}; first difference: {} for {}; {}",
            have.len(),
            want.len(),
            show(have.get(at)),
            show(want.get(at)),
            table.trouble.as_deref().unwrap_or("every event fitted")
        ))
    }

    /// Tables with rows that are not among these.
    pub(super) fn others<'a>(&'a self, names: &'a [String]) -> impl Iterator<Item = &'a String> {
        let is_other = move |(name, table): &(&String, &Table)| !table.rows.is_empty() && !names.contains(name);
        self.tables.iter().filter(is_other).map(|(name, _)| name)
    }
}

impl Table {
    fn apply(
        &mut self,
        op: &str,
        key: &[String],
        before: Option<Row>,
        after: Option<Row>,
        unchanged: &[String],
        position: (u64, u64),
    ) {
        match (op, before, after) {
            ("insert", None, Some(after)) => self.insert(after),
            ("update", before, Some(mut after)) => {
                // Without a before, the key is what it was.
                let known = before
                    .unwrap_or_else(|| key.iter().map(|column| (column.clone(), after[column].clone())).collect());
                let Some(old) = self.remove(&known) else { return self.misfit("update", &known, position) };
                for column in unchanged {
                    after.insert(column.clone(), old[column].clone());
                }
                self.insert(after);
            }
            ("delete", Some(before), None) => {
                if self.remove(&before).is_none() {
                    self.misfit("delete", &before, position);
                }
            }
            ("truncate", None, None) => *self = Self { trouble: self.trouble.take(), ..Self::default() },
            (op, ..) => panic!("an {op} at {position:?} with other images than it should have"),
        }
    }

    fn misfit(&mut self, op: &str, row: &Row, position: (u64, u64)) {
        let (lsn, ordinal) = position;
        let text =
            || format!("the {op} at {}:{ordinal} is of a row that is not there: {row:?}", ::pgsluice::lsn::Lsn(lsn));
        self.trouble.get_or_insert_with(text);
    }

    fn insert(&mut self, row: Row) {
        let id = self.next;
        self.next += 1;
        if let Some((columns, index)) = &mut self.index {
            index.entry(values(&row, columns)).or_default().push(id);
        }
        self.rows.insert(id, row);
    }

    /// Takes out one row that has these values.
    fn remove(&mut self, known: &Row) -> Option<Row> {
        let columns: Vec<String> = known.keys().cloned().collect();
        if self.index.as_ref().is_none_or(|(indexed, _)| *indexed != columns) {
            let mut index: HashMap<_, Vec<u64>> = HashMap::new();
            for (id, row) in &self.rows {
                index.entry(values(row, &columns)).or_default().push(*id);
            }
            self.index = Some((columns.clone(), index));
        }
        let (_, index) = self.index.as_mut().expect("was made");
        let id = index.get_mut(&values(known, &columns))?.pop()?;
        self.rows.remove(&id)
    }
}

fn values(row: &Row, columns: &[String]) -> Vec<String> {
    columns.iter().map(|column| row.get(column).cloned().unwrap_or_default()).collect()
}

/// As `track.sql` writes it.
fn name(schema: &str, table: &str) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    format!("[{}, {}]", quoted(schema), quoted(table))
}

/// A row that is written as a JSON object.
pub(super) fn row(json: &str) -> Row {
    canonical_row(serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}")))
}

fn canonical_row(columns: BTreeMap<String, &RawValue>) -> Row {
    columns.into_iter().map(|(column, value)| (column, canonical(value))).collect()
}

const NULL: &str = "\0null";

/// What events and `row_to_json` write differently on purpose: numerics are strings, UTC is `Z`, in arrays and composites
/// too. All else is compared as it is written, to the digit.
fn canonical(value: &RawValue) -> String {
    let text = value.get();
    match text.as_bytes()[0] {
        b'n' => NULL.to_owned(),
        // What `json` may hold and a reader may refuse, a lone surrogate or too deep a nesting, is left as it is written.
        b'"' => serde_json::from_str(text).map_or_else(|_| text.to_owned(), utc),
        b'[' => serde_json::from_str::<Vec<&RawValue>>(text).map_or_else(
            |_| text.to_owned(),
            |elements| format!("{:?}", elements.into_iter().map(canonical).collect::<Vec<_>>()),
        ),
        b'{' => {
            serde_json::from_str(text).map_or_else(|_| text.to_owned(), |fields| format!("{:?}", canonical_row(fields)))
        }
        _ => text.to_owned(),
    }
}

fn utc(text: String) -> String {
    let is_utc =
        text.starts_with(|first: char| first.is_ascii_digit()) && text.contains('T') && text.contains("+00:00");
    if is_utc { text.replacen("+00:00", "Z", 1) } else { text }
}

#[test]
fn a_mirror_tells_what_differs() {
    let rows = |texts: &[&str]| -> Rows { texts.iter().map(|text| row(text)).collect() };
    let mut mirror = Mirror::default();
    let table = mirror.tables.entry(name("s", "t")).or_default();
    table.insert(row(r#"{"a":1.10,"b":"2026-11-21T00:00:00Z"}"#));
    let same = [r#"{"a":"1.10","b":"2026-11-21T00:00:00+00:00"}"#];
    assert_eq!(mirror.difference("[\"s\", \"t\"]", &rows(&same)), None);
    for other in [&[][..], &[r#"{"a":1.1,"b":"2026-11-21T00:00:00Z"}"#], &[same[0], same[0]], &[r#"{"a":null,"b":1}"#]]
    {
        assert!(mirror.difference("[\"s\", \"t\"]", &rows(other)).is_some(), "{other:?}");
    }
    assert_eq!(raw("1").get(), "1");
}
