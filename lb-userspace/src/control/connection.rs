//! One connection: one request, one answer, closed. Holds what HTTP itself can do wrong (a head that is cut short, too
//! large, too slow or no HTTP at all) and answers it in JSON like every other error; what is asked is `handler`'s.
//!
//! One request a connection keeps the bounds simple: either we wait for the client, and may close its connection for
//! another's, or the client waits for us, for a bounded time.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    time::{Sleep, sleep, timeout},
};

use super::{
    handler,
    shared::{Client, ServerState, json_text},
};
use crate::api::view::{ApiError, Code};

/// Request line and headers together, in bytes.
const HEAD_LIMIT: usize = 16 * 1024;
/// How long, and for how many bytes, a client that was refused in the middle of sending is still listened to, so that
/// it gets to read why.
const LINGER: (Duration, u64) = (Duration::from_secs(1), 1024 * 1024);

/// For a whole scrape, however slowly it is read.
const SCRAPE: Duration = Duration::from_secs(60);

/// How far a connection has come, for the choice of which to close when there are too many.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The head of the request has arrived whole.
    begun: AtomicBool,
    /// All of the request has arrived.
    asked: AtomicBool,
    /// The client does not take its answer.
    stalled: AtomicBool,
}

impl Progress {
    /// Whether the request, or a part of it, is still to come.
    pub(super) fn is_receiving(&self) -> bool {
        !self.asked.load(Ordering::Relaxed)
    }

    /// Whether the answer is there and the client does not read it.
    pub(super) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }

    /// The request is here: from now on the client waits for us.
    pub(super) fn asked(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    fn begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }
}

/// Serves the one request of a connection, and keeps `progress` true.
pub(super) async fn serve<S>(stream: S, client: Client, shared: Arc<ServerState>, progress: Arc<Progress>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let settings = shared.settings;
    let mut io = TokioIo::new(Watched {
        stream,
        progress: Arc::clone(&progress),
        received: false,
        patience: settings.write_timeout,
        stalled: None,
    });
    // Held until the answer is written, not only until it is made.
    let place = std::sync::Mutex::new(None);
    let service = service_fn(|request| {
        progress.begun.store(true, Ordering::Relaxed);
        let (shared, place, progress) = (Arc::clone(&shared), &place, Arc::clone(&progress));
        async move {
            if matches!(client, Client::Scraper(_)) && handler::is_large(&request) {
                let taken = shared.scrape_permit().await;
                *place.lock().unwrap_or_else(PoisonError::into_inner) = taken;
            }
            Ok::<_, std::convert::Infallible>(handler::answer(request, client, &shared, &progress).await)
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.head_timeout)
        .max_buf_size(HEAD_LIMIT)
        .keep_alive(false)
        // `printf … | nc -N` ends its side before the answer is there, and still wants it.
        .half_close(true)
        .serve_connection(&mut io, service);
    let outcome = match client {
        Client::Local { .. } => served.await,
        Client::Scraper(_) => timeout(SCRAPE, served).await.unwrap_or(Ok(())),
    };

    let mut io = io.into_inner();
    if let Err(error) = outcome {
        log::debug!("control: connection of {client}: {error}");
        if !progress.begun() && io.received {
            let _ = timeout(settings.write_timeout, refuse(&mut io.stream, &fault(&error))).await;
        }
    }
    let _ = io.stream.shutdown().await;
}

/// What was wrong with a head.
fn fault(error: &hyper::Error) -> ApiError {
    let (code, message) = if error.is_timeout() {
        (Code::RequestTimeout, "the head of the request did not arrive whole in time".to_owned())
    } else if error.is_parse_too_large() {
        (Code::TooLarge, format!("the head of the request is larger than {} KiB", HEAD_LIMIT / 1024))
    } else if error.is_incomplete_message() {
        (Code::BadRequest, "the request ended before its head was complete".to_owned())
    } else {
        (Code::BadRequest, format!("this is not an HTTP/1.1 request: {error}"))
    };
    ApiError { code, message, object: String::new(), details: Vec::new() }
}

/// Sends an error by hand: hyper answers a broken head without a body.
async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, error: &ApiError) -> io::Result<()> {
    let status = hyper::StatusCode::from_u16(error.code.http_status()).unwrap_or_default();
    let body = json_text(error);
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&body).await?;
    stream.shutdown().await?;
    let (time, bytes) = LINGER;
    let _ = timeout(time, tokio::io::copy(&mut stream.take(bytes), &mut tokio::io::sink())).await;
    Ok(())
}

/// The stream under hyper: holds back what hyper writes of its own accord, and gives up on a client that does not
/// read its answer.
struct Watched<S> {
    stream: S,
    progress: Arc<Progress>,
    /// Whether any byte has come in.
    received: bool,
    /// How long a write may make no progress.
    patience: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let outcome = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        self.received |= buf.filled().len() > before;
        Poll::Ready(outcome)
    }
}

impl<S: AsyncWrite + Unpin> Watched<S> {
    fn patient<T>(&mut self, cx: &mut Context<'_>, progress: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.progress.stalled.store(progress.is_pending(), Ordering::Relaxed);
        if progress.is_ready() {
            self.stalled = None;
            return progress;
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read its answer")))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if !self.progress.begun() {
            // hyper's own answer to a broken head, which has no body: ours follows, see `refuse`.
            return Poll::Ready(Ok(buf.len()));
        }
        let progress = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.patient(cx, progress)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if !self.progress.begun() {
            return Poll::Ready(Ok(parts.iter().map(|part| part.len()).sum()));
        }
        let progress = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.patient(cx, progress)
    }

    /// Saves hyper a copy of an answer that may have megabytes.
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let progress = Pin::new(&mut self.stream).poll_flush(cx);
        self.patient(cx, progress)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // `serve` does it, after a last word where one is due.
        self.poll_flush(cx)
    }
}
