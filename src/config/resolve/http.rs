//! `[http]`.

use std::net::{Ipv4Addr, SocketAddr};

use super::{MAX_WAIT_MS, Origins, in_range, millis, secret, written};
use crate::config::{HttpSettings, TlsFiles, Token};
use crate::failure::Definite;

const ADDRESS: &str = "an IP address and a port, as in \"127.0.0.1:9187\", or a port of the loopback address alone";
/// One that is shorter can be guessed.
const TOKEN_BYTES_MIN: usize = 16;

pub(super) fn http(at: &Origins, written: written::Http) -> Result<Option<HttpSettings>, Definite> {
    let written::Http { listen, token, token_file, tls_certificate_file, tls_key_file, ready_lag_bytes, ready_lag_ms } =
        written;
    let given = [
        ("token", token.is_some()),
        ("token_file", token_file.is_some()),
        ("tls_certificate_file", tls_certificate_file.is_some()),
        ("tls_key_file", tls_key_file.is_some()),
        ("ready_lag_bytes", ready_lag_bytes.is_some()),
        ("ready_lag_ms", ready_lag_ms.is_some()),
    ];
    let ready_lag_bytes = ready_lag_bytes
        .map(|lag| in_range(at, "http.ready_lag_bytes", Some(lag), lag, 0..=1 << 50, "bytes"))
        .transpose()?;
    let ready_lag =
        ready_lag_ms.map(|ms| millis(at, "http.ready_lag_ms", Some(ms), ms, 1..=7 * MAX_WAIT_MS)).transpose()?;
    let Some(listen) = listen else {
        return match given.into_iter().find(|(_, is_given)| *is_given) {
            None => Ok(None),
            Some((key, _)) => {
                let hint = format!("set http.listen: {ADDRESS}");
                Err(at.wrong(&format!("http.{key}"), "has no meaning without http.listen", hint))
            }
        };
    };
    let token = secret(at, "http.token", "http.token_file", token, token_file)?;
    if token
        .as_ref()
        .is_some_and(|token| token.len() < TOKEN_BYTES_MIN || !token.bytes().all(|it| it.is_ascii_graphic()))
    {
        let hint = "allowed: at least 16 letters, digits and signs of ASCII, as `openssl rand -hex 32` prints them";
        return Err(at.wrong("http.token", "is no token that keeps anybody out", hint));
    }
    let tls = match (tls_certificate_file, tls_key_file) {
        (None, None) => None,
        (Some(certificate), Some(key)) => {
            Some(TlsFiles { certificate: at.folder().join(certificate), key: at.folder().join(key) })
        }
        (Some(_), None) => {
            return Err(at.wrong("http.tls_key_file", "is missing", "the key of http.tls_certificate_file"));
        }
        (None, Some(_)) => {
            return Err(at.wrong("http.tls_certificate_file", "is missing", "the certificate of http.tls_key_file"));
        }
    };
    Ok(Some(HttpSettings {
        listen: address(at, &listen)?,
        token: token.map(Token::new),
        tls,
        ready_lag_bytes,
        ready_lag,
    }))
}

fn address(at: &Origins, listen: &str) -> Result<SocketAddr, Definite> {
    if let Ok(port) = listen.parse::<u16>() {
        return Ok((Ipv4Addr::LOCALHOST, port).into());
    }
    listen.parse().map_err(|error| {
        let what = format!("is no address with a port: \"{listen}\"");
        at.wrong_because("http.listen", &what, error, ADDRESS)
    })
}
