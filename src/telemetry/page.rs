//! A small HTTP/1.1 server for pages that machines look at: health, metrics.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderValue, Request, Response, StatusCode, Uri,
    header::{CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS},
};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinHandle};

use crate::components::Stop;

/// A connection that has not sent its request by then is closed; one that does not take the answer, too.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections at one time; more wait in the kernel.
const MAX_CONNECTIONS: usize = 64;

/// A page: takes path and query of a request, answers.
pub(crate) type Page = Arc<dyn Fn(&Uri) -> Reply + Send + Sync>;

/// What a page answers.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) content_type: &'static str,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn html(body: String) -> Self {
        Reply { status: StatusCode::OK, content_type: "text/html; charset=utf-8", body }
    }

    pub(crate) fn json(status: StatusCode, body: String) -> Self {
        Reply { status, content_type: "application/json", body }
    }

    pub(crate) fn not_found() -> Self {
        Reply {
            status: StatusCode::NOT_FOUND,
            content_type: "text/plain; charset=utf-8",
            body: "404 page not found\n".into(),
        }
    }
}

/// Serves `page` on `endpoint` (`host:port`; no host means every address) until stopped.
pub(crate) async fn serve(endpoint: &str, page: Page) -> Result<(SocketAddr, Stop), String> {
    let listener = listen(endpoint).await?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    let accepting: JoinHandle<()> = tokio::spawn(accept(listener, page));
    let stop: Stop = Box::new(move || {
        accepting.abort();
        // The port is free when it has ended.
        Box::pin(async move {
            let _ = accepting.await;
        })
    });
    Ok((address, stop))
}

async fn listen(endpoint: &str) -> Result<TcpListener, String> {
    let bound = match endpoint.strip_prefix(':') {
        // As Go listens: both families where there are two.
        Some(port) => match TcpListener::bind(format!("[::]:{port}")).await {
            Err(error) if error.kind() != std::io::ErrorKind::AddrInUse => {
                TcpListener::bind(format!("0.0.0.0:{port}")).await
            }
            bound => bound,
        },
        None => TcpListener::bind(endpoint).await,
    };
    bound.map_err(|error| {
        let text = error.to_string().to_lowercase();
        format!("listen tcp {endpoint}: bind: {}", text.split(" (os error").next().unwrap_or(&text))
    })
}

async fn accept(listener: TcpListener, page: Page) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(_) => {
                // Out of file descriptors, most likely: try again when some are free.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let page = Arc::clone(&page);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(Arc::clone(&page), request));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .keep_alive(false)
                .serve_connection(TokioIo::new(socket), service);
            // A peer that goes away in the middle is its own affair.
            let _ = tokio::time::timeout(PATIENCE, connection).await;
            drop(slot);
        });
    }
}

async fn answer(
    page: Page,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let reply = page(request.uri());
    let mut response = Response::new(Full::new(Bytes::from(reply.body)));
    *response.status_mut() = reply.status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(reply.content_type));
    if !reply.status.is_success() && reply.content_type.starts_with("text/plain") {
        response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }
    Ok(response)
}
