//! The spool against a server that is a model: it streams, describes and forgets as `pgoutput.c` does, at random.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf as _, Bytes};
use fastrand::Rng;
use proptest::prelude::*;

use super::frames;
use super::spool::Spool;
use crate::config::Streaming;
use crate::failure::{Failure, Kind};
use crate::postgres::pgoutput::{Value, fixture};

const TABLES: u32 = 4;

fn frame(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frames::put(&mut out, &frames::NOWHERE, [message, &[]]);
    out
}

fn keepalive(lsn: u64) -> Vec<u8> {
    [&b"d\0\0\0\x16k"[..], &lsn.to_be_bytes(), &[0; 9]].concat()
}

/// The same message within a block.
fn tagged(xid: u32, message: &[u8]) -> Vec<u8> {
    frame(&[&message[..1], &xid.to_be_bytes(), &message[1..]].concat())
}

fn around(kind: u8, xids: &[u32], rest: &[u8]) -> Vec<u8> {
    let xids: Vec<u8> = xids.iter().flat_map(|xid| xid.to_be_bytes()).collect();
    frame(&[&[kind][..], &xids, rest].concat())
}

/// Many columns, so that a description of the wrong one would not fit.
fn relation(table: u32, shape: usize) -> Vec<u8> {
    fixture::relation(table, "s", "t", b'd', &vec![(false, "column", 25); shape])
}

/// What is expected to go out, but for the descriptions.
#[derive(Debug, Clone, PartialEq)]
enum Out {
    Message(Vec<u8>),
    /// A row or several, each with the shape of its table.
    Rows(Vec<u8>, Vec<(u32, usize)>),
    Keepalive(u64),
}

/// A transaction that is streamed.
struct Large {
    xid: u32,
    is_new: bool,
    /// The subtransactions that have not ended, innermost last.
    subtransactions: Vec<u32>,
    /// It has a logical message, of which the server does not tell the subtransaction.
    has_message: bool,
    /// What would go out, and whose it is.
    out: Vec<(u32, Out)>,
}

struct Model {
    random: Rng,
    xid: u32,
    number: u64,
    large: Vec<Large>,
    /// How each table looks now.
    shapes: BTreeMap<u32, usize>,
    /// `schema_sent`
    described: BTreeSet<u32>,
    /// `streamed_txns`
    described_in: BTreeSet<(u32, u32)>,
    /// What the server has sent.
    sent: Vec<Vec<u8>>,
    expected: Vec<Out>,
}

impl Model {
    fn new(seed: u64) -> Self {
        Self {
            random: Rng::with_seed(seed),
            xid: 700,
            number: 0,
            large: Vec::new(),
            shapes: (0..TABLES).map(|table| (table, 1)).collect(),
            described: BTreeSet::new(),
            described_in: BTreeSet::new(),
            sent: Vec::new(),
            expected: Vec::new(),
        }
    }

    fn next_xid(&mut self) -> u32 {
        self.xid += 1;
        self.xid
    }

    /// A change of one table or two, or a logical message.
    fn change(&mut self) -> (Vec<u32>, Out) {
        self.number += 1;
        let number = self.number.to_string();
        let text = Value::Text(number.as_bytes());
        let tables = [self.random.u32(0..TABLES), self.random.u32(0..TABLES)];
        let values = vec![text; self.shapes[&tables[0]]];
        let shapes = |tables: &[u32]| tables.iter().map(|table| (*table, self.shapes[table])).collect();
        match self.random.u32(0..12) {
            0 => (tables.to_vec(), Out::Rows(fixture::truncate(0, &tables), shapes(&tables))),
            1 => (Vec::new(), Out::Message(fixture::logical(1, self.number, "p", number.as_bytes()))),
            // Larger than what is read at a time.
            2 => (Vec::new(), Out::Message(fixture::logical(1, 7, "p", &vec![b'x'; self.random.usize(0..400_000)]))),
            3 => (vec![tables[0]], Out::Rows(fixture::delete(tables[0], b'K', &values), shapes(&tables[..1]))),
            4 => (vec![tables[0]], Out::Rows(fixture::update(tables[0], None, &values), shapes(&tables[..1]))),
            _ => (vec![tables[0]], Out::Rows(fixture::insert(tables[0], &values), shapes(&tables[..1]))),
        }
    }

    fn small(&mut self) {
        let xid = self.next_xid();
        let mut out = vec![Out::Message(fixture::begin(u64::from(xid), 0, xid))];
        self.sent.push(frame(&fixture::begin(u64::from(xid), 0, xid)));
        for _ in 0..self.random.u32(0..4) {
            let (tables, change) = self.change();
            for table in tables {
                if self.described.insert(table) {
                    self.sent.push(frame(&relation(table, self.shapes[&table])));
                }
            }
            let (Out::Message(message) | Out::Rows(message, _)) = &change else { continue };
            self.sent.push(frame(message));
            out.push(change);
        }
        let commit = fixture::commit(u64::from(xid), u64::from(xid) + 1, 0);
        self.sent.push(frame(&commit));
        self.expected.append(&mut out);
        self.expected.push(Out::Message(commit));
    }

    fn block(&mut self) {
        let mut large = if self.large.is_empty() || self.random.u32(0..4) == 0 {
            let xid = self.next_xid();
            Large { xid, is_new: true, subtransactions: vec![xid], has_message: false, out: Vec::new() }
        } else {
            self.large.swap_remove(self.random.usize(0..self.large.len()))
        };
        self.sent.push(around(b'S', &[large.xid], &[u8::from(large.is_new)]));
        if large.is_new && self.random.bool() {
            let origin = fixture::origin(0, "elsewhere");
            self.sent.push(frame(&origin));
            large.out.push((large.xid, Out::Message(origin)));
        }
        large.is_new = false;
        for _ in 0..self.random.u32(0..6) {
            if self.random.u32(0..3) == 0 {
                large.subtransactions.push(self.next_xid());
            }
            let subxid = *large.subtransactions.last().expect("the top-level one");
            let (tables, change) = loop {
                let (tables, change) = self.change();
                // Half of them have no messages, and may be rolled back in part at any time.
                if large.xid % 2 == 0 || !matches!(change, Out::Message(_)) {
                    break (tables, change);
                }
            };
            for table in tables {
                if self.described_in.insert((large.xid, table)) {
                    self.sent.push(tagged(subxid, &relation(table, self.shapes[&table])));
                }
            }
            let (Out::Message(message) | Out::Rows(message, _)) = &change else { continue };
            let is_message = matches!(change, Out::Message(_));
            self.sent.push(tagged(if is_message { large.xid } else { subxid }, message));
            large.has_message |= is_message;
            large.out.push((subxid, change));
            if self.random.u32(0..8) == 0 {
                self.number += 1;
                self.sent.push(keepalive(self.number));
                self.expected.push(Out::Keepalive(self.number));
            }
        }
        self.sent.push(around(b'E', &[], &[]));
        self.large.push(large);
    }

    fn roll_back(&mut self) {
        let Some(large) = self.large.last_mut() else { return };
        // Else it could not be handed out.
        if large.has_message {
            return;
        }
        let kept = self.random.usize(1..=large.subtransactions.len());
        for subxid in large.subtransactions.drain(kept..).rev() {
            self.sent.push(around(b'A', &[large.xid, subxid], &[]));
            large.out.retain(|(of, _)| *of != subxid);
        }
    }

    fn end(&mut self) {
        let Some(large) = self.large.pop() else { return };
        let xid = large.xid;
        let (commit_lsn, end_lsn) = (u64::from(xid) + 5000, u64::from(xid) + 5001);
        let is_committed = self.random.u32(0..4) > 0;
        for table in 0..TABLES {
            if self.described_in.remove(&(xid, table)) && is_committed {
                self.described.insert(table);
            }
        }
        if !is_committed {
            self.sent.push(around(b'A', &[xid, xid], &[]));
            return;
        }
        let commit = fixture::commit(commit_lsn, end_lsn, 7);
        self.sent.push(around(b'c', &[xid], &commit[1..]));
        self.expected.push(Out::Message(fixture::begin(commit_lsn, 7, xid)));
        self.expected.extend(large.out.into_iter().map(|(_, out)| out));
        self.expected.push(Out::Message(commit));
    }

    fn alter(&mut self) {
        let table = self.random.u32(0..TABLES);
        self.shapes.entry(table).and_modify(|shape| *shape += 1);
        self.described.remove(&table);
        self.described_in.retain(|(_, described)| *described != table);
    }

    fn run(&mut self, steps: usize) {
        for _ in 0..steps {
            match self.random.u32(0..20) {
                0..6 => self.small(),
                6..13 => self.block(),
                13..15 => self.roll_back(),
                15..18 => self.end(),
                18 => self.alter(),
                _ => {
                    self.number += 1;
                    self.sent.push(keepalive(self.number));
                    self.expected.push(Out::Keepalive(self.number));
                }
            }
        }
    }
}

fn spool(memory_bytes: usize) -> Spool {
    Spool::new(&Streaming { memory_bytes, folder: std::env::temp_dir() })
}

/// What goes out when this comes in, in batches of some frames. Whoever waits is now and then interrupted.
async fn pass(mut spool: Spool, sent: &[Vec<u8>], random: &mut Rng) -> Result<Vec<u8>, Failure> {
    let mut sent = sent.iter();
    let mut all = Vec::new();
    loop {
        let is_interrupted = random.bool();
        let out = tokio::select! { biased;
            out = spool.next() => out,
            () = tokio::task::yield_now(), if is_interrupted => continue,
        };
        if let Some(out) = out? {
            all.extend_from_slice(&out);
            continue;
        }
        let batch: Vec<u8> = sent.by_ref().take(random.usize(1..30)).flatten().copied().collect();
        if batch.is_empty() {
            return Ok(all);
        }
        spool.receive(batch.into());
    }
}

/// Holds what goes out against what is expected; each row must find its table described as it was sent.
fn judge(out: Vec<u8>, expected: &[Out]) {
    let mut out = Bytes::from(out);
    let mut given = BTreeMap::new();
    let mut expected = expected.iter();
    while let Some(frame) = frames::first(&out).map(<[u8]>::to_vec) {
        out.advance(frame.len());
        match frames::message(&frame) {
            Some(message @ [b'R', ..]) => _ = given.insert(message[1..5].to_vec(), message.to_vec()),
            Some(message) => match expected.next() {
                Some(Out::Message(expected)) => assert_eq!(message, expected),
                Some(Out::Rows(expected, shapes)) => {
                    assert_eq!(message, expected);
                    for (table, shape) in shapes {
                        assert_eq!(
                            given.get(&table.to_be_bytes()[..]),
                            Some(&relation(*table, *shape)),
                            "table {table}"
                        );
                    }
                }
                other => panic!("{message:?} came instead of {other:?}"),
            },
            None => {
                let lsn = u64::from_be_bytes(frame[6..14].try_into().expect("eight bytes"));
                assert_eq!(expected.next(), Some(&Out::Keepalive(lsn)));
            }
        }
    }
    assert_eq!((out.len(), expected.next()), (0, None));
}

fn on_a_runtime<T>(what: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(what)
}

proptest! {
    #[test]
    fn what_goes_out_is_what_version_1_brings(seed in any::<u64>(), steps in 0_usize..80, memory in 0_usize..600_000) {
        let mut model = Model::new(seed);
        model.run(steps);
        let out = on_a_runtime(pass(spool(memory), &model.sent, &mut model.random));
        judge(out.expect("it is in order"), &model.expected);
    }

    #[test]
    fn no_frames_can_make_it_panic(
        messages in proptest::collection::vec(("[SEcAORYIUDTMBCbPKrp]", proptest::collection::vec(0_u8..3, 0..30)), 0..30),
    ) {
        let sent: Vec<_> = messages.iter().map(|(kind, rest)| frame(&[kind.as_bytes(), rest].concat())).collect();
        let _ = on_a_runtime(pass(spool(0), &sent, &mut Rng::with_seed(1)));
    }
}

/// A message has the id of the top-level transaction, and may have been rolled back with the subtransaction: nobody can tell.
#[test]
fn a_logical_message_that_may_have_been_rolled_back_never_goes_out() {
    let message = || tagged(7, &fixture::logical(1, 5, "p", b""));
    let row = |xid| tagged(xid, &fixture::insert(1, &[]));
    let (start, stop) = (|is_first: u8| around(b'S', &[7], &[is_first]), || around(b'E', &[], &[]));
    let abort = || around(b'A', &[7, 8], &[]);
    let commit = || around(b'c', &[7], &fixture::commit(1, 2, 3)[1..]);
    let sent = [start(1), message(), row(8), stop(), abort(), start(0), row(7), stop(), commit()];
    let failure = on_a_runtime(pass(spool(1 << 20), &sent, &mut Rng::with_seed(1))).expect_err("is in doubt");
    assert!(matches!(&failure, Failure::Transient(error) if error.to_string().contains("transaction 7")), "{failure}");
    // What was written after it was not rolled back with it; nor does it matter where all of it is.
    for sent in [
        &[start(1), row(8), stop(), abort(), start(0), message(), stop(), commit()][..],
        &[start(1), message(), row(8), stop(), abort(), around(b'A', &[7, 7], &[])],
    ] {
        on_a_runtime(pass(spool(1 << 20), sent, &mut Rng::with_seed(1))).expect("nothing is in doubt");
    }
}

/// What makes no sense is never taken for a transaction.
#[test]
fn a_transaction_that_is_not_complete_never_goes_out() {
    let start = |is_first: u8| around(b'S', &[7], &[is_first]);
    let stop = || around(b'E', &[], &[]);
    let commit = || around(b'c', &[7], &fixture::commit(1, 2, 3)[1..]);
    let row = || tagged(7, &fixture::insert(1, &[]));
    for (sent, says) in [
        (vec![start(0)], "7 goes on, but its beginning has not come"),
        (vec![start(1), stop(), start(1)], "7 begins, but has begun already"),
        (vec![commit()], "7 is committed, but nothing of it has come"),
        (vec![start(1), row(), stop(), around(b'A', &[7, 7], &[]), commit()], "nothing of it has come"),
        (vec![stop()], "a Stream Stop without a Stream Start"),
        (vec![start(1), start(1)], "unexpected pgoutput message `S`"),
        (vec![start(1), commit()], "unexpected pgoutput message `c`"),
        (vec![start(1), frame(&fixture::begin(1, 2, 3))], "unexpected pgoutput message `B`"),
        (vec![frame(b"")], "empty pgoutput message"),
    ] {
        let failure = on_a_runtime(pass(spool(1 << 20), &sent, &mut Rng::with_seed(1))).expect_err(says);
        assert!(failure.to_string().contains(says), "{failure}");
        assert!(matches!(failure, Failure::Definite(definite) if definite.kind == Kind::Source));
    }
    // And one that is in progress just waits; what is rolled back and unknown is nothing.
    let sent = [around(b'A', &[9, 9], &[]), around(b'A', &[9, 8], &[]), start(1), row(), stop()];
    assert_eq!(on_a_runtime(pass(spool(0), &sent, &mut Rng::with_seed(1))).expect("in order"), b"");
}

#[test]
fn a_folder_that_can_not_be_written_is_named() {
    let folder = std::env::temp_dir().join("no such folder of pgsluice");
    let spool = Spool::new(&Streaming { memory_bytes: 0, folder: folder.clone() });
    let sent = [around(b'S', &[7], &[1]), tagged(7, &fixture::insert(1, &[])), around(b'E', &[], &[])];
    let failure = on_a_runtime(pass(spool, &sent, &mut Rng::with_seed(1))).expect_err("there is no such folder");
    let expected =
        format!("can't keep a transaction that is in progress below source.streaming_folder, {}", folder.display());
    assert!(matches!(&failure, Failure::Transient(error) if format!("{error:#}").contains(&expected)), "{failure}");
    let Err(Failure::Definite(definite)) = on_a_runtime(super::disk::check(&folder)) else { panic!("is definite") };
    assert_eq!(definite.kind, Kind::Usage);
}
