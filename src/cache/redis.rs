//! One connection to Redis. The only user of the `redis` crate.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, IntoConnectionInfo, ProtocolVersion, PushInfo, PushKind,
    RedisError, Value,
};

/// How long Redis may take for an answer, and a connection for its making.
const PATIENCE: Duration = Duration::from_secs(1);
/// What was sent and not confirmed for so long is dropped with its connection.
pub(super) const STALE: Duration = Duration::from_secs(1);

/// A connection that subscribes and publishes. Lost when dropped, with what it has not delivered.
#[derive(Clone)]
pub(super) struct Connection(MultiplexedConnection);

impl Connection {
    /// Connects, within [`PATIENCE`]. `heard` gets channel and content of every message, in the order in
    /// which Redis sends them, and before the answers that Redis sends after them.
    ///
    /// # Errors
    /// Why not.
    pub(super) async fn open(
        url: &str,
        heard: impl Fn(&[u8], &[u8]) + Send + Sync + 'static,
    ) -> Result<Self, String> {
        let info = url.into_connection_info().map_err(text)?;
        // RESP3 lets one connection listen and speak.
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let tcp = TcpSettings::default().set_nodelay(true).set_linger_time(Duration::ZERO);
        #[cfg(target_os = "linux")]
        let tcp = tcp.set_user_timeout(STALE);
        let info = info.set_redis_settings(settings).set_tcp_settings(tcp);
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE))
            .set_push_sender(move |push: PushInfo| -> Result<(), ()> {
                if let (
                    PushKind::Message,
                    [Value::BulkString(channel), Value::BulkString(content)],
                ) = (&push.kind, push.data.as_slice())
                {
                    heard(channel, content);
                }
                Ok(())
            });
        let client = Client::open(info).map_err(text)?;
        let opening = client.get_multiplexed_async_connection_with_config(&config);
        // Its own limit is for a part of it.
        match tokio::time::timeout(PATIENCE, opening).await {
            Ok(opened) => opened.map(Self).map_err(text),
            Err(_) => Err(format!("no answer within {PATIENCE:?}")),
        }
    }

    /// Hears a channel from now on.
    ///
    /// # Errors
    /// Why not: the connection is of no use then.
    pub(super) async fn subscribe(&mut self, channel: &str) -> Result<(), String> {
        self.0.subscribe(channel).await.map_err(text)
    }

    /// Publishes messages, in this order: channel and content.
    ///
    /// # Errors
    /// As [`Self::subscribe`]; Redis may have got them all the same.
    pub(super) async fn publish(&mut self, messages: &[(String, &[u8])]) -> Result<(), String> {
        let mut pipe = redis::pipe();
        for (channel, content) in messages {
            pipe.cmd("PUBLISH").arg(channel).arg(*content);
        }
        pipe.query_async::<Vec<i64>>(&mut self.0).await.map(drop).map_err(text)
    }

    /// Comes back once everything has been heard that Redis had sent before it saw this.
    ///
    /// # Errors
    /// As [`Self::subscribe`].
    pub(super) async fn ping(&mut self) -> Result<(), String> {
        redis::cmd("PING").query_async::<Value>(&mut self.0).await.map(drop).map_err(text)
    }
}

fn text(error: RedisError) -> String {
    error.to_string()
}
