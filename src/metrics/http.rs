//! /metrics, /live and /ready over HTTP/1.1.

use std::convert::Infallible;
use std::sync::Arc;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

/// The text of a page, and whether all is well.
pub type Page = Result<String, String>;

/// Answers requests until the task is dropped; `page` gives a path's text, `None` for an unknown one.
pub async fn serve<F>(listener: TcpListener, page: F)
where
    F: Fn(&str) -> Option<Page> + Send + Sync + 'static,
{
    let page = Arc::new(page);
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        let page = Arc::clone(&page);
        tokio::spawn(async move {
            let answer = |request: Request<Incoming>| {
                let response = respond(page(request.uri().path()));
                async { Ok::<_, Infallible>(response) }
            };
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(std::time::Duration::from_secs(10))
                .serve_connection(TokioIo::new(stream), service_fn(answer))
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "an HTTP connection failed");
            }
        });
    }
}

fn respond(page: Option<Page>) -> Response<Full<Bytes>> {
    let (status, text) = match page {
        Some(Ok(text)) => (StatusCode::OK, text),
        Some(Err(reasons)) => (StatusCode::SERVICE_UNAVAILABLE, reasons),
        None => (StatusCode::NOT_FOUND, "try /metrics, /live or /ready\n".into()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let kind = hyper::header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, kind);
    response
}
