//! One test binary, so that the servers are started once.

mod checkpoint;
