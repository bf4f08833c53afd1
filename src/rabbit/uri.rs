//! Broker URIs: `amqps://user:password@mq1,mq2:5673,[::1]/vhost?heartbeat=30`, parsed and checked.
//!
//! Follows RabbitMQ's [URI specification](https://www.rabbitmq.com/docs/uri-spec), plus several hosts, tried in
//! turn. Invariant: neither `Debug` nor `Display`, nor an error, shows the password. `config` parses,
//! `handshake` and `tls` use what is in here.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;

/// AMQP's port without TLS, and with it (IANA).
const PORTS: (u16, u16) = (5672, 5671);
/// The query keys, as an error shows them.
const ALLOWED: &str = "heartbeat, connection_timeout, auth_mechanism, cacertfile, certfile, keyfile, verify";
/// AMQP short strings, such as the vhost, hold at most so many bytes (0-9-1 §4.2.5.3).
const SHORT_STRING: usize = 255;

/// How to connect to RabbitMQ, and as whom.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerUri {
    /// Host names or addresses with their ports, tried in turn; at least one.
    pub hosts: Vec<(String, u16)>,
    /// The virtual host; `/` unless given.
    pub vhost: String,
    /// `guest` unless given.
    pub user: String,
    password: String,
    /// Seconds on the wire; zero switches heartbeats off. 30 s unless given.
    pub heartbeat: Duration,
    /// The longest wait for each step of opening a connection. 10 s unless given.
    pub connection_timeout: Duration,
    /// How to log in.
    pub mechanism: Mechanism,
    /// How to encrypt; `None` for `amqp://`.
    pub tls: Option<TlsOptions>,
}

/// SASL mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// User and password.
    Plain,
    /// The TLS client certificate names the user.
    External,
}

/// What TLS needs to know. The files are PEM, read at each connect.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsOptions {
    /// Certificates to trust, instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate chain and private key.
    pub client: Option<(PathBuf, PathBuf)>,
    /// `verify=verify_none`: encrypts, but to whomever answers.
    pub trust_anyone: bool,
}

/// What is wrong with a broker URI. Shows neither the URI nor any part that could hold a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// Not an AMQP URI.
    #[error("must start with amqp:// or amqps://")]
    Scheme,
    /// An empty host in the list.
    #[error("a host is missing: expected host[:port][,host[:port]…]")]
    Host,
    /// A port that is none.
    #[error("the port of host {0:?} must be a number from 1 to 65535")]
    Port(String),
    /// A percent sequence that is not UTF-8.
    #[error("the {0} is not UTF-8 after percent-decoding")]
    Encoding(&'static str),
    /// Longer than AMQP can say.
    #[error("the {0} is longer than 255 bytes")]
    TooLong(&'static str),
    /// More than one path segment: an unescaped slash in the vhost.
    #[error("the virtual host holds a '/': write it as %2F")]
    Slash,
    /// A character that ends the part it stands in.
    #[error("'/', '?' and '@' within a user, password, virtual host or parameter must be written %2F, %3F and %40")]
    Unescaped,
    /// A query key that does not exist here.
    #[error("unknown parameter {0:?}; allowed are {ALLOWED}")]
    UnknownKey(String),
    /// A value outside of what its key takes.
    #[error("parameter {key} must be {allowed}")]
    Value {
        /// The query key.
        key: &'static str,
        /// What it takes.
        allowed: &'static str,
    },
    /// TLS parameters without TLS.
    #[error("parameter {0} needs amqps://")]
    NeedsTls(&'static str),
    /// One of two that belong together.
    #[error("certfile and keyfile go together: give both or none")]
    HalfPair,
    /// A login by certificate, without one.
    #[error("auth_mechanism=external needs amqps:// with certfile and keyfile")]
    ExternalNeedsCertificate,
}

impl BrokerUri {
    /// Parses `amqp[s]://[user[:password]@]host[:port][,…][/vhost][?key=value&…]`.
    ///
    /// User, password, vhost and values are percent-decoded. A missing or empty vhost is `/`. The query keys:
    ///
    /// * `heartbeat`: seconds, 0 (none) to 65535; 30 unless given
    /// * `connection_timeout`: seconds, 1 to 600; 10 unless given. (RabbitMQ's Erlang client takes milliseconds
    ///   here; such a value is out of range and refused.)
    /// * `auth_mechanism`: `plain` or `external`
    /// * `cacertfile`, `certfile`, `keyfile`: PEM files; `amqps://` only
    /// * `verify`: `verify_peer` (unless given) or `verify_none`; `amqps://` only
    ///
    /// # Errors
    /// What is wrong and what is allowed, never the password.
    pub fn parse(uri: &str) -> Result<Self, UriError> {
        let (scheme, rest) = uri.split_once("://").ok_or(UriError::Scheme)?;
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "amqp" => false,
            "amqps" => true,
            _ => return Err(UriError::Scheme),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, vhost) = rest.split_once('/').unwrap_or((rest, ""));
        // Else a part of a password would be taken for a virtual host or a parameter, and shown.
        if vhost.contains('@') || query.contains('@') {
            return Err(UriError::Unescaped);
        }
        // The last '@' ends the user part, so that a password may hold an unescaped one.
        let (login, hosts) = authority.rsplit_once('@').map_or((None, authority), |(login, rest)| (Some(login), rest));
        let (user, password) = match login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
            Some((user, password)) => (decode(user, "user")?, decode(password, "password")?),
            None => ("guest".to_owned(), "guest".to_owned()),
        };
        let port = if secure { PORTS.1 } else { PORTS.0 };
        let mut parsed = Self {
            hosts: hosts.split(',').map(|host| parse_host(host, port)).collect::<Result<_, _>>()?,
            vhost: parse_vhost(vhost)?,
            user,
            password,
            heartbeat: Duration::from_secs(30),
            connection_timeout: Duration::from_secs(10),
            mechanism: Mechanism::Plain,
            tls: secure.then(TlsOptions::default),
        };
        parsed.read_query(query)?;
        Ok(parsed)
    }

    /// Sets or replaces the password, which need not stand in the URI.
    #[must_use]
    pub fn with_password(mut self, password: String) -> Self {
        self.password = password;
        self
    }

    /// The password, for the login alone.
    pub(super) fn password(&self) -> &str {
        &self.password
    }

    fn read_query(&mut self, query: &str) -> Result<(), UriError> {
        let (mut certificate, mut key_file) = (None, None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decode(value, "query")?;
            match key {
                "heartbeat" => {
                    let allowed = "a number of seconds from 0 to 65535";
                    let seconds: u16 = value.parse().map_err(|_| UriError::Value { key: "heartbeat", allowed })?;
                    self.heartbeat = Duration::from_secs(seconds.into());
                }
                "connection_timeout" => {
                    let error =
                        UriError::Value { key: "connection_timeout", allowed: "a number of seconds from 1 to 600" };
                    let seconds = value.parse().ok().filter(|seconds| (1..=600).contains(seconds)).ok_or(error)?;
                    self.connection_timeout = Duration::from_secs(seconds);
                }
                "auth_mechanism" => {
                    self.mechanism = match value.to_ascii_lowercase().as_str() {
                        "plain" => Mechanism::Plain,
                        "external" => Mechanism::External,
                        _ => {
                            return Err(UriError::Value { key: "auth_mechanism", allowed: "plain or external" });
                        }
                    }
                }
                "cacertfile" => self.tls_for("cacertfile")?.ca_file = Some(value.into()),
                "certfile" => certificate = self.tls_for("certfile").map(|_| Some(PathBuf::from(value)))?,
                "keyfile" => key_file = self.tls_for("keyfile").map(|_| Some(PathBuf::from(value)))?,
                "verify" => {
                    self.tls_for("verify")?.trust_anyone = match value.as_str() {
                        "verify_peer" => false,
                        "verify_none" => true,
                        _ => return Err(UriError::Value { key: "verify", allowed: "verify_peer or verify_none" }),
                    }
                }
                _ => return Err(UriError::UnknownKey(key.to_owned())),
            }
        }
        match (certificate, key_file) {
            (Some(certificate), Some(key)) => self.tls_for("certfile")?.client = Some((certificate, key)),
            (None, None) if self.mechanism == Mechanism::External => return Err(UriError::ExternalNeedsCertificate),
            (None, None) => {}
            (Some(_), None) | (None, Some(_)) => return Err(UriError::HalfPair),
        }
        Ok(())
    }

    fn tls_for(&mut self, key: &'static str) -> Result<&mut TlsOptions, UriError> {
        self.tls.as_mut().ok_or(UriError::NeedsTls(key))
    }
}

fn decode(text: &str, what: &'static str) -> Result<String, UriError> {
    Ok(percent_decode_str(text).decode_utf8().map_err(|_| UriError::Encoding(what))?.into_owned())
}

fn parse_vhost(text: &str) -> Result<String, UriError> {
    if text.contains('/') {
        return Err(UriError::Slash);
    }
    match decode(text, "virtual host")? {
        vhost if vhost.is_empty() => Ok("/".to_owned()),
        vhost if vhost.len() > SHORT_STRING => Err(UriError::TooLong("virtual host")),
        vhost => Ok(vhost),
    }
}

fn parse_host(text: &str, default_port: u16) -> Result<(String, u16), UriError> {
    // An IPv6 address stands in brackets, because of its colons (RFC 3986 §3.2.2).
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or_else(|| UriError::Port(host.to_owned()))?)),
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let host = decode(host, "host")?;
    if host.is_empty() {
        return Err(UriError::Host);
    }
    let port = match port {
        Some(port) => port.parse().ok().filter(|port: &u16| *port > 0).ok_or_else(|| UriError::Port(host.clone()))?,
        None => default_port,
    };
    Ok((host, port))
}

/// Hosts, vhost and user; never the password.
impl fmt::Display for BrokerUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "amqp{}://{}@", if self.tls.is_some() { "s" } else { "" }, self.user)?;
        for (index, (host, port)) in self.hosts.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
            write!(f, "{comma}{open}{host}{close}:{port}")?;
        }
        write!(f, "/{}", self.vhost.replace('/', "%2F"))
    }
}

impl fmt::Debug for BrokerUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BrokerUri({self}, {:?}, {:?})", self.mechanism, self.tls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(uri: &str) -> BrokerUri {
        BrokerUri::parse(uri).expect("a good URI")
    }

    #[test]
    fn the_shortest_uri_has_rabbitmqs_defaults() {
        let uri = parse("amqp://mq1");
        assert_eq!(uri.hosts, [("mq1".to_owned(), 5672)]);
        assert_eq!((uri.user.as_str(), uri.password(), uri.vhost.as_str()), ("guest", "guest", "/"));
        assert_eq!(uri.tls, None);
        assert_eq!(parse("amqp://mq1/").vhost, "/");
        assert_eq!(parse("amqps://mq1").hosts[0].1, 5671);
    }

    #[test]
    fn everything_at_once() {
        let uri = parse(
            "amqps://us%40er:p%2Fw@mq1:5672,mq2,[::1]:5673/a%2Fb?heartbeat=5&connection_timeout=3&\
             auth_mechanism=external&cacertfile=/ca.pem&certfile=/c.pem&keyfile=%2Fk.pem&verify=verify_none",
        );
        let hosts: Vec<_> = uri.hosts.iter().map(|(host, port)| (host.as_str(), *port)).collect();
        assert_eq!(hosts, [("mq1", 5672), ("mq2", 5671), ("::1", 5673)]);
        assert_eq!((uri.user.as_str(), uri.password(), uri.vhost.as_str()), ("us@er", "p/w", "a/b"));
        assert_eq!((uri.heartbeat.as_secs(), uri.connection_timeout.as_secs()), (5, 3));
        assert_eq!(uri.mechanism, Mechanism::External);
        let tls = uri.tls.expect("TLS");
        assert!(tls.trust_anyone);
        assert_eq!(tls.ca_file, Some("/ca.pem".into()));
        assert_eq!(tls.client, Some(("/c.pem".into(), "/k.pem".into())));
    }

    #[test]
    fn the_password_is_never_shown_and_may_come_from_elsewhere() {
        let uri = parse("amqp://app:hunter2@mq1,[::1]/%2F").with_password("hunter3".into());
        assert_eq!(uri.password(), "hunter3");
        assert_eq!(uri.to_string(), "amqp://app@mq1:5672,[::1]:5672/%2F");
        assert!(!format!("{uri:?} {uri}").contains("hunter"));
        assert_eq!(parse("amqp://app:a@b@mq1").password(), "a@b");
        assert_eq!(parse("amqp://app@mq1").password(), "");
    }

    #[test]
    fn errors_say_what_is_allowed() {
        let error = |uri: &str| BrokerUri::parse(uri).expect_err("a bad URI").to_string();
        assert_eq!(error("http://mq1"), "must start with amqp:// or amqps://");
        assert_eq!(error("amqp://"), "a host is missing: expected host[:port][,host[:port]…]");
        assert_eq!(error("amqp://a,,b"), "a host is missing: expected host[:port][,host[:port]…]");
        assert_eq!(error("amqp://a:0"), "the port of host \"a\" must be a number from 1 to 65535");
        assert_eq!(error("amqp://[::1]x"), "the port of host \"::1\" must be a number from 1 to 65535");
        assert_eq!(error("amqp://a/b/c"), "the virtual host holds a '/': write it as %2F");
        assert_eq!(error("amqp://a?hartbeat=1"), format!("unknown parameter \"hartbeat\"; allowed are {ALLOWED}"));
        assert_eq!(
            error("amqp://a?connection_timeout=10000"),
            "parameter connection_timeout must be a number of seconds from 1 to 600"
        );
        assert_eq!(error("amqp://a?verify=verify_none"), "parameter verify needs amqps://");
        assert_eq!(error("amqps://a?verify=no"), "parameter verify must be verify_peer or verify_none");
        assert_eq!(error("amqps://a?certfile=x"), "certfile and keyfile go together: give both or none");
        assert_eq!(
            error("amqps://a?auth_mechanism=external"),
            "auth_mechanism=external needs amqps:// with certfile and keyfile"
        );
        for uri in ["amqp://u:sec/ret@a", "amqp://u:sec?ret@a", "amqp://u@a/v@x"] {
            assert!(error(uri).ends_with("must be written %2F, %3F and %40"));
        }
        assert_eq!(error("amqp://%ff:secret@a"), "the user is not UTF-8 after percent-decoding");
    }
}
