//! The login: trust, clear-text password, MD5, SCRAM-SHA-256 with and without channel binding.
//!
//! Follows "Start-up" and "SASL Authentication" in the manual's protocol chapter.

use bytes::BytesMut;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{self, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256};
use postgres_protocol::message::frontend;

use super::error::{AuthError, ClientError, ProtocolError, ServerError};
use super::wire::{Fields, Message, Wire};
use crate::postgres::conninfo::{ChannelBinding, Conninfo, Password};

const DURING: &str = "logging in";

/// An `Authentication…` message, by its number.
enum Request {
    Done,
    ClearText,
    Md5([u8; 4]),
    Sasl(Vec<String>),
    SaslContinue(Vec<u8>),
    SaslFinal(Vec<u8>),
    Other(&'static str),
}

/// Logs in; returns after `AuthenticationOk`.
pub(super) async fn log_in(
    wire: &mut Wire,
    conninfo: &Conninfo,
    password: Option<&Password>,
) -> Result<(), ClientError> {
    let needed = || password.ok_or_else(|| AuthError::NoPassword { user: conninfo.user().to_owned() });
    let bound = match receive(wire).await? {
        Request::Done => {
            require_binding(conninfo, false)?;
            return Ok(());
        }
        Request::ClearText => {
            require_binding(conninfo, false)?;
            send_password(wire, needed()?.as_bytes()).await?;
            false
        }
        Request::Md5(salt) => {
            require_binding(conninfo, false)?;
            let hash = md5_hash(conninfo.user().as_bytes(), needed()?.as_bytes(), salt);
            send_password(wire, hash.as_bytes()).await?;
            false
        }
        Request::Sasl(mechanisms) => scram(wire, conninfo, needed()?, &mechanisms).await?,
        Request::SaslContinue(_) | Request::SaslFinal(_) => return Err(unexpected(b'R')),
        Request::Other(method) => return Err(AuthError::Unsupported(method.to_owned()).into()),
    };
    require_binding(conninfo, bound)?;
    match receive(wire).await? {
        Request::Done => Ok(()),
        _ => Err(unexpected(b'R')),
    }
}

fn require_binding(conninfo: &Conninfo, bound: bool) -> Result<(), AuthError> {
    if conninfo.channel_binding() == ChannelBinding::Require && !bound {
        return Err(AuthError::NoChannelBinding);
    }
    Ok(())
}

fn unexpected(tag: u8) -> ClientError {
    ProtocolError::Unexpected { tag, during: DURING }.into()
}

/// The next request of the server; its refusal is an error.
async fn receive(wire: &mut Wire) -> Result<Request, ClientError> {
    loop {
        let Message { tag, body } = wire.receive().await?;
        match tag {
            b'R' => return Ok(request(&body)?),
            b'E' => return Err(Box::new(ServerError::parse(&body)?).into()),
            b'N' => super::log_notice(&ServerError::parse(&body)?),
            other => return Err(unexpected(other)),
        }
    }
}

fn request(body: &[u8]) -> Result<Request, ProtocolError> {
    let mut fields = Fields::new(b'R', body);
    Ok(match fields.int32()? {
        0 => Request::Done,
        2 => Request::Other("Kerberos V5"),
        3 => Request::ClearText,
        5 => Request::Md5(fields.array()?),
        7 | 8 => Request::Other("GSSAPI"),
        9 => Request::Other("SSPI"),
        10 => {
            let mut mechanisms = Vec::new();
            loop {
                match fields.text()? {
                    end if end.is_empty() => break Request::Sasl(mechanisms),
                    mechanism => mechanisms.push(mechanism),
                }
            }
        }
        11 => Request::SaslContinue(fields.rest().to_vec()),
        12 => Request::SaslFinal(fields.rest().to_vec()),
        _ => Request::Other("an unknown method"),
    })
}

async fn send_password(wire: &mut Wire, password: &[u8]) -> Result<(), ClientError> {
    let mut out = BytesMut::new();
    frontend::password_message(password, &mut out).map_err(|error| encoding(&error))?;
    wire.send(&out).await
}

fn encoding(error: &std::io::Error) -> ProtocolError {
    ProtocolError::Request(error.to_string())
}

/// The exchange of RFC 5802; true when it was bound to the TLS channel. The server has proved that it
/// knows the password when this returns.
async fn scram(
    wire: &mut Wire,
    conninfo: &Conninfo,
    password: &Password,
    mechanisms: &[String],
) -> Result<bool, ClientError> {
    let offered = |name: &str| mechanisms.iter().any(|mechanism| mechanism == name);
    let end_point = match conninfo.channel_binding() {
        ChannelBinding::Disable => None,
        ChannelBinding::Prefer | ChannelBinding::Require => wire.stream.end_point(),
    };
    let (mechanism, binding) = match end_point {
        Some(hash) if offered(SCRAM_SHA_256_PLUS) => {
            (SCRAM_SHA_256_PLUS, sasl::ChannelBinding::tls_server_end_point(hash))
        }
        _ if !offered(SCRAM_SHA_256) => return Err(AuthError::Unsupported(mechanisms.join(", ")).into()),
        // "We could, but you did not offer": a server that did offer sees that somebody sits in between.
        Some(_) => (SCRAM_SHA_256, sasl::ChannelBinding::unrequested()),
        None => (SCRAM_SHA_256, sasl::ChannelBinding::unsupported()),
    };
    let bound = mechanism == SCRAM_SHA_256_PLUS;
    require_binding(conninfo, bound)?;

    let mut scram = ScramSha256::new(password.as_bytes(), binding);
    let mut out = BytesMut::new();
    frontend::sasl_initial_response(mechanism, scram.message(), &mut out).map_err(|error| encoding(&error))?;
    wire.send(&out).await?;
    let Request::SaslContinue(challenge) = receive(wire).await? else { return Err(unexpected(b'R')) };
    scram.update(&challenge).map_err(AuthError::Scram)?;
    out.clear();
    frontend::sasl_response(scram.message(), &mut out).map_err(|error| encoding(&error))?;
    wire.send(&out).await?;
    let Request::SaslFinal(proof) = receive(wire).await? else { return Err(unexpected(b'R')) };
    scram.finish(&proof).map_err(AuthError::Scram)?;
    Ok(bound)
}
