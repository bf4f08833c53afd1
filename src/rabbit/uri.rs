//! Broker URIs.

/// stub
#[derive(Debug, Clone)]
pub struct BrokerUri;
