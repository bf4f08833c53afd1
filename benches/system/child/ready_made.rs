//! The floor of all that publishes: messages that exist already, in one write for all that the window has room for.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, ensure};

use super::{Word, say, wait_for_parent};
use crate::wire::amqp::{Address, Client, Said, frame, is_method};

pub(super) fn run(address: &Address, frames: &Path, events: u64, window: u64) -> anyhow::Result<()> {
    let bytes = std::fs::read(frames).context("the messages")?;
    let starts = starts(&bytes);
    ensure!(!starts.is_empty(), "no message in {}", frames.display());
    let message = |index: usize| &bytes[starts[index]..starts.get(index + 1).copied().unwrap_or(bytes.len())];

    let mut client = Client::publisher(address)?;
    say(Word::Begin);
    let (mut published, mut settled, mut message_bytes, mut next) = (0, 0, 0, 0);
    let mut outgoing = Vec::new();
    let mut unordered = std::collections::BTreeSet::new();
    while settled < events {
        outgoing.clear();
        while published < events && published - settled < window {
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
