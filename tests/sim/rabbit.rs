//! RabbitMQ, simulated: reads the published bytes, enqueues, refuses or returns, confirms late, dies anywhere.

use std::collections::{BTreeMap, VecDeque};

use amq_protocol::frame::{AMQPFrame, parse_frame};
use amq_protocol::protocol::{AMQPClass, basic};
use amq_protocol::types::AMQPValue;
use pgsluice::broker::{Broker, Channel, Reply, Returned, Turn};
use pgsluice::failure::Failure;

use super::world::{Shared, World};

/// A connection on which nothing is heard is given up after so many milliseconds (heartbeats).
const HEARTBEAT_MS: u64 = 6_000;

pub(crate) struct SimBroker(pub(crate) Shared);

pub(crate) struct SimChannel {
    shared: Shared,
    frame_max: usize,
    /// Written, and not read yet by the broker.
    transit: Vec<u8>,
    /// The message of which not all frames were read.
    partial: Option<Partial>,
    next_tag: u64,
    /// Read, and not answered.
    outstanding: BTreeMap<u64, Answer>,
    /// What is said before any confirm.
    replies: VecDeque<Reply>,
    state: State,
    /// The next step is not before.
    ready_ms: u64,
    /// Confirms don't come before their predecessors unless they are reordered.
    confirm_ms: u64,
}

enum State {
    Reading,
    BlockedUntil(u64),
    SilentSince(u64),
    Dead,
}

struct Partial {
    exchange: String,
    routing_key: String,
    message_id: String,
    position: String,
    body: Vec<u8>,
    body_bytes: usize,
    wire_bytes: usize,
}

struct Answer {
    ack: bool,
    at_ms: u64,
    wire_bytes: usize,
}

fn odd(at_ms: u64) -> u64 {
    at_ms.saturating_add(1).next_multiple_of(2) - 1
}

impl Broker for SimBroker {
    type Channel = SimChannel;

    fn open(&self) -> impl Future<Output = Result<SimChannel, Failure>> + Send + 'static {
        let shared = self.0.clone();
        async move {
            let at_ms = {
                let mut world = shared.lock();
                odd(world.now_ms() + 2 + world.broker_random.u64(..30))
            };
            shared.at(at_ms).await;
            if shared.lock().step("connect") {
                std::future::pending::<()>().await;
            }
            let mut world = shared.lock();
            let fails = world.faults.open_fails;
            if world.broker_chance(fails) {
                return Err(Failure::transient(anyhow::anyhow!("connection refused")));
            }
            Ok(SimChannel {
                shared: shared.clone(),
                frame_max: world.frame_max,
                transit: Vec::new(),
                partial: None,
                next_tag: 1,
                outstanding: BTreeMap::new(),
                replies: VecDeque::new(),
                state: State::Reading,
                ready_ms: at_ms + 2,
                confirm_ms: 0,
            })
        }
    }
}

impl Channel for SimChannel {
    async fn turn(&mut self, output: [&[u8]; 2]) -> Result<Turn, Failure> {
        loop {
            let at_ms = self.due_ms(output.iter().any(|slice| !slice.is_empty()));
            if at_ms == u64::MAX {
                return std::future::pending().await;
            }
            self.shared.at(odd(at_ms)).await;
            if self.shared.lock().step("turn") {
                std::future::pending::<()>().await;
            }
            if let Some(turn) = self.take_turn(output)? {
                return Ok(turn);
            }
        }
    }

    fn frame_max(&self) -> usize {
        self.frame_max
    }

    fn max_message_bytes(&self) -> usize {
        1 << 20
    }

    async fn close(mut self) {
        let shared = self.shared.clone();
        self.read(&mut shared.lock());
    }
}

impl Drop for SimChannel {
    fn drop(&mut self) {
        self.die();
    }
}

impl SimChannel {
    fn due_ms(&self, has_output: bool) -> u64 {
        let confirms = self.outstanding.values().map(|answer| answer.at_ms).min().unwrap_or(u64::MAX);
        let due = match self.state {
            _ if !self.replies.is_empty() => 0,
            State::Dead => u64::MAX,
            State::SilentSince(since) => since + HEARTBEAT_MS,
            State::BlockedUntil(until) => until,
            State::Reading if has_output || !self.transit.is_empty() => 0,
            State::Reading => confirms,
        };
        due.max(self.ready_ms)
    }

    fn take_turn(&mut self, output: [&[u8]; 2]) -> Result<Option<Turn>, Failure> {
        let shared = self.shared.clone();
        let mut world = shared.lock();
        let now = world.now_ms();
        self.ready_ms = now + 2 + if world.broker_random.bool() { 0 } else { world.broker_random.u64(..6) };
        if let State::SilentSince(_) | State::Dead = self.state {
            self.state = State::Dead;
            return Err(Failure::transient(anyhow::anyhow!("missed heartbeats")));
        }
        let faults = world.faults;
        if world.broker_chance(faults.broker_drop) {
            drop(world);
            self.die();
            return Err(Failure::transient(anyhow::anyhow!("connection reset by peer")));
        }
        if let State::BlockedUntil(until) = self.state
            && until <= now
        {
            self.state = State::Reading;
            self.replies.push_back(Reply::Unblocked);
        }
        if let Some(reply) = self.replies.pop_front() {
            return Ok(Some(Turn::Reply(reply)));
        }
        if world.broker_chance(faults.stall) {
            self.state = State::SilentSince(now);
            return Ok(None);
        }
        if world.broker_chance(faults.block) {
            self.state = State::BlockedUntil(now + world.broker_random.u64(10..2_000));
            return Ok(Some(Turn::Reply(Reply::Blocked("low on memory".to_owned()))));
        }
        if !world.broker_chance(faults.lag) {
            self.read(&mut world);
        }
        if let Some(reply) = self.replies.pop_front() {
            return Ok(Some(Turn::Reply(reply)));
        }
        let bytes = output[0].len() + output[1].len();
        if (bytes == 0 || world.broker_random.bool())
            && let Some(reply) = self.confirm(&mut world)
        {
            return Ok(Some(Turn::Reply(reply)));
        }
        if bytes == 0 {
            return Ok(None);
        }
        let partial = world.broker_random.f64() < faults.partial_write;
        let takes = if partial { world.broker_random.usize(1..=bytes) } else { bytes };
        self.transit.extend(output.concat().into_iter().take(takes));
        Ok(Some(Turn::Wrote(takes)))
    }

    /// The connection ends: the broker has read some of what was written, or all of it, or none.
    fn die(&mut self) {
        if let State::Dead = self.state {
            return;
        }
        let silent = matches!(self.state, State::SilentSince(_));
        self.state = State::Dead;
        let shared = self.shared.clone();
        let mut world = shared.lock();
        let arrived = world.broker_random.usize(..=self.transit.len());
        self.transit.truncate(if silent { 0 } else { arrived });
        self.read(&mut world);
    }

    /// Reads the whole frames that have arrived.
    fn read(&mut self, world: &mut World) {
        let mut at = 0;
        while let Some(header) = self.transit.get(at..at + 7) {
            let payload = u32::from_be_bytes([header[3], header[4], header[5], header[6]]) as usize;
            let Some(bytes) = self.transit.get(at..at + payload + 8) else { break };
            if bytes.len() > self.frame_max {
                world.violate(format!("a frame of {} bytes where {} are allowed", bytes.len(), self.frame_max));
            }
            let frame = parse_frame(bytes).map(|(_, frame)| frame).map_err(|error| format!("{error:?}"));
            at += payload + 8;
            match frame {
                Ok(frame) => self.frame(frame, payload + 8, world),
                Err(error) => world.violate(format!("the broker can't read a frame: {error}")),
            }
        }
        self.transit.drain(..at);
    }

    fn frame(&mut self, frame: AMQPFrame, wire_bytes: usize, world: &mut World) {
        match (frame, self.partial.take()) {
            (AMQPFrame::Method(1, AMQPClass::Basic(basic::AMQPMethod::Publish(publish))), None) => {
                if !publish.mandatory {
                    world.violate("a publish is not mandatory".to_owned());
                }
                self.partial = Some(Partial {
                    exchange: publish.exchange.to_string(),
                    routing_key: publish.routing_key.to_string(),
                    message_id: String::new(),
                    position: String::new(),
                    body: Vec::new(),
                    body_bytes: usize::MAX,
                    wire_bytes,
                });
            }
            (AMQPFrame::Header(1, header), Some(mut partial)) if partial.body_bytes == usize::MAX => {
                let properties = &header.properties;
                if *properties.delivery_mode() != Some(2) {
                    world.violate("a message is not persistent".to_owned());
                }
                let position = properties.headers().as_ref().and_then(|headers| headers.inner().get("position"));
                if let Some(AMQPValue::LongString(position)) = position {
                    partial.position = position.to_string();
                }
                partial.message_id = properties.message_id().as_ref().map(ToString::to_string).unwrap_or_default();
                partial.body_bytes = usize::try_from(header.body_size).expect("small");
                partial.wire_bytes += wire_bytes;
                self.message(partial, world);
            }
            (AMQPFrame::Body(1, bytes), Some(mut partial)) if partial.body_bytes != usize::MAX => {
                partial.body.extend(bytes);
                partial.wire_bytes += wire_bytes;
                self.message(partial, world);
            }
            (frame, _) => world.violate(format!("a frame out of place: {frame:?}")),
        }
    }

    /// Routes a message once it is complete.
    fn message(&mut self, message: Partial, world: &mut World) {
        if message.body.len() < message.body_bytes {
            self.partial = Some(message);
            return;
        }
        let held: usize = self.outstanding.values().map(|answer| answer.wire_bytes).sum();
        if self.outstanding.len() >= world.limits.events || held >= world.limits.bytes {
            let events = self.outstanding.len() + 1;
            world.violate(format!("{events} events ({held} bytes before the last) in flight: over the limit"));
        }
        let index = world.recognize(&message.position, &message.message_id, &message.body);
        let nack = world.faults.nack;
        let mut ack = true;
        if world.is_unbound(&message.routing_key) {
            if let Some(index) = index {
                world.discard(index);
            }
            self.replies.push_back(Reply::Returned(Box::new(Returned {
                code: 312,
                text: "NO_ROUTE".to_owned(),
                exchange: message.exchange,
                routing_key: message.routing_key,
                message_id: message.message_id,
            })));
        } else {
            ack = !world.broker_chance(nack);
            // One of two queues may have taken what the other refused.
            if let Some(index) = index.filter(|_| ack || world.broker_random.u8(..4) == 0) {
                world.enqueue(index);
            }
        }
        let mut at_ms = world.now_ms() + world.broker_random.u64(..=world.faults.confirm_delay_ms);
        if !world.faults.reorder {
            self.confirm_ms = self.confirm_ms.max(at_ms);
            at_ms = self.confirm_ms;
        }
        self.outstanding.insert(self.next_tag, Answer { ack, at_ms, wire_bytes: message.wire_bytes });
        self.next_tag += 1;
    }

    /// One of the confirms that are due, for itself or for all before it.
    fn confirm(&mut self, world: &mut World) -> Option<Reply> {
        let now = world.now_ms();
        let due: Vec<u64> =
            self.outstanding.iter().filter(|(_, answer)| answer.at_ms <= now).map(|(tag, _)| *tag).collect();
        if due.is_empty() {
            return None;
        }
        let multiple = world.broker_random.f64() < world.faults.multiple;
        let tag = due[if world.faults.reorder || multiple { world.broker_random.usize(..due.len()) } else { 0 }];
        let ack = self.outstanding[&tag].ack;
        let multiple = multiple && self.outstanding.range(..=tag).all(|(_, answer)| answer.ack == ack);
        if multiple {
            self.outstanding = self.outstanding.split_off(&(tag + 1));
        } else {
            self.outstanding.remove(&tag);
        }
        Some(if ack { Reply::Ack { tag, multiple } } else { Reply::Nack { tag, multiple } })
    }
}
