//! The floor of all that publishes: messages that exist already, in one write for all that the window has room for.
//!
//! With a stream it is the floor of all that does both: one of the messages for each row that is read and forgotten.

use std::io::Write as _;
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};

use anyhow::{Context as _, ensure};

use super::{Stream, Word, say, wait_for_parent};
use crate::stage::PUBLICATION;
use crate::wire::amqp::{Address, Client, Said, frame, is_method};
use crate::wire::postgres::{Connection, Waiting, is_row};

pub(super) fn run(
    address: &Address,
    frames: &Path,
    events: u64,
    window: u64,
    stream: Option<Stream>,
) -> anyhow::Result<()> {
    let bytes = std::fs::read(frames).context("the messages")?;
    let starts = starts(&bytes);
    ensure!(!starts.is_empty(), "no message in {}", frames.display());
    let message = |index: usize| &bytes[starts[index]..starts.get(index + 1).copied().unwrap_or(bytes.len())];

    let mut client = Client::publisher(address)?;
    let rows = stream.map(read_ahead).transpose()?;
    say(Word::Begin);
    let mut there = if rows.is_some() { 0 } else { events };
    let (mut published, mut settled, mut message_bytes, mut next) = (0, 0, 0, 0);
    let mut outgoing = Vec::new();
    let mut unordered = std::collections::BTreeSet::new();
    while settled < events {
        outgoing.clear();
        while published < events && published - settled < window {
            if let Some(rows) = rows.as_ref().filter(|_| published == there) {
                there += rows.recv().context("the stream has ended")?;
                continue;
            }
            outgoing.extend_from_slice(message(next));
            next = (next + 1) % starts.len();
            published += 1;
        }
        message_bytes += outgoing.len() as u64;
        client.socket.write_all(&outgoing)?;
        client.read(|said| {
            match said {
                Said::Ack { tag, multiple: true } => {
                    settled = settled.max(tag);
                    unordered = unordered.split_off(&(tag + 1));
                }
                Said::Ack { tag, multiple: false } => {
                    unordered.insert(tag);
                }
                Said::Body { .. } => {}
            }
            while unordered.remove(&(settled + 1)) {
                settled += 1;
            }
        })?;
    }
    say(Word::Done { stream_bytes: 0, message_bytes, reads: 0 });
    wait_for_parent();
    Ok(())
}

/// How many rows each read has brought, a few reads ahead.
fn read_ahead(Stream { address, database, slot }: Stream) -> anyhow::Result<Receiver<u64>> {
    let mut reader = Connection::open(&address, &database, Some(Waiting::Naps))?.start(&slot, PUBLICATION)?;
    let (tell, rows) = sync_channel(4);
    std::thread::spawn(move || {
        let mut read = 0;
        while reader.read(|message| read += u64::from(is_row(message))).is_ok() && tell.send(read).is_ok() {
            read = 0;
        }
    });
    Ok(rows)
}

/// Where each message begins.
fn starts(bytes: &[u8]) -> Vec<usize> {
    let (mut at, mut starts) = (0, Vec::new());
    while let Some((kind, _, next)) = frame(bytes, at) {
        if is_method(kind) {
            starts.push(at);
        }
        at = next;
    }
    starts
}
