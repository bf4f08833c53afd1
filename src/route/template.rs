//! Templates for exchanges and routing keys.

/// stub
#[derive(Debug, Clone)]
pub struct Template;
