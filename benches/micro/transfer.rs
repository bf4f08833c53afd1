//! What binary transfer costs on top: the values of a row, turned into their text.

use std::sync::Arc;

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use pgsluice::postgres::binary::Textual;

use super::scene::Scene;
use super::synthetic::tables::orders;
use super::synthetic::workload;

#[divan::bench]
fn binary(bencher: Bencher<'_, '_>) {
    textual(bencher, &Scene::insert(workload::ALL, &orders().binary()));
}

/// A server that sends text all the same: some column's type can't be read in its binary form.
#[divan::bench]
fn text(bencher: Bencher<'_, '_>) {
    textual(bencher, &Scene::insert(workload::ALL, &orders()));
}

fn textual(bencher: Bencher<'_, '_>, scene: &Scene) {
    let (change, mut textual) = (scene.change(), Textual::default());
    textual.set_types(Arc::default());
    let bencher = bencher.counter(BytesCount::new(scene.bytes())).counter(ItemsCount::new(1_u8));
    bencher.bench_local(|| textual.change(black_box(&change)).is_ok());
}
