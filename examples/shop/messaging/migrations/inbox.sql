-- The messages that a service has handled, each together with its effect, in one transaction.
CREATE TABLE inbox (
    queue      text NOT NULL, -- a message that comes by two queues is two things to do
    message_id text NOT NULL,
    handled_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (queue, message_id)
);
