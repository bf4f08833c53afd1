//! What a pgsluice answers over HTTP.

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Process, SOON, eventually};

/// Where one listens, in clear.
#[derive(Debug, Clone)]
pub(crate) struct Web {
    pub(crate) address: String,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    /// Header lines, as they came.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

impl Web {
    /// Of a process whose configuration has `http.listen`.
    pub(crate) async fn of(process: &Process) -> Self {
        let line = process.wait_for_log("answering /readyz", SOON).await;
        let line: Value = serde_json::from_str(&line).expect("a JSON line");
        Self { address: line["address"].as_str().expect("an address").to_owned() }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[("Host", "localhost")]).await
    }

    pub(crate) async fn post(&self, path: &str) -> Answer {
        self.ask("POST", path, &[("Host", "localhost")]).await
    }

    pub(crate) async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let stream = TcpStream::connect(&self.address).await.expect("connects");
        exchange(stream, method, path, headers).await
    }

    pub(crate) async fn status(&self) -> Value {
        let answer = self.get("/status").await;
        assert_eq!(answer.code, 200, "{}", answer.body);
        answer.json()
    }

    /// The codes of the reasons why it is not ready.
    pub(crate) async fn reasons(&self) -> Vec<String> {
        let answer = self.get("/readyz").await;
        let body = answer.json();
        let reasons = body["reasons"].as_array().expect("a list").iter();
        let reasons: Vec<String> = reasons.map(|reason| reason["code"].as_str().expect("text").to_owned()).collect();
        assert_eq!(
            (answer.code == 200, answer.code == 503),
            (reasons.is_empty(), !reasons.is_empty()),
            "{}",
            answer.body
        );
        assert_eq!(body["ready"], reasons.is_empty());
        reasons
    }

    /// Waits until these are the reasons.
    pub(crate) async fn becomes(&self, reasons: &[&str]) {
        let what = format!("the reasons are {reasons:?}");
        eventually(&what, SOON, async || (self.reasons().await == reasons).then_some(())).await;
    }

    /// One sample of `/metrics`, by its name and labels as they are written.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").await.body;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().expect("a number")
    }
}

/// One request on a connection of its own.
pub(crate) async fn exchange(
    mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> Answer {
    // Unless the caller says how long a body is, there is none.
    let length = if headers.iter().any(|(name, _)| *name == "Content-Length") { "" } else { "Content-Length: 0\r\n" };
    let headers: String = headers.iter().flat_map(|(name, value)| [*name, ": ", *value, "\r\n"]).collect();
    let request = format!("{method} {path} HTTP/1.1\r\n{headers}Connection: close\r\n{length}\r\n");
    stream.write_all(request.as_bytes()).await.expect("asks");
    let mut answer = Vec::new();
    // A peer that ends TLS without saying so is none of ours to judge.
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    Answer { code, head: head.to_ascii_lowercase(), body: body.to_owned() }
}
