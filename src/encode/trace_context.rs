//! W3C Trace Context: the `traceparent` and the `tracestate` that an application has written, as it has written them.
//!
//! What is no `traceparent` is left out, and the `tracestate` with it (§3.3.1.2, §4.3 of <https://www.w3.org/TR/trace-context/>):
//! nobody could go on from it. It never stops an event. Pure.

use super::message::{Header, HeaderTable};

/// The names of the headers.
pub const TRACEPARENT: &str = "traceparent";
/// See [`TRACEPARENT`].
pub const TRACESTATE: &str = "tracestate";
/// Of the flags: whoever began the trace records it (§3.2.2.5.1).
const SAMPLED: u8 = 1;

/// A place in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// Of the whole trace; not zero.
    pub trace_id: [u8; 16],
    /// Of the span that whoever goes on is a child of; not zero.
    pub span_id: [u8; 8],
    /// As they were written.
    pub flags: u8,
}

impl TraceContext {
    /// Reads a `traceparent`, as in `00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01` (§3.2.2). Of later versions
    /// than 00, which may have more behind it, what version 00 knows (§3.2.4).
    #[must_use]
    pub fn parse(traceparent: &str) -> Option<Self> {
        let mut fields = traceparent.split('-');
        let [version] = hex(fields.next()?)?;
        let context =
            Self { trace_id: hex(fields.next()?)?, span_id: hex(fields.next()?)?, flags: hex::<1>(fields.next()?)?[0] };
        let is_known = version != 0xff && (version > 0 || fields.next().is_none());
        (is_known && context.trace_id != [0; 16] && context.span_id != [0; 8]).then_some(context)
    }

    /// Whether whoever began the trace records it.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }
}

/// Lower-case, and so many bytes.
fn hex<const BYTES: usize>(text: &str) -> Option<[u8; BYTES]> {
    let digit = |at: &u8| match at {
        b'0'..=b'9' => Some(at - b'0'),
        b'a'..=b'f' => Some(at - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let mut bytes = [0; BYTES];
    if pairs.len() != BYTES || !rest.is_empty() {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(high)? << 4 | digit(low)?;
    }
    Some(bytes)
}

/// Adds both headers: from the `traceparent` alone, or from lines `traceparent=…` and `tracestate=…`, as a Java application
/// with OpenTelemetry writes them for Debezium (`java.util.Properties`).
pub(super) fn push(headers: &mut HeaderTable, column: &str) {
    let column = column.trim();
    let line = |name: &str| {
        let lines = column.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.trim().split_once('='));
        // The last one counts, as in any properties file.
        lines.filter(|(key, _)| key.trim_end() == name).map(|(_, value)| value.trim()).next_back()
    };
    let (traceparent, tracestate) =
        if column.contains('=') { (line(TRACEPARENT), line(TRACESTATE)) } else { (Some(column), None) };
    let Some(traceparent) = traceparent.filter(|text| TraceContext::parse(text).is_some()) else { return };
    headers.push(TRACEPARENT, Header::Text(traceparent));
    let is_printable = |text: &&str| !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
    match tracestate.filter(is_printable) {
        None => {}
        // A properties file escapes these two.
        Some(text) if text.contains('\\') => {
            headers.push(TRACESTATE, Header::Text(&text.replace("\\=", "=").replace("\\:", ":")));
        }
        Some(text) => headers.push(TRACESTATE, Header::Text(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn pushed(column: &str) -> Vec<(String, String)> {
        let mut table = HeaderTable::default();
        push(&mut table, column);
        let text = |value| match value {
            Header::Text(text) => text.to_owned(),
            Header::Int(_) | Header::Bool(_) => panic!("no text"),
        };
        table.all().iter().map(|(name, value)| (name.to_owned(), text(value))).collect()
    }

    #[test]
    fn a_traceparent_is_read_as_the_recommendation_says() {
        let context = TraceContext::parse(PARENT).expect("the example of the recommendation");
        assert_eq!((context.trace_id[0], context.trace_id[15], context.span_id[7]), (0x0a, 0x9c, 0x31));
        assert!(context.is_sampled());
        let parsed = |of: &str, with: &str| TraceContext::parse(&PARENT.replacen(of, with, 1));
        assert!(!parsed("-01", "-02").expect("other flags").is_sampled());
        assert!(parsed("-01", "-03").expect("other flags").is_sampled());
        assert_eq!(parsed("00-", "cc-").as_ref(), Some(&context), "of a later version");
        assert_eq!(TraceContext::parse(&format!("cc{}-what-comes", &PARENT[2..])), Some(context));
        for (of, with) in [
            ("00-", "ff-"),
            ("00-", "0-"),
            ("00-", ""),
            ("-01", ""),
            ("-01", "-1"),
            ("-01", "-01-"),
            ("-01", "-01-00"),
            ("-01", "-0x"),
            ("-01", "-001"),
            ("0af7", "0AF7"),
            ("0af7", "0af"),
            ("0af7", "+af7"),
            ("0af7", "äf7"),
            ("0af7651916cd43dd8448eb211c80319c", "00000000000000000000000000000000"),
            ("b7ad6b7169203331", "0000000000000000"),
            ("-01", "-01 "),
        ] {
            assert_eq!(parsed(of, with), None, "{with} for {of}");
        }
        assert_eq!(TraceContext::parse(""), None);
    }

    #[test]
    fn what_nobody_could_go_on_from_is_left_out() {
        let alone = [("traceparent".to_owned(), PARENT.to_owned())];
        assert_eq!(pushed(&format!(" {PARENT}\n")), alone);
        assert_eq!(pushed(&format!("tracestate=a\ntraceparent={PARENT}\r\n")).len(), 2);
        assert_eq!(pushed(&format!("#traceparent=x\ntraceparent={PARENT}\ntracestate=a\\=b\\:c"))[1].1, "a=b:c");
        assert_eq!(pushed(&format!("traceparent={PARENT}\ntracestate=")), alone);
        assert_eq!(pushed(&format!("traceparent={PARENT}\ntracestate=a=\u{1}")), alone);
        for nothing in ["", "x", "tracestate=a=b", "traceparent=x\ntracestate=a=b", "{\"traceparent\":\"x\"}", "=", "#"]
        {
            assert_eq!(pushed(nothing), [], "{nothing}");
        }
    }
}
