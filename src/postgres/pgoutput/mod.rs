//! pgoutput, protocol version 1: the bytes of one message into a borrowed [`Message`]. What later versions have beside it is
//! in [`streamed`].
//!
//! Invariant: any bytes give a message or a typed error; never a panic, never a read past the end,
//! never an allocation sized by a length that was not checked against what is there. A message is
//! validated as a whole, down to the last value, so that reading a [`Tuple`] later can't fail.
//!
//! The payload of `XLogData` comes in from `postgres::replication`; `transaction` puts the messages
//! into their transactions. Formats: PostgreSQL documentation, section 54.9 "Logical Replication
//! Message Formats" (chapter "Frontend/Backend Protocol"); flags from `src/include/replication/logicalproto.h`.

mod reader;
pub mod streamed;
mod tuple;

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;

pub use reader::DecodeError;
pub use tuple::{Tuple, Value, Values};

use crate::change::Old;
use crate::lsn::Lsn;
use crate::postgres::relation::{Column, Relation, ReplicaIdentity};
use reader::Reader;

/// One message of the stream, borrowed from its frame. Only `Relation` owns memory.
#[derive(Debug, Clone)]
pub enum Message<'a> {
    /// `B`: a committed transaction starts.
    Begin(Begin),
    /// `C`: it ends.
    Commit(Commit),
    /// `O`: the transaction was itself replicated from elsewhere.
    Origin {
        /// Its commit LSN on the server of origin.
        commit_lsn: Lsn,
        /// The name of the origin.
        name: &'a str,
    },
    /// `R`: a table's definition, ahead of its first change and after each change of it.
    Relation(Relation),
    /// `Y`: the name of a type that is not built in, ahead of the relation that uses it.
    Type {
        /// `pg_type.oid`.
        oid: u32,
        /// The schema's name; `pg_catalog` where the wire says nothing.
        schema: &'a str,
        /// The type's name.
        name: &'a str,
    },
    /// `I`
    Insert {
        /// The table.
        relation: u32,
        /// The row.
        new: Tuple<'a>,
    },
    /// `U`
    Update {
        /// The table.
        relation: u32,
        /// The row before, as far as the replica identity tells.
        old: Option<Old<'a>>,
        /// The row.
        new: Tuple<'a>,
    },
    /// `D`
    Delete {
        /// The table.
        relation: u32,
        /// The row before, as far as the replica identity tells.
        old: Old<'a>,
    },
    /// `T`
    Truncate(Truncate<'a>),
    /// `M`: what `pg_logical_emit_message` wrote.
    Logical(Logical<'a>),
    /// `A`: a transaction was rolled back of which nothing was sent. PostgreSQL 18 says so of some, unasked: it notices while it
    /// decodes that a transaction was rolled back, and marks it as if it had been streamed.
    Aborted {
        /// The top-level transaction id.
        xid: u32,
        /// That of the subtransaction, or the same again.
        subxid: u32,
    },
}

/// `B`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begin {
    /// Where the commit record starts; equals the Commit's `commit_lsn`.
    pub final_lsn: Lsn,
    /// Microseconds since 2000-01-01 00:00 UTC.
    pub committed_at: i64,
    /// The top-level transaction id.
    pub xid: u32,
}

/// `C`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// Where the commit record starts.
    pub commit_lsn: Lsn,
    /// Where it ends: what may be reported once the whole transaction is done.
    pub end_lsn: Lsn,
    /// Microseconds since 2000-01-01 00:00 UTC.
    pub committed_at: i64,
}

/// `T`: one statement, several tables.
#[derive(Debug, Clone, Copy)]
pub struct Truncate<'a> {
    /// `CASCADE`.
    pub cascade: bool,
    /// `RESTART IDENTITY`.
    pub restart_identity: bool,
    /// The oids, four bytes each.
    oids: &'a [u8],
}

impl<'a> Truncate<'a> {
    /// The tables that were emptied, in the order of the WAL record.
    pub fn relations(&self) -> impl Iterator<Item = u32> + use<'a> {
        self.oids.as_chunks().0.iter().map(|oid| u32::from_be_bytes(*oid))
    }
}

/// `M`: bytes that an application put into the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Logical<'a> {
    /// Part of its transaction; otherwise it comes at once, outside of any, even if its transaction aborts.
    pub transactional: bool,
    /// Where the message ends in the WAL, as the server reports it.
    pub lsn: Lsn,
    /// Says whose message it is.
    pub prefix: &'a str,
    /// Any bytes: the server converts no encoding here.
    pub content: &'a [u8],
}

/// `logicalproto.h`: `LOGICALREP_IS_REPLICA_IDENTITY`.
const COLUMN_IS_KEY: u8 = 1;
/// `proto.c`: `TRUNCATE_CASCADE`.
const TRUNCATE_CASCADE: u8 = 1;
/// `proto.c`: `TRUNCATE_RESTART_SEQS`.
const TRUNCATE_RESTART_SEQS: u8 = 2;
/// `proto.c`: `MESSAGE_TRANSACTIONAL`.
const MESSAGE_TRANSACTIONAL: u8 = 1;
/// flags, an empty name's terminator, type, type modifier.
const COLUMN_BYTES_MIN: usize = 1 + 1 + 4 + 4;

/// Decodes one message: the payload of one `XLogData`.
///
/// # Errors
/// When the bytes are no whole, single message of protocol version 1. Prepared transactions (`b P K r p`) are
/// [`DecodeError::Unexpected`]: we never ask for them, and a slot that was once used with `two_phase`, which sends them all
/// the same, is refused. So are the messages around streamed ones (`S E c`), which end in `postgres::streamed`.
pub fn decode(data: &[u8]) -> Result<Message<'_>, DecodeError> {
    let mut reader = Reader::new(data)?;
    let message = match reader.message() {
        b'B' => Message::Begin(begin(&mut reader)?),
        b'C' => Message::Commit(commit(&mut reader)?),
        b'O' => Message::Origin { commit_lsn: reader.lsn()?, name: reader.text()? },
        b'R' => Message::Relation(relation(&mut reader)?),
        b'Y' => Message::Type { oid: reader.u32()?, schema: schema(&mut reader)?, name: reader.text()? },
        b'I' => Message::Insert { relation: reader.u32()?, new: new_tuple(&mut reader)? },
        b'U' => update(&mut reader)?,
        b'D' => delete(&mut reader)?,
        b'T' => Message::Truncate(truncate(&mut reader)?),
        b'M' => Message::Logical(logical(&mut reader)?),
        b'A' => Message::Aborted { xid: reader.u32()?, subxid: reader.u32()? },
        byte => return Err(DecodeError::Unexpected { byte }),
    };
    reader.end()?;
    Ok(message)
}

fn begin(reader: &mut Reader<'_>) -> Result<Begin, DecodeError> {
    Ok(Begin { final_lsn: reader.lsn()?, committed_at: reader.i64()?, xid: reader.u32()? })
}

fn commit(reader: &mut Reader<'_>) -> Result<Commit, DecodeError> {
    // The server's own subscriber refuses flags here too: they would change what the message means.
    reader.kind("no flags (0)", |byte| (byte == 0).then_some(()))?;
    Ok(Commit { commit_lsn: reader.lsn()?, end_lsn: reader.lsn()?, committed_at: reader.i64()? })
}

fn relation(reader: &mut Reader<'_>) -> Result<Relation, DecodeError> {
    let oid = reader.u32()?;
    let schema = schema(reader)?.to_owned();
    let name = reader.text()?.to_owned();
    let identity = reader.kind("a replica identity (d, n, f, i)", |byte| match byte {
        b'd' => Some(ReplicaIdentity::Default),
        b'n' => Some(ReplicaIdentity::Nothing),
        b'f' => Some(ReplicaIdentity::Full),
        b'i' => Some(ReplicaIdentity::Index),
        _ => None,
    })?;
    let count = usize::from(reader.u16()?);
    let mut columns = Vec::with_capacity(count.min(reader.remaining() / COLUMN_BYTES_MIN));
    for _ in 0..count {
        let key = reader.u8()? & COLUMN_IS_KEY != 0;
        let name = reader.text()?.to_owned();
        columns.push(Column { name, type_oid: reader.u32()?, type_modifier: reader.i32()?, key });
    }
    Ok(Relation { oid, schema, name, identity, columns })
}

fn schema<'a>(reader: &mut Reader<'a>) -> Result<&'a str, DecodeError> {
    let schema = reader.text()?;
    Ok(if schema.is_empty() { "pg_catalog" } else { schema })
}

fn new_tuple<'a>(reader: &mut Reader<'a>) -> Result<Tuple<'a>, DecodeError> {
    reader.kind("a new tuple (N)", |byte| (byte == b'N').then_some(()))?;
    Tuple::read(reader)
}

fn update<'a>(reader: &mut Reader<'a>) -> Result<Message<'a>, DecodeError> {
    /// Which tuple comes first.
    enum First {
        Key,
        Full,
        New,
    }
    let relation = reader.u32()?;
    let first = reader.kind("a tuple (K, O, N)", |byte| match byte {
        b'K' => Some(First::Key),
        b'O' => Some(First::Full),
        b'N' => Some(First::New),
        _ => None,
    })?;
    let old = match first {
        First::New => return Ok(Message::Update { relation, old: None, new: Tuple::read(reader)? }),
        First::Key => Old::Key(Tuple::read(reader)?),
        First::Full => Old::Full(Tuple::read(reader)?),
    };
    Ok(Message::Update { relation, old: Some(old), new: new_tuple(reader)? })
}

fn delete<'a>(reader: &mut Reader<'a>) -> Result<Message<'a>, DecodeError> {
    let relation = reader.u32()?;
    let wrap: fn(Tuple<'a>) -> Old<'a> = reader.kind("an old tuple (K, O)", |byte| match byte {
        b'K' => Some(Old::Key as _),
        b'O' => Some(Old::Full as _),
        _ => None,
    })?;
    Ok(Message::Delete { relation, old: wrap(Tuple::read(reader)?) })
}

fn truncate<'a>(reader: &mut Reader<'a>) -> Result<Truncate<'a>, DecodeError> {
    let count = u64::from(reader.u32()?);
    let flags = reader.u8()?;
    Ok(Truncate {
        cascade: flags & TRUNCATE_CASCADE != 0,
        restart_identity: flags & TRUNCATE_RESTART_SEQS != 0,
        oids: reader.bytes(count * 4)?,
    })
}

fn logical<'a>(reader: &mut Reader<'a>) -> Result<Logical<'a>, DecodeError> {
    let transactional = reader.u8()? & MESSAGE_TRANSACTIONAL != 0;
    let (lsn, prefix) = (reader.lsn()?, reader.text()?);
    let length = u64::from(reader.u32()?);
    Ok(Logical { transactional, lsn, prefix, content: reader.bytes(length)? })
}
