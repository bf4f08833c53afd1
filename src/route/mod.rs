//! Which changes are published, and where to.

pub mod select;
pub mod template;
