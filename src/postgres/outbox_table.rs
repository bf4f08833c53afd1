//! The rows that are still in the outbox table, as a stream of their insertions.
//!
//! For a replay from further back than the WAL goes. `COPY` writes the same text as pgoutput does, under the same pinned
//! settings, and one row at a time; so it is put into pgoutput's messages, and goes the way of every change. Row `n`, from
//! 1, is a transaction of its own at the LSN `n`, which exists here only: nothing of it is told to a server or published
//! (`encode::Delivery::FromTable`), and what comes back in a report says which rows are settled.
//! Formats: PostgreSQL documentation, "Logical Replication Message Formats", and the text format of `COPY`.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::anyhow;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::StreamExt as _;
use tokio_postgres::{Client, CopyOutStream};

use super::filters;
use super::ident::{quote_ident, quote_literal, quote_qualified};
use super::preflight::sql_failure;
use super::sql;
use super::types::{FIRST_UNKNOWN, Types, describe};
use crate::checkpoint::{Checkpoint, DurableLsn};
use crate::config::OutboxTableSettings;
use crate::failure::{Definite, Failure, Kind, within};
use crate::lsn::Lsn;
use crate::postgres::conninfo::Conninfo;
use crate::source::{Batch, ChangeStream, Opened, Resume, Source, Status};

/// Where the stream ends: after every row.
pub const END: Lsn = Lsn(u64::MAX);
/// A server that takes longer to begin is in trouble. Sorting many rows is part of it.
const BEGIN_LIMIT: Duration = Duration::from_mins(30);
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// Which rows, and in which order.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    /// The column; the id's unless set. Rows that are equal in it are in the order of their ids.
    pub order_by: Option<String>,
    /// No lower values of that column.
    pub from: Option<String>,
    /// No higher values of that column.
    pub to: Option<String>,
    /// The row filter of the table, as the configuration has it: a row that was no event does not become one.
    pub filter: Option<String>,
}

/// The outbox table of one pipeline.
#[derive(Debug, Clone)]
pub struct OutboxTable(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    conninfo: Conninfo,
    outbox: OutboxTableSettings,
    /// The id's column.
    id: String,
    rows: Rows,
    unsettled: Arc<Mutex<Unsettled>>,
}

/// The rows that were read and are not known to be settled, and the last one that is: number and value of the order's
/// column.
type Unsettled = VecDeque<(u64, String)>;

impl OutboxTable {
    /// These rows of it, which `id` names. Connects to nothing yet.
    #[must_use]
    pub fn new(conninfo: Conninfo, outbox: OutboxTableSettings, id: String, rows: Rows) -> Self {
        Self(Arc::new(Inner { conninfo, outbox, id, rows, unsettled: Arc::default() }))
    }

    /// The value, in the order's column, of the last row at or below `settled`; none when there is none.
    #[must_use]
    pub fn settled(&self, settled: Lsn) -> Option<String> {
        lock(&self.0.unsettled).iter().take_while(|(row, _)| *row <= settled.0).last().map(|(_, value)| value.clone())
    }
}

fn lock(unsettled: &Mutex<Unsettled>) -> MutexGuard<'_, Unsettled> {
    unsettled.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Source for OutboxTable {
    type Stream = TableStream;

    fn open(&self, _: Resume) -> impl Future<Output = Result<Opened<TableStream>, Failure>> + Send + 'static {
        let inner = Arc::clone(&self.0);
        async move { within(BEGIN_LIMIT, "reading the outbox table", inner.open()).await }
    }
}

/// A column, as pgoutput describes it.
struct Column {
    name: String,
    type_oid: u32,
    type_modifier: i32,
}

impl Inner {
    async fn open(&self) -> Result<Opened<TableStream>, Failure> {
        let OutboxTableSettings { schema, table, .. } = &self.outbox;
        let doing = "reading the outbox table";
        let failed = |error: tokio_postgres::Error| sql_failure(doing, &error);
        let client = sql::connect(&self.conninfo).await?;
        // A policy that hides rows must not hide them silently; and for how long it takes, the broker decides.
        let settings = "SET row_security = off; SET statement_timeout = 0; SET standard_conforming_strings = on";
        client.batch_execute(settings).await.map_err(failed)?;
        let columns = columns(&client, schema, table).await?;
        let column = |name: &str| columns.iter().position(|column| column.name == name);
        let missing = |name: &str| {
            let have: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
            let error = anyhow!("the table {schema}.{table} has no column \"{name}\"");
            let hint = match have.as_slice() {
                [] => "it does not exist, or this role may not see it: see outbox.table".to_owned(),
                have => format!("it has {}", have.join(", ")),
            };
            Failure::definite(Kind::Source, error, hint)
        };
        let order_by = self.rows.order_by.as_ref().unwrap_or(&self.id);
        let id = column(&self.id).ok_or_else(|| missing(&self.id))?;
        let order = column(order_by).ok_or_else(|| missing(order_by))?;
        if columns[order].type_oid == UUID {
            tracing::warn!(column = order_by, "the rows come in the order of their UUIDs: see --order-by");
        }
        let oids: Vec<u32> = columns.iter().map(|column| column.type_oid).filter(|oid| *oid >= FIRST_UNKNOWN).collect();
        let types = Types::of(describe(&client, &oids).await?);
        let copy = client.copy_out(&self.statement(&columns, order_by)).await.map_err(failed)?;
        let stream = TableStream {
            _client: client,
            copy: Box::pin(copy),
            lines: BytesMut::new(),
            relation: Some((relation(schema, table, &columns), Arc::new(types))),
            id,
            order,
            row: 0,
            over: false,
            unsettled: Arc::clone(&self.unsettled),
        };
        let start = nowhere(&format!("{schema}.{table}"));
        Ok(Opened { stream, start, selected: Vec::new(), report_every: REPORT_EVERY })
    }

    fn statement(&self, columns: &[Column], order_by: &str) -> String {
        let OutboxTableSettings { schema, table, .. } = &self.outbox;
        let (table, order_by, id) = (quote_qualified(schema, table), quote_ident(order_by), quote_ident(&self.id));
        let names: Vec<String> = columns.iter().map(|column| quote_ident(&column.name)).collect();
        let bounds = [(">=", &self.rows.from), ("<=", &self.rows.to)];
        let bound = |(operator, value): (&str, &Option<String>)| {
            value.as_ref().map(|value| format!("{order_by} {operator} {}", quote_literal(value)))
        };
        let filter = self.rows.filter.as_deref().map(filters::condition);
        let bounds: Vec<String> = bounds.into_iter().filter_map(bound).chain(filter).collect();
        let condition = if bounds.is_empty() { "true".to_owned() } else { bounds.join(" AND ") };
        let names = names.join(", ");
        format!("COPY (SELECT {names} FROM {table} WHERE {condition} ORDER BY {order_by}, {id}) TO STDOUT")
    }
}

/// `pg_type.oid` of `uuid`.
const UUID: u32 = 2950;

/// What the stream would describe, and the stored generated columns, which it has from PostgreSQL 18 on.
async fn columns(client: &Client, schema: &str, table: &str) -> Result<Vec<Column>, Failure> {
    let failed = |error: tokio_postgres::Error| sql_failure("reading the outbox table's columns", &error);
    let sql = "SELECT attname, atttypid, atttypmod FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid \
               JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE nspname = $1 AND relname = $2 AND attnum > 0 AND NOT attisdropped AND attgenerated <> 'v' \
               ORDER BY attnum";
    let rows = client.query(sql, &[&schema, &table]).await.map_err(failed)?;
    let column = |row: &tokio_postgres::Row| {
        Ok(Column { name: row.try_get(0)?, type_oid: row.try_get(1)?, type_modifier: row.try_get(2)? })
    };
    rows.iter().map(column).collect::<Result<_, _>>().map_err(failed)
}

/// There is no server's position to go on from.
fn nowhere(table: &str) -> Checkpoint {
    Checkpoint {
        system_identifier: 0,
        timeline: 0,
        slot: table.to_owned(),
        publication: String::new(),
        flushed: Lsn::ZERO,
        position: None,
        retained: Vec::new(),
    }
}

/// The rows, one after the other.
pub struct TableStream {
    /// It ends the session when it is dropped.
    _client: Client,
    copy: Pin<Box<CopyOutStream>>,
    /// What was read of the row that is not complete.
    lines: BytesMut,
    /// To be sent ahead of the first row, and what its types are made of.
    relation: Option<(Bytes, Arc<Types>)>,
    /// The columns' indexes.
    id: usize,
    order: usize,
    /// The last that was read.
    row: u64,
    over: bool,
    unsettled: Arc<Mutex<Unsettled>>,
}

impl ChangeStream for TableStream {
    async fn next(&mut self) -> Result<Batch, Failure> {
        loop {
            if let Some(end) = self.lines.iter().position(|byte| *byte == b'\n') {
                let line = self.lines.split_to(end + 1);
                return Ok(self.transaction(&line[..end])?);
            }
            if self.over {
                return std::future::pending().await;
            }
            // The only wait. What it read is in `lines`, so that dropping the future loses nothing.
            match self.copy.next().await {
                Some(Ok(bytes)) => self.lines.extend_from_slice(&bytes),
                Some(Err(error)) => return Err(broken(&error).into()),
                None => {
                    self.over = true;
                    let mut frames = BytesMut::new();
                    frame(&mut frames, |out| {
                        out.put_u8(b'k');
                        out.put_u64(END.0);
                        out.put_slice(&[0; 9]);
                    });
                    return Ok(Batch::new(frames.freeze()));
                }
            }
        }
    }

    async fn report(&mut self, status: Status) -> Result<(), Failure> {
        let settled = status.flushed.map_or(0, |flushed: DurableLsn| flushed.lsn().0);
        let mut unsettled = lock(&self.unsettled);
        while unsettled.get(1).is_some_and(|(row, _)| *row <= settled) {
            unsettled.pop_front();
        }
        Ok(())
    }
}

impl TableStream {
    /// Begin, (the relation,) the insertion, commit.
    fn transaction(&mut self, line: &[u8]) -> Result<Batch, Definite> {
        let values: Vec<Option<Vec<u8>>> = line.split(|byte| *byte == b'\t').map(unescaped).collect();
        self.row += 1;
        let row = self.row;
        if values.get(self.id).is_none_or(Option::is_none) {
            let error = anyhow!("row {row} of the outbox has no id, so that nothing names its event");
            return Err(Definite::new(Kind::Event, error, "leave it out with --from and --to"));
        }
        let order = values.get(self.order).cloned().flatten().unwrap_or_default();
        lock(&self.unsettled).push_back((row, String::from_utf8_lossy(&order).into_owned()));
        let mut frames = BytesMut::with_capacity(line.len() + 256);
        message(&mut frames, row, |out| {
            out.put_u8(b'B');
            out.put_u64(row);
            out.put_slice(&[0; 12]);
        });
        let described = self.relation.take();
        if let Some((relation, _)) = &described {
            message(&mut frames, row, |out| out.put_slice(relation));
        }
        message(&mut frames, row, |out| insertion(out, &values));
        message(&mut frames, row, |out| {
            out.put_slice(b"C\0");
            out.put_u64(row);
            out.put_u64(row);
            out.put_slice(&[0; 8]);
        });
        let batch = Batch::new(frames.freeze());
        Ok(match described {
            Some((_, types)) => batch.with_types(types),
            None => batch,
        })
    }
}

/// Nothing of it can be read again: the next reading would be of another snapshot.
fn broken(error: &tokio_postgres::Error) -> Definite {
    match sql_failure("reading the outbox table", error) {
        Failure::Definite(definite) => definite,
        Failure::Transient(error) => Definite::new(Kind::Unreachable, error, "start it again"),
    }
}

/// The table has at most 1,600 columns.
fn count(columns: usize) -> u16 {
    u16::try_from(columns).unwrap_or(u16::MAX)
}

fn relation(schema: &str, table: &str, columns: &[Column]) -> Bytes {
    let mut out = BytesMut::new();
    let text = |out: &mut BytesMut, text: &str| {
        out.put_slice(text.as_bytes());
        out.put_u8(0);
    };
    out.put_u8(b'R');
    out.put_u32(1);
    text(&mut out, schema);
    text(&mut out, table);
    out.put_u8(b'd');
    out.put_u16(count(columns.len()));
    for column in columns {
        out.put_u8(0);
        text(&mut out, &column.name);
        out.put_u32(column.type_oid);
        out.put_i32(column.type_modifier);
    }
    out.freeze()
}

fn insertion(out: &mut BytesMut, values: &[Option<Vec<u8>>]) {
    out.put_u8(b'I');
    out.put_u32(1);
    out.put_u8(b'N');
    out.put_u16(count(values.len()));
    for value in values {
        match value {
            None => out.put_u8(b'n'),
            Some(text) => {
                out.put_u8(b't');
                out.put_u32(u32::try_from(text.len()).expect("a value has at most 1 GB"));
                out.put_slice(text);
            }
        }
    }
}

/// `XLogData` around one message.
fn message(out: &mut BytesMut, row: u64, put: impl FnOnce(&mut BytesMut)) {
    frame(out, |out| {
        out.put_u8(b'w');
        out.put_u64(row);
        out.put_u64(row);
        out.put_u64(0);
        put(out);
    });
}

/// `CopyData` around what `put` appends.
fn frame(out: &mut BytesMut, put: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_u8(b'd');
    out.put_u32(0);
    put(out);
    // The length counts itself, and not the byte before it.
    let length = u32::try_from(out.len() - start - 1).expect("a row has at most 1 GB");
    out[start + 1..start + 5].copy_from_slice(&length.to_be_bytes());
}

/// One field of `COPY … TO`, which writes these escapes and no others. None is NULL.
fn unescaped(field: &[u8]) -> Option<Vec<u8>> {
    if field == b"\\N" {
        return None;
    }
    let mut text = Vec::with_capacity(field.len());
    let mut bytes = field.iter();
    while let Some(&byte) = bytes.next() {
        text.push(match byte {
            b'\\' => match bytes.next() {
                Some(b'b') => 8,
                Some(b'f') => 12,
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(b't') => b'\t',
                Some(b'v') => 11,
                Some(&other) => other,
                None => b'\\',
            },
            plain => plain,
        });
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::pgoutput::{Message, Value, decode};
    use crate::postgres::replication::Frame;

    #[test]
    fn what_copy_escapes_is_read_back() {
        let read = |field: &[u8]| unescaped(field).map(|text| String::from_utf8(text).expect("text"));
        assert_eq!(read(br"\N"), None);
        assert_eq!(read(br"\\N").as_deref(), Some("\\N"));
        assert_eq!(read(br"a\tb\nc\\d\re\bf\fg\vh").as_deref(), Some("a\tb\nc\\d\re\u{8}f\u{c}g\u{b}h"));
        assert_eq!(read("größe".as_bytes()).as_deref(), Some("größe"));
        assert_eq!(read(b"").as_deref(), Some(""));
    }

    #[test]
    fn the_decoder_reads_what_is_put_into_messages() {
        let columns = [("id", 23, -1), ("payload", 3802, -1)];
        let columns =
            columns.map(|(name, type_oid, type_modifier)| Column { name: name.to_owned(), type_oid, type_modifier });
        let mut frames = BytesMut::new();
        message(&mut frames, 7, |out| out.put_slice(&relation("public", "outbox", &columns)));
        message(&mut frames, 7, |out| insertion(out, &[Some(b"1".to_vec()), None]));
        let batch = Batch::new(frames.freeze());
        let mut payloads = batch.payloads();
        let mut next = || match Frame::parse(payloads.next().expect("a frame")).expect("whole") {
            Frame::XLogData { wal_start, data, .. } => (wal_start, data),
            Frame::Keepalive { .. } => panic!("a keepalive"),
        };
        let (_, data) = next();
        let Ok(Message::Relation(relation)) = decode(data) else { panic!("no relation") };
        assert_eq!((relation.to_string().as_str(), relation.columns[1].type_oid), ("public.outbox", 3802));
        let (lsn, data) = next();
        let Ok(Message::Insert { relation: oid, new }) = decode(data) else { panic!("no insertion") };
        assert_eq!((lsn, oid), (Lsn(7), relation.oid));
        assert_eq!(new.iter().collect::<Vec<_>>(), [Value::Text(b"1"), Value::Null]);
    }
}
