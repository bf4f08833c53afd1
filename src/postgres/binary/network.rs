//! Addresses of networks and of their hardware.

use std::io::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Input, hex};

/// `inet_send`: family, bits of the network, whether it is a `cidr`, and the address with its length.
pub(super) fn address(out: &mut Vec<u8>, input: &mut Input<'_>) -> Option<()> {
    let (_family, bits, is_cidr) = (input.u8()?, input.u8()?, input.u8()? != 0);
    let all = match input.u8()? {
        4 => {
            write!(out, "{}", Ipv4Addr::from(input.array::<4>()?)).expect("a Vec takes all bytes");
            32
        }
        16 => {
            six(out, Ipv6Addr::from(input.array::<16>()?));
            128
        }
        _ => return None,
    };
    if is_cidr || bits != all {
        write!(out, "/{bits}").expect("a Vec takes all bytes");
    }
    Some(())
}

/// `inet_net_ntop` writes the last 32 bits of an address as those of IPv4, if all before them are 0.
fn six(out: &mut Vec<u8>, address: Ipv6Addr) {
    match address.segments() {
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => {
            let [a, b] = high.to_be_bytes();
            let [c, d] = low.to_be_bytes();
            write!(out, "::{a}.{b}.{c}.{d}").expect("a Vec takes all bytes");
        }
        _ => write!(out, "{address}").expect("a Vec takes all bytes"),
    }
}

/// `macaddr_send`, `macaddr8_send`
pub(super) fn hardware(out: &mut Vec<u8>, bytes: &[u8]) {
    for (index, byte) in bytes.iter().enumerate() {
        if index > 0 {
            out.push(b':');
        }
        hex(out, *byte);
    }
}
