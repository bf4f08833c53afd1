//! What the process says about itself.

pub mod health;
pub mod http;
pub mod logging;
