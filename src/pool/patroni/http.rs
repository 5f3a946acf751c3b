//! One request to a REST API, on a connection of its own.

use std::future::poll_fn;
use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use tokio::net::TcpStream;

use crate::config::PatroniApi;
use crate::net::Stream;
use crate::net::tls::Connector;

/// No answer is longer.
const LONGEST: usize = 1 << 20;

/// What came back.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
}

/// GET, or POST with a body of JSON.
///
/// # Errors
/// The socket's, TLS', or that it is no HTTP.
pub(super) async fn request(
    api: &PatroniApi,
    path: &str,
    body: Option<&str>,
) -> io::Result<Answer> {
    let mut stream = connect(api).await?;
    let request = head(api, path, body) + body.unwrap_or_default();
    let mut rest = request.as_bytes();
    while !rest.is_empty() {
        match poll_fn(|cx| stream.poll_write(cx, rest)).await? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            count => rest = &rest[count..],
        }
    }
    let mut input = BytesMut::new();
    loop {
        if input.len() > LONGEST {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its answer is too long"));
        }
        input.reserve(4096);
        let count = poll_fn(|cx| stream.poll_read_into(cx, &mut input)).await?;
        if let Some(answer) = parse(&input, count == 0) {
            return Ok(answer);
        }
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its answer is no whole HTTP"));
        }
    }
}

async fn connect(api: &PatroniApi) -> io::Result<Stream> {
    let server = &api.server;
    let tcp = TcpStream::connect((server.host.as_str(), server.port)).await?;
    let stream = match api.is_https {
        false => Stream::Tcp(tcp),
        true => {
            let connector = Connector::load_https(server).map_err(io::Error::other)?;
            Stream::Tls(Box::new(connector.connect(tcp, &mut BytesMut::new()).await?))
        }
    };
    stream.set_nodelay();
    Ok(stream)
}

/// An answer to HTTP/1.0 comes in one piece and ends with the connection.
fn head(api: &PatroniApi, path: &str, body: Option<&str>) -> String {
    let method = if body.is_some() { "POST" } else { "GET" };
    let mut head = format!("{method} {path} HTTP/1.0\r\nHost: {}\r\n", api.server);
    if let Some((user, password)) = api.login() {
        let login = STANDARD.encode(format!("{user}:{password}"));
        head.push_str(&format!("Authorization: Basic {login}\r\n"));
    }
    if let Some(body) = body {
        let length = body.len();
        head.push_str(&format!("Content-Type: application/json\r\nContent-Length: {length}\r\n"));
    }
    head + "Connection: close\r\n\r\n"
}

/// The answer, once it is whole: at its length, or at the connection's end.
fn parse(input: &[u8], has_ended: bool) -> Option<Answer> {
    let text = std::str::from_utf8(input).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.split("\r\n");
    let mut words = lines.next()?.split(' ');
    let status = words.next().filter(|it| it.starts_with("HTTP/")).and(words.next())?;
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    let is_whole = length.map_or(has_ended, |length: usize| body.len() >= length);
    is_whole.then(|| Some(Answer { status: status.parse().ok()?, body: body.to_owned() }))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_at_its_length_or_at_the_end() {
        let answer = |body: &str| Some(Answer { status: 200, body: body.to_owned() });
        assert_eq!(parse(b"HTTP/1.0 200 OK\r\nServer: x\r\n\r\n{}", false), None);
        assert_eq!(parse(b"HTTP/1.0 200 OK\r\nServer: x\r\n\r\n{}", true), answer("{}"));
        let counted = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(parse(counted, false), answer("{}"));
        assert_eq!(parse(&counted[..counted.len() - 1], true), None);
        assert_eq!(parse(b"220 smtp\r\n\r\n", true), None);
        assert_eq!(parse(b"", true), None);
    }
}
