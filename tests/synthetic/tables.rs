//! Tables, and rows of them, as PostgreSQL sends them.

use super::Value;
use super::fixture;

/// How values cross the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transfer {
    Text,
    Binary,
}

/// One column, and the value that every row has of it.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    name: String,
    type_oid: u32,
    text: Option<Vec<u8>>,
    binary: Vec<u8>,
}

/// Its first column is the key, and counts up.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub(crate) oid: u32,
    pub(crate) name: String,
    identity: u8,
    columns: Vec<Column>,
    transfer: Transfer,
}

fn column(name: &str, type_oid: u32, text: &str, binary: &[u8]) -> Column {
    Column { name: name.to_owned(), type_oid, text: Some(text.as_bytes().to_vec()), binary: binary.to_vec() }
}

/// A text, which is the same in both.
fn text(name: &str, value: &str) -> Column {
    column(name, 25, value, value.as_bytes())
}

const NOTE: &str = "Leave it with the neighbours at number 7, who are at home until six; the bell does not work.";
const UUID: &str = "0193a0c2-7d3e-7b1a-9c55-2f8d1e4b6a70";

/// Rows of some 200 bytes in eight columns.
pub(crate) fn orders() -> Table {
    let uuid: Vec<u8> = UUID.replace('-', "").as_bytes().chunks(2).map(hex).collect();
    // 1234.50: two digits to the base of 10,000, the first of weight 0, positive, two decimals.
    let numeric = [0, 2, 0, 0, 0, 0, 0, 2, 0x04, 0xD2, 0x13, 0x88];
    let columns = vec![
        column("id", 20, "", &[]),
        column("customer_id", 20, "90210", &90_210_i64.to_be_bytes()),
        text("status", "paid"),
        column("total", 1700, "1234.50", &numeric),
        column("created_at", 1184, "2026-11-21 02:37:00.123456+00", &848_284_620_123_456_i64.to_be_bytes()),
        text("note", NOTE),
        column("is_gift", 16, "t", &[1]),
        column("reference", 2950, UUID, &uuid),
    ];
    Table { oid: 16_384, name: "orders".to_owned(), identity: b'd', columns, transfer: Transfer::Text }
}

fn hex(pair: &[u8]) -> u8 {
    u8::from_str_radix(std::str::from_utf8(pair).expect("digits"), 16).expect("digits")
}

/// An outbox with a payload of 1 KiB.
pub(crate) fn outbox() -> Table {
    let payload = format!("{{\"id\":7,\"status\":\"paid\",\"note\":\"{}\"}}", "0123456789 ".repeat(90));
    let columns = vec![
        column("id", 20, "", &[]),
        text("aggregatetype", "order"),
        text("aggregateid", "90210"),
        text("type", "OrderPaid"),
        column("payload", 3802, &payload, payload.as_bytes()),
        text("tenant", "north"),
        column("attempt", 23, "3", &3_i32.to_be_bytes()),
    ];
    Table { oid: 16_385, name: "outbox".to_owned(), identity: b'd', columns, transfer: Transfer::Text }
}

/// A hundred columns of thirteen types, one of them null.
pub(crate) fn wide() -> Table {
    let types: [(u32, Option<&str>); 13] = [
        (23, Some("1234567")),
        (20, Some("-123456789012")),
        (25, Some("some text of a row")),
        (16, Some("f")),
        (1700, Some("-19.90")),
        (1184, Some("2026-11-21 02:37:00.123456+00")),
        (701, Some("0.1")),
        (3802, Some("{\"a\": [1, 2, 3], \"b\": \"c\"}")),
        (2950, Some(UUID)),
        (17, Some("\\x00ff10deadbeef")),
        (1082, Some("2026-11-21")),
        (1007, Some("{1,2,3,NULL}")),
        (25, None),
    ];
    let sample = |index: usize| {
        let (type_oid, text) = types[index % types.len()];
        let text = text.map(|text| text.as_bytes().to_vec());
        Column { name: format!("column_{index}"), type_oid, text, binary: Vec::new() }
    };
    let columns = [column("id", 20, "", &[])].into_iter().chain((1..100).map(sample)).collect();
    Table { oid: 16_386, name: "wide".to_owned(), identity: b'd', columns, transfer: Transfer::Text }
}

impl Table {
    /// The same table by another name.
    pub(crate) fn numbered(&self, number: u32) -> Self {
        Self { oid: 20_000 + number, name: format!("{}_{number}", self.name), ..self.clone() }
    }

    /// With REPLICA IDENTITY FULL.
    pub(crate) fn full(self) -> Self {
        Self { identity: b'f', ..self }
    }

    pub(crate) fn binary(self) -> Self {
        Self { transfer: Transfer::Binary, ..self }
    }

    pub(crate) fn relation(&self) -> Vec<u8> {
        let is_full = self.identity == b'f';
        let columns = self.columns.iter().enumerate();
        let columns: Vec<_> =
            columns.map(|(index, column)| (is_full || index == 0, &*column.name, column.type_oid)).collect();
        fixture::relation(self.oid, "public", &self.name, self.identity, &columns)
    }

    pub(crate) fn insert(&self, row: u64) -> Vec<u8> {
        let id = self.id(row);
        fixture::insert(self.oid, &self.values(&id))
    }

    /// An update of one column, which tells the whole old row.
    pub(crate) fn update(&self, row: u64) -> Vec<u8> {
        let id = self.id(row);
        let new = self.values(&id);
        let mut old = new.clone();
        old[2] = Value::Text(b"open");
        fixture::update(self.oid, Some((b'O', &old)), &new)
    }

    fn id(&self, row: u64) -> Vec<u8> {
        match self.transfer {
            Transfer::Text => row.to_string().into_bytes(),
            Transfer::Binary => row.to_be_bytes().to_vec(),
        }
    }

    fn values<'a>(&'a self, id: &'a [u8]) -> Vec<Value<'a>> {
        let values = self.columns.iter().enumerate().map(|(index, column)| match (self.transfer, &column.text) {
            (_, None) => Value::Null,
            (Transfer::Text, Some(text)) => Value::Text(if index == 0 { id } else { text }),
            (Transfer::Binary, Some(_)) => Value::Binary(if index == 0 { id } else { &column.binary }),
        });
        values.collect()
    }
}
