//! The publisher's time-dependent behaviour, against a scripted broker and a paused clock.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::*;
use crate::encode::message::Properties;

/// What a connection does, one entry a connection; the last one is used for all that follow.
#[derive(Debug, Clone, Copy)]
enum Script {
    /// Can't be opened.
    Refuse,
    /// Takes bytes, answers nothing.
    Silent,
    /// Takes no byte.
    Stuck,
    /// Blocks publishers, then takes bytes and answers nothing.
    Blocked,
    /// Takes bytes and nacks all of each turn's, so many times, then acks.
    Nack(u32),
    /// Takes bytes and acks all of each turn's; closes after one that holds an X.
    Close { doomed: bool },
    /// Takes bytes and acks all of each turn's; frames of at most that many bytes.
    Ack(usize),
}

#[derive(Debug, Clone)]
struct Scripted {
    scripts: Arc<Mutex<VecDeque<Script>>>,
    opened: Arc<Mutex<Vec<Instant>>>,
}

struct ScriptedChannel {
    script: Script,
    /// Frames of how many events were begun, and of how many of these the last confirm told.
    begun: u64,
    confirmed: u64,
    said_blocked: bool,
}

impl Scripted {
    fn new(scripts: &[Script]) -> Self {
        Self { scripts: Arc::new(Mutex::new(scripts.iter().copied().collect())), opened: Arc::default() }
    }
}

impl Broker for Scripted {
    type Channel = ScriptedChannel;

    fn open(&self) -> impl Future<Output = Result<ScriptedChannel, Failure>> + Send + 'static {
        let mut scripts = self.scripts.lock().expect("no panic holds it");
        let script = if scripts.len() > 1 { scripts.pop_front() } else { scripts.front().copied() };
        self.opened.lock().expect("no panic holds it").push(Instant::now());
        async move {
            match script {
                None | Some(Script::Refuse) => Err(Failure::transient(anyhow!("refused"))),
                Some(script) => Ok(ScriptedChannel { script, begun: 0, confirmed: 0, said_blocked: false }),
            }
        }
    }
}

/// How many of these frames are methods: one an event.
fn publishes(mut frames: &[u8]) -> u64 {
    let mut methods = 0;
    while let [kind, _, _, a, b, c, d, rest @ ..] = frames {
        methods += u64::from(*kind == 1);
        frames = &rest[u32::from_be_bytes([*a, *b, *c, *d]) as usize + 1..];
    }
    methods
}

impl Channel for ScriptedChannel {
    fn poll_turn(&mut self, _: &mut Context<'_>, output: [&[u8]; 2]) -> Poll<Result<Turn, Failure>> {
        let bytes = output.iter().map(|slice| slice.len()).sum();
        Poll::Ready(match &mut self.script {
            Script::Close { doomed: true } => {
                Err(Failure::definite(Kind::Event, anyhow!("too large"), "make it smaller"))
            }
            Script::Close { doomed } if output.iter().any(|slice| slice.contains(&b'X')) => {
                *doomed = true;
                Ok(Turn::Wrote(bytes))
            }
            Script::Nack(times) if self.confirmed < self.begun && *times > 0 => {
                *times -= 1;
                self.confirmed = self.begun;
                Ok(Turn::Reply(Reply::Nack { tag: self.begun, multiple: true }))
            }
            Script::Ack(_) | Script::Nack(_) | Script::Close { .. } if self.confirmed < self.begun => {
                self.confirmed = self.begun;
                Ok(Turn::Reply(Reply::Ack { tag: self.begun, multiple: true }))
            }
            Script::Blocked if !self.said_blocked => {
                self.said_blocked = true;
                Ok(Turn::Reply(Reply::Blocked("low on memory".into())))
            }
            Script::Ack(_) | Script::Nack(_) | Script::Close { .. } | Script::Silent | Script::Blocked if bytes > 0 => {
                self.begun += publishes(&output.concat());
                Ok(Turn::Wrote(bytes))
            }
            Script::Ack(_)
            | Script::Nack(_)
            | Script::Close { .. }
            | Script::Silent
            | Script::Blocked
            | Script::Stuck
            | Script::Refuse => return Poll::Pending,
        })
    }

    fn frame_max(&self) -> usize {
        if let Script::Ack(frame_max) = self.script { frame_max } else { 131_072 }
    }

    fn max_message_bytes(&self) -> usize {
        1000
    }

    async fn close(self) {}
}

const TIMEOUT: Duration = Duration::from_secs(30);

async fn connected(scripts: &[Script]) -> (Publisher<Scripted>, Scripted) {
    let broker = Scripted::new(scripts);
    let settings = PublisherSettings {
        confirm_timeout: TIMEOUT,
        unroutable: Unroutable::Wait,
        poison: PoisonPolicy::Stop,
        fail_fast: false,
        jitter_seed: 0,
    };
    let mut publisher = Publisher::new(broker.clone(), settings);
    assert_eq!(publisher.state(), State::Connecting);
    assert_eq!(publish(&mut publisher, 0, b""), Err(PublishError::NotReady));
    assert!(publisher.drive().await.expect("connects").is_empty());
    assert_eq!(publisher.state(), State::Flowing);
    (publisher, broker)
}

fn publish(publisher: &mut Publisher<Scripted>, seq: Seq, body: &[u8]) -> Result<usize, PublishError> {
    let properties = Properties {
        message_id: "m",
        event_type: "t",
        app_id: "a",
        content_type: "c",
        timestamp_s: Some(0),
        ..Default::default()
    };
    publisher.publish(seq, &Message { exchange: "e", routing_key: "k", properties, body })
}

#[tokio::test(start_paused = true)]
async fn without_a_broker_it_tries_for_ever_with_growing_waits() {
    let mut scripts = vec![Script::Refuse; 30];
    scripts.push(Script::Ack(131_072));
    let (publisher, broker) = connected(&scripts).await;
    let opened = broker.opened.lock().expect("no panic holds it").clone();
    let waits: Vec<_> = opened.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(waits[0] <= Duration::from_millis(101) && waits[29] >= RECONNECT.1 / 2, "{waits:?}");
    assert!(waits.iter().all(|wait| *wait <= RECONNECT.1 + Duration::from_millis(1)));
    assert_eq!((publisher.counters().reconnects, publisher.trouble()), (0, None));
}

#[tokio::test(start_paused = true)]
async fn no_confirm_within_the_timeout_means_a_new_connection_and_all_again() {
    for script in [Script::Silent, Script::Stuck] {
        let (mut publisher, broker) = connected(&[script, Script::Ack(131_072)]).await;
        // A long idle time counts for nothing.
        assert!(tokio::time::timeout(TIMEOUT * 10, publisher.drive()).await.is_err());
        publish(&mut publisher, 0, b"").expect("small");
        publish(&mut publisher, 1, b"").expect("small");
        let begin = Instant::now();
        assert_eq!(publisher.drive().await.expect("settles"), 0..1, "{script:?}");
        let took = begin.elapsed();
        assert_eq!(publisher.drive().await.expect("settles"), 1..2, "{script:?}");
        assert!(took >= TIMEOUT && took < TIMEOUT + Duration::from_secs(1), "{script:?} {took:?}");
        assert_eq!(publisher.counters().reconnects, 1);
        assert_eq!(broker.opened.lock().expect("no panic holds it").len(), 2);
    }
}

/// RabbitMQ does that to a channel which first published to a quorum queue while its leader was gone.
#[tokio::test(start_paused = true)]
async fn a_channel_that_refuses_all_the_time_is_left_and_one_that_does_not_is_kept() {
    for (nacks, connections) in [(1, 1), (2, 2), (u32::MAX, 2)] {
        let (mut publisher, broker) = connected(&[Script::Nack(nacks), Script::Ack(131_072)]).await;
        for seq in 0..10 {
            publish(&mut publisher, seq, b"").expect("small");
        }
        let mut settled = 0;
        while settled < 10 {
            let driven = tokio::time::timeout(Duration::from_secs(2), publisher.drive()).await;
            let range = driven.expect("soon").expect("nothing definite");
            assert_eq!(range.start, settled);
            settled = range.end;
        }
        assert_eq!(broker.opened.lock().expect("no panic holds it").len(), connections, "{nacks} nacks");
        assert_eq!((publisher.state(), publisher.trouble()), (State::Flowing, None));
    }
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_refuses_for_hours_costs_few_connections() {
    let (mut publisher, broker) = connected(&[Script::Nack(u32::MAX)]).await;
    publish(&mut publisher, 0, b"").expect("small");
    assert!(tokio::time::timeout(Duration::from_hours(1), publisher.drive()).await.is_err());
    assert_eq!(publisher.trouble(), Some(REFUSED));
    let opened = broker.opened.lock().expect("no panic holds it").len();
    assert!((8..15).contains(&opened), "{opened} connections in an hour");
}

#[tokio::test(start_paused = true)]
async fn while_blocked_the_confirm_timeout_stands_still_and_nothing_is_sent() {
    let (mut publisher, broker) = connected(&[Script::Blocked]).await;
    publish(&mut publisher, 0, b"").expect("small");
    assert!(tokio::time::timeout(TIMEOUT * 10, publisher.drive()).await.is_err());
    assert_eq!(publisher.state(), State::Blocked);
    assert_eq!(publisher.trouble(), Some("RabbitMQ blocks publishers: low on memory"));
    assert_eq!(broker.opened.lock().expect("no panic holds it").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn smaller_frames_after_a_reconnect_are_definite_only_with_events_in_flight() {
    let (mut publisher, _) = connected(&[Script::Silent, Script::Ack(4096)]).await;
    publish(&mut publisher, 0, b"").expect("small");
    let definite = publisher.drive().await.expect_err("frames in flight are too large");
    assert!(definite.to_string().contains("frames of 4096 bytes now"), "{definite}");
}

#[tokio::test(start_paused = true)]
async fn what_is_too_large_is_refused_and_changes_nothing() {
    let (mut publisher, _) = connected(&[Script::Ack(131_072)]).await;
    let too_large = PublishError::TooLarge { bytes: 1001, limit: 1000 };
    assert_eq!(publish(&mut publisher, 0, &[0; 1001]), Err(too_large));
    assert!(publisher.is_empty());
    publish(&mut publisher, 0, &[0; 1000]).expect("as large as allowed");
    assert_eq!(publisher.drive().await.expect("settles"), 0..1);
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_is_closed_over_one_event_costs_no_other_its_confirm() {
    for bad in [0, 1, 13, 499] {
        let (mut publisher, _) = connected(&[Script::Close { doomed: false }]).await;
        for seq in 0..500 {
            publish(&mut publisher, seq, if seq == bad { b"X" } else { b"" }).expect("small");
        }
        let mut settled = 0;
        let definite = loop {
            match publisher.drive().await {
                Ok(range) => settled = range.end,
                Err(definite) => break definite,
            }
        };
        assert_eq!((settled, definite.kind), (bad, Kind::Event));
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_drive_loses_nothing() {
    let scripts = [Script::Refuse, Script::Silent, Script::Refuse, Script::Ack(131_072)];
    let (mut publisher, _) = connected(&scripts).await;
    let mut settled = 0;
    for seq in 0..100 {
        publish(&mut publisher, seq, b"x").expect("small");
    }
    while settled < 100 {
        if let Ok(range) = tokio::time::timeout(Duration::from_millis(7), publisher.drive()).await {
            let range = range.expect("nothing definite");
            assert_eq!(range.start, settled);
            settled = range.end;
        }
    }
    assert!(publisher.is_empty());
}
