//! The floor of all that reads: whole messages are found and counted, and nothing else is done with them.

use super::{Word, say, wait_for_parent};
use crate::stage::PUBLICATION;
use crate::wire::postgres::{Address, Connection, Waiting, is_row};

pub(super) fn run(address: &Address, database: &str, slot: &str, rows: u64, waiting: Waiting) -> anyhow::Result<()> {
    let mut reader = Connection::open(address, database, Some(waiting))?.start(slot, PUBLICATION)?;
    let mut left = rows;
    let mut is_over = false;
    while !is_over {
        let before = left;
        reader.read(|message| match message.first() {
            _ if is_row(message) => left = left.saturating_sub(1),
            Some(b'C') => is_over = left == 0,
            _ => {}
        })?;
        if before == rows && left < rows {
            say(Word::First);
        }
    }
    say(Word::Done { stream_bytes: reader.bytes, message_bytes: 0, reads: reader.reads });
    wait_for_parent();
    Ok(())
}
