//! What the process says about itself.

pub mod health;
pub mod http;
pub mod logging;
pub mod metrics;
pub mod otlp;
pub mod report;
pub mod status;
