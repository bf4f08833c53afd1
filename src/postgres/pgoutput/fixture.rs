//! Messages as the server writes them, byte by byte, for the tests of all that stands behind the decoder.

use super::Value;

/// A column as `relation` takes it: key, name, type oid.
pub(crate) type Column<'a> = (bool, &'a str, u32);

fn name(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).expect("fixtures are small").to_be_bytes()
}

pub(crate) fn begin(final_lsn: u64, committed_at: i64, xid: u32) -> Vec<u8> {
    [&b"B"[..], &final_lsn.to_be_bytes(), &committed_at.to_be_bytes(), &xid.to_be_bytes()].concat()
}

pub(crate) fn commit(commit_lsn: u64, end_lsn: u64, committed_at: i64) -> Vec<u8> {
    [&b"C\0"[..], &commit_lsn.to_be_bytes(), &end_lsn.to_be_bytes(), &committed_at.to_be_bytes()].concat()
}

pub(crate) fn origin(lsn: u64, origin: &str) -> Vec<u8> {
    [&b"O"[..], &lsn.to_be_bytes(), &name(origin)].concat()
}

pub(crate) fn type_name(oid: u32, schema: &str, type_name: &str) -> Vec<u8> {
    [&b"Y"[..], &oid.to_be_bytes(), &name(schema), &name(type_name)].concat()
}

pub(crate) fn relation(oid: u32, schema: &str, table: &str, identity: u8, columns: &[Column<'_>]) -> Vec<u8> {
    let count = u16::try_from(columns.len()).expect("fixtures are small").to_be_bytes();
    let mut message = [&b"R"[..], &oid.to_be_bytes(), &name(schema), &name(table), &[identity], &count].concat();
    for &(key, column, type_oid) in columns {
        message.push(u8::from(key));
        message.extend(name(column));
        message.extend(type_oid.to_be_bytes());
        message.extend((-1_i32).to_be_bytes());
    }
    message
}

fn tuple(values: &[Value<'_>]) -> Vec<u8> {
    let mut tuple = u16::try_from(values.len()).expect("fixtures are small").to_be_bytes().to_vec();
    for value in values {
        match value {
            Value::Null => tuple.push(b'n'),
            Value::Unchanged => tuple.push(b'u'),
            Value::Text(text) => tuple.extend([b"t", &length(text)[..], text].concat()),
            Value::Binary(bytes) => tuple.extend([b"b", &length(bytes)[..], bytes].concat()),
        }
    }
    tuple
}

pub(crate) fn insert(oid: u32, new: &[Value<'_>]) -> Vec<u8> {
    [&b"I"[..], &oid.to_be_bytes(), b"N", &tuple(new)].concat()
}

/// `old`: its kind byte (`K` or `O`) and its values.
pub(crate) fn update(oid: u32, old: Option<(u8, &[Value<'_>])>, new: &[Value<'_>]) -> Vec<u8> {
    let old = old.map(|(kind, values)| [&[kind][..], &tuple(values)].concat()).unwrap_or_default();
    [&b"U"[..], &oid.to_be_bytes(), &old, b"N", &tuple(new)].concat()
}

pub(crate) fn delete(oid: u32, kind: u8, old: &[Value<'_>]) -> Vec<u8> {
    [&b"D"[..], &oid.to_be_bytes(), &[kind], &tuple(old)].concat()
}

pub(crate) fn truncate(flags: u8, oids: &[u32]) -> Vec<u8> {
    let mut message = [&b"T"[..], &u32::try_from(oids.len()).expect("few").to_be_bytes(), &[flags]].concat();
    message.extend(oids.iter().flat_map(|oid| oid.to_be_bytes()));
    message
}

pub(crate) fn logical(flags: u8, lsn: u64, prefix: &str, content: &[u8]) -> Vec<u8> {
    [&b"M"[..], &[flags], &lsn.to_be_bytes(), &name(prefix), &length(content), content].concat()
}
