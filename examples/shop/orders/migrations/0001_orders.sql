CREATE TABLE members (
    id      bigint PRIMARY KEY,
    name    text NOT NULL,
    email   text NOT NULL,
    address text NOT NULL
);
-- So that the rules in pgsluice.toml can say which columns have changed.
ALTER TABLE members REPLICA IDENTITY FULL;

CREATE TABLE orders (
    id        uuid PRIMARY KEY,
    member_id bigint NOT NULL REFERENCES members,
    status    text NOT NULL CHECK (status IN ('placed', 'confirmed', 'cancelled')),
    reason    text CHECK ((reason IS NOT NULL) = (status = 'cancelled')),
    total     numeric(14, 2), -- null if a price was not known yet
    placed_at timestamptz NOT NULL DEFAULT now(),
    deadline  timestamptz NOT NULL -- when the sweeper cancels it, unless it is confirmed by then
);
CREATE INDEX orders_waiting ON orders (deadline) WHERE status = 'placed';

CREATE TABLE order_lines (
    order_id   uuid NOT NULL REFERENCES orders,
    product_id bigint NOT NULL,
    quantity   int NOT NULL CHECK (quantity > 0),
    PRIMARY KEY (order_id, product_id)
);

-- What this service keeps of the inventory's products: what they cost, and the position of the event that said so.
CREATE TABLE product_prices (
    product_id bigint PRIMARY KEY,
    price      numeric(12, 2) NOT NULL,
    lsn        bigint NOT NULL,
    ordinal    bigint NOT NULL
);
