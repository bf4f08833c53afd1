//! The stream against a peer that is a test: messages between frames, and writes that block.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, UnixStream};

use super::*;
use crate::failure::Kind;

/// The server's.
const PATIENCE: Duration = Duration::from_mins(1);

fn pair() -> (ReplicationStream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    let silence = Silence::new(Some(PATIENCE));
    (ReplicationStream::new(Stream::Unix(ours), &BytesMut::new(), silence).expect("a stream"), theirs)
}

/// The reader is a thread: the clock of the tests does not know of it.
async fn arrived(stream: &ReplicationStream) {
    // The stream itself is to find the mark: it may be there before the frame is.
    while !stream.arrivals.heard.load(std::sync::atomic::Ordering::Relaxed) {
        tokio::task::yield_now().await;
    }
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("small");
    [&[tag], &length.to_be_bytes()[..], body].concat()
}

async fn after_one_frame(tag: u8, body: &[u8]) -> Failure {
    after(b"frame", tag, body).await
}

async fn after(frame: &[u8], tag: u8, body: &[u8]) -> Failure {
    let (mut stream, mut server) = pair();
    server.write_all(&[message(b'd', frame), message(tag, body)].concat()).await.expect("written");
    drop(server);
    let mut batch = stream.next().await.expect("the frame before it");
    assert_eq!(batch.next_payload(), Some(frame));
    assert!(batch.is_empty());
    stream.next().await.expect_err("the end")
}

#[tokio::test]
async fn what_ends_the_stream_ends_the_batch_before_it() {
    let Failure::Transient(error) = after_one_frame(b'c', b"").await else { panic!("CopyDone is transient") };
    assert!(error.to_string().contains("ended the stream"));
    let shutdown = after_one_frame(b'E', b"SFATAL\0C57P01\0Mterminating\0\0").await;
    assert!(matches!(shutdown, Failure::Transient(_)), "{shutdown}");
    let lost =
        after_one_frame(b'E', b"SERROR\0C55000\0Mcan no longer get changes from replication slot \"x\"\0\0").await;
    assert!(matches!(lost, Failure::Definite(definite) if definite.kind == Kind::InDoubt));
    let unknown = after_one_frame(b'?', b"").await;
    assert!(matches!(unknown, Failure::Definite(definite) if definite.kind == Kind::Source));
    let harmless = after_one_frame(b'N', b"SNOTICE\0C00000\0Mhello\0\0").await;
    assert!(matches!(harmless, Failure::Transient(_)), "{harmless}");
}

/// After much, the reader looks for more before it hands over.
#[tokio::test]
async fn the_last_words_are_heard_behind_much() {
    let words = b"SERROR\0C55000\0Mcan no longer get changes from replication slot \"x\"\0\0";
    let lost = after(&vec![7; 2 * pace::MUCH_BYTES], b'E', words).await;
    assert!(matches!(lost, Failure::Definite(definite) if definite.kind == Kind::InDoubt));
}

#[tokio::test]
async fn a_skipped_publication_is_never_a_mere_notice() {
    for notice in [
        &b"SWARNING\0C55000\0Mskipped loading publication \"shop\"\0\0"[..],
        &b"SWARNUNG\0C55000\0Mauf Deutsch\0RLoadPublications\0\0"[..],
    ] {
        let failure = after_one_frame(b'N', notice).await;
        assert!(matches!(failure, Failure::Definite(definite) if definite.kind == Kind::InDoubt));
    }
}

#[tokio::test]
async fn what_was_read_ahead_comes_first() {
    let (ours, mut server) = UnixStream::pair().expect("a socket pair");
    let whole = message(b'd', b"a frame in two halves");
    let silence = Silence::new(Some(PATIENCE));
    let mut stream = ReplicationStream::new(Stream::Unix(ours), &whole[..9].into(), silence).expect("a stream");
    server.write_all(&whole[9..]).await.expect("written");
    let mut batch = stream.next().await.expect("whole");
    assert_eq!(batch.next_payload(), Some(&b"a frame in two halves"[..]));
}

/// As an application does that goes away.
#[tokio::test]
async fn a_dropped_stream_ends_the_connection_and_its_thread() {
    let (stream, mut server) = pair();
    server.write_all(&message(b'd', b"frame")).await.expect("written");
    drop(stream);
    assert_eq!(server.read(&mut [0]).await.expect("the end"), 0);
}

/// Nobody takes what is read, so that the server has to wait; and then all of it comes.
#[tokio::test]
async fn what_is_not_taken_holds_up_the_server() {
    const FRAMES: usize = 4_000;
    let (mut stream, mut server) = pair();
    let frame = message(b'd', &[7; 1_000]);
    let mut accepted = 0;
    let blocked = tokio::time::timeout(Duration::from_millis(500), async {
        loop {
            accepted += server.write(&frame[accepted % frame.len()..]).await.expect("written");
        }
    });
    assert!(blocked.await.is_err());
    assert!(accepted < 3 << 20, "{accepted} bytes were read ahead");
    tokio::spawn(async move {
        while accepted < FRAMES * frame.len() {
            accepted += server.write(&frame[accepted % frame.len()..]).await.expect("written");
        }
        server
    });
    let mut taken = 0;
    while taken < FRAMES {
        let mut batch = stream.next().await.expect("a batch");
        while let Some(payload) = batch.next_payload() {
            assert_eq!(payload, [7; 1_000]);
            taken += 1;
        }
    }
    assert_eq!(taken, FRAMES);
}

/// As after the first report that finds everything unread.
#[tokio::test]
async fn over_loopback_what_nobody_reads_gets_room() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(32 << 10).expect("is small");
    let address = listener.local_addr().expect("an address");
    let (ours, theirs) = tokio::join!(socket.connect(address), listener.accept());
    let (ours, (mut server, _)) = (ours.expect("connects"), theirs.expect("accepts"));
    let mut stream = ReplicationStream::new(Stream::Tcp(ours), &BytesMut::new(), Silence::new(None)).expect("a stream");
    let frame = message(b'd', &[7; 1_000]);
    let mut accepted = 0;
    // Until nothing more is taken for so long.
    let mut fill = async |patience| {
        let before = accepted;
        while let Ok(written) = tokio::time::timeout(patience, server.write(&frame[accepted % frame.len()..])).await {
            accepted += written.expect("written");
        }
        accepted - before
    };
    fill(Duration::from_millis(500)).await;
    for _ in 0..2 {
        stream.report(Status { received: Lsn(1), flushed: None }).await.expect("reports");
    }
    let more = fill(Duration::from_secs(2)).await;
    assert!(more > 64 << 10, "{more} bytes more");
}

#[tokio::test]
async fn a_dropped_read_loses_nothing() {
    let (mut stream, mut server) = pair();
    let whole = message(b'd', b"a frame in two halves");
    server.write_all(&whole[..9]).await.expect("written");
    tokio::select! {
        biased;
        _ = stream.next() => panic!("only half is there"),
        () = tokio::task::yield_now() => {}
    }
    server.write_all(&whole[9..]).await.expect("written");
    let mut batch = stream.next().await.expect("whole");
    assert_eq!(batch.next_payload(), Some(&b"a frame in two halves"[..]));
}

/// The server reads nothing until the socket is full; afterwards it must see whole updates only, the newest last.
#[tokio::test(start_paused = true)]
async fn a_report_that_was_cut_off_is_finished_first() {
    let (mut stream, mut server) = pair();
    let mut sent = 0;
    let mut report = |stream: &mut ReplicationStream| {
        sent += 1;
        stream.outbox.put(Lsn(sent), Lsn(sent), false);
        assert!(stream.outbox.bytes.len() <= 2 * STATUS_UPDATE_BYTES, "bounded");
        stream.outbox.send(&stream.write_end)
    };
    while stream.outbox.blocked.is_none() {
        report(&mut stream).expect("there is room, or there was");
    }
    tokio::time::advance(REPORT_TIMEOUT / 2).await;
    report(&mut stream).expect("it may still go on");
    tokio::time::advance(REPORT_TIMEOUT / 2).await;
    let error = report(&mut stream).expect_err("that took too long");
    assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
    // One that has nothing new to say does not take the place of what was to be said.
    stream.outbox.put(Lsn(sent), Lsn::ZERO, false);
    let reader = tokio::spawn(async move {
        let mut all = Vec::new();
        server.read_to_end(&mut all).await.expect("read");
        all
    });
    while !stream.outbox.bytes.is_empty() {
        tokio::task::yield_now().await;
        stream.outbox.write(&stream.write_end).ok();
    }
    drop(stream);
    let all = reader.await.expect("no panic");
    assert_eq!(all.len() % STATUS_UPDATE_BYTES, 0);
    let mut last = 0;
    for update in all.chunks(STATUS_UPDATE_BYTES) {
        assert_eq!(update[..6], *b"d\0\0\0\x26r");
        let flushed = u64::from_be_bytes(update[14..22].try_into().expect("eight bytes"));
        assert!(flushed > last);
        last = flushed;
    }
    assert_eq!(last, sent);
}

/// Reports, and says whether that asked for an answer.
async fn asks(stream: &mut ReplicationStream, server: &mut UnixStream) -> bool {
    stream.report(Status { received: Lsn(1), flushed: None }).await.expect("there is room");
    let mut update = [0; STATUS_UPDATE_BYTES];
    server.read_exact(&mut update).await.expect("a status update");
    update[STATUS_UPDATE_BYTES - 1] == 1
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_is_asked_and_then_given_up() {
    let (mut stream, mut server) = pair();
    for _ in 0..3 {
        assert!(!asks(&mut stream, &mut server).await, "it has just spoken");
        assert!(asks(&mut stream, &mut server).await);
        assert!(asks(&mut stream, &mut server).await, "the question may have been dropped");
        server.write_all(&message(b'd', b"frame")).await.expect("written");
        // What has come counts, however late it is read.
        arrived(&stream).await;
        tokio::time::advance(PATIENCE * 100).await;
        stream.next().await.expect("a frame");
    }
    let waiting = tokio::time::timeout(PATIENCE * 100, stream.next()).await;
    assert!(waiting.is_err(), "it was not asked");
    while !asks(&mut stream, &mut server).await {}
    let begin = Instant::now();
    let failure = stream.next().await.expect_err("it is given up");
    assert!(matches!(failure, Failure::Transient(_)), "{failure}");
    assert!(failure.to_string().contains("keepalive: no answer within 120000 ms"), "{failure}");
    assert!(begin.elapsed() >= PATIENCE * 2);
}

/// A large message over a slow network.
#[tokio::test(start_paused = true)]
async fn a_server_whose_message_is_on_its_way_is_not_silent() {
    let (mut stream, mut server) = pair();
    while !asks(&mut stream, &mut server).await {}
    server.write_all(&message(b'd', b"frame")[..7]).await.expect("written");
    let heard = std::sync::Arc::clone(&stream.arrivals.heard);
    while !heard.load(std::sync::atomic::Ordering::Relaxed) {
        tokio::task::yield_now().await;
    }
    let waiting = tokio::time::timeout(PATIENCE * 100, stream.next()).await;
    assert!(waiting.is_err(), "it has spoken since it was asked");
    assert!(!asks(&mut stream, &mut server).await);
}

#[tokio::test(start_paused = true)]
async fn a_server_without_a_limit_may_be_silent_for_ever() {
    let (mut stream, mut server) = pair();
    stream.silence = Silence::new(None);
    for _ in 0..3 {
        assert!(!asks(&mut stream, &mut server).await);
    }
    assert!(tokio::time::timeout(PATIENCE * 100, stream.next()).await.is_err());
}
