//! Finds out what the types are made of that a stream names, before what follows is read.
//!
//! pgoutput names every type that is not built in (`Y`) ahead of the first table that uses it. Invariant: a batch that
//! names one is given out with what is known of all of them, and none is given out before it.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::anyhow;

use super::{Types, describe};
use crate::failure::{Failure, within};
use crate::postgres::binary::readable;
use crate::postgres::conninfo::Conninfo;
use crate::postgres::mode::Mode;
use crate::postgres::pgoutput::{Message, decode};
use crate::postgres::replication::XLOG_DATA_BYTES;
use crate::postgres::sql;
use crate::postgres::walsender::ANSWER_LIMIT;
use crate::source::Batch;

/// What is known need not be asked for again so soon. A composite's fields can be renamed, and the stream does not tell.
const FRESH: Duration = Duration::from_secs(10);
/// Nor so soon, when a value does not fit: it may be older than what is known.
const OUTDATED: Duration = Duration::from_secs(1);

/// What is known of the types of one stream.
pub(crate) struct TypeFinder {
    conninfo: Conninfo,
    /// With binary transfer.
    binary: Option<Mode>,
    known: Arc<Types>,
    asked: Option<Instant>,
    /// What was read, and waits for an answer. It is kept across calls, so that dropping one loses nothing.
    waiting: Option<Waiting>,
}

struct Waiting {
    batch: Batch,
    /// It names a type that is not known.
    needs_it: bool,
    asking: Asking,
}

type Asking = Pin<Box<dyn Future<Output = Result<Types, Failure>> + Send>>;

/// A type by its oid, and schema and name of what it stands for: a domain's base type, or itself.
type Named = (u32, (String, String));

impl fmt::Debug for TypeFinder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypeFinder").field("known", &self.known).finish_non_exhaustive()
    }
}

impl TypeFinder {
    /// Nothing is known yet.
    pub(in crate::postgres) fn new(conninfo: Conninfo, mode: &Mode) -> Self {
        let binary = mode.binary().then(|| mode.clone());
        Self { conninfo, binary, known: Arc::default(), asked: None, waiting: None }
    }

    /// What `next` reads, together with what has to be known of it.
    ///
    /// # Errors
    /// Those of `next`; and whatever keeps us from asking.
    pub(crate) async fn complete(
        &mut self,
        next: impl Future<Output = Result<Batch, Failure>>,
    ) -> Result<Batch, Failure> {
        if self.waiting.is_none() {
            let batch = next.await?;
            let named = named(&batch);
            if !self.must_ask(&named) {
                self.check(&batch)?;
                return Ok(batch);
            }
            let needs_it = self.lacks(&named);
            let asking = Box::pin(ask(self.conninfo.clone(), Arc::clone(&self.known), named));
            self.waiting = Some(Waiting { batch, needs_it, asking });
        }
        let Some(Waiting { batch, needs_it, asking }) = &mut self.waiting else { return std::future::pending().await };
        let answer = asking.await;
        let (batch, needs_it) = (std::mem::take(batch), *needs_it);
        self.waiting = None;
        self.asked = Some(Instant::now());
        match answer {
            Ok(types) => self.known = Arc::new(types),
            Err(failure) if needs_it => return Err(lost(failure)),
            // What is known will do.
            Err(failure) => tracing::debug!(error = %failure, "could not look up types again"),
        }
        self.check(&batch)?;
        Ok(batch.with_types(Arc::clone(&self.known)))
    }

    /// Leaves binary transfer at the first table that can't be read by it.
    fn check(&self, batch: &Batch) -> Result<(), Failure> {
        let Some(mode) = &self.binary else { return Ok(()) };
        let tables = messages(batch, b'R').filter_map(|message| match decode(message) {
            Ok(Message::Relation(relation)) => Some(relation),
            Ok(_) | Err(_) => None,
        });
        for table in tables {
            if let Some(column) = table.columns.iter().find(|column| !readable(&self.known, column.type_oid)) {
                let why = format!("the column {} of {table} has a type that can't be read so", column.name);
                mode.leave_binary(&why);
                return Err(Failure::transient(anyhow!(why)));
            }
        }
        Ok(())
    }

    fn must_ask(&self, named: &[Named]) -> bool {
        let age = self.asked.map(|asked| asked.elapsed());
        self.lacks(named)
            || (age > Some(FRESH) && self.known.has_composites())
            || (self.known.is_outdated() && age > Some(OUTDATED))
    }

    fn lacks(&self, named: &[Named]) -> bool {
        named.iter().any(|(oid, _)| !self.known.knows(*oid))
    }
}

/// What the batch names. What can't be read here can't be read by who gets it either, and is an error there.
fn named(batch: &Batch) -> Vec<Named> {
    let named = messages(batch, b'Y').filter_map(|message| match decode(message) {
        Ok(Message::Type { oid, schema, name }) => Some((oid, (schema.to_owned(), name.to_owned()))),
        Ok(_) | Err(_) => None,
    });
    named.collect()
}

/// The batch's pgoutput messages of this kind.
fn messages(batch: &Batch, kind: u8) -> impl Iterator<Item = &[u8]> {
    let messages = batch.payloads().filter(|payload| payload.first() == Some(&b'w'));
    messages.filter_map(|payload| payload.get(XLOG_DATA_BYTES..)).filter(move |message| message.first() == Some(&kind))
}

/// Whatever it is, a stream that can't be understood is as good as lost; and what is definite, its next opening finds out.
fn lost(failure: Failure) -> Failure {
    match failure {
        Failure::Definite(definite) => Failure::transient(anyhow!("{definite}")),
        transient @ Failure::Transient(_) => transient,
    }
}

/// All that is known, and what is named, as it is now.
async fn ask(conninfo: Conninfo, known: Arc<Types>, named: Vec<Named>) -> Result<Types, Failure> {
    let oids: Vec<u32> = known.described().map(|(oid, _)| oid).chain(named.iter().map(|(oid, _)| *oid)).collect();
    let client = sql::connect(&conninfo).await?;
    let described = within(ANSWER_LIMIT, "looking up types", describe(&client, &oids)).await?;
    let before = known.described().map(|(oid, description)| (oid, description.clone()));
    let mut types = Types::of(before.chain(described));
    for (oid, (schema, name)) in &named {
        types.insert_dropped(*oid, (schema, name));
    }
    Ok(types)
}
