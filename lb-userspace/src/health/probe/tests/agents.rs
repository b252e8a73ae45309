//! Agents that behave in every way an agent should not: none of it is taken for a word about the backend.

use super::*;

fn asked() -> Probe {
    Probe::AgentCheck("".into())
}

#[track_caller]
fn unsaid(result: &Result<(), Failure>, words: &str) {
    assert_eq!(*result, Err(Failure::Unsaid(format!("agent: {words}"))));
}

/// An agent that sends this and closes.
async fn saying(bytes: &'static [u8]) -> SocketAddr {
    listener(move |mut stream| async move {
        let _ = stream.write_all(bytes).await;
    })
    .await
}

#[tokio::test]
async fn a_line_counts_with_or_without_its_end() {
    for line in [&b"up\n"[..], b"up", b"75%\r\nanything \xff behind it", b"ready\r\n"] {
        assert_eq!(probe(saying(line).await, asked()).await, Ok(()), "{line:?}");
    }
    let down = probe(saying(b"stopped#for the night\n").await, asked()).await;
    assert_eq!(down, Ok(()), "what the words mean is said with them");
}

#[tokio::test]
async fn a_word_that_is_not_whole_or_not_known_says_nothing() {
    for (bytes, words) in [
        (&b""[..], "says an empty line"),
        (b"\n", "says an empty line"),
        (b"do", "says \"do\", which is not a word of the agent protocol"),
        (b"100", "says \"100\", which is not a word of the agent protocol"),
        (
            b"SSH-2.0-OpenSSH_9.2p1\r\n",
            "says \"ssh-2.0-openssh_9.2p1\", which is not a word of the agent protocol",
        ),
        (b"\x16\x03\x01\n", "says \"\\u{16}\\u{3}\\u{1}\", which is not a word of the agent protocol"),
    ] {
        unsaid(&probe(saying(bytes).await, asked()).await, words);
    }
}

#[tokio::test]
async fn a_line_without_end_is_not_read_to_it() {
    let endless =
        listener(|mut stream| async move { while stream.write_all(&[b'a'; 4096]).await.is_ok() {} }).await;
    unsaid(&probe(endless, asked()).await, "the line is longer than 1 KiB");
    static LONG: [u8; 1025] = [b' '; 1025];
    unsaid(&probe(saying(&LONG).await, asked()).await, "the line is longer than 1 KiB");
}

#[tokio::test]
async fn a_silent_agent_and_one_that_drips_say_nothing_in_time() {
    let silent = listener(|stream| async move {
        tokio::time::sleep(LINGER).await;
        drop(stream);
    })
    .await;
    unsaid(&too_slow(silent, asked()).await, "says nothing within 1500 ms");
    let drips = listener(|mut stream| async move {
        while stream.write_u8(b' ').await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    let Err(Failure::Unsaid(words)) = too_slow(drips, asked()).await else { panic!("it said something") };
    assert!(words.starts_with("agent: no whole line within 1500 ms, after "), "{words}");
}

#[tokio::test]
async fn an_agent_that_is_gone_says_nothing_and_a_host_that_is_gone_fails() {
    unsaid(&probe(closed_port().await, asked()).await, "connection refused");
    let resets = listener(|mut stream| async move {
        let _ = stream.write_all(b"do").await;
        let _ = stream.flush().await;
        stream.set_zero_linger().unwrap();
    })
    .await;
    let said = probe(resets, asked()).await;
    assert!(matches!(said, Err(Failure::Unsaid(_))), "{said:?}");
    // A queue that is full is as a host that does not answer.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let full = socket.listen(1).unwrap();
    let address = full.local_addr().unwrap();
    let mut waiting = Vec::new();
    for _ in 0..4 {
        waiting.push(tokio::time::timeout(Duration::from_millis(50), TcpStream::connect(address)).await);
    }
    assert_eq!(too_slow(address, asked()).await, failure("connect timed out after 1500 ms"));
}

#[tokio::test]
async fn what_is_sent_first_reaches_the_agent() {
    let echo = listener(|mut stream| async move {
        let mut line = [0; 4];
        let _ = stream.read_exact(&mut line).await;
        let _ = stream.write_all(&line).await;
    })
    .await;
    assert_eq!(probe(echo, Probe::AgentCheck("75%\n".into())).await, Ok(()));
}
