CREATE TABLE products (
    id      bigint PRIMARY KEY,
    name    text NOT NULL,
    price   numeric(12, 2) NOT NULL,
    cost    numeric(12, 2) NOT NULL, -- nobody else's business: it is in no event
    initial bigint NOT NULL CHECK (initial >= 0),
    on_hand bigint NOT NULL CHECK (on_hand >= 0)
);
-- So that the rules in pgsluice.toml can say which columns have changed.
ALTER TABLE products REPLICA IDENTITY FULL;

-- How far an order is, as this service sees it. The first event about an order makes its row, whichever that is.
CREATE TABLE reservation_state (
    order_id uuid PRIMARY KEY,
    state    text NOT NULL CHECK (state IN ('locked', 'confirmed', 'released', 'failed'))
);

-- What an order holds, or has held, of the stock.
CREATE TABLE reservations (
    order_id   uuid NOT NULL REFERENCES reservation_state,
    product_id bigint NOT NULL REFERENCES products,
    quantity   bigint NOT NULL CHECK (quantity > 0),
    PRIMARY KEY (order_id, product_id)
);

-- What this service keeps of the orders' members: where to send things to, and the position of the event that said so.
CREATE TABLE ship_to (
    member_id bigint PRIMARY KEY,
    address   text, -- null: the member is gone
    lsn       bigint NOT NULL,
    ordinal   bigint NOT NULL
);
