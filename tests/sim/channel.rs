//! The client's end of a connection to RabbitMQ: writes that are cut anywhere, replies that come late, alarms,
//! silence, and the end.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pgsluice::broker::{Broker, Channel, Turn};
use pgsluice::failure::Failure;
use tokio::time::{Sleep, sleep_until};

use super::rabbit::Connection;
use super::world::{Process, World};

/// A connection on which nothing is heard is given up after so many milliseconds (heartbeats).
const HEARTBEAT_MS: u64 = 6_000;

#[derive(Clone)]
pub(crate) struct SimBroker(pub(crate) Process);

pub(crate) struct SimChannel {
    process: Process,
    /// None once it is gone.
    connection: Option<Connection>,
    frame_max: usize,
    state: State,
    /// The next turn is not before.
    ready_ms: u64,
    sleep: Pin<Box<Sleep>>,
}

#[derive(Clone, Copy)]
enum State {
    Well,
    /// An alarm: nothing is read.
    BlockedUntil(u64),
    SilentSince(u64),
}

fn gone(why: &'static str) -> Failure {
    Failure::transient(anyhow::anyhow!(why))
}

impl Broker for SimBroker {
    type Channel = SimChannel;

    fn open(&self) -> impl Future<Output = Result<SimChannel, Failure>> + Send + 'static {
        let process = self.0.clone();
        async move {
            process.pause(30).await;
            process.step().await;
            let mut world = process.world();
            let fails = world.schedule.faults.open_fails;
            if world.chance(fails) {
                return Err(gone("connection refused"));
            }
            let connection = Connection::open(&mut world, process.id);
            process.note(&mut world, || "connects to the broker".to_owned());
            let (frame_max, ready_ms) = (world.schedule.frame_max, world.now_ms() + 1);
            drop(world);
            let sleep = Box::pin(sleep_until(process.instant(ready_ms)));
            Ok(SimChannel { process, connection: Some(connection), frame_max, state: State::Well, ready_ms, sleep })
        }
    }
}

impl Channel for SimChannel {
    fn poll_turn(&mut self, cx: &mut Context<'_>, output: [&[u8]; 2]) -> Poll<Result<Turn, Failure>> {
        loop {
            let has_output = output.iter().any(|slice| !slice.is_empty());
            let Some(due_ms) = self.due_ms(has_output) else { return Poll::Pending };
            let due = self.process.instant(due_ms);
            if self.sleep.deadline() != due {
                self.sleep.as_mut().reset(due);
            }
            ready!(self.sleep.as_mut().poll(cx));
            if self.process.dies() {
                return Poll::Pending;
            }
            if let Some(turn) = self.take_turn(output)? {
                return Poll::Ready(Ok(turn));
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
        if let Some(connection) = &mut self.connection {
            connection.read(&mut self.process.world());
        }
    }
}

impl Drop for SimChannel {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.abandon(&mut self.process.world());
        }
    }
}

impl SimChannel {
    /// When something can happen.
    fn due_ms(&self, has_output: bool) -> Option<u64> {
        let connection = self.connection.as_ref()?;
        let due_ms = match self.state {
            _ if !connection.replies.is_empty() => 0,
            State::SilentSince(since_ms) => since_ms + HEARTBEAT_MS,
            State::BlockedUntil(until_ms) if !has_output => until_ms,
            State::BlockedUntil(_) => 0,
            State::Well if has_output || connection.reader.unread() > 0 => 0,
            State::Well => connection.answer_ms().filter(|answer_ms| *answer_ms < u64::MAX)?,
        };
        Some(due_ms.max(self.ready_ms))
    }

    /// What happens; none when nothing is heard of it.
    fn take_turn(&mut self, output: [&[u8]; 2]) -> Result<Option<Turn>, Failure> {
        let process = self.process.clone();
        let mut world = process.world();
        let turn = self.happens(output, &mut world);
        match &turn {
            Ok(None) => {}
            Ok(Some(turn)) => process.note(&mut world, || format!("broker: {turn:?}")),
            Err(failure) => process.note(&mut world, || format!("broker: {failure}")),
        }
        turn
    }

    fn happens(&mut self, output: [&[u8]; 2], world: &mut World) -> Result<Option<Turn>, Failure> {
        let Some(connection) = &mut self.connection else { return Err(gone("it is gone")) };
        let (now, faults) = (world.now_ms(), world.schedule.faults);
        self.ready_ms = now + 1 + if world.random.bool() { 0 } else { world.random.u64(..6) };
        if connection.lied {
            world.oracle.violate("the channel is used after an answer that can't be");
        }
        if let State::SilentSince(_) = self.state {
            return self.ends("missed heartbeats", world);
        }
        if world.chance(faults.broker_drop) {
            if world.random.u8(..4) == 0 {
                connection.crash(world);
            }
            return self.ends("connection reset by peer", world);
        }
        if let State::BlockedUntil(until_ms) = self.state {
            if now >= until_ms {
                self.state = State::Well;
                return Ok(Some(Turn::Reply(connection.alarm_is_over())));
            }
            // What is on its way, nobody reads.
            let reply = connection.reply(world).map(Turn::Reply);
            return Ok(reply.or_else(|| write(connection, output, world)));
        }
        if let Some(reply) = connection.reply(world) {
            return Ok(Some(Turn::Reply(reply)));
        }
        if world.chance(faults.stall) {
            self.state = State::SilentSince(now);
            return Ok(None);
        }
        if world.chance(faults.block) {
            self.state = State::BlockedUntil(world.soon(2_000));
            return Ok(Some(Turn::Reply(connection.alarm("low on memory"))));
        }
        if !world.chance(faults.lag) {
            connection.read(world);
        }
        let has_output = output.iter().any(|slice| !slice.is_empty());
        if world.chance(faults.lie * 0.1) {
            return Ok(Some(Turn::Reply(connection.lie(world))));
        }
        if (!has_output || world.random.bool())
            && let Some(reply) = connection.reply(world).or_else(|| connection.confirm(world))
        {
            return Ok(Some(Turn::Reply(reply)));
        }
        Ok(write(connection, output, world))
    }

    fn ends(&mut self, why: &'static str, world: &mut World) -> Result<Option<Turn>, Failure> {
        if let Some(connection) = self.connection.take() {
            connection.abandon(world);
        }
        Err(gone(why))
    }
}

/// Takes as much of it as fits.
fn write(connection: &mut Connection, output: [&[u8]; 2], world: &mut World) -> Option<Turn> {
    let bytes = output[0].len() + output[1].len();
    if bytes == 0 {
        return None;
    }
    let is_partial = world.random.f64() < world.schedule.faults.partial_write;
    let takes = if is_partial { world.random.usize(1..=bytes) } else { bytes };
    let (head, tail) = (output[0].len().min(takes), takes.saturating_sub(output[0].len()));
    connection.reader.write(&output[0][..head]);
    connection.reader.write(&output[1][..tail]);
    Some(Turn::Wrote(takes))
}
