//! Who may ask for what.
//!
//! With a token, whoever has it, by `Authorization: Bearer …`; without, whoever can connect, which is why nothing but the loopback
//! address is open to pause and resume. A browser on this machine can connect too, for any page that it shows: so a request must
//! say in `Host` that it is for this machine (a name that was made to point here does not), and one that changes something must
//! not come from another page (`Origin`, `Sec-Fetch-Site`). No answer has a CORS header, so that no other page reads it. Pure.

use std::net::IpAddr;

use axum::http::{HeaderMap, Method, header};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::config::Token;

/// Whom to let in.
#[derive(Debug, Clone)]
pub struct Access {
    token: Option<[u8; 32]>,
    is_loopback: bool,
}

/// What a request may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The answer.
    Granted,
    /// Whether it is well, and nothing else: the token is missing or another one.
    Unknown,
    /// Nothing, for this reason.
    Refused(&'static str),
}

impl Access {
    /// With this token, at this address.
    #[must_use]
    pub fn new(token: Option<&Token>, address: IpAddr) -> Self {
        let token = token.map(|token| Sha256::digest(token.reveal()).into());
        Self { token, is_loopback: address.is_loopback() }
    }

    /// Whether a token is asked for.
    #[must_use]
    pub fn wants_token(&self) -> bool {
        self.token.is_some()
    }

    /// Whether other machines can read without a token.
    #[must_use]
    pub fn is_exposed(&self) -> bool {
        self.token.is_none() && !self.is_loopback
    }

    /// What this request may have.
    #[must_use]
    pub fn judge(&self, method: &Method, headers: &HeaderMap) -> Verdict {
        let changes = method != Method::GET && method != Method::HEAD;
        if changes && !is_own(headers) {
            return Verdict::Refused("the request comes from another page");
        }
        if let Some(token) = &self.token {
            return if has_token(headers, token) { Verdict::Granted } else { Verdict::Unknown };
        }
        if !self.is_loopback && changes {
            return Verdict::Refused("set http.token, or listen on the loopback address");
        }
        // A server for other machines has a name that we don't know, and gives away nothing that they can't ask for.
        if self.is_loopback && !is_this_machine(host(headers)) {
            return Verdict::Refused(
                "the header Host names another machine: use localhost or the address, or set http.token",
            );
        }
        Verdict::Granted
    }
}

/// Compares digests, whose time says nothing about the token.
fn has_token(headers: &HeaderMap, token: &[u8; 32]) -> bool {
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(given), None) = (given.next(), given.next()) else { return false };
    let bearer = given.as_bytes().split_at_checked(7).filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "));
    let Some((_, given)) = bearer else { return false };
    let given: [u8; 32] = Sha256::digest(given).into();
    given.ct_eq(token).into()
}

/// The header `Host` without its port.
fn host(headers: &HeaderMap) -> &str {
    without_port(headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default())
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        Some(_) | None => authority,
    }
}

/// An address can't be made to point elsewhere, as a name can.
fn is_this_machine(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

/// Sent by our own page, or by no page at all.
fn is_own(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let is_same = match text("origin") {
        None => true,
        Some(origin) => {
            let authority = origin.split_once("://").map(|(_, authority)| authority);
            authority.is_some_and(|authority| Some(authority) == text("host"))
        }
    };
    is_same && text("sec-fetch-site").is_none_or(|site| site == "same-origin" || site == "none")
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value"))).collect()
    }

    fn judge(token: bool, address: Ipv4Addr, method: &Method, pairs: &[(&'static str, &str)]) -> Verdict {
        let token = token.then(|| Token::new(TOKEN.to_owned()));
        Access::new(token.as_ref(), address.into()).judge(method, &headers(pairs))
    }

    const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
    const EVERYWHERE: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

    #[test]
    fn the_token_lets_in_and_nothing_like_it_does() {
        let bearer = |value: &str| judge(true, EVERYWHERE, &Method::GET, &[("host", "mq1"), ("authorization", value)]);
        assert_eq!(bearer(&format!("Bearer {TOKEN}")), Verdict::Granted);
        assert_eq!(bearer(&format!("bearer {TOKEN}")), Verdict::Granted);
        for wrong in [
            "Bearer ",
            "Bearer 0123456789abcdeg",
            "Basic 0123456789abcdef",
            "0123456789abcdef",
            "B",
            "Bearer 0123456789abcdef0",
        ] {
            assert_eq!(bearer(wrong), Verdict::Unknown, "{wrong}");
        }
        assert_eq!(judge(true, HERE, &Method::POST, &[]), Verdict::Unknown);
    }

    #[test]
    fn a_name_that_was_made_to_point_here_gets_nothing() {
        let host = |host: &str| judge(false, HERE, &Method::GET, &[("host", host)]);
        for good in ["localhost", "LOCALHOST:9187", "127.0.0.1:9187", "[::1]:9187", "192.168.0.7"] {
            assert_eq!(host(good), Verdict::Granted, "{good}");
        }
        for bad in ["evil.example:9187", "localhost.evil.example", "127.0.0.1.evil.example", "", "[::1"] {
            assert!(matches!(host(bad), Verdict::Refused(_)), "{bad}");
        }
        assert!(matches!(judge(false, HERE, &Method::GET, &[]), Verdict::Refused(_)));
    }

    #[test]
    fn nothing_is_changed_for_another_page() {
        let host = ("host", "127.0.0.1:9187");
        let post = |more: &[(&'static str, &str)]| judge(false, HERE, &Method::POST, &[&[host], more].concat());
        assert_eq!(post(&[]), Verdict::Granted);
        assert_eq!(post(&[("origin", "http://127.0.0.1:9187"), ("sec-fetch-site", "same-origin")]), Verdict::Granted);
        for other in ["http://evil.example", "http://127.0.0.1:8080", "null", ""] {
            assert!(matches!(post(&[("origin", other)]), Verdict::Refused(_)), "{other}");
        }
        for site in ["cross-site", "same-site"] {
            assert!(matches!(post(&[("sec-fetch-site", site)]), Verdict::Refused(_)), "{site}");
        }
        let with_token = [("authorization", "Bearer 0123456789abcdef"), ("origin", "http://evil.example"), host];
        assert!(matches!(judge(true, HERE, &Method::POST, &with_token), Verdict::Refused(_)));
    }

    #[test]
    fn other_machines_read_and_change_nothing_without_a_token() {
        let host = [("host", "mq1:9187")];
        assert_eq!(judge(false, EVERYWHERE, &Method::GET, &host), Verdict::Granted);
        assert!(matches!(judge(false, EVERYWHERE, &Method::POST, &host), Verdict::Refused(_)));
    }
}
