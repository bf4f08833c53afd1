//! What is in flight on one channel, and what the broker said about it.
//!
//! Holds the frames of every unsettled event, oldest first, so that any of them can be published again. Invariants:
//!
//! * An event settles when it is confirmed, was not returned (or the policy discards or parks what is), and every
//!   event before it is settled: settlement is a prefix, in order. What is parked is handed out, and settled here.
//! * Nothing from the fence on is begun: see [`Lane::set_fence`].
//! * Nothing is published out of order on a live channel. After a nack, or a return under `wait`, sending stops at
//!   the end of an event, every event that was sent gets its answer, and then *everything* above the watermark is
//!   published again (go-back-N), confirmed or not: after the last failure a consumer sees a complete, ordered
//!   sequence, so that the last write is right. The head goes first, alone; while all is well the number of
//!   events that follow doubles, so that a queue that refuses is not flooded with repetitions.
//!
//! Pure: `publisher` does the IO, keeps the time and asks for [`Lane::probe`] when the backoff has passed.

use std::collections::VecDeque;
use std::ops::Range;

use super::wire::{self, EXCHANGE_AT, FrameError};
use crate::broker::Returned;
use crate::config::Unroutable;
use crate::encode::message::Message;
use crate::failure::Definite;
use crate::progress::Seq;

/// After so many events were confirmed in one ramp, sending is unlimited again.
const RAMP_END: usize = 1024;
/// An empty lane keeps at most so much memory for the next events, in bytes, unless told.
pub(super) const KEEP_BYTES: usize = 16 << 20;

/// The broker answered something that was not asked. Nothing on this channel can be relied upon any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LaneError {
    /// A confirm for a delivery tag that is not outstanding.
    #[error("the broker confirmed delivery tag {tag}, but outstanding are {outstanding:?}")]
    UnknownTag {
        /// The tag.
        tag: u64,
        /// Tags that were published, and not settled; some of them may be answered.
        outstanding: Range<u64>,
    },
    /// A return of something that is not outstanding.
    #[error("the broker returned message {message_id:?}, which is not outstanding")]
    UnknownReturn {
        /// Of the returned message.
        message_id: String,
    },
}

/// What the lane is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Everything may be sent.
    Flowing,
    /// Something failed: nothing new is sent until all that was sent is answered.
    Draining,
    /// All is answered, nothing is in flight; waits for [`Lane::probe`].
    Waiting,
    /// Sends again, a limited number at a time.
    Probing {
        /// How many events this step sends; 1 is the probe.
        step: usize,
        /// How many of them are still to be sent.
        left: usize,
    },
}

/// How often what happened, since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Events that the broker took for good.
    pub confirmed: u64,
    /// Events that no queue took, given up by policy.
    pub discarded: u64,
    /// `basic.return`s.
    pub returned: u64,
    /// Events that were refused.
    pub nacked: u64,
    /// Events that were to be published again, each time.
    pub republished: u64,
}

/// The answer to one event, in this pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// None yet.
    Open,
    /// Came back; its ack is still to come.
    Returned,
    /// Accepted by every queue.
    Confirmed,
    /// Came back, was acked, and the policy gives it up.
    Discarded,
    /// Came back and was acked, or is refused for good, and goes to the parking exchange.
    Parked,
    /// To be published again.
    Failed,
}

#[derive(Debug)]
struct Entry {
    /// Offset of its first byte, counted since the lane was made.
    start: u64,
    bytes: usize,
    message_id_at: usize,
    mark: Mark,
}

impl Entry {
    fn end(&self) -> u64 {
        self.start + self.bytes as u64
    }
}

/// An event that the lane is rid of, and that is to be parked.
#[derive(Debug)]
pub struct Parked {
    /// Its name in the lane.
    pub seq: Seq,
    /// As they were to go out.
    pub frames: Vec<u8>,
    /// Why the broker refuses it; none: no queue takes it.
    pub refusal: Option<Definite>,
}

/// The events in flight on one channel.
#[derive(Debug)]
pub struct Lane {
    policy: Unroutable,
    mode: Mode,
    frames: VecDeque<u8>,
    /// What is before the body of an event that is being framed; used again.
    head: Vec<u8>,
    /// Offset of `frames[0]`.
    base: u64,
    /// Up to which offset this pass has written.
    written: u64,
    entries: VecDeque<Entry>,
    /// `Seq` of `entries[0]`.
    first: Seq,
    /// From which on the caller has not been told: settled are `unreported..first`.
    unreported: Seq,
    /// How many entries this pass has written in whole: `entries[..sent]`.
    sent: usize,
    /// How many of these are answered.
    answered: usize,
    /// Delivery tag of `entries[0]` in this pass.
    first_tag: u64,
    /// From this one on, nothing is begun.
    fence: Seq,
    parked: VecDeque<Parked>,
    /// Why the head is parked, if it is no return.
    refusal: Option<Definite>,
    keep_bytes: usize,
    counters: Counters,
}

impl Lane {
    /// An empty lane on a new channel.
    #[must_use]
    pub fn new(policy: Unroutable) -> Self {
        Self {
            policy,
            mode: Mode::Flowing,
            frames: VecDeque::new(),
            head: Vec::new(),
            base: 0,
            written: 0,
            entries: VecDeque::new(),
            first: 0,
            unreported: 0,
            sent: 0,
            answered: 0,
            first_tag: 1,
            fence: Seq::MAX,
            parked: VecDeque::new(),
            refusal: None,
            keep_bytes: KEEP_BYTES,
            counters: Counters::default(),
        }
    }

    /// Empty, it keeps at most so much memory for the next events.
    #[must_use]
    pub fn keeping(self, keep_bytes: usize) -> Self {
        Self { keep_bytes, ..self }
    }

    /// From this event on nothing is begun, until the fence is set further on. [`Seq::MAX`]: there is none.
    pub fn set_fence(&mut self, fence: Seq) {
        self.fence = fence;
    }

    /// Takes an event into flight; returns the bytes of its frames.
    ///
    /// # Errors
    /// When it can't be framed; the lane is unchanged.
    ///
    /// # Panics
    /// When `seq` does not follow its predecessor, or settled ones were not fetched before a gap: a bug.
    pub fn push(&mut self, seq: Seq, message: &Message<'_>, frame_max: usize) -> Result<usize, FrameError> {
        let next = self.first + self.entries.len() as Seq;
        if self.entries.is_empty() && self.unreported == self.first {
            (self.first, self.unreported) = (seq, seq);
        } else {
            assert_eq!(seq, next, "events are published in order");
        }
        let framed = wire::publish(&mut self.frames, &mut self.head, message, frame_max)?;
        let start = self.entries.back().map_or(self.base, Entry::end);
        self.entries.push_back(Entry {
            start,
            bytes: framed.bytes,
            message_id_at: framed.message_id_at,
            mark: Mark::Open,
        });
        Ok(framed.bytes)
    }

    /// The bytes that may be written now, as two slices of one sequence. While `paused`, only what completes the
    /// event whose first bytes are written already.
    #[must_use]
    pub fn output(&self, paused: bool) -> [&[u8]; 2] {
        let until = match self.mode {
            _ if paused => self.boundary(),
            Mode::Flowing => self.end(),
            Mode::Draining | Mode::Waiting => self.boundary(),
            Mode::Probing { left, .. } => self.start_of(self.sent + left),
        };
        // Never into what is begun: the fence is set before anything behind it is sent.
        let until = until.min(self.fenced());
        let (from, until) = (self.index(self.written), self.index(until));
        let (head, tail) = self.frames.as_slices();
        let middle = head.len();
        [&head[from.min(middle)..until.min(middle)], &tail[from.saturating_sub(middle)..until.saturating_sub(middle)]]
    }

    /// So many bytes of the output were written.
    pub fn wrote(&mut self, bytes: usize) {
        self.written += bytes as u64;
        debug_assert!(self.written <= self.end(), "no more than the output can be written");
        while self.entries.get(self.sent).is_some_and(|entry| entry.end() <= self.written) {
            self.sent += 1;
            if let Mode::Probing { left, .. } = &mut self.mode {
                *left = left.saturating_sub(1);
            }
        }
        self.advance();
    }

    /// The broker took a message, or with `multiple` all up to it.
    ///
    /// # Errors
    /// When that is not outstanding.
    pub fn ack(&mut self, tag: u64, multiple: bool) -> Result<(), LaneError> {
        for index in self.named_by(tag, multiple)? {
            let mark = match (self.entries[index].mark, self.policy) {
                (Mark::Open, _) => Mark::Confirmed,
                (Mark::Returned, Unroutable::Discard) => Mark::Discarded,
                (Mark::Returned, Unroutable::Park) => Mark::Parked,
                (Mark::Returned, Unroutable::Wait) => Mark::Failed,
                (Mark::Confirmed | Mark::Discarded | Mark::Parked | Mark::Failed, _) => continue,
            };
            self.answer(index, mark);
        }
        self.advance();
        Ok(())
    }

    /// The broker refused a message, or with `multiple` all up to it.
    ///
    /// # Errors
    /// When that is not outstanding.
    pub fn nack(&mut self, tag: u64, multiple: bool) -> Result<(), LaneError> {
        for index in self.named_by(tag, multiple)? {
            match self.entries[index].mark {
                Mark::Open | Mark::Returned => {
                    self.counters.nacked += 1;
                    self.answer(index, Mark::Failed);
                }
                Mark::Confirmed | Mark::Discarded | Mark::Parked | Mark::Failed => {}
            }
        }
        self.advance();
        Ok(())
    }

    /// A message came back: the oldest one sent with this name, to this place, that has no answer yet.
    /// Its ack is still to come.
    ///
    /// # Errors
    /// When there is none.
    pub fn returned(&mut self, returned: &Returned) -> Result<(), LaneError> {
        let found = (0..self.sent)
            .find(|&index| self.entries[index].mark == Mark::Open && self.is_named(&self.entries[index], returned));
        let index = found.ok_or_else(|| LaneError::UnknownReturn { message_id: returned.message_id.clone() })?;
        self.entries[index].mark = Mark::Returned;
        self.counters.returned += 1;
        if self.policy == Unroutable::Wait {
            self.mode = Mode::Draining;
        }
        Ok(())
    }

    /// The broker refuses the oldest event for good, over which it has closed the channel: it leaves the lane to be parked.
    /// Only what a new channel is opened for may follow.
    pub fn park_head(&mut self, refusal: Definite) {
        self.rewind();
        let Some(head) = self.entries.front_mut() else { return };
        head.mark = Mark::Parked;
        (self.sent, self.answered, self.written) = (1, 1, head.end());
        self.refusal = Some(refusal);
        self.advance();
    }

    /// What is to be parked, oldest first.
    pub fn take_parked(&mut self) -> Option<Parked> {
        self.parked.pop_front()
    }

    /// What settled since the last call, in order and without a hole.
    pub fn settled(&mut self) -> Range<Seq> {
        let settled = self.unreported..self.first;
        self.unreported = self.first;
        settled
    }

    /// Whether `settled` has something to report.
    #[must_use]
    pub fn has_settled(&self) -> bool {
        self.unreported != self.first
    }

    /// The backoff has passed: sends the head again, alone. Does nothing unless the lane is waiting.
    pub fn probe(&mut self) {
        if self.mode == Mode::Waiting {
            self.mode = Mode::Probing { step: 1, left: 1 };
        }
    }

    /// A new channel is open, the old one is gone: everything above the watermark goes out again, the head first. The
    /// broker may have closed the channel over one event (no such exchange), and with it the confirms of those before.
    pub fn reconnected(&mut self) {
        self.counters.republished += self.begun() as u64;
        self.rewind();
        self.first_tag = 1;
        self.mode = if self.is_empty() { Mode::Flowing } else { Mode::Probing { step: 1, left: 1 } };
    }

    /// What the lane is doing.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// How many events were sent in whole and have no answer yet.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.sent - self.answered
    }

    /// How many unsettled events this pass has written, at least in part.
    #[must_use]
    pub fn begun(&self) -> usize {
        self.sent + usize::from(self.written < self.boundary())
    }

    /// Whether nothing is in flight.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of frames in memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.frames.len()
    }

    /// How often what happened.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The entries that a confirm names; all of them were sent.
    ///
    /// Tag 0 is none: "all outstanding messages" (basic.ack, §1.8.3.13 of the generated reference) are those that the
    /// broker has read, and we can't know which of what we sent these are. RabbitMQ never says it.
    fn named_by(&self, tag: u64, multiple: bool) -> Result<Range<usize>, LaneError> {
        let index = tag.checked_sub(self.first_tag).and_then(|index| usize::try_from(index).ok());
        let index = index.filter(|index| *index < self.sent);
        let answered = |index: usize| !matches!(self.entries[index].mark, Mark::Open | Mark::Returned);
        match index {
            Some(index) if multiple => Ok(0..index + 1),
            Some(index) if !answered(index) => Ok(index..index + 1),
            _ => {
                let outstanding = self.first_tag..self.first_tag + self.sent as u64;
                Err(LaneError::UnknownTag { tag, outstanding })
            }
        }
    }

    fn answer(&mut self, index: usize, mark: Mark) {
        self.entries[index].mark = mark;
        self.answered += 1;
        if mark == Mark::Failed {
            self.mode = Mode::Draining;
        }
    }

    /// Settles the prefix that can be, then goes to the next mode if this one is over.
    fn advance(&mut self) {
        let mut freed = 0;
        while let Some(entry) = self.entries.front() {
            match entry.mark {
                Mark::Confirmed => self.counters.confirmed += 1,
                Mark::Discarded => self.counters.discarded += 1,
                Mark::Parked => {
                    let at = self.index(entry.start);
                    let frames = self.frames.range(at..at + entry.bytes).copied().collect();
                    self.parked.push_back(Parked { seq: self.first, frames, refusal: self.refusal.take() });
                }
                Mark::Open | Mark::Returned | Mark::Failed => break,
            }
            freed += entry.bytes;
            self.entries.pop_front();
            self.first += 1;
            self.first_tag += 1;
            self.sent -= 1;
            self.answered -= 1;
        }
        if freed > 0 {
            self.frames.drain(..freed);
            self.base += freed as u64;
            if self.frames.is_empty() && self.frames.capacity() > self.keep_bytes {
                self.frames.shrink_to(self.keep_bytes);
            }
        }
        match self.mode {
            Mode::Draining if self.unanswered() == 0 && self.written == self.boundary() => {
                self.counters.republished += self.sent as u64;
                self.first_tag += self.sent as u64;
                self.rewind();
                self.mode = Mode::Waiting;
            }
            Mode::Probing { step, left: 0 } if self.sent == 0 => {
                let step = step * 2;
                self.mode = if step > RAMP_END { Mode::Flowing } else { Mode::Probing { step, left: step } };
            }
            Mode::Flowing | Mode::Draining | Mode::Waiting | Mode::Probing { .. } => {}
        }
    }

    /// Nothing of this pass counts any more.
    fn rewind(&mut self) {
        for entry in self.entries.range_mut(..self.sent) {
            entry.mark = Mark::Open;
        }
        (self.sent, self.answered, self.written) = (0, 0, self.base);
    }

    /// Where the event ends whose first bytes are written; where writing stands, if it stands between two.
    fn boundary(&self) -> u64 {
        match self.entries.get(self.sent) {
            Some(entry) if entry.start < self.written => entry.end(),
            Some(_) | None => self.written,
        }
    }

    /// Where this one starts, or the last ends.
    fn start_of(&self, index: usize) -> u64 {
        self.entries.get(index).map_or(self.end(), |entry| entry.start)
    }

    fn fenced(&self) -> u64 {
        if self.fence == Seq::MAX {
            return u64::MAX;
        }
        self.start_of(usize::try_from(self.fence.saturating_sub(self.first)).unwrap_or(usize::MAX))
    }

    fn end(&self) -> u64 {
        self.entries.back().map_or(self.base, Entry::end)
    }

    /// Offset → index into `frames`.
    fn index(&self, offset: u64) -> usize {
        usize::try_from(offset - self.base).expect("what is in memory can be indexed")
    }

    /// Compares with the bytes in the frames, so that no event needs a copy of its names.
    fn is_named(&self, entry: &Entry, returned: &Returned) -> bool {
        let at = self.index(entry.start);
        let routing_key_at = at + EXCHANGE_AT + 1 + returned.exchange.len();
        self.holds(at + entry.message_id_at, &returned.message_id)
            && self.holds(at + EXCHANGE_AT, &returned.exchange)
            && self.holds(routing_key_at, &returned.routing_key)
    }

    /// Whether a short string stands there.
    fn holds(&self, at: usize, text: &str) -> bool {
        let there = self.frames.range(at..);
        usize::from(self.frames[at]) == text.len() && there.skip(1).take(text.len()).eq(text.as_bytes())
    }
}

#[cfg(test)]
#[path = "lane_tests.rs"]
mod tests;
