//! pgoutput: bytes to a message, every value checked.

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use pgsluice::postgres::pgoutput;

use super::synthetic::fixture;
use super::synthetic::tables::{orders, outbox, wide};

#[divan::bench(args = ["begin", "insert", "full update", "outbox insert", "wide insert", "relation"])]
fn decode(bencher: Bencher<'_, '_>, what: &str) {
    let message = match what {
        "begin" => fixture::begin(0x16_B374_D848, 848_284_620_123_456, 731),
        "insert" => orders().insert(7),
        "full update" => orders().full().update(7),
        "outbox insert" => outbox().insert(7),
        "wide insert" => wide().insert(7),
        _ => orders().relation(),
    };
    let bencher = bencher.counter(BytesCount::new(message.len())).counter(ItemsCount::new(1_u8));
    bencher.bench_local(|| pgoutput::decode(black_box(&message)).is_ok());
}
