//! Connection strings, as libpq reads them.

/// stub
#[derive(Debug, Clone)]
pub struct Conninfo;
