-- The event store: each event of an order, as it arrived. What the view says of an order is folded from these.
CREATE TABLE history (
    order_id   uuid  NOT NULL,
    message_id text  NOT NULL,
    type       text  NOT NULL,
    payload    jsonb NOT NULL,
    PRIMARY KEY (order_id, message_id)
);

-- The view, kept up to date by each event. What is joined when it is read is all here: no other service is asked.
CREATE TABLE view_orders (
    order_id  uuid PRIMARY KEY,
    member_id bigint,      -- null, as placed_at is, until OrderCreated has arrived: events may come in another order
    status    text NOT NULL CHECK (status IN ('placed', 'confirmed', 'cancelled')),
    reason    text,
    stock     text NOT NULL CHECK (stock IN ('asked', 'locked', 'refused', 'released')),
    placed_at timestamptz
);
CREATE INDEX ON view_orders (placed_at DESC, order_id DESC);
CREATE INDEX ON view_orders (member_id, placed_at DESC, order_id DESC);

CREATE TABLE view_order_lines (
    order_id   uuid   NOT NULL REFERENCES view_orders ON DELETE CASCADE,
    product_id bigint NOT NULL,
    quantity   bigint NOT NULL,
    PRIMARY KEY (order_id, product_id)
);
CREATE INDEX ON view_order_lines (product_id);

-- Base data of other services, with the columns that this view needs. The newest position wins: `commit_lsn` and
-- `ordinal` are pgsluice's header `position`. A row that was deleted stays, so that an older event that comes late
-- doesn't bring it back.
CREATE TABLE view_products (
    id         bigint PRIMARY KEY,
    name       text,
    on_hand    bigint,
    commit_lsn pg_lsn  NOT NULL,
    ordinal    bigint  NOT NULL,
    deleted    boolean NOT NULL
);

CREATE TABLE view_members (
    id         bigint PRIMARY KEY,
    name       text,
    commit_lsn pg_lsn  NOT NULL,
    ordinal    bigint  NOT NULL,
    deleted    boolean NOT NULL
);
