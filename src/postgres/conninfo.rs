//! Connection strings, as libpq reads them: URLs and `key=value` strings, with the `PG*` environment beneath.
//!
//! What comes out needs no more checks, and shows no password: neither `Debug` nor [`Conninfo::display`]
//! nor any error holds it. [`super::client`] and [`super::sql`] connect with it; files that it names
//! (password file, certificates) are read at each connection, so that a rotated one is picked up.

mod parse;
mod syntax;

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

pub use parse::ConninfoError;

/// How to reach a database.
#[derive(Clone)]
pub struct Conninfo {
    hosts: Vec<Host>,
    user: String,
    password: Option<Password>,
    dbname: String,
    application_name: String,
    options: Option<String>,
    passfile: Option<PathBuf>,
    connect_timeout: Duration,
    target: Target,
    channel_binding: ChannelBinding,
    tls: TlsSettings,
    tcp: TcpSettings,
}

/// One server to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Where it listens.
    pub address: Address,
    /// The IP address to use instead of resolving the name (`hostaddr`).
    pub hostaddr: Option<IpAddr>,
    /// The port; part of the socket's name for a Unix socket.
    pub port: u16,
}

/// A name to resolve, or a folder with a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A DNS name or an IP address.
    Tcp(String),
    /// The folder of a Unix socket.
    Unix(PathBuf),
}

/// Which servers will do (`target_session_attrs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Only a primary; the default, and also what `read-write` means here.
    Primary,
    /// The first that answers.
    Any,
}

/// `sslmode`, as in libpq.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// Never encrypt.
    Disable,
    /// Encrypt only if the server insists.
    Allow,
    /// Encrypt if the server can; the default.
    Prefer,
    /// Encrypt, verify nothing (but the chain, when there is a root certificate file).
    Require,
    /// Encrypt and verify the certificate's chain.
    VerifyCa,
    /// Encrypt and verify the chain and the name.
    VerifyFull,
}

/// `sslrootcert`: whom to trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootCertificates {
    /// A PEM file that the user named.
    File(PathBuf),
    /// `~/.postgresql/root.crt` if there is such a file, else none.
    Default(Option<PathBuf>),
    /// The operating system's (`sslrootcert=system`).
    System,
}

/// `sslnegotiation`: how TLS begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Negotiation {
    /// Ask first (`SSLRequest`); every server understands it.
    Postgres,
    /// TLS at once, with ALPN; PostgreSQL 17 and later.
    Direct,
}

/// `channel_binding`: whether the password exchange proves that nobody sits in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelBinding {
    /// Never.
    Disable,
    /// When server and certificate allow it; the default.
    Prefer,
    /// Or else no connection.
    Require,
}

/// Everything about TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// `sslmode`
    pub mode: SslMode,
    /// `sslrootcert`
    pub roots: RootCertificates,
    /// `sslcert` and `sslkey`: PEM files, or libpq's default ones if both exist.
    pub identity: Option<Identity>,
    /// `sslnegotiation`
    pub negotiation: Negotiation,
}

/// A client certificate (with its chain) and its private key, as PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// `sslcert`
    pub certificate: PathBuf,
    /// `sslkey`
    pub key: PathBuf,
}

/// How a dead peer is found out. The defaults are shorter than the kernel's two hours, because a replication
/// connection may be silent for long in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpSettings {
    /// `keepalives`; 1 unless set.
    pub keepalives: bool,
    /// `keepalives_idle`; 30 s unless set.
    pub idle: Duration,
    /// `keepalives_interval`; 10 s unless set.
    pub interval: Duration,
    /// `keepalives_count`; 3 unless set.
    pub count: u32,
    /// `tcp_user_timeout`; 60 s unless set, none when 0. Keepalives do not run while sent data is unacknowledged; this does.
    pub user_timeout: Option<Duration>,
}

/// A password; shown by nothing.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Password(String);

impl Password {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

impl Conninfo {
    /// Reads a connection string, with the process's environment (`PGHOST`, `PGPASSWORD`, …) beneath it.
    ///
    /// # Errors
    /// Names the key and what is allowed; never holds the password.
    pub fn parse(text: &str) -> Result<Self, ConninfoError> {
        Self::parse_with(text, &|name| std::env::var(name).ok())
    }

    /// The same with an environment of the caller's choice.
    ///
    /// # Errors
    /// As [`Conninfo::parse`].
    pub fn parse_with(text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConninfoError> {
        parse::resolve(syntax::pairs(text)?, environment)
    }

    /// The same with another password, from a secret's own file or variable.
    #[must_use]
    pub fn with_password(self, password: String) -> Self {
        Self { password: Some(Password::new(password)), ..self }
    }

    /// The servers, in the order in which they are tried; never empty.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The role to log in as.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The database; the user's name unless set.
    #[must_use]
    pub fn dbname(&self) -> &str {
        &self.dbname
    }

    /// What `pg_stat_activity` shows; `pgsluice` unless set.
    #[must_use]
    pub fn application_name(&self) -> &str {
        &self.application_name
    }

    /// How long one address may take from the first packet to a session that is ready; 10 s unless set.
    #[must_use]
    pub fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    /// Which servers will do.
    #[must_use]
    pub fn target(&self) -> Target {
        self.target
    }

    /// Whether channel binding is wanted.
    #[must_use]
    pub fn channel_binding(&self) -> ChannelBinding {
        self.channel_binding
    }

    /// Everything about TLS.
    #[must_use]
    pub fn tls(&self) -> &TlsSettings {
        &self.tls
    }

    /// Keepalives and the like.
    #[must_use]
    pub fn tcp(&self) -> &TcpSettings {
        &self.tcp
    }

    /// The user's own startup `options`.
    #[must_use]
    pub fn options(&self) -> Option<&str> {
        self.options.as_deref()
    }

    /// The password for this host: the string's or the environment's, else the password file's.
    pub(crate) fn password_for(&self, host: &Host) -> Option<Password> {
        self.password.clone().or_else(|| {
            let path = self.passfile.as_deref()?;
            let name = match &host.address {
                Address::Tcp(name) => name.clone(),
                Address::Unix(folder) => folder.display().to_string(),
            };
            super::passfile::find(path, &name, host.port, &self.dbname, &self.user).map(Password::new)
        })
    }

    /// The connection as a URL for logs: user, hosts and database, no password and no options.
    #[must_use]
    pub fn display(&self) -> String {
        let hosts: Vec<String> = self.hosts.iter().map(Host::in_url).collect();
        format!("postgres://{}@{}/{}", escaped(&self.user), hosts.join(","), escaped(&self.dbname))
    }
}

impl fmt::Debug for Conninfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conninfo")
            .field("hosts", &self.hosts)
            .field("user", &self.user)
            .field("password", &self.password)
            .field("dbname", &self.dbname)
            .field("application_name", &self.application_name)
            .field("tls", &self.tls)
            .field("tcp", &self.tcp)
            .finish_non_exhaustive()
    }
}

const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// PostgreSQL's default port.
const DEFAULT_PORT: u16 = 5432;

fn escaped(text: &str) -> String {
    utf8_percent_encode(text, PLAIN).to_string()
}

impl Host {
    fn in_url(&self) -> String {
        let name = match &self.address {
            Address::Tcp(name) if name.contains(':') => format!("[{name}]"),
            Address::Tcp(name) => name.clone(),
            Address::Unix(folder) => escaped(&folder.to_string_lossy()),
        };
        if self.port == DEFAULT_PORT { name } else { format!("{name}:{}", self.port) }
    }

    /// The socket's file, for a Unix socket.
    #[must_use]
    pub fn socket(&self) -> Option<PathBuf> {
        match &self.address {
            Address::Tcp(_) => None,
            Address::Unix(folder) => Some(Path::new(folder).join(format!(".s.PGSQL.{}", self.port))),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Tcp(name) if name.contains(':') => write!(f, "[{name}]:{}", self.port),
            Address::Tcp(name) => write!(f, "{name}:{}", self.port),
            Address::Unix(folder) => write!(f, "{}/.s.PGSQL.{}", folder.display(), self.port),
        }
    }
}

#[cfg(test)]
mod tests;
