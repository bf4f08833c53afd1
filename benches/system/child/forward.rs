//! The floor of latency: an eager reader that publishes each row as it came, at once, and waits for nothing.

use std::io::Write as _;

use super::{Word, say};
use crate::stage::{EXCHANGE, PUBLICATION};
use crate::wire::amqp::{self, Client};
use crate::wire::postgres::{self, Connection, Waiting, first_column};

pub(super) fn run(from: &postgres::Address, database: &str, slot: &str, to: &amqp::Address) -> anyhow::Result<()> {
    let mut client = Client::publisher(to)?;
    let mut socket = client.socket.try_clone()?;
    // The confirms are read, or the broker would stop taking messages; nobody needs them here.
    std::thread::spawn(move || while client.read(|_| {}).is_ok() {});
    // Ends with the parent's word, also while no row comes.
    std::thread::spawn(|| {
        super::wait_for_parent();
        std::process::exit(0);
    });
    let mut reader = Connection::open(from, database, Some(Waiting::Eager))?.start(slot, PUBLICATION)?;
    say(Word::Begin);
    let mut outgoing = Vec::new();
    loop {
        reader.read(|message| {
            if let Some(id) = first_column(message) {
                amqp::publish(&mut outgoing, EXCHANGE, "public.load.insert", id, message);
            }
        })?;
        socket.write_all(&outgoing)?;
        outgoing.clear();
    }
}
