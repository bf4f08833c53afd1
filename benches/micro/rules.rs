//! The rules of `[[events]]`: a condition, and the event.

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use pgsluice::encode::message::Event;
use pgsluice::route::Verdict;

use super::scene::Scene;
use super::synthetic::{Value, fixture};

/// Of an update with the whole old row: `c0` is an integer, all other columns are texts of 20 bytes.
#[divan::bench(args = [
    (8, "new.c1 == 'paid'"),
    (8, "old.c1 != new.c1 && new.c1 == 'paid'"),
    (100, "old.c99 != new.c99 && new.c99 == 'paid'"),
    (1_600, "old.c1599 != new.c1599 && new.c1599 == 'paid'"),
    (8, "new.c1.matches('^[a-z]+$')"),
])]
fn when(bencher: Bencher<'_, '_>, (columns, condition): (usize, &str)) {
    let scene = scene(columns, &format!("when = \"{condition}\""));
    let change = scene.change();
    let Some(Verdict::Rule(plan)) = scene.router.verdicts(&change).next() else { panic!("a rule") };
    bencher.counter(ItemsCount::new(1_u8)).bench_local(|| plan.wants(black_box(&change)).expect("a value"));
}

#[divan::bench(args = [
    (8, ""),
    (8, "data = ['c0', 'c1', 'c2']"),
    (8, "data = ['c0', 'c1', 'c2']\ncompute = { x = \"new.c1 + '!'\" }"),
    (8, "data = ['c0', 'c1', 'c2']\nhash = ['c2']"),
    (100, "data = ['c0', 'c98', 'c99']"),
])]
fn event(bencher: Bencher<'_, '_>, (columns, rule): (usize, &str)) {
    let scene = scene(columns, rule);
    let (change, mut event) = (scene.change(), Event::default());
    let Some(Verdict::Rule(plan)) = scene.router.verdicts(&change).next() else { panic!("a rule") };
    let bencher = bencher.counter(ItemsCount::new(1_u8));
    bencher.bench_local(|| scene.encoder.domain(&mut event, plan, black_box(&change)).is_ok());
}

fn scene(columns: usize, rule: &str) -> Scene {
    let keys = format!(
        "[[events]]\ntable = \"public.orders\"\ntype = \"OrderPaid\"\n{rule}\n[rabbitmq]\nurl = \"amqp://localhost\""
    );
    let names: Vec<String> = (0..columns).map(|column| format!("c{column}")).collect();
    let described = names.iter().enumerate().map(|(index, name)| (true, &**name, if index == 0 { 20 } else { 25 }));
    let relation = fixture::relation(1, "public", "orders", b'f', &described.collect::<Vec<_>>());
    let mut values = vec![Value::Text(b"some 20 bytes of text"); columns];
    values[0] = Value::Text(b"12345");
    Scene::new(&keys, &relation, fixture::update(1, Some((b'O', &values)), &values))
}
