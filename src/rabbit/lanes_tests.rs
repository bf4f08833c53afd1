//! Sharding, fences and parking, against a broker that answers at once.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use super::*;
use crate::broker::{Channel, Reply, Returned, Turn};
use crate::config::ParkingSettings;
use crate::encode::message::Properties;
use crate::failure::{Failure, Poison};
use crate::progress::Limits;
use crate::rabbit::uri::BrokerUri;

/// What was published, in its order: connection and event.
type Log = Arc<Mutex<Vec<(usize, Event)>>>;

#[derive(Clone, Default)]
struct Recorder {
    log: Log,
    opened: Arc<Mutex<usize>>,
    /// The routing key that no queue is bound for.
    unbound: &'static str,
}

struct Recording {
    recorder: Recorder,
    number: usize,
    published: u64,
    replies: VecDeque<Reply>,
}

impl Broker for Recorder {
    type Channel = Recording;

    fn open(&self) -> impl Future<Output = Result<Recording, Failure>> + Send + 'static {
        let recorder = self.clone();
        async move {
            let mut opened = recorder.opened.lock().expect("no panic holds it");
            *opened += 1;
            let number = *opened;
            drop(opened);
            Ok(Recording { recorder, number, published: 0, replies: VecDeque::new() })
        }
    }
}

impl Channel for Recording {
    fn poll_turn(&mut self, _: &mut Context<'_>, output: [&[u8]; 2]) -> Poll<Result<Turn, Failure>> {
        if let Some(reply) = self.replies.pop_front() {
            return Poll::Ready(Ok(Turn::Reply(reply)));
        }
        let bytes = output.concat();
        if bytes.is_empty() {
            return Poll::Pending;
        }
        let mut starts: Vec<usize> = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            if bytes[at] == 1 {
                starts.push(at);
            }
            at += u32::from_be_bytes([bytes[at + 3], bytes[at + 4], bytes[at + 5], bytes[at + 6]]) as usize + 8;
        }
        starts.push(bytes.len());
        for range in starts.windows(2) {
            let event = unwire::event(&bytes[range[0]..range[1]]).expect("is whole");
            self.published += 1;
            if event.routing_key == self.recorder.unbound && event.exchange != "parked" {
                let (exchange, routing_key) = (event.exchange.clone(), event.routing_key.clone());
                let (text, message_id) = ("NO_ROUTE".to_owned(), event.message_id.clone());
                let returned = Returned { code: 312, text, exchange, routing_key, message_id };
                self.replies.push_back(Reply::Returned(Box::new(returned)));
            }
            self.replies.push_back(Reply::Ack { tag: self.published, multiple: false });
            self.recorder.log.lock().expect("no panic holds it").push((self.number, event));
        }
        Poll::Ready(Ok(Turn::Wrote(bytes.len())))
    }

    fn frame_max(&self) -> usize {
        4096
    }

    fn max_message_bytes(&self) -> usize {
        1000
    }

    async fn close(self) {}
}

async fn connected(count: usize, recorder: &Recorder) -> Lanes<Recorder> {
    let rabbitmq = RabbitSettings {
        uri: BrokerUri::parse("amqp://localhost").expect("a good URI"),
        declare: true,
        exchange_type: "topic".into(),
        topology: crate::config::topology::Topology::default(),
        in_flight: Limits { events: 1000, bytes: 1 << 20 },
        confirm_timeout: std::time::Duration::from_secs(30),
        max_message_bytes: None,
        unroutable: Unroutable::Park,
        poison: PoisonPolicy::Park,
        parking: ParkingSettings { exchange: "parked".into(), queue: "parked".into() },
        lanes: count,
    };
    let mut lanes = Lanes::new(recorder.clone(), &rabbitmq, false, Health::default());
    while !lanes.accepts() {
        lanes.drive().await.expect("connects");
    }
    lanes
}

fn publish(lanes: &mut Lanes<Recorder>, seq: Seq, key: OrderingKey, routing_key: &str) {
    let id = seq.to_string();
    let properties = Properties { message_id: &id, ..Properties::default() };
    lanes.publish(seq, &Message { exchange: "e", routing_key, properties, body: b"body" }, key).expect("small");
}

async fn settle(lanes: &mut Lanes<Recorder>, count: usize) -> BTreeSet<Seq> {
    let mut settled = BTreeSet::new();
    while settled.len() < count {
        lanes.drive().await.expect("nothing definite");
        assert!(lanes.settled().all(|seq| settled.insert(seq)), "each once");
    }
    settled
}

fn log(recorder: &Recorder) -> Vec<(usize, Seq)> {
    let log = recorder.log.lock().expect("no panic holds it");
    log.iter().map(|(connection, event)| (*connection, event.message_id.parse().expect("a number"))).collect()
}

#[tokio::test(start_paused = true)]
async fn events_of_one_key_are_in_one_lane_and_what_is_for_all_stands_alone() {
    let recorder = Recorder { unbound: "-", ..Recorder::default() };
    let mut lanes = connected(4, &recorder).await;
    for seq in 0..100 {
        let key = if seq % 40 == 20 { OrderingKey::All } else { OrderingKey::One(seq % 7) };
        publish(&mut lanes, seq, key, "k");
    }
    assert_eq!(settle(&mut lanes, 100).await, (0..100).collect());
    let log = log(&recorder);
    for seq in [20, 60] {
        let at = log.iter().position(|(_, it)| *it == seq).expect("is there");
        assert!(log[..at].iter().all(|(_, before)| *before < seq) && log[at + 1..].iter().all(|(_, it)| *it > seq));
    }
    for key in 0..7 {
        let of_key: Vec<_> = log.iter().filter(|(_, seq)| seq % 7 == key && seq % 40 != 20).collect();
        assert!(of_key.iter().all(|it| it.0 == of_key[0].0) && of_key.is_sorted_by_key(|it| it.1));
    }
    assert!(!log.is_sorted_by_key(|(_, seq)| *seq), "several lanes");
}

#[tokio::test(start_paused = true)]
async fn a_fence_separates_what_is_before_from_what_is_behind() {
    let recorder = Recorder { unbound: "-", ..Recorder::default() };
    let mut lanes = connected(4, &recorder).await;
    (0..10).for_each(|seq| publish(&mut lanes, seq, OrderingKey::One(seq), "k"));
    lanes.fence(10);
    (10..20).for_each(|seq| publish(&mut lanes, seq, OrderingKey::One(seq), "k"));
    settle(&mut lanes, 20).await;
    let log = log(&recorder);
    assert!(log[..10].iter().all(|(_, seq)| *seq < 10), "{log:?}");
}

#[tokio::test(start_paused = true)]
async fn one_lane_knows_no_fence_and_without_a_key_all_lanes_are_used() {
    let recorder = Recorder { unbound: "-", ..Recorder::default() };
    let mut lanes = connected(1, &recorder).await;
    (0..10).for_each(|seq| publish(&mut lanes, seq, OrderingKey::All, "k"));
    settle(&mut lanes, 10).await;
    assert!(log(&recorder).is_sorted());
    let recorder = Recorder { unbound: "-", ..Recorder::default() };
    let mut lanes = connected(3, &recorder).await;
    (0..9).for_each(|seq| publish(&mut lanes, seq, OrderingKey::Any, "k"));
    settle(&mut lanes, 9).await;
    let used: BTreeSet<_> = log(&recorder).into_iter().map(|(connection, _)| connection).collect();
    assert_eq!(used.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_is_returned_or_can_not_be_published_settles_once_it_is_parked() {
    let recorder = Recorder { unbound: "lost", ..Recorder::default() };
    let mut lanes = connected(2, &recorder).await;
    for seq in 0..10 {
        publish(&mut lanes, seq, OrderingKey::One(seq), if seq % 3 == 0 { "lost" } else { "kept" });
    }
    let error = Definite::poison(Poison::TooLarge, anyhow::anyhow!("it is too large"), "");
    let mut large = Event { message_id: "10".into(), body: vec![0; 5000], ..Event::default() };
    lanes.park(10, &mut large, &error, true).expect("there is parking");
    assert_eq!(settle(&mut lanes, 11).await, (0..=10).collect());
    let log = recorder.log.lock().expect("no panic holds it");
    let parked: Vec<_> = log.iter().filter(|(_, event)| event.exchange == "parked").collect();
    let ids: BTreeSet<_> = parked.iter().map(|(_, event)| event.message_id.as_str()).collect();
    assert_eq!(ids, BTreeSet::from(["0", "3", "6", "9", "10"]));
    for (_, event) in parked {
        let is_large = event.message_id == "10";
        let reason = event.headers.all().text("parked_reason");
        assert_eq!(reason, Some(if is_large { "too_large" } else { "unroutable" }));
        assert_eq!(event.body == b"body", !is_large);
    }
}
