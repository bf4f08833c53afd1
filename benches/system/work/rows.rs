//! The columns of each kind of row, and the SQL for their values in row `i`.

/// A column: name, type, value.
type Column = (String, &'static str, String);

/// A list of columns.
pub(super) struct Row(Vec<Column>);

impl Row {
    /// Eight columns, some 175 bytes as text.
    pub(super) fn order() -> Self {
        let columns = [
            ("id", "bigint PRIMARY KEY", "i"),
            ("customer_id", "int NOT NULL", "i % 100000"),
            ("status", "text NOT NULL", "'confirmed'"),
            ("total", "numeric(12,2) NOT NULL", "(i % 1000000) / 100.0"),
            ("created_at", "timestamptz NOT NULL", "timestamptz '2026-01-01 00:00:00.5+00' + i * interval '1 second'"),
            ("email", "text NOT NULL", "'customer' || i % 100000 || '@example.com'"),
            ("note", "text NOT NULL", "md5(i::text) || md5((i + 1)::text) || 'leave it at the door, please'"),
            ("is_gift", "bool NOT NULL", "i % 2 = 0"),
        ];
        Self(columns.map(|(name, kind, value)| (name.to_owned(), kind, value.to_owned())).into())
    }

    /// Debezium's outbox columns; the payload is 1 KiB of JSON.
    pub(super) fn outbox() -> Self {
        let payload = "json_build_object('orderId', i, 'customerId', i % 100000, 'note', repeat(md5(i::text), 30))";
        let columns = [
            ("id", "uuid PRIMARY KEY", "md5(i::text)::uuid"),
            ("aggregatetype", "text NOT NULL", "'order'"),
            ("aggregateid", "text NOT NULL", "i::text"),
            ("type", "text NOT NULL", "'OrderPlaced'"),
            ("payload", "jsonb NOT NULL", payload),
        ];
        Self(columns.map(|(name, kind, value)| (name.to_owned(), kind, value.to_owned())).into())
    }

    /// A key, and 99 columns of ten types in turn.
    pub(super) fn wide() -> Self {
        let types = [
            ("int", "i::int"),
            ("text", "'text ' || i"),
            ("numeric(14,3)", "i / 7.0"),
            ("timestamptz", "timestamptz '2026-01-01 00:00:00+00' + i * interval '1 second'"),
            ("bool", "i % 3 = 0"),
            ("float8", "i / 3.0"),
            ("uuid", "md5(i::text)::uuid"),
            ("date", "date '2026-01-01' + (i % 365)::int"),
            ("jsonb", "json_build_object('n', i)"),
            ("bigint", "i * 1000"),
        ];
        let others = types.iter().cycle().take(99).enumerate();
        let others = others.map(|(index, (kind, value))| (format!("c{index}"), *kind, (*value).to_owned()));
        let key = ("id".to_owned(), "bigint PRIMARY KEY", "i".to_owned());
        Self(std::iter::once(key).chain(others).collect())
    }

    /// For CREATE TABLE.
    pub(super) fn columns(&self) -> String {
        let columns: Vec<_> = self.0.iter().map(|(name, kind, _)| format!("{name} {kind}")).collect();
        columns.join(", ")
    }

    /// For a SELECT that has `i`.
    pub(super) fn values(&self) -> String {
        let values: Vec<_> = self.0.iter().map(|(_, _, value)| value.as_str()).collect();
        values.join(", ")
    }
}
