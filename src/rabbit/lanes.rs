//! Several publishers, each with a connection, a channel and an order of its own, and what is in flight of all of them.
//!
//! Events are sharded by their ordering key. Invariants: events of one key are in one lane, and so in order. An event that is
//! for all keys stands alone between two fences: what is before a fence settles before anything behind it is begun. A
//! lane that is in trouble holds up its own keys and no others, until the window is full or a fence comes. What settles is
//! told by its name in the window (`progress`), which orders all lanes. With one lane there are no fences.
//!
//! `publish` does no IO, `drive` does all of it. `pipeline` is the caller.

use std::collections::VecDeque;
use std::ops::Range;
use std::task::{Context, Poll};

use super::lane::{self, Parked};
use super::parking::{Parking, Reason};
use super::publisher::{PublishError, Publisher, PublisherSettings, State};
use super::unwire;
use super::voice::Voice;
use crate::broker::Broker;
use crate::config::{PoisonPolicy, RabbitSettings, Unroutable};
use crate::encode::message::{Event, Message};
use crate::encode::ordering::OrderingKey;
use crate::failure::{Definite, Poison};
use crate::lsn::Lsn;
use crate::progress::Seq;
use crate::telemetry::health::{self, Health};
use crate::telemetry::otlp::connecting::Connecting;

/// Publishes events, each in order with those of its key, and reports them once they are settled.
pub struct Lanes<B: Broker> {
    shards: Vec<Shard<B>>,
    /// Where events are parked, if a policy does that.
    parking: Option<Parking<B>>,
    /// What is before one of these settles before it, or anything behind it, is begun. Ascending.
    fences: VecDeque<Seq>,
    /// The lane of the next event without a key.
    next: usize,
    /// Settled, and not told yet.
    settled: Vec<Seq>,
    /// Parked after all, though they were taken for published; and not told yet.
    parked: Vec<(Seq, Option<Poison>)>,
    /// To be told once that is.
    failed: Option<Failed>,
    is_open: bool,
    /// What the metrics were told of what is wrong.
    told: Option<String>,
    /// Of each lane; none at all: there are no spans.
    connecting: Vec<Connecting>,
    health: Health,
}

/// Why no lane can go on.
#[derive(Debug)]
pub struct Failed {
    /// Only what trying again can't mend.
    pub definite: Definite,
    /// The event that it is about, when it is about an event.
    pub seq: Option<Seq>,
}

/// One lane, and the names in the window of what it has in flight.
struct Shard<B: Broker> {
    publisher: Publisher<B>,
    seqs: VecDeque<Seq>,
    /// What the publisher calls the first of them.
    first: Seq,
}

impl<B: Broker> Shard<B> {
    fn publish(&mut self, seq: Seq, message: &Message<'_>) -> Result<usize, PublishError> {
        let bytes = self.publisher.publish(self.first + self.seqs.len() as Seq, message)?;
        self.seqs.push_back(seq);
        Ok(bytes)
    }

    /// Nothing from this event of the window on is begun.
    fn set_fence(&mut self, fence: Option<Seq>) {
        self.publisher.set_fence(match fence {
            Some(fence) => self.first + self.seqs.partition_point(|seq| *seq < fence) as Seq,
            None => Seq::MAX,
        });
    }

    /// What the publisher has settled; what of it is to be parked is not.
    fn settle(&mut self, range: Range<Seq>, mut park: impl FnMut(Seq, Parked), settled: &mut Vec<Seq>) {
        self.first = range.end.max(self.first);
        let mut next_parked = self.publisher.take_parked();
        for own in range {
            let seq = self.seqs.pop_front().expect("a settled event was in flight");
            match next_parked.take_if(|parked| parked.seq == own) {
                Some(parked) => {
                    park(seq, parked);
                    next_parked = self.publisher.take_parked();
                }
                None => settled.push(seq),
            }
        }
        assert!(next_parked.is_none(), "what is parked is settled");
    }
}

impl<B: Broker + Clone> Lanes<B> {
    /// Lanes without a connection; the first `drive` opens one for each.
    ///
    /// Must be called within a tokio runtime.
    pub fn new(broker: B, rabbitmq: &RabbitSettings, fail_fast: bool, health: Health) -> Self {
        let settings = PublisherSettings {
            confirm_timeout: rabbitmq.confirm_timeout,
            unroutable: rabbitmq.unroutable,
            poison: rabbitmq.poison,
            fail_fast,
            jitter_seed: 0,
        };
        let publisher = move |settings: PublisherSettings, voice| {
            let settings = PublisherSettings { jitter_seed: fastrand::u64(..), ..settings };
            Publisher::new(broker.clone(), settings).with_voice(voice).keeping(lane::KEEP_BYTES / rabbitmq.lanes)
        };
        let voices = Voice::several(rabbitmq.lanes);
        let lanes =
            voices.map(|voice| Shard { publisher: publisher(settings, voice), seqs: VecDeque::new(), first: 0 });
        let parking = rabbitmq.parking().map(|parking| {
            let (unroutable, poison) = (Unroutable::Wait, PoisonPolicy::Wait);
            let settings = PublisherSettings { unroutable, poison, fail_fast: false, ..settings };
            Parking::new(parking.exchange.clone(), publisher(settings, Voice::default()))
        });
        health.metrics().start_lanes(rabbitmq.lanes);
        let connecting = if health.tracer().is_on() { rabbitmq.lanes } else { 0 };
        let connecting = (0..connecting)
            .map(|_| Connecting::new(health.tracer().clone(), "connect rabbitmq", ("messaging.system", "rabbitmq")));
        let connecting = connecting.collect();
        Self {
            shards: lanes.collect(),
            parking,
            fences: VecDeque::new(),
            next: 0,
            settled: Vec::new(),
            parked: Vec::new(),
            failed: None,
            is_open: false,
            told: None,
            connecting,
            health,
        }
    }
}

impl<B: Broker> Lanes<B> {
    /// Sends nothing until it is let go, see [`Publisher::hold`].
    pub fn hold(&mut self, held: bool) {
        self.shards.iter_mut().for_each(|lane| lane.publisher.hold(held));
        self.parking.iter_mut().for_each(|parking| parking.hold(held));
    }

    /// Whether `publish` can take events: each lane has had a connection, so that the broker's limits are known.
    #[must_use]
    pub fn accepts(&self) -> bool {
        self.shards.iter().all(|lane| lane.publisher.accepts())
    }

    /// How long a body may be; none before the first connections.
    #[must_use]
    pub fn max_message_bytes(&self) -> Option<usize> {
        self.shards.iter().map(|lane| lane.publisher.max_message_bytes()).min().flatten()
    }

    /// Takes an event into flight, without IO; returns the bytes that it holds in memory until it is settled.
    /// Connected or not: what can't be sent now is sent later. The caller bounds how much is in flight, and counts up `seq`.
    ///
    /// # Errors
    /// When it can't be published as it is; nothing has changed then.
    pub fn publish(&mut self, seq: Seq, message: &Message<'_>, key: OrderingKey) -> Result<usize, PublishError> {
        let count = self.shards.len();
        let (lane, is_for_all) = match key {
            _ if count == 1 => (0, false),
            OrderingKey::One(hash) => (usize::try_from(hash % count as u64).unwrap_or(0), false),
            OrderingKey::Any => (self.next, false),
            OrderingKey::All => (0, true),
        };
        let bytes = self.shards[lane].publish(seq, message)?;
        match key {
            OrderingKey::Any => self.next = (self.next + 1) % count,
            OrderingKey::One(_) | OrderingKey::All => {}
        }
        if is_for_all {
            self.fences.extend([seq, seq + 1]);
            self.lift_fences();
        }
        Ok(bytes)
    }

    /// What is published from this event on is begun once all before it is settled: keys are not what they were.
    pub fn fence(&mut self, seq: Seq) {
        if self.shards.len() > 1 {
            self.fences.push_back(seq);
            self.lift_fences();
        }
    }

    /// Takes an event into flight that can't be published, and goes to the parking exchange with this error. `made`: it is
    /// whole, or there is only what names it. Returns the bytes as [`Self::publish`] does; none: events are not parked.
    pub fn park(&mut self, seq: Seq, event: &mut Event, error: &Definite, made: bool) -> Option<usize> {
        let reason = if made { Reason::Poison(error) } else { Reason::Unmade(error) };
        let parking = self.parking.as_mut()?;
        Some(parking.park(seq, std::mem::take(event), reason))
    }

    /// Does all the work until events are settled, or the first connections are open: then [`Self::settled`] has them (none
    /// after those connects only). Waits for ever when nothing is in flight, and keeps the connections alive meanwhile.
    /// Cancel-safe.
    ///
    /// # Errors
    /// Only what trying again can't mend.
    pub async fn drive(&mut self) -> Result<(), Failed> {
        std::future::poll_fn(|cx| self.poll_drive(cx)).await
    }

    /// What has settled since the last call, each once, in no order.
    pub fn settled(&mut self) -> impl Iterator<Item = Seq> {
        self.settled.drain(..)
    }

    /// What goes to the parking exchange since the last call, though it was taken for published: what is wrong with it; none: no
    /// queue takes it.
    pub fn parked(&mut self) -> impl Iterator<Item = (Seq, Option<Poison>)> {
        self.parked.drain(..)
    }

    /// In which transactions something that was taken for published is parked without its body, as known since the last
    /// call: before it is settled.
    pub fn bodiless(&mut self) -> impl Iterator<Item = Lsn> {
        self.parking.iter_mut().flat_map(Parking::take_bodiless)
    }

    fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        loop {
            if let Some(failed) = self.failed.take() {
                return Poll::Ready(Err(failed));
            }
            let mut is_idle = true;
            for lane in &mut self.shards {
                let range = match lane.publisher.poll_drive(cx) {
                    Poll::Pending => continue,
                    Poll::Ready(Ok(range)) => range,
                    Poll::Ready(Err(definite)) => {
                        let seq = definite.poison.and_then(|_| lane.seqs.front().copied());
                        self.failed = Some(Failed { definite, seq });
                        is_idle = false;
                        continue;
                    }
                };
                is_idle = false;
                let (parking, told) = (&mut self.parking, &mut self.parked);
                let park = |seq, parked: Parked| {
                    told.push((seq, parked.refusal.as_ref().and_then(|refusal| refusal.poison)));
                    park(parking.as_mut(), seq, &parked);
                };
                lane.settle(range, park, &mut self.settled);
            }
            if let Some(parking) = &mut self.parking {
                match parking.poll(cx, &mut self.settled) {
                    Poll::Pending => {}
                    Poll::Ready(Ok(())) => is_idle = false,
                    Poll::Ready(Err(definite)) => {
                        self.failed = Some(Failed { definite, seq: parking.oldest() });
                        is_idle = false;
                    }
                }
            }
            self.tell_health();
            let opens = !self.is_open && self.accepts();
            self.is_open |= opens;
            if opens || !self.settled.is_empty() {
                self.lift_fences();
                return Poll::Ready(Ok(()));
            }
            if is_idle {
                return Poll::Pending;
            }
        }
    }

    /// What the lanes are doing: the worst of it.
    #[must_use]
    pub fn state(&self) -> State {
        self.publishers().map(Publisher::state).max_by_key(|state| badness(*state)).unwrap_or(State::Connecting)
    }

    /// What is wrong now, in a sentence; `None` while events flow.
    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.publishers().find_map(Publisher::trouble)
    }

    /// How many events the broker took for good; those that are parked are not among them.
    #[must_use]
    pub fn confirmed(&self) -> u64 {
        self.shards.iter().map(|lane| lane.publisher.counters().events.confirmed).sum()
    }

    /// Says goodbye to the broker, if it is there. What is in flight stays unsettled.
    pub async fn close(self) {
        let lanes = self.shards.into_iter().map(|lane| lane.publisher.close());
        let parking = async {
            if let Some(parking) = self.parking {
                parking.close().await;
            }
        };
        futures_util::future::join(futures_util::future::join_all(lanes), parking).await;
    }

    fn publishers(&self) -> impl Iterator<Item = &Publisher<B>> {
        let lanes = self.shards.iter().map(|lane| &lane.publisher);
        lanes.chain(self.parking.iter().filter_map(Parking::publisher))
    }

    /// Removes the fences before which all is settled, and tells the lanes of the next one.
    fn lift_fences(&mut self) {
        if self.fences.is_empty() {
            return;
        }
        let lanes = self.shards.iter().filter_map(|lane| lane.seqs.front().copied());
        let oldest = lanes.chain(self.parking.iter().filter_map(Parking::oldest)).min();
        while self.fences.front().is_some_and(|fence| oldest.is_none_or(|oldest| *fence <= oldest)) {
            self.fences.pop_front();
        }
        let fence = self.fences.front().copied();
        self.shards.iter_mut().for_each(|lane| lane.set_fence(fence));
    }

    fn tell_health(&mut self) {
        let metrics = self.health.metrics();
        for (lane, told) in self.shards.iter().zip(metrics.lanes()) {
            told.tell(lane.publisher.state(), lane.seqs.len(), lane.publisher.counters());
        }
        for (lane, connecting) in self.shards.iter().zip(&mut self.connecting) {
            match lane.publisher.state() {
                State::Connecting | State::Reconnecting => {
                    connecting.begin();
                    lane.publisher.trouble().into_iter().for_each(|why| connecting.trouble(why));
                }
                State::Flowing | State::Blocked | State::Retrying | State::Poisoned(_) => connecting.done(),
            }
        }
        if let Some(parking) = self.parking.as_ref().and_then(Parking::publisher) {
            metrics.parking().tell(parking.state(), 0, parking.counters());
        }
        if self.trouble() != self.told.as_deref() {
            self.told = self.trouble().map(str::to_owned);
            self.told.iter().for_each(|what| metrics.trouble("broker", what));
        }
        self.health.broker(match self.state() {
            State::Connecting | State::Reconnecting => health::Broker::Connecting,
            State::Flowing => health::Broker::Flowing,
            State::Blocked => health::Broker::Blocked,
            State::Retrying => health::Broker::Retrying,
            State::Poisoned(_) => health::Broker::Refusing,
        });
    }
}

/// A state that a human has to mend is told before one that goes by.
fn badness(state: State) -> u8 {
    match state {
        State::Flowing => 0,
        State::Retrying => 1,
        State::Blocked => 2,
        State::Reconnecting => 3,
        State::Connecting => 4,
        State::Poisoned(_) => 5,
    }
}

fn park<B: Broker>(parking: Option<&mut Parking<B>>, seq: Seq, parked: &Parked) {
    let parking = parking.expect("a lane parks only where there is parking");
    let event = unwire::event(&parked.frames).expect("the frames are our own");
    parking.park_published(seq, event, parked.refusal.as_ref());
}

#[cfg(test)]
#[path = "lanes_tests.rs"]
mod tests;
