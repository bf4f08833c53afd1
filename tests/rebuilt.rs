//! Tables that are rebuilt from nothing but their events; see [`foreign`].

mod foreign;
mod support;
