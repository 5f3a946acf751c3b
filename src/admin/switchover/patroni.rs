//! SWITCHOVER of a shard that Patroni leads: Patroni does it, the proxy lets clients wait meanwhile.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use super::{LOOK, Paused, come_to_rest, primary_now, refused, target};
use crate::config;
use crate::error::PgError;
use crate::pool::cluster::{Database, Host, Shard};
use crate::pool::patroni::{self, Refusal};
use crate::proxy::Proxy;

/// How long Patroni may take to answer, and until the new leader is the primary: it says itself after 20
/// seconds, or twice its `loop_wait`, that it does not know.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks Patroni for it. Gives what to tell.
pub(super) async fn switch(
    proxy: &Proxy,
    database: &Arc<Database>,
    (shard, written): (&Shard, &config::Shard),
    to: Option<&str>,
) -> Result<String, PgError> {
    let old = &shard.primary;
    let to = to.map(|it| target(shard, Some(it))).transpose()?;
    let paused = Paused::new(&shard.state);
    // What was let through before has begun by then.
    tokio::time::sleep(LOOK).await;
    let nothing = |why: String| refused("the primary was not changed").detail(why);
    come_to_rest(old, database.config.failover_wait / 2).await.map_err(nothing)?;
    let timeout = proxy.cluster.load().config.health.timeout;
    let places = (&old.address, to.map(|it| &it.address));
    let mut asked = pin!(patroni::switchover(written, places, (timeout, PATIENCE)));
    let said = tokio::select! {
        said = &mut asked => Some(said),
        // Clients go on at once: Patroni answers only a second later.
        () = until_another(proxy, database, old) => None,
    };
    let said = match said {
        Some(Ok(said)) => {
            shard.state.raise();
            let noticed = until_another(proxy, database, old);
            if tokio::time::timeout(PATIENCE, noticed).await.is_err() {
                return Err(unsure(format!("the new leader takes no writes yet: {said}")));
            }
            said
        }
        Some(Err(Refusal::Nothing(why))) => {
            return Err(nothing(why).hint("patronictl list tells what Patroni knows"));
        }
        Some(Err(Refusal::Unsure(why))) => return Err(unsure(why)),
        None => {
            drop(paused);
            asked.await.unwrap_or_else(|why| match why {
                Refusal::Nothing(why) | Refusal::Unsure(why) => why,
            })
        }
    };
    let now = primary_now(proxy, database, shard.id);
    let now = now.map(|it| it.address.to_string()).unwrap_or_default();
    Ok(format!("{now} is the primary of shard {}; Patroni: {said}", shard.id))
}

fn unsure(why: String) -> PgError {
    refused("Patroni was asked for it, and what became of it is not known")
        .detail(why)
        .hint("patronictl list and SHOW SHARDS tell who leads; the proxy follows whoever does")
}

/// Waits until the proxy's snapshot has another primary.
async fn until_another(proxy: &Proxy, database: &Database, old: &Arc<Host>) {
    let is_another = |now: Arc<Host>| now.address != old.address;
    while !primary_now(proxy, database, old.shard).is_some_and(is_another) {
        tokio::time::sleep(LOOK).await;
    }
}
