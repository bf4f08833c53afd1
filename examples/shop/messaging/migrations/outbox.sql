-- The events that a service tells. Rows are only ever inserted; pgsluice publishes them in commit order.
-- They are kept: the table is the event store, from which pgsluice can send everything again (replay --from-table).
CREATE TABLE outbox (
    id            uuid PRIMARY KEY,
    aggregatetype text NOT NULL,
    aggregateid   text NOT NULL,
    type          text NOT NULL,
    payload       jsonb NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX outbox_by_time ON outbox (created_at, id);
