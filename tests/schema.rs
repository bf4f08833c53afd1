//! `pgsluice schema`: every event that is delivered is what the document says, and what breaks it is found.

mod check;
mod contract;
mod deliveries;
mod document;
mod page;
