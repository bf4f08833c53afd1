//! Faults of the network between pgsluice and its peers, by a proxy that cuts, stalls, loses and slows.

mod proxy;
mod silence;
