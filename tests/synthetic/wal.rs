//! A stream of transactions, as whole `CopyData` messages, cut into batches.

use bytes::Bytes;

use super::fixture;
use super::workload::Workload;

/// Where the first transaction commits.
pub(super) const START: u64 = 0x1_0000_0000;
/// WAL of one transaction, in bytes: more than a commit record takes.
const APART: u64 = 0x100;
/// What one read brings while there is a backlog.
const READ_BYTES: usize = 64 << 10;
/// Microseconds since 2000-01-01 00:00 UTC.
const COMMITTED_AT: i64 = 848_284_620_123_456;

/// Writes the stream on and on; rows, transactions and positions count up.
pub(crate) struct Wal<'w> {
    workload: &'w Workload,
    transactions: u64,
    rows: u64,
}

impl<'w> Wal<'w> {
    pub(crate) fn new(workload: &'w Workload) -> Self {
        Self { workload, transactions: 0, rows: 0 }
    }

    /// Batches of whole transactions, with at least so many changes in all; and how many there are.
    pub(crate) fn batches(&mut self, changes: u64) -> (Vec<Bytes>, u64) {
        let (mut batches, mut batch, before) = (Vec::new(), Vec::new(), self.rows);
        while self.rows - before < changes {
            for message in self.transaction() {
                batch.extend(message);
                if batch.len() >= READ_BYTES {
                    batches.push(Bytes::from(std::mem::take(&mut batch)));
                }
            }
            if self.workload.is_live {
                batches.push(Bytes::from(std::mem::take(&mut batch)));
            }
        }
        if !batch.is_empty() {
            batches.push(Bytes::from(batch));
        }
        (batches, self.rows - before)
    }

    fn transaction(&mut self) -> Vec<Vec<u8>> {
        let workload = self.workload;
        let commit_lsn = START + self.transactions * APART;
        let xid = u32::try_from(self.transactions % 1_000_000).expect("small");
        let mut messages = vec![fixture::begin(commit_lsn, COMMITTED_AT, xid)];
        if self.transactions == 0 {
            messages.extend(workload.tables.iter().map(super::tables::Table::relation));
        }
        for _ in 0..workload.rows {
            let table = usize::try_from(self.rows).expect("small") % workload.tables.len().max(1);
            messages.push((workload.change)(&workload.tables[table], self.rows));
            self.rows += 1;
        }
        messages.push(fixture::commit(commit_lsn, commit_lsn + APART / 2, COMMITTED_AT));
        self.transactions += 1;
        messages.iter().map(|message| xlog_data(commit_lsn, message)).collect()
    }
}

fn xlog_data(lsn: u64, message: &[u8]) -> Vec<u8> {
    let size = u32::try_from(4 + 25 + message.len()).expect("small");
    let (lsn, sent_at) = (lsn.to_be_bytes(), COMMITTED_AT.to_be_bytes());
    [&b"d"[..], &size.to_be_bytes(), b"w", &lsn, &lsn, &sent_at, message].concat()
}
