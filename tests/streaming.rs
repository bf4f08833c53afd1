//! Transactions that are streamed while they are in progress: what comes of them is what version 1 of the protocol brings, to
//! the byte, and costs neither memory nor acknowledgements.

mod origin;
mod prepared;
mod process;
mod recorder;
mod same;

use recorder::Recorder;
