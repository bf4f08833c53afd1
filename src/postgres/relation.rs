//! A table as pgoutput describes it.

/// stub
#[derive(Debug, Clone)]
pub struct Relation;
