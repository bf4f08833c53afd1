//! One request of OTLP over HTTP/1.1, on a connection that is kept for the next
//! (<https://opentelemetry.io/docs/specs/otlp/#otlphttp>).

use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::wire;
use crate::config::OtlpSettings;
use crate::failure::{Definite, Kind};
use crate::telemetry::http::client::{Peer, Trust, tls};

/// What an answer says beyond its status is read so far, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Posts to one collector.
#[derive(Debug)]
pub(super) struct Poster {
    settings: OtlpSettings,
    peer: Peer,
    /// None: in clear.
    tls: Option<Tls>,
    open: Option<SendRequest<Full<Bytes>>>,
}

struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

/// The collector took it.
#[derive(Debug)]
pub(super) struct Taken {
    /// But for so many spans.
    pub(super) rejected: u64,
    /// And why.
    pub(super) why: String,
}

/// The collector did not, and why.
#[derive(Debug)]
pub(super) enum NotTaken {
    /// It may take it later.
    Away(String),
    /// It never will.
    Refused(String),
}

impl Poster {
    /// # Errors
    /// The certificate of who signs the collector's can't be used.
    pub(super) fn new(settings: &OtlpSettings) -> Result<Self, Definite> {
        let peer = Peer::of(&settings.traces).map_err(|error| usage(error, "set otlp.endpoint to a URL"))?;
        let tls = peer.is_tls.then(|| Tls::new(settings, &peer)).transpose();
        let tls = tls.map_err(|error| {
            usage(error.context("otlp.tls_ca_file can't be used"), "the certificate of an authority, as PEM")
        })?;
        Ok(Self { settings: settings.clone(), peer, tls, open: None })
    }

    /// An encoded request.
    pub(super) async fn post(&mut self, body: Bytes) -> Result<Taken, NotTaken> {
        let timeout = self.settings.timeout;
        let answered = tokio::time::timeout(timeout, self.ask(body)).await;
        match answered.unwrap_or_else(|_| Err(anyhow!("no answer within {} ms", timeout.as_millis()))) {
            Ok((status, answer)) => judge(status, &answer),
            Err(error) => Err(NotTaken::Away(format!("{error:#}"))),
        }
    }

    async fn ask(&mut self, body: Bytes) -> anyhow::Result<(StatusCode, Bytes)> {
        // The collector may have closed it meanwhile.
        if let Some(mut kept) = self.open.take()
            && kept.ready().await.is_ok()
            && let Ok(answer) = exchange(&mut kept, self.request(body.clone())?).await
        {
            self.open = Some(kept);
            return Ok(answer);
        }
        let mut sender = self.connect().await?;
        let answer = exchange(&mut sender, self.request(body)?).await?;
        self.open = Some(sender);
        Ok(answer)
    }

    fn request(&self, body: Bytes) -> anyhow::Result<Request<Full<Bytes>>> {
        let mut request = Request::post(self.settings.traces.path()).body(Full::new(body))?;
        let headers = request.headers_mut();
        headers.extend(self.settings.headers.clone());
        headers.insert(HOST, self.peer.authority.parse()?);
        headers.insert(CONTENT_TYPE, wire::CONTENT_TYPE.parse()?);
        Ok(request)
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        let Peer { host, port, authority, .. } = &self.peer;
        let stream = TcpStream::connect((host.as_str(), *port)).await;
        let stream = stream.with_context(|| format!("can't connect to {authority}"))?;
        let Some(Tls { connector, name }) = &self.tls else { return open(stream).await };
        open(connector.connect(name.clone(), stream).await.with_context(|| format!("no TLS with {authority}"))?).await
    }
}

async fn open(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with its sender.
    tokio::spawn(connection);
    Ok(sender)
}

/// What is wrong with the body of an answer is not looked at: the status says it all.
async fn exchange(
    sender: &mut SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
) -> anyhow::Result<(StatusCode, Bytes)> {
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    Ok((status, body.map(http_body_util::Collected::to_bytes).unwrap_or_default()))
}

/// By the table of the specification: these four are worth another attempt, and no others.
fn judge(status: StatusCode, answer: &[u8]) -> Result<Taken, NotTaken> {
    match status {
        _ if status.is_success() => {
            let (rejected, why) = wire::rejected(answer);
            Ok(Taken { rejected, why })
        }
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Err(NotTaken::Away(format!("it answers {status}"))),
        _ => Err(NotTaken::Refused(format!("it answers {status}"))),
    }
}

fn usage(error: anyhow::Error, hint: &str) -> Definite {
    Definite::new(Kind::Usage, error, hint)
}

impl Tls {
    fn new(settings: &OtlpSettings, peer: &Peer) -> anyhow::Result<Self> {
        let trust = settings.tls_ca.clone().map_or(Trust::System, Trust::Authority);
        let connector = TlsConnector::from(Arc::new(tls(&trust)?));
        Ok(Self { connector, name: ServerName::try_from(peer.host.clone())? })
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls(…)")
    }
}
