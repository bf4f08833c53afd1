//! The proxy itself: each fault is what it says.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::support::proxy::{Cut, Direction, Entrance, Flow};
use crate::support::{Proxy, SOON};

/// Nothing comes for so long: then it is taken for granted that nothing will.
const SILENCE: Duration = Duration::from_millis(300);

/// A server, a proxy in front of it, and both ends of a connection.
struct Rig {
    listener: TcpListener,
    proxy: Proxy,
    client: TcpStream,
    server: TcpStream,
}

impl Rig {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let proxy = Proxy::to(listener.local_addr().expect("address").port()).await;
        let client = connect(&proxy).await;
        let server = listener.accept().await.expect("accept").0;
        Self { listener, proxy, client, server }
    }

    /// Another connection; gives the one before.
    async fn again(&mut self) -> (TcpStream, TcpStream) {
        let client = connect(&self.proxy).await;
        let server = self.listener.accept().await.expect("accept").0;
        (std::mem::replace(&mut self.client, client), std::mem::replace(&mut self.server, server))
    }

    async fn request(&mut self, text: &[u8]) {
        self.client.write_all(text).await.expect("write");
    }
}

async fn connect(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(("127.0.0.1", proxy.port())).await.expect("connect")
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
enum Came {
    Bytes(Vec<u8>),
    End,
    Reset,
}

async fn next(stream: &mut TcpStream) -> Came {
    let mut bytes = vec![0; 100];
    let read = timeout(SOON, stream.read(&mut bytes)).await.expect("soon");
    match read.map_err(|error| error.kind()) {
        Ok(0) => Came::End,
        Ok(length) => Came::Bytes(bytes[..length].to_vec()),
        Err(ErrorKind::ConnectionReset) => Came::Reset,
        Err(other) => panic!("{other}"),
    }
}

/// Whether nothing comes, not even the end.
async fn is_silent(stream: &mut TcpStream) -> bool {
    timeout(SILENCE, stream.read(&mut [0])).await.is_err()
}

fn bytes(text: &[u8]) -> Came {
    Came::Bytes(text.to_vec())
}

#[tokio::test]
async fn bytes_and_ends_pass_in_each_direction() {
    let mut rig = Rig::new().await;
    rig.request(b"ask").await;
    assert_eq!(next(&mut rig.server).await, bytes(b"ask"));
    rig.client.shutdown().await.expect("shut down");
    assert_eq!(next(&mut rig.server).await, Came::End);
    rig.server.write_all(b"answer").await.expect("write");
    assert_eq!(next(&mut rig.client).await, bytes(b"answer"));
    assert_eq!(Direction::BOTH.map(|direction| rig.proxy.bytes(direction)), [3, 6]);
    drop(rig.again().await);
    rig.client.set_zero_linger().expect("set");
    drop(rig.client);
    assert_eq!(next(&mut rig.server).await, Came::Reset);
}

#[tokio::test]
async fn what_is_stalled_in_one_direction_comes_later() {
    for (stalled, slow) in [(Flow::Stalled, Flow::Open), (Flow::Stalled, Flow::Slow)] {
        let mut rig = Rig::new().await;
        rig.proxy.flow(Direction::Requests, stalled);
        rig.proxy.flow(Direction::Answers, slow);
        rig.request(b"ask").await;
        rig.server.write_all(b"answer").await.expect("write");
        assert_eq!(next(&mut rig.client).await, bytes(b"answer"));
        assert!(is_silent(&mut rig.server).await);
        rig.proxy.heal().await;
        assert_eq!(next(&mut rig.server).await, bytes(b"ask"));
    }
}

#[tokio::test]
async fn what_is_held_comes_late_unless_its_sender_has_reset_the_connection() {
    let mut rig = Rig::new().await;
    rig.proxy.hold();
    rig.request(b"late").await;
    let (client, mut before) = rig.again().await;
    drop(client);
    rig.request(b"new").await;
    assert_eq!(next(&mut rig.server).await, bytes(b"new"));
    assert!(is_silent(&mut before).await);
    rig.proxy.heal().await;
    assert_eq!(next(&mut before).await, bytes(b"late"));
    assert_eq!(next(&mut before).await, Came::End);

    rig.proxy.hold();
    rig.request(b"never").await;
    rig.client.set_zero_linger().expect("set");
    drop(rig.client);
    assert!(is_silent(&mut rig.server).await);
    rig.proxy.heal().await;
    assert_eq!(next(&mut rig.server).await, Came::Reset);
}

#[tokio::test]
async fn what_is_lost_stays_lost_and_nobody_hears_of_the_others_end() {
    let mut rig = Rig::new().await;
    rig.proxy.lose();
    rig.request(b"ask").await;
    rig.server.write_all(b"answer").await.expect("write");
    assert!(is_silent(&mut rig.client).await);
    rig.proxy.heal().await;
    let (client, mut server) = rig.again().await;
    drop(client);
    assert!(is_silent(&mut server).await);
    server.write_all(b"answer").await.expect("write");
    rig.request(b"ask").await;
    assert_eq!(next(&mut rig.server).await, bytes(b"ask"));
    rig.proxy.lose();
    rig.server.set_zero_linger().expect("set");
    drop(rig.server);
    assert!(is_silent(&mut rig.client).await);
}

#[tokio::test]
async fn cuts_are_ends_or_resets_and_may_come_in_the_middle() {
    let mut rig = Rig::new().await;
    rig.proxy.cut(Cut::Fin);
    assert_eq!((next(&mut rig.client).await, next(&mut rig.server).await), (Came::End, Came::End));
    rig.again().await;
    rig.proxy.cut(Cut::Reset);
    assert_eq!((next(&mut rig.client).await, next(&mut rig.server).await), (Came::Reset, Came::Reset));
    rig.again().await;
    rig.proxy.cut_after(Direction::Requests, 4, Cut::Fin);
    rig.request(b"frame").await;
    assert_eq!(next(&mut rig.server).await, bytes(b"fram"));
    assert_eq!((next(&mut rig.client).await, next(&mut rig.server).await), (Came::End, Came::End));
    rig.again().await;
    rig.request(b"whole").await;
    assert_eq!(next(&mut rig.server).await, bytes(b"whole"));
}

#[tokio::test]
async fn a_connection_may_be_lost_in_the_middle_and_others_stay() {
    let mut rig = Rig::new().await;
    let (mut client, mut server) = rig.again().await;
    rig.proxy.lose_after(Direction::Requests, 4);
    rig.request(b"frame").await;
    assert_eq!(next(&mut rig.server).await, bytes(b"fram"));
    rig.server.write_all(b"answer").await.expect("write");
    assert!(is_silent(&mut rig.client).await);
    drop(rig.client);
    assert!(is_silent(&mut rig.server).await);
    client.write_all(b"whole").await.expect("write");
    assert_eq!(next(&mut server).await, bytes(b"whole"));
}

#[tokio::test]
async fn doors_are_open_silent_refused_or_unreachable() {
    let mut rig = Rig::new().await;
    rig.proxy.entrance(Entrance::Refused).await;
    let refused = TcpStream::connect(("127.0.0.1", rig.proxy.port())).await.expect_err("refused");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    rig.proxy.entrance(Entrance::Unreachable).await;
    let address = ("127.0.0.1", rig.proxy.port());
    let mut unreachable = tokio::spawn(TcpStream::connect(address));
    assert!(timeout(SILENCE, &mut unreachable).await.is_err());
    rig.proxy.entrance(Entrance::Silent).await;
    // Its SYN is repeated.
    let mut silent = timeout(SOON, unreachable).await.expect("soon").expect("no panic").expect("connected");
    silent.write_all(b"ask").await.expect("write");
    assert!(is_silent(&mut silent).await);
    rig.proxy.heal().await;
    assert!(is_silent(&mut silent).await);
    // The one that was open all the time.
    rig.request(b"ask").await;
    assert_eq!(next(&mut rig.server).await, bytes(b"ask"));
}

#[tokio::test]
async fn a_server_that_is_away_resets_what_comes() {
    let Rig { listener, proxy, mut client, mut server } = Rig::new().await;
    drop(listener);
    let mut late = connect(&proxy).await;
    assert_eq!(next(&mut late).await, Came::Reset);
    client.write_all(b"ask").await.expect("write");
    assert_eq!(next(&mut server).await, bytes(b"ask"));
}
