use std::convert::Infallible;

use super::*;
use crate::postgres::pgoutput::{Value, decode, fixture};

const ONE: &[Value<'_>] = &[Value::Text(b"1")];

/// What comes out for these messages, in words; or the error.
fn take(assembler: &mut Assembler, messages: &[Vec<u8>]) -> Result<Vec<String>, AssembleError> {
    let mut steps = Vec::new();
    for message in messages {
        let message = decode(message).expect("fixtures are well-formed");
        let taken = assembler.take::<Infallible>(message, &mut |step| {
            steps.push(match step {
                Step::Begin(transaction) => format!("begin {}", transaction.commit_lsn),
                Step::Relation(relation) => format!("relation {} of {}", relation.name, relation.columns.len()),
                Step::Change(change) => {
                    assert_eq!(change.position.commit_lsn, change.transaction.commit_lsn);
                    format!("{} {} {}", change.position, change.row.op(), change.relation.name)
                }
                Step::Message(LogicalMessage { within, prefix, .. }) => {
                    within.map_or(format!("message {prefix}"), |(at, _)| format!("{at} message {prefix}"))
                }
                Step::Commit { transaction, end_lsn } => format!("commit {} {end_lsn}", transaction.commit_lsn),
            });
            Ok(())
        });
        match taken {
            Ok(()) => {}
            Err(TakeError::Assemble(error)) => return Err(error),
        }
    }
    Ok(steps)
}

fn table(oid: u32, name: &str) -> Vec<u8> {
    fixture::relation(oid, "public", name, b'd', &[(true, "id", 20)])
}

#[test]
fn changes_are_counted_from_zero_in_each_transaction_and_everything_counts() {
    let messages = [
        fixture::begin(0x10, 5, 7),
        fixture::origin(1, "elsewhere"),
        fixture::type_name(9, "public", "mood"),
        table(1, "a"),
        table(2, "b"),
        fixture::insert(1, ONE),
        fixture::update(2, Some((b'K', ONE)), ONE),
        fixture::logical(1, 3, "outbox", b"x"),
        fixture::truncate(1, &[1, 2]),
        fixture::delete(1, b'K', ONE),
        fixture::commit(0x10, 0x20, 5),
        fixture::begin(0x30, 5, 8),
        fixture::insert(2, ONE),
        fixture::commit(0x30, 0x40, 5),
    ];
    let expected = [
        "begin 0/10",
        "relation a of 1",
        "relation b of 1",
        "0/10:0 insert a",
        "0/10:1 update b",
        "0/10:2 message outbox",
        "0/10:3 truncate a",
        "0/10:4 truncate b",
        "0/10:5 delete a",
        "commit 0/10 0/20",
        "begin 0/30",
        "0/30:0 insert b",
        "commit 0/30 0/40",
    ];
    assert_eq!(take(&mut Assembler::default(), &messages).expect("in order"), expected);
}

#[test]
fn a_change_carries_what_begin_said() {
    let mut assembler = Assembler::default();
    take(&mut assembler, &[fixture::begin(0x10, -5, 7), table(1, "a")]).expect("in order");
    let insert = fixture::insert(1, ONE);
    let mut seen = None;
    let taken = assembler.take::<Infallible>(decode(&insert).expect("an insert"), &mut |step| {
        let Step::Change(change) = step else { panic!("a change") };
        seen = Some(change.transaction);
        Ok(())
    });
    assert_eq!(taken, Ok(()));
    assert_eq!(seen, Some(Transaction { commit_lsn: Lsn(0x10), committed_at: -5, xid: 7 }));
}

#[test]
fn a_table_that_is_described_again_counts_only_when_it_changed() {
    let wider = fixture::relation(1, "public", "a", b'd', &[(true, "id", 20), (false, "more", 25)]);
    let two = [Value::Text(b"1"), Value::Null];
    let messages = [
        table(1, "a"),
        fixture::begin(0x10, 0, 7),
        fixture::insert(1, ONE),
        table(1, "a"),
        wider,
        fixture::insert(1, &two),
        fixture::commit(0x10, 0x20, 0),
    ];
    let steps = take(&mut Assembler::default(), &messages).expect("in order");
    let expected =
        ["relation a of 1", "begin 0/10", "0/10:0 insert a", "relation a of 2", "0/10:1 insert a", "commit 0/10 0/20"];
    assert_eq!(steps, expected);
}

#[test]
fn messages_outside_transactions_have_no_position_and_take_none() {
    let messages = [
        fixture::logical(0, 3, "ping", b""),
        fixture::begin(0x10, 0, 7),
        fixture::logical(0, 3, "pong", b""),
        fixture::logical(1, 3, "outbox", b""),
        fixture::commit(0x10, 0x20, 0),
    ];
    let steps = take(&mut Assembler::default(), &messages).expect("in order");
    assert_eq!(steps[0], "message ping");
    assert_eq!(steps[2..4], ["message pong", "0/10:0 message outbox"]);
}

/// PostgreSQL 18 says so, unasked, of transactions of which it has sent nothing.
#[test]
fn a_transaction_that_was_rolled_back_is_nothing() {
    let aborted = b"A\0\0\0\x07\0\0\0\x08".to_vec();
    let messages = [
        aborted.clone(),
        fixture::begin(0x10, 0, 9),
        fixture::commit(0x10, 0x20, 0),
        aborted,
        fixture::begin(0x30, 0, 10),
    ];
    let steps = take(&mut Assembler::default(), &messages).expect("in order");
    assert_eq!(steps, ["begin 0/10", "commit 0/10 0/20", "begin 0/30"]);
}

#[test]
fn a_stream_out_of_order_is_named() {
    let after = |before: &[Vec<u8>], message: Vec<u8>| {
        let mut assembler = Assembler::default();
        take(&mut assembler, before).expect("in order");
        take(&mut assembler, &[message]).expect_err("out of order")
    };
    let begun = [fixture::begin(0x10, 0, 7), table(1, "a")];

    assert_eq!(after(&[table(1, "a")], fixture::insert(1, ONE)), AssembleError::BareChange);
    assert_eq!(after(&[table(1, "a")], fixture::truncate(0, &[1])), AssembleError::BareChange);
    assert_eq!(after(&[], fixture::logical(1, 1, "p", b"")), AssembleError::BareChange);
    assert_eq!(after(&[], fixture::commit(1, 2, 0)), AssembleError::BareCommit { commit_lsn: Lsn(1) });
    let nested = AssembleError::NestedBegin { open: Lsn(0x10), begun: Lsn(0x30) };
    assert_eq!(after(&begun, fixture::begin(0x30, 0, 8)), nested);
    let mismatch = AssembleError::CommitMismatch { begun: Lsn(0x10), committed: Lsn(0x11) };
    assert_eq!(after(&begun, fixture::commit(0x11, 0x20, 0)), mismatch);
    assert_eq!(after(&begun, fixture::insert(2, ONE)), AssembleError::UnknownRelation(2));
    assert_eq!(after(&begun, fixture::truncate(0, &[2])), AssembleError::UnknownRelation(2));

    let two: &[Value<'_>] = &[Value::Null, Value::Null];
    let width = AssembleError::TupleWidth { relation: "public.a".into(), columns: 1, values: 2 };
    assert_eq!(after(&begun, fixture::insert(1, two)), width);
    assert_eq!(after(&begun, fixture::update(1, Some((b'K', two)), ONE)), width);
    assert_eq!(after(&begun, fixture::delete(1, b'O', two)), width);
    assert_eq!(width.to_string(), "a row of public.a has 2 values for 1 columns");
}

#[test]
fn a_reset_forgets_the_half_read_transaction_and_the_tables() {
    let mut assembler = Assembler::default();
    take(&mut assembler, &[fixture::begin(0x10, 0, 7), table(1, "a"), fixture::insert(1, ONE)]).expect("in order");
    assert!(assembler.in_transaction());
    assembler.reset();
    assert!(!assembler.in_transaction());
    let steps = take(&mut assembler, &[fixture::begin(0x10, 0, 7), table(1, "a"), fixture::insert(1, ONE)]);
    assert_eq!(steps.expect("in order"), ["begin 0/10", "relation a of 1", "0/10:0 insert a"]);
}

#[test]
fn what_the_caller_refuses_stops_a_truncate_at_once() {
    let mut assembler = Assembler::default();
    take(&mut assembler, &[fixture::begin(0x10, 0, 7), table(1, "a"), table(2, "b")]).expect("in order");
    let truncate = fixture::truncate(0, &[1, 2]);
    let mut calls = 0;
    let taken = assembler.take(decode(&truncate).expect("a truncate"), &mut |_| {
        calls += 1;
        Err("full")
    });
    assert_eq!((taken, calls), (Err(TakeError::Each("full")), 1));
}
