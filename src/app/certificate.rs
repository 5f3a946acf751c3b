//! The proxy's own certificate: at the start, at a reload, and when its files change.

use std::sync::Arc;

use crate::config::{Config, ListenTls};
use crate::net::tls::{Acceptor, TlsError};
use crate::proxy::Proxy;

/// The certificate that a configuration names; `None` if TLS is off.
pub(super) fn load(config: &Config) -> Result<Option<Arc<Acceptor>>, TlsError> {
    config.listen.tls.as_ref().map(|tls| Acceptor::load(tls).map(Arc::new)).transpose()
}

/// What the files held when they were last looked at.
#[derive(Default)]
pub(super) struct Seen(Vec<Option<Vec<u8>>>);

impl Seen {
    /// What they hold now.
    pub(super) async fn now(proxy: &Proxy) -> Self {
        let config = Arc::clone(&proxy.cluster.load().config);
        let mut contents = Vec::new();
        for file in config.listen.tls.iter().flat_map(files) {
            contents.push(tokio::fs::read(file).await.ok());
        }
        Self(contents)
    }

    /// Takes up the certificate if the files have changed. A bad one leaves the old one in force.
    pub(super) async fn follow(&mut self, proxy: &Proxy) {
        let now = Self::now(proxy).await;
        if now.0 == self.0 {
            return;
        }
        *self = now;
        let config = Arc::clone(&proxy.cluster.load().config);
        match load(&config) {
            Ok(acceptor) => {
                proxy.tls.store(acceptor);
                proxy.metrics.reloads.with_label_values(&["ok"]).inc();
                tracing::info!("the certificate was read again");
            }
            Err(error) => {
                proxy.metrics.reloads.with_label_values(&["failed"]).inc();
                tracing::error!(
                    "the certificate was not replaced, the old one is used on: {error}"
                );
            }
        }
    }
}

fn files(tls: &ListenTls) -> impl Iterator<Item = &String> {
    [&tls.certificate, &tls.key].into_iter().chain(&tls.client_ca)
}
