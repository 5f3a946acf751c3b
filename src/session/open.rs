//! From a connection's first byte to its start-up packet: TLS or not, cancel requests.

use std::sync::Arc;

use bytes::Bytes;

use super::PATIENCE;
use crate::error::{PgError, sqlstate};
use crate::net::tls::Acceptor;
use crate::net::{Client, Peer};
use crate::proxy::Proxy;
use crate::wire::frame;
use crate::wire::frontend::view::Initial;

/// The first byte of a TLS handshake. No start-up packet is so long that it begins with it.
const TLS_HANDSHAKE: u8 = 0x16;

/// A start-up packet.
pub(super) struct Startup {
    pub(super) minor: u16,
    pub(super) parameters: Vec<(String, String)>,
}

enum Step {
    /// The client was told that TLS begins, or has begun it itself.
    Tls {
        acceptor: Arc<Acceptor>,
        is_direct: bool,
    },
    Startup(Startup),
    /// It was told "no" and may go on in clear.
    Declined,
    /// It has gone, or has got all it came for.
    End,
}

/// Reads packets up to the start-up packet; `None` if there is none to come.
pub(super) async fn start(
    proxy: &Proxy,
    mut client: Client,
) -> Result<Option<(Client, Startup)>, (Client, PgError)> {
    loop {
        match step(proxy, &mut client).await {
            Ok(Step::Startup(startup)) => return Ok(Some((client, startup))),
            Ok(Step::Declined) => (),
            Ok(Step::End) => return Ok(None),
            Ok(Step::Tls { acceptor, is_direct }) => {
                match secure(proxy, client, &acceptor, is_direct).await {
                    Some(secured) => client = secured,
                    None => return Ok(None),
                }
            }
            Err(error) => return Err((client, error)),
        }
    }
}

async fn step(proxy: &Proxy, client: &mut Client) -> Result<Step, PgError> {
    let Some(first) = first_byte(client).await else { return Ok(Step::End) };
    if first == TLS_HANDSHAKE
        && can_begin_tls(client)
        && let Some(acceptor) = proxy.tls.load_full()
    {
        return Ok(Step::Tls { acceptor, is_direct: true });
    }
    let Some(packet) = packet(client).await? else { return Ok(Step::End) };
    match Initial::read(&packet)? {
        Initial::Ssl => match proxy.tls.load_full().filter(|_| can_begin_tls(client)) {
            Some(acceptor) => {
                refuse_ahead(client)?;
                Ok(answer(client, b'S', Step::Tls { acceptor, is_direct: false }).await)
            }
            None => Ok(answer(client, b'N', Step::Declined).await),
        },
        Initial::GssEnc => Ok(answer(client, b'N', Step::Declined).await),
        Initial::Cancel(request) => {
            proxy.cancel(request.pid, request.key).await;
            Ok(Step::End)
        }
        Initial::Startup(startup) => {
            check_security(proxy, client)?;
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let parameters = startup.parameters.iter().map(|(k, v)| (text(k), text(v)));
            let parameters = parameters.collect();
            Ok(Step::Startup(Startup { minor: startup.minor, parameters }))
        }
    }
}

/// Once, and over TCP only, as in Postgres.
fn can_begin_tls(client: &Client) -> bool {
    !client.is_tls() && matches!(client.peer, Peer::Tcp(_))
}

async fn answer(client: &mut Client, byte: u8, next: Step) -> Step {
    client.out.extend_from_slice(&[byte]);
    match client.flush(PATIENCE).await {
        Ok(()) => next,
        Err(_) => Step::End,
    }
}

/// What came with the request was not encrypted, and would be taken for what comes after the handshake.
fn refuse_ahead(client: &mut Client) -> Result<(), PgError> {
    if client.input.is_empty() {
        return Ok(());
    }
    Err(PgError::new(sqlstate::PROTOCOL_VIOLATION, "received unencrypted data after SSL request")
        .detail(
            "This could be either a client-software bug or evidence of an attempted \
             man-in-the-middle attack.",
        ))
}

/// Shakes hands. `None` after a failure, which TLS itself has told the client.
async fn secure(
    proxy: &Proxy,
    client: Client,
    acceptor: &Acceptor,
    is_direct: bool,
) -> Option<Client> {
    let peer = client.peer;
    let failed = match client.into_tls(acceptor).await {
        Ok(client) if is_direct && client.protocol().is_none() => {
            "direct TLS without the protocol \"postgresql\" in ALPN".to_owned()
        }
        Ok(client) => return Some(client),
        Err(error) => error.to_string(),
    };
    proxy.metrics.logins_failed.inc();
    tracing::info!(%peer, "TLS handshake failed: {failed}");
    None
}

fn check_security(proxy: &Proxy, client: &Client) -> Result<(), PgError> {
    let cluster = proxy.cluster.load();
    let is_required = cluster.config.listen.tls.as_ref().is_some_and(|it| it.is_required);
    if !is_required || client.is_tls() || !matches!(client.peer, Peer::Tcp(_)) {
        return Ok(());
    }
    Err(PgError::new(sqlstate::INVALID_AUTHORIZATION, "connections without TLS are not allowed")
        .detail("listen.tls = \"require\"")
        .hint("connect with sslmode=require or stronger"))
}

async fn first_byte(client: &mut Client) -> Option<u8> {
    while client.input.is_empty() {
        match client.fill().await {
            Ok(0) | Err(_) => return None,
            Ok(_) => (),
        }
    }
    client.input.first().copied()
}

async fn packet(client: &mut Client) -> Result<Option<Bytes>, PgError> {
    loop {
        // What is no start-up packet gets no answer, as from a server: it is no Postgres client, or
        // one that left at once.
        let Ok(len) = frame::next_startup(&client.input) else { return Ok(None) };
        if let Some(len) = len.filter(|len| client.input.len() >= *len) {
            return Ok(Some(client.input.split_to(len).freeze()));
        }
        match client.fill().await {
            Ok(0) | Err(_) => return Ok(None),
            Ok(_) => (),
        }
    }
}
