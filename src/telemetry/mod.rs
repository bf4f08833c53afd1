//! What the process says about itself.

pub mod health;
pub mod http;
pub mod logging;
pub mod metrics;
pub mod notify;
pub mod otlp;
pub mod pulse;
pub mod report;
pub mod status;
