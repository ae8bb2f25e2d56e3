//! Raw OTLP clients: the bytes that a case writes are the bytes that go out.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, time::timeout};

use super::wire::Signal;

/// How long any answer may take before a case fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why there was no answer: the connection could not be made or broke.
#[derive(Debug)]
pub(crate) struct Broken(
    #[expect(dead_code, reason = "shown when a case fails")] pub(crate) String,
);

/// A gRPC answer.
#[derive(Debug)]
pub(crate) struct GrpcReply {
    pub(crate) code: i32,
    pub(crate) message: String,
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    /// Where the status was, if not among the headers.
    pub(crate) trailers: Option<HeaderMap>,
    /// Message with its frame.
    pub(crate) body: Bytes,
}

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct HttpReply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl HttpReply {
    /// `code` and `message` of a `google.rpc.Status` body in protobuf.
    pub(crate) fn has_status_body(&self, code: u8) -> bool {
        self.body.starts_with(&[0x08, code, 0x12])
    }
}

/// One gRPC connection without TLS; clones share it.
#[derive(Clone)]
pub(crate) struct Grpc(http2::SendRequest<Full<Bytes>>);

impl Grpc {
    pub(crate) async fn connect(port: u16) -> Result<Self, Broken> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(broken)?;
        stream.set_nodelay(true).map_err(broken)?;
        let (send, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(1 << 20)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        tokio::spawn(connection);
        Ok(Self(send))
    }

    /// Sends one uncompressed request.
    pub(crate) async fn export(
        &mut self,
        signal: Signal,
        request: Bytes,
    ) -> Result<GrpcReply, Broken> {
        self.call(signal, frame(0, &request), None).await
    }

    /// Sends one request, gzipped.
    pub(crate) async fn export_gzip(
        &mut self,
        signal: Signal,
        request: &[u8],
    ) -> Result<GrpcReply, Broken> {
        self.call(signal, frame(1, &gzip(request)), Some("gzip")).await
    }

    /// Sends a body as it is: the caller has framed it.
    pub(crate) async fn call(
        &mut self,
        signal: Signal,
        body: Bytes,
        encoding: Option<&str>,
    ) -> Result<GrpcReply, Broken> {
        let encoding = encoding.map(|encoding| ("grpc-encoding", encoding));
        let headers =
            [Some(("content-type", "application/grpc")), Some(("te", "trailers")), encoding];
        let headers: Vec<_> = headers.into_iter().flatten().collect();
        self.send("POST", signal.grpc_path(), &headers, body).await
    }

    /// Sends any HTTP/2 request that is to be answered by gRPC's rules.
    pub(crate) async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<GrpcReply, Broken> {
        let (status, headers, trailers, body) = self.http2(method, path, headers, body).await?;
        let place = match &trailers {
            Some(trailers) if trailers.contains_key("grpc-status") => trailers,
            _ => &headers,
        };
        let text = |name| place.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
        Ok(GrpcReply {
            code: text("grpc-status")
                .parse()
                .map_err(|_| Broken(format!("no grpc-status; HTTP {status}, {headers:?}")))?,
            message: text("grpc-message").to_owned(),
            status,
            headers,
            trailers,
            body,
        })
    }

    /// Sends any HTTP/2 request; status, headers, trailers and body of the answer.
    pub(crate) async fn http2(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<(u16, HeaderMap, Option<HeaderMap>, Bytes), Broken> {
        let request = Request::builder().method(method).uri(format!("http://127.0.0.1{path}"));
        let request =
            headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let request = request.body(Full::new(body)).expect("the request's parts are valid");
        self.0.ready().await.map_err(broken)?;
        timeout(PATIENCE, async {
            let response = self.0.send_request(request).await.map_err(broken)?;
            let (head, body) = response.into_parts();
            let body = body.collect().await.map_err(broken)?;
            let trailers = body.trailers().cloned();
            Ok((head.status.as_u16(), head.headers, trailers, body.to_bytes()))
        })
        .await
        .map_err(broken)?
    }
}

/// Sends one HTTP/1.1 request on a connection of its own.
pub(crate) async fn http(
    method: &str,
    port: u16,
    path: &str,
    headers: &[(&str, &str)],
    body: Bytes,
) -> Result<HttpReply, Broken> {
    let exchange = async {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(broken)?;
        let (mut send, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header("host", "127.0.0.1");
        let request =
            headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let request = request.body(Full::new(body)).expect("the request's parts are valid");
        let (head, body) = send.send_request(request).await.map_err(broken)?.into_parts();
        let body = body.collect().await.map_err(broken)?.to_bytes();
        Ok(HttpReply { status: head.status.as_u16(), headers: head.headers, body })
    };
    timeout(PATIENCE, exchange).await.map_err(broken)?
}

/// Sends one request over OTLP/HTTP with protobuf.
pub(crate) async fn post(port: u16, signal: Signal, body: Bytes) -> Result<HttpReply, Broken> {
    http("POST", port, signal.http_path(), &[("content-type", "application/x-protobuf")], body)
        .await
}

/// A gRPC frame: flag, length, message.
pub(crate) fn frame(compressed: u8, message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(compressed);
    frame.put_u32(message.len() as u32);
    frame.put_slice(message);
    frame.freeze()
}

pub(crate) fn gzip(data: &[u8]) -> Bytes {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).expect("writing to memory");
    encoder.finish().expect("writing to memory").into()
}

fn broken(error: impl std::fmt::Display) -> Broken {
    Broken(error.to_string())
}
