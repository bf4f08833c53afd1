//! What is in flight: the window, and the lane with its frames and confirms.

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use pgsluice::config::Unroutable;
use pgsluice::encode::message::Event;
use pgsluice::lsn::{Lsn, Position};
use pgsluice::progress::{Limits, Progress, Window};
use pgsluice::rabbit::lane::Lane;
use pgsluice::route::Verdict;

use super::scene::Scene;
use super::synthetic::tables::orders;
use super::synthetic::workload;

/// How many are in flight at once: the default of `rabbitmq.in_flight_events`.
const IN_FLIGHT: u64 = 1_000;
const FRAME_MAX: usize = 128 << 10;

#[divan::bench]
fn window(bencher: Bencher<'_, '_>) {
    let mut window = Window::new(Progress::default(), Limits { events: 1_000, bytes: 8 << 20 });
    let mut commit_lsn = Lsn(0);
    bencher.counter(ItemsCount::new(IN_FLIGHT)).bench_local(|| {
        for ordinal in 0..IN_FLIGHT {
            window.publish(Some(Position { commit_lsn, ordinal }), 700);
        }
        window.commit(commit_lsn);
        commit_lsn.0 += 0x100;
        for seq in window.settled()..window.next_seq() {
            window.settle(seq);
        }
        window.watermark()
    });
}

/// Framed, written, confirmed with one ack, and settled.
#[divan::bench]
fn lane(bencher: Bencher<'_, '_>) {
    let event = event();
    let (mut lane, mut seq, mut bytes) = (Lane::new(Unroutable::Wait), 0, 0);
    let mut round = || {
        for _ in 0..IN_FLIGHT {
            lane.push(seq, black_box(&event.message()), FRAME_MAX).expect("fits");
            seq += 1;
        }
        bytes = lane.output(false).iter().map(|slice| slice.len()).sum();
        lane.wrote(bytes);
        lane.ack(seq, true).expect("it was sent");
        lane.settled()
    };
    round();
    bencher.counter(ItemsCount::new(IN_FLIGHT)).counter(BytesCount::new(event.body.len() * 1_000)).bench_local(round);
}

/// The same, each with an ack of its own.
#[divan::bench]
fn lane_acks(bencher: Bencher<'_, '_>) {
    let event = event();
    let (mut lane, mut seq) = (Lane::new(Unroutable::Wait), 0);
    bencher.counter(ItemsCount::new(IN_FLIGHT)).bench_local(|| {
        for _ in 0..IN_FLIGHT {
            lane.push(seq, black_box(&event.message()), FRAME_MAX).expect("fits");
            seq += 1;
        }
        let bytes = lane.output(false).iter().map(|slice| slice.len()).sum();
        lane.wrote(bytes);
        for tag in seq - IN_FLIGHT + 1..=seq {
            lane.ack(tag, false).expect("it was sent");
        }
        lane.settled()
    });
}

/// Of a row of 200 bytes.
fn event() -> Event {
    let scene = Scene::insert(workload::ALL, &orders());
    let (change, mut event) = (scene.change(), Event::default());
    let Some(Verdict::Change(plan, destination)) = scene.router.verdicts(&change).next() else { panic!("a row event") };
    scene.encoder.change(&mut event, plan, destination, &change).expect("it is no CloudEvent");
    event
}
