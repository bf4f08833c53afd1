//! A real browser, Debian's Chromium, driven through its `WebDriver` (<https://www.w3.org/TR/webdriver2/>): JSON over HTTP,
//! of which a page's test needs little.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Stdio};

use base64::Engine as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{SOON, eventually, lifetime};

/// One window. The driver dies with it, and the browser with the driver.
#[derive(Debug)]
pub(crate) struct Browser {
    driver: Child,
    port: u16,
    session: String,
}

impl Browser {
    /// An empty window of so many pixels, for who prefers `dark` or `light`.
    pub(crate) async fn open(width: u32, height: u32, scheme: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("an address").port();
        let folder = lifetime::folder("chromium");
        let mut command = lifetime::command("chromedriver");
        command.arg(format!("--port={port}")).env("HOME", &folder);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let driver =
            lifetime::spawn(command).expect("chromedriver is missing: run scripts/lib/install chromium chromedriver");
        let mut browser = Self { driver, port, session: String::new() };
        eventually("the driver listens", SOON, async || TcpStream::connect(("127.0.0.1", port)).await.ok()).await;
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            &format!("--user-data-dir={}", folder.display()),
            &format!("--window-size={width},{height}"),
        ];
        // It dies with its driver, however that ends.
        let wrapper = folder.join("chromium");
        let script = "#!/bin/sh\nexec setpriv --pdeathsig KILL -- chromium \"$@\"\n";
        std::fs::write(&wrapper, script).expect("write a script");
        std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755)).expect("make it run");
        let options = json!({
            "binary": wrapper,
            "args": arguments,
            "mobileEmulation": {"deviceMetrics": {"width": width, "height": height, "pixelRatio": 1.0, "mobile": false, "touch": false}},
        });
        let capabilities =
            json!({"capabilities": {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}});
        let session = browser.call("POST", "/session", Some(&capabilities)).await;
        browser.session = session["sessionId"].as_str().unwrap_or_else(|| panic!("a session: {session}")).to_owned();
        let media = json!({"cmd": "Emulation.setEmulatedMedia", "params": {"features": [{"name": "prefers-color-scheme", "value": scheme}]}});
        browser.command("POST", "/goog/cdp/execute", Some(&media)).await;
        browser
    }

    pub(crate) async fn go(&self, url: &str) {
        self.command("POST", "/url", Some(&json!({ "url": url }))).await;
    }

    /// What a script returns.
    pub(crate) async fn run(&self, script: &str) -> Value {
        self.command("POST", "/execute/sync", Some(&json!({"script": script, "args": []}))).await
    }

    /// The text of an element, as a person sees it.
    pub(crate) async fn text(&self, css: &str) -> String {
        let element = self.element(css).await;
        self.command("GET", &format!("/element/{element}/text"), None).await.as_str().unwrap_or_default().to_owned()
    }

    /// Waits for an element's text to contain this.
    pub(crate) async fn shows(&self, css: &str, text: &str) {
        let what = format!("{css} shows {text:?}");
        eventually(&what, SOON, async || self.text(css).await.contains(text).then_some(())).await;
    }

    pub(crate) async fn click(&self, css: &str) {
        let element = self.element(css).await;
        self.command("POST", &format!("/element/{element}/click"), Some(&json!({}))).await;
    }

    /// Presses keys at an element.
    pub(crate) async fn type_at(&self, css: &str, keys: &str) {
        let element = self.element(css).await;
        self.command("POST", &format!("/element/{element}/value"), Some(&json!({ "text": keys }))).await;
    }

    /// Writes a picture of the window to a file.
    pub(crate) async fn screenshot(&self, file: &Path) {
        let picture = self.command("GET", "/screenshot", None).await;
        let picture = base64::engine::general_purpose::STANDARD.decode(picture.as_str().expect("a picture"));
        std::fs::write(file, picture.expect("base64")).expect("write a picture");
    }

    /// What it wrote to its console as an error since the last call.
    pub(crate) async fn errors(&self) -> Vec<String> {
        let log = self.command("POST", "/se/log", Some(&json!({"type": "browser"}))).await;
        let severe = log.as_array().expect("a list").iter().filter(|line| line["level"] == "SEVERE");
        severe.map(|line| line["message"].as_str().unwrap_or_default().to_owned()).collect()
    }

    async fn element(&self, css: &str) -> String {
        let found = self.command("POST", "/element", Some(&json!({"using": "css selector", "value": css}))).await;
        let id = found.as_object().and_then(|found| found.values().next()?.as_str());
        id.unwrap_or_else(|| panic!("no {css}: {found}")).to_owned()
    }

    async fn command(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        self.call(method, &format!("/session/{}{path}", self.session), body).await
    }

    async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.expect("the driver listens");
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.expect("asks the driver");
        let reading = tokio::time::timeout(SOON * 2, read(&mut stream)).await;
        let (head, body) = reading.expect("the driver answers in time");
        let body: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
        assert!(head.contains(" 200 "), "{method} {path}: {body}");
        body["value"].clone()
    }
}

/// Up to the length that the head names: the driver does not wait for us to have read it all.
async fn read(stream: &mut TcpStream) -> (String, String) {
    let (mut answer, mut head_end) = (Vec::new(), None);
    loop {
        let length = head_end.map(|end: usize| {
            let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
            let length =
                head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
            length.expect("a length")
        });
        if let (Some(end), Some(length)) = (head_end, length)
            && answer.len() >= end + length
        {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
            return (text(&answer[..end]), text(&answer[end..end + length]));
        }
        assert!(stream.read_buf(&mut answer).await.expect("the driver answers") > 0, "the driver's answer is cut off");
        head_end = answer.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
