//! From `(key, value)` pairs and the environment to a [`Conninfo`] that needs no more checks.
//!
//! Keys, defaults and variables are libpq's ("Parameter Key Words" and "Environment Variables" in the
//! PostgreSQL manual), where not said otherwise in [`super`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::syntax::Pairs;
use super::{
    Address, ChannelBinding, Conninfo, DEFAULT_PORT, Host, Identity, Negotiation, Password, RootCertificates, SslMode,
    Target, TcpSettings, TlsSettings,
};

/// Every key, with the environment variable that it defaults to.
const KEYS: &[(&str, Option<&str>)] = &[
    ("host", Some("PGHOST")),
    ("hostaddr", Some("PGHOSTADDR")),
    ("port", Some("PGPORT")),
    ("user", Some("PGUSER")),
    ("password", Some("PGPASSWORD")),
    ("dbname", Some("PGDATABASE")),
    ("application_name", Some("PGAPPNAME")),
    ("options", Some("PGOPTIONS")),
    ("passfile", Some("PGPASSFILE")),
    ("connect_timeout", Some("PGCONNECT_TIMEOUT")),
    ("target_session_attrs", Some("PGTARGETSESSIONATTRS")),
    ("channel_binding", Some("PGCHANNELBINDING")),
    ("sslmode", Some("PGSSLMODE")),
    ("sslrootcert", Some("PGSSLROOTCERT")),
    ("sslcert", Some("PGSSLCERT")),
    ("sslkey", Some("PGSSLKEY")),
    ("sslnegotiation", Some("PGSSLNEGOTIATION")),
    ("keepalives", None),
    ("keepalives_idle", None),
    ("keepalives_interval", None),
    ("keepalives_count", None),
    ("tcp_user_timeout", None),
];

/// What is wrong with a connection string. Never holds the string or the password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConninfoError {
    /// Neither a URL of ours nor `key=value`.
    #[error("the connection string must begin with `postgres://` or `postgresql://`, or consist of `key=value` pairs")]
    Scheme,
    /// `?key` without a value.
    #[error("after the `?` of the URL, every parameter must be written `key=value`")]
    UrlPair,
    /// `[` without `]`, or something else than a port after it.
    #[error("an IPv6 address must be written `[address]` or `[address]:port`")]
    Bracket,
    /// Percent-encoding that gives no text.
    #[error("the value of `{key}` is not percent-encoded UTF-8")]
    Encoding {
        /// Which.
        key: String,
    },
    /// A word without `=`.
    #[error("expected `key=value` after {after}")]
    KeywordPair {
        /// The last key that was read.
        after: String,
    },
    /// `'` without its end.
    #[error("the quoted value of `{key}` has no end")]
    Quote {
        /// Which.
        key: String,
    },
    /// A key that nobody knows.
    #[error("unknown connection parameter `{key}`; allowed: {}", allowed())]
    UnknownKey {
        /// Which.
        key: String,
    },
    /// A value that the key does not take.
    #[error("`{name}` is `{value}`; allowed: {allowed}")]
    Value {
        /// The key or the environment variable.
        name: String,
        /// As written. Never a password: that takes everything.
        value: String,
        /// What may stand there.
        allowed: &'static str,
    },
    /// Lists that do not fit together.
    #[error("`{name}` has {count} entries for {hosts} hosts; give one for each host, or one for all")]
    Count {
        /// The key.
        name: &'static str,
        /// How many it has.
        count: usize,
        /// How many there should be.
        hosts: usize,
    },
    /// No user anywhere.
    #[error("no user: write `postgres://user@host/database`, or set PGUSER")]
    NoUser,
    /// A certificate without its key, or the reverse.
    #[error("`sslcert` and `sslkey` must be given together")]
    Identity,
    /// Two settings that exclude one another.
    #[error("{0}")]
    Contradiction(&'static str),
}

fn allowed() -> String {
    KEYS.iter().map(|(key, _)| *key).collect::<Vec<_>>().join(", ")
}

/// A value and where it comes from.
struct Setting {
    value: String,
    name: String,
}

struct Settings(BTreeMap<&'static str, Setting>);

impl Settings {
    fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(|setting| setting.value.as_str())
    }

    fn list(&self, key: &str) -> Vec<&str> {
        self.text(key).map(|text| text.split(',').map(str::trim).collect()).unwrap_or_default()
    }

    fn read<T>(
        &self,
        key: &str,
        allowed: &'static str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, ConninfoError> {
        self.0.get(key).map(|setting| setting.refuse_unless(&setting.value, allowed, &read)).transpose()
    }

    fn seconds(&self, key: &str, default: u64) -> Result<Duration, ConninfoError> {
        let value = self
            .read(key, "whole seconds, at least 1", |text| text.parse::<u32>().ok().filter(|seconds| *seconds > 0))?;
        Ok(Duration::from_secs(value.map_or(default, u64::from)))
    }
}

impl Setting {
    fn refuse_unless<T>(
        &self,
        part: &str,
        allowed: &'static str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<T, ConninfoError> {
        read(part).ok_or_else(|| ConninfoError::Value { name: self.name.clone(), value: part.to_owned(), allowed })
    }
}

pub(super) fn resolve(pairs: Pairs, environment: &dyn Fn(&str) -> Option<String>) -> Result<Conninfo, ConninfoError> {
    let settings = gather(pairs, environment)?;
    let home = environment("HOME").map(PathBuf::from);
    let user = settings.text("user").map(str::to_owned);
    let user = user.or_else(|| environment("USER")).or_else(|| environment("LOGNAME")).filter(|user| !user.is_empty());
    let user = user.ok_or(ConninfoError::NoUser)?;
    let passfile = settings.text("passfile").map(PathBuf::from);
    Ok(Conninfo {
        hosts: hosts(&settings)?,
        password: settings.text("password").map(Password::new),
        dbname: settings.text("dbname").unwrap_or(&user).to_owned(),
        user,
        application_name: settings.text("application_name").unwrap_or("pgsluice").to_owned(),
        options: settings.text("options").map(str::to_owned),
        passfile: passfile.or_else(|| home.as_deref().map(|home| home.join(".pgpass"))),
        connect_timeout: settings.seconds("connect_timeout", 10)?,
        target: settings.read("target_session_attrs", "primary, read-write, any", target)?.unwrap_or(Target::Primary),
        channel_binding: settings
            .read("channel_binding", "disable, prefer, require", channel_binding)?
            .unwrap_or(ChannelBinding::Prefer),
        tls: tls(&settings, home.as_deref())?,
        tcp: tcp(&settings)?,
    })
}

/// The string's values over the environment's. Empty ones count as not given, as in libpq.
fn gather(pairs: Pairs, environment: &dyn Fn(&str) -> Option<String>) -> Result<Settings, ConninfoError> {
    let mut settings = BTreeMap::new();
    for (key, variable) in KEYS {
        if let Some((name, value)) = variable.and_then(|name| Some((name, environment(name)?))) {
            settings.insert(*key, Setting { value, name: name.to_owned() });
        }
    }
    for (key, value) in pairs {
        let known = KEYS.iter().find(|(known, _)| *known == key);
        let (known, _) = known.ok_or(ConninfoError::UnknownKey { key: key.clone() })?;
        settings.insert(*known, Setting { value, name: key });
    }
    settings.retain(|_, setting| !setting.value.is_empty());
    Ok(Settings(settings))
}

fn hosts(settings: &Settings) -> Result<Vec<Host>, ConninfoError> {
    let addresses = settings.list("hostaddr");
    let names = settings.list("host");
    let names = match (names.is_empty(), addresses.is_empty()) {
        (false, _) => names,
        (true, false) => addresses.clone(),
        (true, true) => vec!["localhost"],
    };
    let count = |name, count, one: bool| {
        let fits = count == 0 || count == names.len() || (one && count == 1);
        if fits { Ok(()) } else { Err(ConninfoError::Count { name, count, hosts: names.len() }) }
    };
    let ports = settings.list("port");
    count("port", ports.len(), true)?;
    count("hostaddr", addresses.len(), false)?;
    let read = |key: &str, at: usize, list: &[&str]| {
        let part = if list.len() == 1 { list.first() } else { list.get(at) };
        part.filter(|part| !part.is_empty()).and_then(|part| Some((settings.0.get(key)?, (*part).to_owned())))
    };
    let host = |(at, name): (usize, &&str)| {
        let port = read("port", at, &ports).map(|(setting, part)| {
            setting.refuse_unless(&part, "a port from 1 to 65535", |text| {
                text.parse::<u16>().ok().filter(|port| *port > 0)
            })
        });
        let hostaddr = read("hostaddr", at, &addresses)
            .map(|(setting, part)| setting.refuse_unless(&part, "IP addresses", |text| text.parse::<IpAddr>().ok()));
        let address = match *name {
            "" => Address::Tcp("localhost".to_owned()),
            name if name.starts_with('/') => Address::Unix(PathBuf::from(name)),
            name => Address::Tcp(name.to_owned()),
        };
        Ok(Host { address, hostaddr: hostaddr.transpose()?, port: port.transpose()?.unwrap_or(DEFAULT_PORT) })
    };
    names.iter().enumerate().map(host).collect()
}

fn target(text: &str) -> Option<Target> {
    match text {
        "primary" | "read-write" => Some(Target::Primary),
        "any" => Some(Target::Any),
        _ => None,
    }
}

fn channel_binding(text: &str) -> Option<ChannelBinding> {
    match text {
        "disable" => Some(ChannelBinding::Disable),
        "prefer" => Some(ChannelBinding::Prefer),
        "require" => Some(ChannelBinding::Require),
        _ => None,
    }
}

fn ssl_mode(text: &str) -> Option<SslMode> {
    match text {
        "disable" => Some(SslMode::Disable),
        "allow" => Some(SslMode::Allow),
        "prefer" => Some(SslMode::Prefer),
        "require" => Some(SslMode::Require),
        "verify-ca" => Some(SslMode::VerifyCa),
        "verify-full" => Some(SslMode::VerifyFull),
        _ => None,
    }
}

fn negotiation(text: &str) -> Option<Negotiation> {
    match text {
        "postgres" => Some(Negotiation::Postgres),
        "direct" => Some(Negotiation::Direct),
        _ => None,
    }
}

fn tls(settings: &Settings, home: Option<&Path>) -> Result<TlsSettings, ConninfoError> {
    let mode = settings.read("sslmode", "disable, allow, prefer, require, verify-ca, verify-full", ssl_mode)?;
    let negotiation = settings.read("sslnegotiation", "postgres, direct", negotiation)?;
    let negotiation = negotiation.unwrap_or(Negotiation::Postgres);
    let default_file = |name| home.map(|home| home.join(".postgresql").join(name)).filter(|path| path.exists());
    let roots = match settings.text("sslrootcert") {
        Some("system") => RootCertificates::System,
        Some(file) => RootCertificates::File(PathBuf::from(file)),
        None => RootCertificates::Default(default_file("root.crt")),
    };
    // Anybody can get a certificate from a public authority: without the name it would prove nothing.
    let mode = match (&roots, mode) {
        (RootCertificates::System, None) => SslMode::VerifyFull,
        (RootCertificates::System, Some(mode)) if mode < SslMode::VerifyFull => {
            return Err(ConninfoError::Contradiction("`sslrootcert=system` needs `sslmode=verify-full`"));
        }
        (_, mode) => mode.unwrap_or(SslMode::Prefer),
    };
    if negotiation == Negotiation::Direct && mode < SslMode::Require {
        return Err(ConninfoError::Contradiction("`sslnegotiation=direct` needs `sslmode=require` or stronger"));
    }
    let identity = match (settings.text("sslcert"), settings.text("sslkey")) {
        (Some(certificate), Some(key)) => Some(Identity { certificate: certificate.into(), key: key.into() }),
        (None, None) => default_file("postgresql.crt")
            .zip(default_file("postgresql.key"))
            .map(|(certificate, key)| Identity { certificate, key }),
        _ => return Err(ConninfoError::Identity),
    };
    Ok(TlsSettings { mode, roots, identity, negotiation })
}

fn tcp(settings: &Settings) -> Result<TcpSettings, ConninfoError> {
    let switch = |text: &str| match text {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    };
    let user_timeout = settings
        .read("tcp_user_timeout", "whole milliseconds, 0 for the system's default", |text| text.parse::<u32>().ok())?;
    let user_timeout = Duration::from_millis(user_timeout.map_or(60_000, u64::from));
    Ok(TcpSettings {
        keepalives: settings.read("keepalives", "0, 1", switch)?.unwrap_or(true),
        idle: settings.seconds("keepalives_idle", 30)?,
        interval: settings.seconds("keepalives_interval", 10)?,
        count: settings
            .read("keepalives_count", "a number from 1 to 127", |text| {
                text.parse::<u32>().ok().filter(|count| (1..=127).contains(count))
            })?
            .unwrap_or(3),
        user_timeout: Some(user_timeout).filter(|timeout| !timeout.is_zero()),
    })
}
