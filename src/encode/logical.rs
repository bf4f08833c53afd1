//! The event of a logical message (`pg_logical_emit_message`), as JSON.
//!
//! ```json
//! {"id":"shop:16/B374D848:3","op":"message","prefix":"app.paid","transactional":true,"lsn":"16/B374D7F0",
//!  "commit_lsn":"16/B374D848","ordinal":3,"xid":731,"committed_at":"2026-11-21T02:37:00.123456Z","content":"AP8="}
//! ```
//!
//! Every event has every field, in this order. `content` is Base64, because it may be any bytes; `lsn` is where the message
//! ends in the WAL. Outside of transactions the fields of the position, `xid` and `committed_at` are null.

use super::text::{json_escaped, json_string, lsn};
use super::time::rfc3339;
use super::values::json_base64;
use crate::transaction::LogicalMessage;

/// Appends the event of a logical message to `out`; `id` is its `message_id`.
pub fn message_event(out: &mut Vec<u8>, id: &str, message: &LogicalMessage<'_>) {
    out.extend_from_slice(b"{\"id\":\"");
    json_escaped(out, id);
    out.extend_from_slice(b"\",\"op\":\"message\",\"prefix\":");
    json_string(out, message.prefix.as_bytes());
    out.extend_from_slice(if message.within.is_some() {
        b",\"transactional\":true,\"lsn\":\""
    } else {
        b",\"transactional\":false,\"lsn\":\""
    });
    lsn(out, message.lsn);
    match message.within {
        Some((position, transaction)) => {
            out.extend_from_slice(b"\",\"commit_lsn\":\"");
            lsn(out, position.commit_lsn);
            out.extend_from_slice(b"\",\"ordinal\":");
            out.extend_from_slice(itoa::Buffer::new().format(position.ordinal).as_bytes());
            out.extend_from_slice(b",\"xid\":");
            out.extend_from_slice(itoa::Buffer::new().format(transaction.xid).as_bytes());
            out.extend_from_slice(b",\"committed_at\":\"");
            rfc3339(out, transaction.committed_at);
            out.push(b'"');
        }
        None => out.extend_from_slice(b"\",\"commit_lsn\":null,\"ordinal\":null,\"xid\":null,\"committed_at\":null"),
    }
    out.extend_from_slice(b",\"content\":");
    json_base64(out, message.content);
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Transaction;
    use crate::lsn::{Lsn, Position};

    #[test]
    fn both_kinds_to_the_last_byte() {
        let commit_lsn = Lsn(0x16_B374_D848);
        let transaction = Transaction { commit_lsn, committed_at: 848_543_820_123_456, xid: 731 };
        let within = Some((Position { commit_lsn, ordinal: 3 }, transaction));
        let mut message = LogicalMessage { within, lsn: Lsn(0x16_B374_D7F0), prefix: "a\"p", content: b"\0\xff" };
        let event = |id: &str, message: &LogicalMessage<'_>| {
            let mut out = Vec::new();
            message_event(&mut out, id, message);
            String::from_utf8(out).expect("JSON is UTF-8")
        };
        assert_eq!(
            event("shop:16/B374D848:3", &message),
            concat!(
                r#"{"id":"shop:16/B374D848:3","op":"message","prefix":"a\"p","transactional":true,"lsn":"16/B374D7F0","#,
                r#""commit_lsn":"16/B374D848","ordinal":3,"xid":731,"committed_at":"2026-11-21T02:37:00.123456Z","#,
                r#""content":"AP8="}"#
            )
        );
        message.within = None;
        assert_eq!(
            event("shop:16/B374D7F0:message", &message),
            concat!(
                r#"{"id":"shop:16/B374D7F0:message","op":"message","prefix":"a\"p","transactional":false,"#,
                r#""lsn":"16/B374D7F0","commit_lsn":null,"ordinal":null,"xid":null,"committed_at":null,"content":"AP8="}"#
            )
        );
    }
}
