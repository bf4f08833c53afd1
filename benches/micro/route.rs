//! A change to its verdicts, and a relation to its plan.

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use pgsluice::route::Router;

use super::scene::Scene;
use super::synthetic::tables::orders;
use super::synthetic::workload;
use super::synthetic::{settings, tables};

/// Among one table, and among a thousand.
#[divan::bench(args = [1, 1_000])]
fn verdict(bencher: Bencher<'_, '_>, tables: u32) {
    let mut scene = Scene::insert(workload::ALL, &orders());
    for number in 1..tables {
        learn(&mut scene.router, &orders().numbered(number));
    }
    let change = scene.change();
    bencher.counter(ItemsCount::new(1_u8)).bench_local(|| scene.router.verdicts(black_box(&change)).count());
}

/// Once for each version of a table.
#[divan::bench]
fn plan(bencher: Bencher<'_, '_>) {
    let (mut router, table) = (Router::new(&settings(workload::ALL)), orders());
    bencher.counter(ItemsCount::new(1_u8)).bench_local(|| learn(&mut router, &table));
}

fn learn(router: &mut Router, table: &tables::Table) {
    use pgsluice::postgres::pgoutput::{Message, decode};
    let Ok(Message::Relation(relation)) = decode(&table.relation()) else { panic!("a relation") };
    router.learn(&relation).unwrap_or_else(|definite| panic!("{definite}"));
}
