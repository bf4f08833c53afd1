//! pgoutput messages.

/// stub
#[derive(Debug, Clone, Copy)]
pub struct Tuple<'a>(pub &'a [u8]);
