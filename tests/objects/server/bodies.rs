//! Bodies that pause or end early, and the connection that they end.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use s3s::StdError;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

type Waiting = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A request's body. What is not read of it is read when this is dropped: clients look for an answer only when they have sent
/// everything, and would lose the answer with the connection.
pub(super) struct Received {
    body: Option<Incoming>,
    bytes: u64,
    pause: Option<(u64, Waiting)>,
}

impl Received {
    pub(super) fn new(body: Incoming) -> Self {
        Self { body: Some(body), bytes: 0, pause: None }
    }

    /// Pauses when at least so many bytes have been read.
    pub(super) fn pausing(
        body: Incoming,
        bytes: u64,
        pause: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        Self { body: Some(body), bytes: 0, pause: Some((bytes, Box::pin(pause))) }
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        if let Some((bytes, pause)) = &mut this.pause
            && this.bytes >= *bytes
        {
            ready!(pause.as_mut().poll(context));
            this.pause = None;
        }
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(context));
        if let Some(Ok(frame)) = &frame {
            this.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.pause.is_none() && self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        let unread = self.body.take().filter(|body| !body.is_end_stream());
        if let (Some(body), Ok(runtime)) = (unread, tokio::runtime::Handle::try_current()) {
            runtime.spawn(drain(body));
        }
    }
}

/// Reads to the end, or until the client goes.
pub(super) async fn drain(mut body: impl Body<Data = Bytes> + Unpin) {
    while let Some(Ok(_)) = body.frame().await {}
}

/// An answer's body.
pub(super) struct Sent {
    body: s3s::Body,
    /// How many bytes are sent at most, and what then happens in place of the rest.
    end: Option<(u64, Waiting)>,
}

impl Sent {
    pub(super) fn whole(body: s3s::Body) -> Self {
        Self { body, end: None }
    }

    /// Does something after so many bytes, and sends nothing more.
    pub(super) fn ending(
        body: s3s::Body,
        bytes: u64,
        end: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        Self { body, end: Some((bytes, Box::pin(end))) }
    }
}

impl Body for Sent {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let this = &mut *self;
        let Some((left, end)) = &mut this.end else { return Pin::new(&mut this.body).poll_frame(context) };
        if *left == 0 {
            ready!(end.as_mut().poll(context));
            unreachable!("the end of a body lasts");
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
        Poll::Ready(frame.map(|frame| {
            frame.map(|frame| {
                frame.map_data(|mut data| {
                    data.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= data.len() as u64;
                    data
                })
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.end.as_ref().is_none_or(|(left, _)| *left > 0) && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Cuts a connection when everything that the server has written has been sent.
#[derive(Debug, Clone, Default)]
pub(super) struct Cut(Arc<AtomicBool>);

impl Cut {
    /// Cuts the connection with its next flush, which follows any body that waits.
    pub(super) fn cut(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A connection that can be cut. (Had a body failed, hyper would drop what it has not yet sent.)
pub(super) struct Wire {
    stream: TcpStream,
    cut: Cut,
}

impl Wire {
    pub(super) fn new(stream: TcpStream) -> (Self, Cut) {
        let cut = Cut::default();
        (Self { stream, cut: cut.clone() }, cut)
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    /// hyper calls it when it has written all that it has.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let is_cut = self.cut.0.load(Ordering::Relaxed);
        Poll::Ready(if is_cut { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) })
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
