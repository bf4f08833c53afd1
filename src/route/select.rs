//! Which tables are selected.

/// stub
#[derive(Debug, Clone)]
pub struct Selection;
