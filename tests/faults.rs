//! Faults of the network between pgsluice and its peers, by a proxy that cuts, stalls, loses and slows.

mod account;
mod collector;
mod ledger;
mod load;
mod proxy;
mod random;
mod runs;
mod script;
mod silence;
mod watch;
