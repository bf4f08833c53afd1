//! A change to the event of each format: properties, headers and body.

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use pgsluice::encode::message::Event;
use pgsluice::encode::outbox::OutboxRow;
use pgsluice::route::Verdict;

use super::scene::Scene;
use super::synthetic::tables::{Table, orders, outbox, wide};

const FORMATS: [&str; 7] =
    ["plain", "raw", "cloudevents", "cloudevents-binary", "debezium", "debezium-schema", "canal"];

#[divan::bench(args = FORMATS)]
fn insert(bencher: Bencher<'_, '_>, format: &str) {
    row(bencher, &Scene::insert(&keys(format), &orders()));
}

#[divan::bench(args = FORMATS)]
fn full_update(bencher: Bencher<'_, '_>, format: &str) {
    let table = orders().full();
    row(bencher, &Scene::new(&keys(format), &table.relation(), table.update(7)));
}

#[divan::bench(args = FORMATS)]
fn wide_insert(bencher: Bencher<'_, '_>, format: &str) {
    row(bencher, &Scene::insert(&keys(format), &wide()));
}

#[divan::bench(args = ["raw", "cloudevents", "cloudevents-binary"])]
fn outbox_insert(bencher: Bencher<'_, '_>, format: &str) {
    let keys =
        format!("[outbox]\ntable = \"public.outbox\"\nformat = \"{format}\"\n[rabbitmq]\nurl = \"amqp://localhost\"");
    let table: Table = outbox();
    let scene = Scene::insert(&keys, &table);
    let (change, mut event) = (scene.change(), Event::default());
    let Some(Verdict::Outbox(plan, row)) = scene.router.verdicts(&change).next() else { panic!("an outbox") };
    let bencher = bencher.counter(BytesCount::new(scene.bytes())).counter(ItemsCount::new(1_u8));
    bencher.bench_local(|| scene.encoder.outbox(&mut event, plan, black_box(&change), OutboxRow::Table(row)).is_ok());
}

fn keys(format: &str) -> String {
    format!(
        "source.tables = [\"public.*\"]\n[changes]\nformat = \"{format}\"\n[rabbitmq]\nurl = \"amqp://localhost\"\n"
    )
}

fn row(bencher: Bencher<'_, '_>, scene: &Scene) {
    let (change, mut event) = (scene.change(), Event::default());
    let Some(Verdict::Change(plan, destination)) = scene.router.verdicts(&change).next() else { panic!("a row event") };
    let bencher = bencher.counter(BytesCount::new(scene.bytes())).counter(ItemsCount::new(1_u8));
    bencher.bench_local(|| scene.encoder.change(&mut event, plan, destination, black_box(&change)).is_ok());
}
