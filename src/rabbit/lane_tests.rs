//! The lane against single answers, then against a model of a broker under random schedules.

use std::collections::VecDeque;

use amq_protocol::frame::{AMQPFrame, parse_frame};
use amq_protocol::protocol::AMQPClass;
use amq_protocol::protocol::basic::AMQPMethod;
use proptest::prelude::*;

use super::*;
use crate::encode::message::Properties;

const FRAME_MAX: usize = 4096;

fn push(lane: &mut Lane, seq: Seq) -> usize {
    push_named(lane, seq, &seq.to_string(), "e", "k")
}

fn push_named(lane: &mut Lane, seq: Seq, message_id: &str, exchange: &str, routing_key: &str) -> usize {
    let properties = Properties {
        message_id,
        event_type: "t",
        app_id: "a",
        content_type: "c",
        timestamp_s: Some(0),
        ..Default::default()
    };
    let message = Message { exchange, routing_key, properties, body: b"body" };
    lane.push(seq, &message, FRAME_MAX).expect("a small message fits")
}

fn returned(message_id: &str) -> Returned {
    Returned {
        code: 312,
        text: "NO_ROUTE".into(),
        exchange: "e".into(),
        routing_key: "k".into(),
        message_id: message_id.into(),
    }
}

fn write_all(lane: &mut Lane) -> usize {
    let bytes = lane.output(false).iter().map(|slice| slice.len()).sum();
    lane.wrote(bytes);
    bytes
}

/// A lane with so many events sent.
fn sent(policy: Unroutable, events: Seq) -> Lane {
    let mut lane = Lane::new(policy);
    for seq in 0..events {
        push(&mut lane, seq);
    }
    write_all(&mut lane);
    lane
}

#[test]
fn acks_out_of_order_settle_in_order_and_free_the_memory() {
    let mut lane = sent(Unroutable::Wait, 4);
    lane.ack(3, false).expect("outstanding");
    lane.ack(2, false).expect("outstanding");
    assert!(lane.settled().is_empty());
    lane.ack(1, false).expect("outstanding");
    assert_eq!(lane.settled(), 0..3);
    assert!(lane.settled().is_empty());
    assert!(lane.bytes() > 0);
    lane.ack(4, false).expect("outstanding");
    assert_eq!(lane.settled(), 3..4);
    assert_eq!((lane.bytes(), lane.is_empty(), lane.unanswered()), (0, true, 0));
    assert_eq!(lane.counters(), Counters { confirmed: 4, ..Counters::default() });
}

#[test]
fn multiple_names_all_up_to_the_tag() {
    let mut lane = sent(Unroutable::Wait, 5);
    lane.ack(2, false).expect("outstanding");
    lane.ack(3, true).expect("outstanding");
    assert_eq!(lane.settled(), 0..3);
    assert_eq!(lane.nack(0, true), lane.ack(0, true), "what the broker has not read yet is outstanding for us only");
    assert_eq!(lane.ack(0, true), Err(LaneError::UnknownTag { tag: 0, outstanding: 4..6 }));
    assert!(lane.settled().is_empty());
}

#[test]
fn a_confirm_of_what_is_not_outstanding_is_an_error() {
    let mut lane = sent(Unroutable::Wait, 2);
    push(&mut lane, 2);
    for tag in [0, 3, 4, u64::MAX] {
        assert_eq!(lane.ack(tag, false), Err(LaneError::UnknownTag { tag, outstanding: 1..3 }));
        assert_eq!(lane.nack(tag, false), Err(LaneError::UnknownTag { tag, outstanding: 1..3 }));
    }
    assert!(lane.ack(3, true).is_err());
    lane.ack(2, false).expect("outstanding");
    assert!(lane.ack(2, false).is_err(), "confirmed twice");
    lane.ack(1, false).expect("outstanding");
    assert!(lane.ack(1, false).is_err(), "settled already");
    assert_eq!(lane.settled(), 0..2);
}

#[test]
fn a_half_written_event_can_not_be_confirmed() {
    let mut lane = Lane::new(Unroutable::Wait);
    let bytes = push(&mut lane, 0);
    lane.wrote(bytes - 1);
    assert!(lane.ack(1, false).is_err());
    lane.wrote(1);
    lane.ack(1, false).expect("outstanding");
    assert_eq!(lane.settled(), 0..1);
}

#[test]
fn a_return_belongs_to_the_event_it_names_and_not_to_the_next_ack() {
    let mut lane = sent(Unroutable::Wait, 4);
    lane.returned(&returned("2")).expect("outstanding");
    // Acks of others come between a return and its ack.
    lane.ack(2, true).expect("outstanding");
    lane.ack(4, false).expect("outstanding");
    assert_eq!(lane.settled(), 0..2);
    assert_eq!(lane.mode(), Mode::Draining);
    lane.ack(3, false).expect("outstanding");
    assert!(lane.settled().is_empty());
    assert_eq!(lane.mode(), Mode::Waiting);
    assert_eq!(lane.counters(), Counters { confirmed: 2, returned: 1, republished: 2, ..Counters::default() });
}

#[test]
fn under_discard_a_returned_event_settles_with_its_ack() {
    let mut lane = sent(Unroutable::Discard, 2);
    lane.returned(&returned("0")).expect("outstanding");
    assert!(lane.settled().is_empty());
    lane.ack(2, true).expect("outstanding");
    assert_eq!(lane.settled(), 0..2);
    assert_eq!(lane.mode(), Mode::Flowing);
    assert_eq!(lane.counters(), Counters { confirmed: 1, discarded: 1, returned: 1, ..Counters::default() });
}

#[test]
fn a_return_is_told_apart_by_id_exchange_and_routing_key() {
    let mut lane = Lane::new(Unroutable::Wait);
    push_named(&mut lane, 0, "x", "e", "kk");
    push_named(&mut lane, 1, "x", "ee", "k");
    push_named(&mut lane, 2, "xx", "e", "k");
    push_named(&mut lane, 3, "x", "e", "k");
    push_named(&mut lane, 4, "x", "e", "k");
    write_all(&mut lane);
    lane.returned(&returned("x")).expect("the fourth");
    lane.returned(&returned("x")).expect("the fifth");
    assert_eq!(lane.returned(&returned("x")), Err(LaneError::UnknownReturn { message_id: "x".into() }));
    assert!(lane.returned(&returned("y")).is_err());
    lane.ack(5, true).expect("outstanding");
    assert_eq!(lane.settled(), 0..3);
}

#[test]
fn after_a_nack_all_is_drained_then_the_head_goes_alone_then_the_rest_in_order() {
    let mut lane = sent(Unroutable::Wait, 3);
    lane.nack(2, false).expect("outstanding");
    assert_eq!(lane.mode(), Mode::Draining);
    let size = push(&mut lane, 3);
    assert_eq!(write_all(&mut lane), 0, "nothing new while draining");
    lane.probe();
    assert_eq!(lane.mode(), Mode::Draining, "a probe before its time is none");
    lane.ack(3, false).expect("outstanding");
    lane.ack(1, false).expect("outstanding");
    assert_eq!((lane.settled(), lane.mode()), (0..1, Mode::Waiting));
    assert_eq!(write_all(&mut lane), 0);
    lane.probe();
    assert_eq!(write_all(&mut lane), size, "the head alone");
    lane.nack(4, false).expect("tags go on");
    assert_eq!(lane.mode(), Mode::Waiting);
    lane.probe();
    assert_eq!(write_all(&mut lane), size);
    lane.ack(5, false).expect("tags go on");
    assert_eq!(lane.settled(), 1..2);
    assert_eq!(lane.mode(), Mode::Probing { step: 2, left: 2 });
    assert_eq!(write_all(&mut lane), 2 * size, "what was confirmed behind the head goes again");
    lane.ack(7, true).expect("tags go on");
    assert_eq!(lane.settled(), 2..4);
}

#[test]
fn the_ramp_doubles_until_all_may_flow() {
    let mut lane = Lane::new(Unroutable::Wait);
    for seq in 0..5000 {
        push(&mut lane, seq);
    }
    write_all(&mut lane);
    lane.nack(5000, true).expect("all");
    lane.probe();
    let (mut tag, mut steps) = (5000, Vec::new());
    while lane.mode() != Mode::Flowing {
        write_all(&mut lane);
        steps.push(lane.unanswered());
        tag += lane.unanswered() as u64;
        lane.ack(tag, true).expect("outstanding");
    }
    assert_eq!(steps, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]);
}

#[test]
fn draining_and_pausing_complete_the_event_that_was_begun() {
    let mut lane = Lane::new(Unroutable::Wait);
    let size = push(&mut lane, 0);
    push(&mut lane, 1);
    push(&mut lane, 2);
    assert_eq!(lane.output(true), [&[] as &[u8]; 2]);
    lane.wrote(size + 1);
    assert_eq!(lane.output(true).iter().map(|slice| slice.len()).sum::<usize>(), size - 1);
    lane.nack(1, false).expect("outstanding");
    assert_eq!(lane.mode(), Mode::Draining);
    assert_eq!(write_all(&mut lane), size - 1);
    assert_eq!((lane.mode(), lane.unanswered()), (Mode::Draining, 1));
    lane.ack(2, false).expect("outstanding");
    assert_eq!(lane.mode(), Mode::Waiting);
}

#[test]
fn a_new_channel_starts_from_the_watermark_with_tag_one() {
    let mut lane = sent(Unroutable::Wait, 4);
    lane.ack(1, false).expect("outstanding");
    lane.ack(3, false).expect("outstanding");
    lane.returned(&returned("3")).expect("outstanding");
    let size = push(&mut lane, 4);
    lane.reconnected();
    assert_eq!((lane.settled(), lane.counters().republished), (0..1, 3));
    // Else the one event over which the broker closes the channel keeps those before it from their confirms.
    assert_eq!(write_all(&mut lane), size, "the head goes first");
    lane.ack(1, false).expect("tags from 1");
    assert_eq!(write_all(&mut lane), 2 * size);
    lane.ack(3, true).expect("tags from 1");
    assert_eq!(write_all(&mut lane), size);
    lane.ack(4, false).expect("tags from 1");
    assert_eq!(lane.settled(), 1..5);
}

#[test]
fn the_memory_of_a_giant_is_given_back() {
    let mut lane = Lane::new(Unroutable::Wait);
    let properties = Properties {
        message_id: "m",
        event_type: "t",
        app_id: "a",
        content_type: "c",
        timestamp_s: Some(0),
        ..Default::default()
    };
    let body = vec![0; 3 * KEEP_BYTES];
    let message = Message { exchange: "e", routing_key: "k", properties, body: &body };
    lane.push(0, &message, 131_072).expect("fits");
    write_all(&mut lane);
    lane.ack(1, false).expect("outstanding");
    assert!(lane.frames.capacity() <= KEEP_BYTES, "{}", lane.frames.capacity());
}

/// What a schedule does next.
#[derive(Debug, Clone)]
enum Step {
    Push,
    Write(usize),
    /// Answer one of the messages that the broker has, or all up to it.
    Answer {
        which: usize,
        multiple: bool,
        verdict: Verdict,
    },
    Probe,
    Reconnect,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ack,
    Nack,
    Return,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let verdict = prop_oneof![6 => Just(Verdict::Ack), 1 => Just(Verdict::Nack), 1 => Just(Verdict::Return)];
    let answer = (0..8_usize, any::<bool>(), verdict).prop_map(|(which, multiple, verdict)| Step::Answer {
        which,
        multiple,
        verdict,
    });
    let step = prop_oneof![
        3 => Just(Step::Push),
        3 => (1..400_usize).prop_map(Step::Write),
        4 => answer,
        2 => Just(Step::Probe),
        1 => Just(Step::Reconnect),
    ];
    proptest::collection::vec(step, 1..300)
}

/// A broker with one channel: reads bytes, counts tags, answers when told.
#[derive(Default)]
struct Model {
    bytes: Vec<u8>,
    tag: u64,
    /// Tag and event of what has no answer yet.
    outstanding: VecDeque<(u64, Seq)>,
    /// Everything before it is settled: where whatever is sent again must start.
    watermark: Seq,
    /// For each event: whether an ack without a return was given, ever.
    acked: Vec<bool>,
    expects_next: Option<Seq>,
}

impl Model {
    fn read(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        while let Ok((rest, frame)) = parse_frame(self.bytes.as_slice()) {
            let consumed = self.bytes.len() - rest.len();
            match frame {
                AMQPFrame::Method(1, AMQPClass::Basic(AMQPMethod::Publish(_))) => self.tag += 1,
                AMQPFrame::Header(1, header) => {
                    let id = header.properties.message_id().as_ref().expect("a message_id").to_string();
                    let seq: Seq = id.parse().expect("a number");
                    if self.expects_next != Some(seq) {
                        assert_eq!(seq, self.watermark, "sent again from elsewhere than the watermark");
                        assert!(self.outstanding.is_empty(), "sent again on a live channel");
                    }
                    self.expects_next = Some(seq + 1);
                    self.outstanding.push_back((self.tag, seq));
                }
                AMQPFrame::Body(1, _) => {}
                other => panic!("{other:?}"),
            }
            self.bytes.drain(..consumed);
        }
    }

    fn answer(&mut self, lane: &mut Lane, which: usize, multiple: bool, verdict: Verdict) {
        // A message counts as received once its body frame is there: only whole ones can be answered.
        let whole = self.outstanding.len().min(lane.unanswered());
        if whole == 0 {
            return;
        }
        let which = which % whole;
        let (tag, _) = self.outstanding[which];
        let named: Vec<Seq> = if multiple {
            self.outstanding.drain(..=which).map(|(_, seq)| seq).collect()
        } else {
            self.outstanding.remove(which).map(|(_, seq)| seq).into_iter().collect()
        };
        if verdict == Verdict::Return {
            for seq in &named {
                lane.returned(&returned(&seq.to_string())).expect("outstanding");
            }
        }
        for &seq in &named {
            let index = usize::try_from(seq).expect("small");
            self.acked.resize(self.acked.len().max(index + 1), false);
            self.acked[index] |= match verdict {
                Verdict::Ack => true,
                Verdict::Return => lane.policy == Unroutable::Discard,
                Verdict::Nack => false,
            };
        }
        match verdict {
            Verdict::Ack | Verdict::Return => lane.ack(tag, multiple).expect("outstanding"),
            Verdict::Nack => lane.nack(tag, multiple).expect("outstanding"),
        }
    }

    fn lose(&mut self, lane: &mut Lane) {
        *self = Self { acked: std::mem::take(&mut self.acked), watermark: self.watermark, ..Self::default() };
        lane.reconnected();
    }
}

fn write(lane: &mut Lane, model: &mut Model, limit: usize) -> usize {
    let bytes: Vec<u8> = lane.output(false).concat().into_iter().take(limit).collect();
    lane.wrote(bytes.len());
    model.read(&bytes);
    bytes.len()
}

/// The range that settles must follow what settled before, and each event in it was acked.
fn settle(lane: &mut Lane, model: &mut Model) {
    let range = lane.settled();
    assert_eq!(range.start, model.watermark, "a hole, or a repetition, in what settles");
    for seq in range.clone() {
        assert!(model.acked[usize::try_from(seq).expect("small")], "{seq} settled without an ack");
    }
    model.watermark = range.end;
}

fn run(policy: Unroutable, steps: Vec<Step>) {
    let (mut lane, mut model) = (Lane::new(policy), Model::default());
    let mut pushed = 0;
    for step in steps {
        match step {
            Step::Push => {
                push(&mut lane, pushed);
                pushed += 1;
            }
            Step::Write(limit) => {
                write(&mut lane, &mut model, limit);
            }
            Step::Answer { which, multiple, verdict } => model.answer(&mut lane, which, multiple, verdict),
            Step::Probe => lane.probe(),
            Step::Reconnect => model.lose(&mut lane),
        }
        settle(&mut lane, &mut model);
    }
    // From here on nothing fails: all must settle, in a bounded number of rounds.
    for _ in 0..10_000 {
        if lane.is_empty() {
            break;
        }
        lane.probe();
        write(&mut lane, &mut model, usize::MAX);
        model.answer(&mut lane, 0, false, Verdict::Ack);
        settle(&mut lane, &mut model);
    }
    assert_eq!((model.watermark, lane.bytes(), lane.is_empty()), (pushed, 0, true));
    assert!(model.expects_next.is_none_or(|next| next == pushed), "what was sent last is not the end");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_all_settles_in_order_and_nothing_without_an_ack(
        steps in steps(),
        discard in any::<bool>(),
    ) {
        run(if discard { Unroutable::Discard } else { Unroutable::Wait }, steps);
    }
}
