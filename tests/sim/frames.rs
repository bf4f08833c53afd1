//! What PostgreSQL writes on a replication connection: pgoutput messages in `CopyData` frames, byte by byte.

/// `text` and `int8`.
const TEXT: u32 = 25;
const INT8: u32 = 20;

/// A table of the simulated database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) oid: u32,
    pub(crate) schema: &'static str,
    pub(crate) name: &'static str,
    columns: &'static [(&'static str, u32)],
}

const PLAIN: &[(&str, u32)] = &[("id", INT8), ("note", TEXT)];
const EVENT: &[(&str, u32)] =
    &[("id", TEXT), ("aggregatetype", TEXT), ("aggregateid", TEXT), ("type", TEXT), ("payload", TEXT)];

pub(crate) const ORDERS: Table = Table { oid: 1, schema: "public", name: "orders", columns: PLAIN };
pub(crate) const ITEMS: Table = Table { oid: 2, schema: "public", name: "items", columns: PLAIN };
/// Only rules make events of it: none, one or three of a change.
pub(crate) const BILLS: Table = Table { oid: 5, schema: "public", name: "bills", columns: PLAIN };
/// Published, and not selected.
pub(crate) const AUDIT: Table = Table { oid: 3, schema: "private", name: "audit", columns: PLAIN };
pub(crate) const OUTBOX: Table = Table { oid: 4, schema: "public", name: "outbox", columns: EVENT };

/// The prefix of the logical messages that are events.
pub(crate) const SELECTED: &str = "app";

fn name(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

fn size(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).expect("the simulation sends little").to_be_bytes()
}

pub(crate) fn begin(commit_lsn: u64, committed_at: i64, xid: u32) -> Vec<u8> {
    [&b"B"[..], &commit_lsn.to_be_bytes(), &committed_at.to_be_bytes(), &xid.to_be_bytes()].concat()
}

pub(crate) fn commit(commit_lsn: u64, end_lsn: u64) -> Vec<u8> {
    [&b"C\0"[..], &commit_lsn.to_be_bytes(), &end_lsn.to_be_bytes(), &[0; 8]].concat()
}

pub(crate) fn relation(table: &Table) -> Vec<u8> {
    let mut message = [&b"R"[..], &table.oid.to_be_bytes(), &name(table.schema), &name(table.name), b"d"].concat();
    message.extend(u16::try_from(table.columns.len()).expect("few").to_be_bytes());
    for (index, (column, type_oid)) in table.columns.iter().enumerate() {
        message.push(u8::from(index == 0));
        message.extend(name(column));
        message.extend(type_oid.to_be_bytes());
        message.extend((-1_i32).to_be_bytes());
    }
    message
}

fn tuple(table: &Table, values: &[&str]) -> Vec<u8> {
    let mut tuple = u16::try_from(table.columns.len()).expect("few").to_be_bytes().to_vec();
    for index in 0..table.columns.len() {
        match values.get(index) {
            Some(value) => tuple.extend([b"t", &size(value.len())[..], value.as_bytes()].concat()),
            None => tuple.push(b'n'),
        }
    }
    tuple
}

pub(crate) fn insert(table: &Table, values: &[&str]) -> Vec<u8> {
    [&b"I"[..], &table.oid.to_be_bytes(), b"N", &tuple(table, values)].concat()
}

pub(crate) fn update(table: &Table, values: &[&str]) -> Vec<u8> {
    [&b"U"[..], &table.oid.to_be_bytes(), b"N", &tuple(table, values)].concat()
}

/// To another key.
pub(crate) fn moved(table: &Table, from: &str, values: &[&str]) -> Vec<u8> {
    [&b"U"[..], &table.oid.to_be_bytes(), b"K", &tuple(table, &[from]), b"N", &tuple(table, values)].concat()
}

pub(crate) fn delete(table: &Table, key: &str) -> Vec<u8> {
    [&b"D"[..], &table.oid.to_be_bytes(), b"K", &tuple(table, &[key])].concat()
}

pub(crate) fn truncate(tables: &[Table]) -> Vec<u8> {
    let mut message = [&b"T"[..], &size(tables.len()), &[0]].concat();
    message.extend(tables.iter().flat_map(|table| table.oid.to_be_bytes()));
    message
}

pub(crate) fn logical(transactional: bool, lsn: u64, prefix: &str, content: &str) -> Vec<u8> {
    let head = [&b"M"[..], &[u8::from(transactional)], &lsn.to_be_bytes(), &name(prefix)].concat();
    [&head[..], &size(content.len()), content.as_bytes()].concat()
}

fn copy_data(payload: &[&[u8]]) -> Vec<u8> {
    let bytes: usize = payload.iter().map(|part| part.len()).sum();
    [b"d", &size(bytes + 4)[..], &payload.concat()].concat()
}

/// `wal_end` decides nothing, so it is as misleading as can be.
pub(crate) fn xlog_data(lsn: u64, message: &[u8]) -> Vec<u8> {
    copy_data(&[b"w", &lsn.to_be_bytes(), &(u64::MAX >> 1).to_be_bytes(), &[0; 8], message])
}

pub(crate) fn keepalive(lsn: u64, reply_requested: bool) -> Vec<u8> {
    copy_data(&[b"k", &lsn.to_be_bytes(), &[0; 8], &[u8::from(reply_requested)]])
}
