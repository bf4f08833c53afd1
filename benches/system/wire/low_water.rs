//! `SO_RCVLOWAT`: how many bytes have to be there before the reader is woken (socket(7)).

use std::os::fd::AsFd;

use nix::sys::socket::SetSockOpt as _;
// The one macro is made of the others.
use nix::{getsockopt_impl, libc, setsockopt_impl, sockopt_impl};

sockopt_impl!(
    /// The low-water mark of what is received.
    ReceiveLowWater,
    Both,
    libc::SOL_SOCKET,
    libc::SO_RCVLOWAT,
    i32
);

/// Sets the mark, in bytes. Unix sockets take it, and ignore it.
pub(crate) fn set(socket: &impl AsFd, bytes: i32) -> std::io::Result<()> {
    Ok(ReceiveLowWater.set(socket, &bytes)?)
}
