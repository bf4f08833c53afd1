//! The publisher against a real RabbitMQ: nothing lost, in order, whatever breaks.

mod tls;

use std::collections::HashSet;
use std::net::TcpListener;
use std::ops::Range;
use std::time::Duration;

use lapin::options::ExchangeDeleteOptions;
use pgsluice::broker::{Broker, Channel};
use pgsluice::config::topology::Topology;
use pgsluice::config::{RabbitSettings, Unroutable};
use pgsluice::encode::message::{Header, HeaderTable, Message, Properties};
use pgsluice::failure::{Definite, Failure, Kind};
use pgsluice::progress::{Limits, Seq};
use pgsluice::rabbit::channel::RabbitBroker;
use pgsluice::rabbit::publisher::{PublishError, Publisher, PublisherSettings, State};
use pgsluice::rabbit::uri::BrokerUri;
use serde_json::json;
use tokio::io::AsyncReadExt as _;

use crate::support::{self, Delivery, RabbitServer, SOON, eventually};

const EXCHANGE: &str = "events";
const WINDOW: Seq = 1000;

fn settings(url: &str) -> RabbitSettings {
    RabbitSettings {
        uri: BrokerUri::parse(url).expect("a good URI"),
        declare: true,
        exchange_type: "topic".into(),
        topology: Topology::default(),
        in_flight: Limits { events: 1000, bytes: 16 << 20 },
        confirm_timeout: Duration::from_secs(30),
        max_message_bytes: None,
        unroutable: Unroutable::Wait,
    }
}

fn topology(exchanges: &[&str]) -> Topology {
    Topology::default().with_destinations(exchanges.iter().map(ToString::to_string).collect(), "topic")
}

/// A publisher, the events it was given and those that are settled.
struct Rig {
    publisher: Publisher<RabbitBroker>,
    next: Seq,
    settled: Seq,
    routing_key: fn(Seq) -> &'static str,
    body: Vec<u8>,
}

impl Rig {
    fn new(settings: &RabbitSettings) -> Self {
        let broker = RabbitBroker::new(settings, "test", topology(&[EXCHANGE, ""]));
        let publisher = Publisher::new(
            broker,
            PublisherSettings {
                confirm_timeout: settings.confirm_timeout,
                unroutable: settings.unroutable,
                fail_fast: true,
                jitter_seed: 1,
            },
        );
        Self { publisher, next: 0, settled: 0, routing_key: |_| "k", body: b"{\"id\":1}".to_vec() }
    }

    /// A rig whose connection is open.
    async fn connected(settings: &RabbitSettings) -> Self {
        let mut rig = Self::new(settings);
        let first = tokio::time::timeout(SOON, rig.publisher.drive()).await.expect("connect in time");
        assert!(first.expect("connect").is_empty());
        assert!(rig.publisher.accepts());
        rig
    }

    fn publish(&mut self) -> Result<usize, PublishError> {
        let id = format!("m{}", self.next);
        let headers = [("lsn", Header::Text("16/B374D848")), ("ordinal", Header::Int(7))];
        let headers: HeaderTable = headers.into_iter().collect();
        let message = Message {
            exchange: EXCHANGE,
            routing_key: (self.routing_key)(self.next),
            properties: Properties {
                message_id: &id,
                event_type: "OrderPaid",
                app_id: "test",
                content_type: "application/json",
                timestamp_s: Some(1_700_000_000),
                headers: headers.all(),
                ..Default::default()
            },
            body: &self.body,
        };
        let bytes = self.publisher.publish(self.next, &message)?;
        self.next += 1;
        Ok(bytes)
    }

    async fn drive(&mut self) -> Result<(), Definite> {
        let Range { start, end } = self.publisher.drive().await?;
        assert_eq!(start, self.settled, "a hole, or a repetition, in what settled");
        assert!(end > start);
        self.settled = end;
        Ok(())
    }

    /// Publishes, a window at a time, until so many are settled.
    async fn run(&mut self, until: Seq) -> Result<(), Definite> {
        while self.settled < until {
            while self.next < until && self.next - self.settled < WINDOW {
                self.publish().expect("a good event");
            }
            self.drive().await?;
        }
        Ok(())
    }

    async fn settle(&mut self, until: Seq) {
        let run = tokio::time::timeout(SOON * 4, self.run(until)).await;
        run.unwrap_or_else(|_| panic!("in time; {} settled, {:?}", self.settled, self.publisher.trouble()))
            .expect("run");
    }

    /// Drives, without an event that could settle, until the publisher is in this state.
    async fn until_state(&mut self, state: State) {
        let deadline = tokio::time::Instant::now() + SOON;
        while self.publisher.state() != state {
            assert!(
                tokio::time::Instant::now() < deadline,
                "{:?} {:?}",
                self.publisher.state(),
                self.publisher.trouble()
            );
            // Cancelled again and again: it must not matter.
            if let Ok(driven) = tokio::time::timeout(Duration::from_millis(10), self.drive()).await {
                driven.expect("no definite failure");
            }
        }
    }
}

fn ids(deliveries: &[Delivery]) -> Vec<Seq> {
    deliveries.iter().map(|one| one.message_id[1..].parse().expect("our message_id")).collect()
}

/// Every event came, and repetitions start anywhere but never leave a hole.
fn assert_complete_and_ordered(ids: &[Seq], count: Seq) {
    let mut next = 0;
    for &id in ids {
        assert!(id <= next, "a hole before {id}: expected {next}");
        next = next.max(id + 1);
    }
    assert_last_complete_and_ordered(ids, count);
}

/// Every event came, and the last delivery of each comes after the last delivery of every event before it.
fn assert_last_complete_and_ordered(ids: &[Seq], count: Seq) {
    let mut seen = HashSet::new();
    let mut last: Vec<_> = ids.iter().rev().filter(|id| seen.insert(**id)).copied().collect();
    last.reverse();
    assert!(last.windows(2).all(|pair| pair[0] < pair[1]), "the last deliveries are out of order");
    assert!(last.iter().copied().eq(0..count), "{} of {count} events came", last.len());
}

#[tokio::test]
async fn twenty_thousand_are_confirmed_once_and_in_order() {
    let vhost = support::rabbitmq().vhost();
    vhost.queue_on("classic", EXCHANGE).await;
    vhost.queue("quorum", &[("x-queue-type", lapin::types::AMQPValue::LongString("quorum".into()))]).await;
    vhost.bind("quorum", EXCHANGE, "#").await;
    let mut rig = Rig::connected(&settings(&vhost.url())).await;
    rig.settle(20_000).await;
    assert!(rig.publisher.is_empty());
    let counters = rig.publisher.counters();
    assert_eq!((counters.events.confirmed, counters.events.republished, counters.reconnects), (20_000, 0, 0));
    rig.publisher.close().await;
    for queue in ["classic", "quorum"] {
        let all = vhost.consume(queue, 20_000, SOON * 4).await;
        assert!(ids(&all).into_iter().eq(0..20_000), "{queue}");
        assert_eq!(vhost.depth(queue).await, 0);
    }
}

#[tokio::test]
async fn properties_and_a_body_of_many_frames_arrive_as_they_were() {
    let vhost = support::rabbitmq().vhost();
    vhost.queue_on("all", EXCHANGE).await;
    let mut rig = Rig::connected(&settings(&vhost.url())).await;
    rig.body = (0..1_000_003_u32).map(|index| index.to_le_bytes()[0]).collect();
    rig.settle(2).await;
    rig.body.clear();
    rig.settle(3).await;
    let all = vhost.consume("all", 3, SOON).await;
    assert_eq!((all[0].body.len(), all[2].body.len()), (1_000_003, 0));
    assert!(all[1].body.iter().enumerate().all(|(index, byte)| index.to_le_bytes()[0] == *byte));
    assert_eq!((all[0].message_id.as_str(), all[0].event_type.as_str()), ("m0", "OrderPaid"));
    assert_eq!((&all[0].headers["lsn"], &all[0].headers["ordinal"]), (&json!("16/B374D848"), &json!(7)));
    assert_eq!(all[0].properties.delivery_mode(), &Some(2));
    assert_eq!(all[0].properties.timestamp(), &Some(1_700_000_000));
}

#[tokio::test]
async fn an_unroutable_event_waits_for_its_binding_and_keeps_its_place() {
    let vhost = support::rabbitmq().vhost();
    vhost.declare_exchange(EXCHANGE, "topic").await;
    vhost.queue("all", &[]).await;
    vhost.bind("all", EXCHANGE, "even").await;
    let mut rig = Rig::connected(&settings(&vhost.url())).await;
    rig.routing_key = |seq| if seq % 2 == 0 { "even" } else { "odd" };
    for _ in 0..100 {
        rig.publish().expect("a good event");
    }
    rig.until_state(State::Retrying).await;
    let trouble = rig.publisher.trouble().expect("says why").to_owned();
    assert!(trouble.contains("no queue takes event m1 (exchange 'events', routing key 'odd')"), "{trouble}");
    vhost.bind("all", EXCHANGE, "odd").await;
    rig.settle(100).await;
    assert_eq!(rig.settled, 100);
    rig.settle(1100).await;
    assert_eq!((rig.publisher.state(), rig.publisher.trouble()), (State::Flowing, None));
    let counters = rig.publisher.counters().events;
    assert_eq!((counters.confirmed, counters.discarded, counters.nacked), (1100, 0, 0));
    assert!(counters.returned >= 50);
    let mut consumer = vhost.consumer("all").await;
    let all = consumer.until(SOON, |all| all.last().is_some_and(|last| last.message_id == "m1099")).await;
    let ids = ids(&all);
    // Before the binding came, the even ones behind the first odd one were accepted; then all in order.
    let again = ids.iter().rposition(|id| *id == 1).expect("m1 came");
    assert!(ids[again..].iter().copied().eq(1..1100), "{ids:?}");
}

#[tokio::test]
async fn under_discard_unroutable_events_are_counted_and_passed() {
    let vhost = support::rabbitmq().vhost();
    vhost.declare_exchange(EXCHANGE, "topic").await;
    vhost.queue("all", &[]).await;
    vhost.bind("all", EXCHANGE, "even").await;
    let settings = RabbitSettings { unroutable: Unroutable::Discard, ..settings(&vhost.url()) };
    let mut rig = Rig::connected(&settings).await;
    rig.routing_key = |seq| if seq % 2 == 0 { "even" } else { "odd" };
    rig.settle(4000).await;
    let counters = rig.publisher.counters().events;
    assert_eq!((counters.confirmed, counters.discarded, counters.returned), (2000, 2000, 2000));
    let all = vhost.consume("all", 2000, SOON).await;
    assert!(ids(&all).into_iter().eq((0..4000).step_by(2)));
}

#[tokio::test]
async fn events_that_a_full_queue_refuses_are_published_again_until_it_takes_them() {
    let vhost = support::rabbitmq().vhost();
    vhost.declare_exchange(EXCHANGE, "topic").await;
    let reject = lapin::types::AMQPValue::LongString("reject-publish".into());
    vhost.queue("small", &[("x-max-length", 20.into()), ("x-overflow", reject)]).await;
    vhost.bind("small", EXCHANGE, "#").await;
    let mut rig = Rig::connected(&settings(&vhost.url())).await;
    for _ in 0..500 {
        rig.publish().expect("a good event");
    }
    rig.until_state(State::Retrying).await;
    assert!(rig.publisher.trouble().expect("says why").contains("nack"));
    let mut consumer = vhost.consumer("small").await;
    // The last one is published once all others are settled: what comes before it is all there is.
    let drain = consumer.until(SOON * 4, |all| all.last().is_some_and(|last| last.message_id == "m500"));
    let settle = async {
        rig.settle(500).await;
        rig.settle(501).await;
    };
    let (all, ()) = tokio::join!(drain, settle);
    let counters = rig.publisher.counters().events;
    assert!(counters.nacked > 0 && counters.confirmed == 501, "{counters:?}");
    let ids = ids(&all);
    assert_last_complete_and_ordered(&ids, 501);
    eprintln!("{} deliveries of 501 events, {counters:?}", ids.len());
}

#[tokio::test]
async fn an_exchange_deleted_under_load_is_declared_again_and_nothing_is_lost() {
    let vhost = support::rabbitmq().vhost();
    vhost.queue_on("all", EXCHANGE).await;
    let mut rig = Rig::connected(&settings(&vhost.url())).await;
    rig.settle(2000).await;
    let channel = vhost.channel().await;
    let delete = async {
        channel.exchange_delete(EXCHANGE.into(), ExchangeDeleteOptions::default()).await.expect("delete");
        // The bindings are gone with it: until one is back, events are unroutable, and wait.
        eventually("the exchange is back", SOON, async || {
            let (status, _) = support::rabbitmq()
                .try_api("GET", &format!("/exchanges/{}/{EXCHANGE}", vhost.name()), None)
                .expect("ask for the exchange");
            (status == 200).then_some(())
        })
        .await;
        vhost.bind("all", EXCHANGE, "#").await;
    };
    tokio::join!(rig.settle(20_000), delete);
    assert!(rig.publisher.counters().reconnects >= 1);
    // Published once all others are settled: what comes before it is all there is.
    rig.settle(20_001).await;
    let mut consumer = vhost.consumer("all").await;
    let all = consumer.until(SOON, |all| all.last().is_some_and(|last| last.message_id == "m20000")).await;
    // Holes are allowed on the way: of several events in flight without a binding, a later one may be the first that
    // finds it made again, and is queued before the earlier ones are sent again. Then it is sent again too, after them.
    assert_last_complete_and_ordered(&ids(&all), 20_001);
}

#[tokio::test]
async fn closed_connections_lose_nothing() {
    let vhost = support::rabbitmq().vhost();
    vhost.queue_on("all", EXCHANGE).await;
    let mut rig = Rig::connected(&settings(&vhost.url())).await;
    for round in 1..=3 {
        tokio::join!(rig.settle(round * 10_000), vhost.close_connections(support::rabbitmq()));
        rig.settle(round * 10_000 + 1).await;
    }
    assert!(rig.publisher.counters().reconnects >= 1);
    let mut consumer = vhost.consumer("all").await;
    let all = consumer.until(SOON * 2, |all| all.last().is_some_and(|last| last.message_id == "m30000")).await;
    assert_complete_and_ordered(&ids(&all), 30_001);
}

async fn refusal(settings: &RabbitSettings) -> Definite {
    let topology = Topology::default().with_destinations(vec![EXCHANGE.into()], &settings.exchange_type);
    let broker = RabbitBroker::new(settings, "test", topology);
    match tokio::time::timeout(SOON, broker.open()).await.expect("an answer in time") {
        Err(Failure::Definite(definite)) => {
            assert!(!format!("{definite} {}", definite.hint).contains("secret"), "{definite}");
            definite
        }
        Err(Failure::Transient(error)) => panic!("transient: {error:#}"),
        Ok(_) => panic!("it opened"),
    }
}

#[tokio::test]
async fn what_only_a_human_can_mend_is_definite_and_says_how() {
    let server = support::rabbitmq();
    let vhost = server.vhost();
    let guest = settings(&vhost.url());
    server.api("PUT", "/users/publisher-app", Some(&json!({"password": "secret", "tags": ""})));

    let wrong = refusal(&settings(&vhost.url_as("publisher-app:secret-but-wrong"))).await;
    assert_eq!(wrong.kind, Kind::Broker);
    assert!(wrong.to_string().contains("wrong user or password"), "{wrong}");

    let no_vhost =
        RabbitSettings { uri: BrokerUri::parse(&format!("{}x", vhost.url())).expect("URI"), ..guest.clone() };
    let no_vhost = refusal(&no_vhost).await;
    assert!(no_vhost.hint.contains("rabbitmqctl add_vhost"), "{no_vhost} {}", no_vhost.hint);

    let app = settings(&vhost.url_as("publisher-app:secret"));
    let no_access = refusal(&app).await;
    assert!(no_access.hint.contains("rabbitmqctl set_permissions -p"), "{no_access} {}", no_access.hint);

    let path = format!("/permissions/{}/publisher-app", vhost.name());
    server.api("PUT", &path, Some(&json!({"configure": "", "write": ".*", "read": ""})));
    let no_declare = refusal(&app).await;
    assert!(no_declare.to_string().contains("declare exchange 'events'"), "{no_declare}");
    assert!(no_declare.hint.contains("rabbitmq.declare = false"), "{}", no_declare.hint);

    let passive = RabbitSettings { declare: false, ..app.clone() };
    let missing = refusal(&passive).await;
    assert!(missing.to_string().contains("exchange 'events': it does not exist"), "{missing}");

    vhost.declare_exchange(EXCHANGE, "direct").await;
    let other_type = refusal(&guest).await;
    assert!(other_type.to_string().contains("received 'topic' but current is 'direct'"), "{other_type}");

    let odd_type = RabbitSettings { exchange_type: "no-such-type".into(), ..guest.clone() };
    let odd_type = refusal(&odd_type).await;
    assert!(odd_type.to_string().contains("unknown exchange type"), "{odd_type}");

    // Declared by somebody else, but not ours to write to: found out with the first event.
    server.api("PUT", &path, Some(&json!({"configure": "", "write": "", "read": ""})));
    let mut rig = Rig::connected(&passive).await;
    let no_write = rig.run(1).await.expect_err("no write permission");
    assert!(no_write.hint.contains("set_permissions"), "{no_write} {}", no_write.hint);
}

#[tokio::test]
async fn hosts_are_tried_in_turn_and_a_missing_broker_is_definite_only_when_asked() {
    let vhost = support::rabbitmq().vhost();
    vhost.queue_on("all", EXCHANGE).await;
    let dead = TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("address");
    let url = vhost.url().replace('@', &format!("@{dead},"));
    let mut rig = Rig::connected(&settings(&url)).await;
    rig.settle(1).await;

    let mut rig = Rig::new(&settings(&format!("amqp://{dead}")));
    let definite = rig.publisher.drive().await.expect_err("nobody there");
    assert_eq!(definite.kind, Kind::Unreachable);
    assert!(definite.to_string().contains(&dead.to_string()), "{definite}");
}

#[tokio::test]
async fn heartbeats_keep_an_idle_connection() {
    let vhost = support::rabbitmq().vhost();
    vhost.queue_on("all", EXCHANGE).await;
    let mut rig = Rig::connected(&settings(&format!("{}?heartbeat=1", vhost.url()))).await;
    // Without heartbeats the broker would close after two or three intervals.
    assert!(tokio::time::timeout(Duration::from_secs(6), rig.drive()).await.is_err());
    rig.settle(1).await;
    assert_eq!(rig.publisher.counters().reconnects, 0);
}

/// What a broker says that RabbitMQ would not: raw bytes to a real connection. None of it is a panic.
#[tokio::test]
async fn a_peer_that_does_not_speak_amqp_is_a_transient_failure() {
    use std::io::{Read, Write};
    let nested = {
        // connection.start whose server-properties hold tables in tables, as deep as a first frame allows.
        let mut table: Vec<u8> = Vec::new();
        while table.len() < 4000 {
            let mut outer = vec![0, b'F'];
            outer.extend(u32::try_from(table.len()).expect("small").to_be_bytes());
            outer.append(&mut table);
            table = outer;
        }
        let mut payload = vec![0, 10, 0, 10, 0, 9];
        payload.extend(u32::try_from(table.len()).expect("small").to_be_bytes());
        payload.extend(table);
        payload.extend([0; 8]);
        let mut frame = vec![1, 0, 0];
        frame.extend(u32::try_from(payload.len()).expect("small").to_be_bytes());
        frame.extend(payload);
        frame.push(0xCE);
        frame
    };
    let greetings: [&[u8]; 8] = [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"AMQP\x00\x01\x00\x00",
        b"\x15\x03\x03\x00\x02\x02\x28",
        b"\x01\x00\x00\xff\xff\xff\xff",
        b"\x01\x00\x00\x00\x00\x00\x01\x00\x00",
        b"\x01\x00\x00\x00\x00\x00\x04\x00\x3c\x00\x0a\xce",
        &nested,
    ];
    for greeting in greetings {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        let greeting = greeting.to_vec();
        let peer = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accept");
            let mut header = [0; 8];
            stream.read_exact(&mut header).expect("the protocol header");
            stream.write_all(&greeting).expect("write");
        });
        let broker = RabbitBroker::new(&settings(&format!("amqp://{address}")), "test", Topology::default());
        match tokio::time::timeout(SOON, broker.open()).await.expect("no wait without end") {
            Err(Failure::Transient(_)) => {}
            Err(Failure::Definite(definite)) => assert!(definite.to_string().contains("login mechanism"), "{definite}"),
            Ok(_) => panic!("it opened"),
        }
        peer.join().expect("the peer");
    }
}

#[tokio::test]
async fn a_silent_peer_is_left_after_the_time_limit() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let url = format!("amqp://{}?connection_timeout=1", listener.local_addr().expect("address"));
    let broker = RabbitBroker::new(&settings(&url), "test", Topology::default());
    let failure = tokio::time::timeout(SOON, broker.open()).await.expect("a time limit").expect_err("nobody speaks");
    assert!(failure.to_string().contains("greeting: no answer within 1000 ms"), "{failure}");
}

#[tokio::test]
async fn a_topology_connection_is_opened_only_for_exchanges_and_cut_when_it_hangs() {
    let vhost = support::rabbitmq().vhost();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let proxy = tokio::spawn(async move {
        // The publishing connections of both attempts reach the broker; what comes third gets no answer.
        for _ in 0..2 {
            let (mut client, _) = listener.accept().await.expect("accept");
            tokio::spawn(async move {
                let broker = ("127.0.0.1", support::rabbitmq().port());
                let mut broker = tokio::net::TcpStream::connect(broker).await.expect("connect");
                let _ = tokio::io::copy_bidirectional(&mut client, &mut broker).await;
            });
        }
        let (mut client, _) = listener.accept().await.expect("accept");
        let mut said = Vec::new();
        client.read_to_end(&mut said).await.expect("read until it is cut");
        said
    });
    let settings = settings(&format!("amqp://{address}/{}?connection_timeout=1", vhost.name()));
    let broker = RabbitBroker::new(&settings, "test", topology(&[""]));
    broker.open().await.unwrap_or_else(|failure| panic!("{failure}")).close().await;

    let broker = RabbitBroker::new(&settings, "test", topology(&[EXCHANGE]));
    let failure = tokio::time::timeout(SOON, broker.open()).await.expect("a time limit").expect_err("no answer");
    assert!(failure.to_string().contains("login for the topology: no answer within 1000 ms"), "{failure}");
    let said = tokio::time::timeout(SOON, proxy).await.expect("the connection is cut").expect("the proxy");
    assert_eq!(said, b"AMQP\x00\x00\x09\x01");
}

/// One private node for all that would disturb others: alarms, silence, SIGKILL.
#[tokio::test(flavor = "multi_thread")]
async fn alarms_silence_and_crashes_lose_nothing() {
    let server = RabbitServer::private(&[]);
    let vhost = server.vhost();
    vhost.declare_exchange(EXCHANGE, "topic").await;
    // Only a quorum queue has what it confirmed on disk.
    vhost.queue("all", &[("x-queue-type", lapin::types::AMQPValue::LongString("quorum".into()))]).await;
    vhost.bind("all", EXCHANGE, "#").await;
    let url = format!("{}?heartbeat=30", vhost.url());
    let settings = RabbitSettings { confirm_timeout: Duration::from_secs(3), ..settings(&url) };
    let mut rig = Rig::connected(&settings).await;
    rig.settle(100).await;

    // An alarm: the broker blocks, the confirm timeout does not count.
    server.rabbitmqctl(&["set_vm_memory_high_watermark", "0.00001"]);
    for _ in 0..100 {
        rig.publish().expect("a good event");
    }
    rig.until_state(State::Blocked).await;
    let settled = rig.settled;
    assert!(tokio::time::timeout(Duration::from_secs(5), rig.drive()).await.is_err());
    assert_eq!((rig.publisher.counters().reconnects, rig.settled, rig.publisher.state()), (0, settled, State::Blocked));
    server.rabbitmqctl(&["set_vm_memory_high_watermark", "absolute", "512MB"]);
    rig.settle(200).await;
    assert_eq!((rig.publisher.state(), rig.publisher.trouble()), (State::Flowing, None));

    // Silence under load: the confirm timeout notices.
    server.pause();
    rig.publish().expect("a good event");
    rig.until_state(State::Reconnecting).await;
    assert!(rig.publisher.trouble().expect("says why").contains("confirmed nothing for 3000 ms"));
    server.resume();
    rig.settle(1000).await;

    // SIGKILL under load, and a restart.
    let crash = tokio::task::spawn_blocking(move || {
        server.kill();
        server.start();
        server
    });
    let (server, ()) = tokio::join!(crash, rig.settle(30_000));
    let server = server.expect("restart");
    rig.settle(30_001).await;
    assert!(rig.publisher.counters().reconnects >= 2);
    let mut consumer = vhost.consumer("all").await;
    let all = consumer.until(SOON * 4, |all| all.last().is_some_and(|last| last.message_id == "m30000")).await;
    assert_complete_and_ordered(&ids(&all), 30_001);
    rig.publisher.close().await;
    drop(server);
}

#[tokio::test]
async fn limits_come_from_the_broker() {
    let vhost = support::rabbitmq().vhost();
    let broker = RabbitBroker::new(&settings(&vhost.url()), "test", Topology::default());
    let channel = broker.open().await.unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(channel.frame_max(), 131_072);
    assert!([16 << 20, 128 << 20].contains(&channel.max_message_bytes()));
    channel.close().await;
}
