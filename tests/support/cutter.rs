//! A stand-in for a bad network: a proxy that resets a connection in the middle of what the server sends.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Passes connections on to one port of this machine.
#[derive(Debug, Clone)]
pub(crate) struct Cutter {
    port: u16,
    /// How many more bytes of the server's it lets through; none: all.
    left: Arc<Mutex<Option<usize>>>,
}

impl Cutter {
    pub(crate) async fn before(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let cutter = Self { port, left: Arc::default() };
        let this = cutter.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let this = this.clone();
                tokio::spawn(async move { this.pass(client, server).await });
            }
        });
        cutter
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Resets one connection after so many more bytes.
    pub(crate) fn cut_after(&self, bytes: usize) {
        *self.left() = Some(bytes);
    }

    /// Whether the cut is still to come.
    pub(crate) fn is_set(&self) -> bool {
        self.left().is_some()
    }

    fn left(&self) -> std::sync::MutexGuard<'_, Option<usize>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn pass(&self, mut client: TcpStream, server: u16) {
        let Ok(mut server) = TcpStream::connect(("127.0.0.1", server)).await else { return };
        // Closed without a word.
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("set SO_LINGER");
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        tokio::select! {
            _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
            _ = self.forward(&mut from_server, &mut to_client) => {}
        }
    }

    async fn forward(
        &self,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> std::io::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            let length = from.read(&mut buffer).await?;
            let passed = match &mut *self.left() {
                None => length,
                Some(left) => {
                    let passed = length.min(*left);
                    *left -= passed;
                    passed
                }
            };
            to.write_all(&buffer[..passed]).await?;
            let mut left = self.left();
            if length == 0 || left.is_some_and(|left| left == 0) {
                *left = None;
                return Ok(());
            }
        }
    }
}
