//! LISTEN without a server of one's own: one connection per database listens on the home shard's
//! primary and hands notifications on to all clients that asked for them.
//!
//! Clients give orders; the task of [`serve`] carries them out together, in one statement, and only
//! then counts a client as listening. It is the only one that reads the connection, so what follows
//! the answer of an order was sent after it.

mod inbox;
mod serve;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::error::{PgError, sqlstate};
use crate::metrics::ListenMetrics;

pub use inbox::Inbox;
pub use serve::serve;

/// Channels of one database and who listens on them.
pub struct Hub {
    state: Mutex<State>,
    pub metrics: ListenMetrics,
    /// Wakes the task that listens.
    work: Notify,
}

#[derive(Default)]
struct State {
    channels: HashMap<Arc<str>, Vec<Arc<Inbox>>>,
    orders: Vec<Order>,
    /// Whether the connection stands and listens on every channel.
    is_up: bool,
    /// Why it does not.
    problem: String,
}

/// What the listening connection is to do.
enum Order {
    Listen {
        channels: Vec<Arc<str>>,
        inbox: Arc<Inbox>,
        done: oneshot::Sender<()>,
    },
    /// Nobody listens on it any more.
    Unlisten(Arc<str>),
    /// Everything notified so far is to be in the inboxes.
    Barrier(oneshot::Sender<()>),
}

/// One client's place on one channel, for SHOW LISTENERS.
pub struct Listener {
    pub channel: Arc<str>,
    pub inbox: Arc<Inbox>,
    pub is_up: bool,
}

impl Hub {
    /// A hub that nobody listens at.
    pub fn new(metrics: ListenMetrics) -> Self {
        Self { state: Mutex::default(), metrics, work: Notify::new() }
    }

    /// Lets the inbox have what is notified on these channels from now on; on return the connection
    /// listens.
    ///
    /// # Errors
    /// 57P03 if the home shard's primary cannot be reached in time; the client then does not listen.
    pub async fn listen(
        &self,
        channels: Vec<Arc<str>>,
        inbox: &Arc<Inbox>,
        patience: Duration,
    ) -> Result<(), PgError> {
        let (done, heard) = oneshot::channel();
        self.order(Order::Listen { channels, inbox: Arc::clone(inbox), done });
        match tokio::time::timeout(patience, heard).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(self.unreachable(patience)),
        }
    }

    fn unreachable(&self, patience: Duration) -> PgError {
        let problem = match &self.state.lock().problem {
            it if it.is_empty() => format!("no answer within {patience:?}"),
            it => it.clone(),
        };
        PgError::new(sqlstate::CANNOT_CONNECT_NOW, "LISTEN is not possible now")
            .detail(format!("The home shard's primary cannot be listened on: {problem}"))
            .hint("try again; SHOW SHARDS on the admin console tells the state of every host")
    }

    /// Takes the inbox off a channel, and out of the inbox what came on it.
    pub fn unlisten(&self, channel: &str, inbox: &Arc<Inbox>) {
        let mut state = self.state.lock();
        state.leave(channel, inbox);
        self.metrics.channels.set(state.channels.len() as i64);
        drop(state);
        inbox.discard(channel);
        self.work.notify_one();
    }

    /// Takes the inbox off all channels.
    pub fn forget(&self, inbox: &Arc<Inbox>) {
        let mut state = self.state.lock();
        let is_on = |listeners: &Vec<Arc<Inbox>>| listeners.iter().any(|it| Arc::ptr_eq(it, inbox));
        let channels = state.channels.iter().filter(|(_, it)| is_on(it));
        let channels: Vec<Arc<str>> = channels.map(|(channel, _)| Arc::clone(channel)).collect();
        channels.iter().for_each(|channel| state.leave(channel, inbox));
        self.metrics.channels.set(state.channels.len() as i64);
        drop(state);
        self.work.notify_one();
    }

    /// Waits until all inboxes hold what transactions that have ended before have notified. Returns
    /// at once if the connection is down, as then nothing is on its way.
    pub async fn catch_up(&self, patience: Duration) {
        if !self.state.lock().is_up {
            return;
        }
        let (done, reached) = oneshot::channel();
        self.order(Order::Barrier(done));
        if tokio::time::timeout(patience, reached).await.is_err() {
            tracing::debug!("the listening connection is slow to answer");
        }
    }

    /// Who listens on what.
    pub fn listeners(&self) -> Vec<Listener> {
        let state = self.state.lock();
        let mut all: Vec<Listener> = Vec::new();
        for (channel, listeners) in &state.channels {
            let of = |it: &Arc<Inbox>| Listener {
                channel: Arc::clone(channel),
                inbox: Arc::clone(it),
                is_up: state.is_up,
            };
            all.extend(listeners.iter().map(of));
        }
        all.sort_by(|a, b| (&a.channel, a.inbox.pid).cmp(&(&b.channel, b.inbox.pid)));
        all
    }

    fn order(&self, order: Order) {
        self.state.lock().orders.push(order);
        self.work.notify_one();
    }

    /// Whether there is a reason to be connected.
    pub fn is_wanted(&self) -> bool {
        let state = self.state.lock();
        let is_open = |it: &Order| matches!(it, Order::Listen { done, .. } if !done.is_closed());
        !state.channels.is_empty() || state.orders.iter().any(is_open)
    }

    /// Hands a NotificationResponse to everybody on its channel.
    fn dispatch(&self, frame: &[u8]) {
        let Ok(channel) = std::str::from_utf8(channel_of(frame)) else { return };
        let state = self.state.lock();
        let Some(listeners) = state.channels.get(channel) else { return };
        // The frame outlives the read buffer that it lies in.
        let frame = Bytes::copy_from_slice(frame);
        listeners.iter().for_each(|it| it.push(&frame));
    }

    /// The connection stands; whoever had listened before may have missed something meanwhile, and
    /// is told. Whether there is somebody.
    fn set_up(&self) -> bool {
        let mut state = self.state.lock();
        state.is_up = true;
        state.problem.clear();
        let mut told = HashSet::new();
        for inbox in state.channels.values().flatten() {
            if told.insert(inbox.pid) {
                inbox.note_loss();
            }
        }
        !told.is_empty()
    }

    /// The connection is gone: nobody waits for what it would have brought. Whether it was up.
    fn set_down(&self, problem: String) -> bool {
        let mut state = self.state.lock();
        let was_up = std::mem::take(&mut state.is_up);
        state.problem = problem;
        let is_open = |it: &Order| matches!(it, Order::Listen { done, .. } if !done.is_closed());
        state.orders.retain(is_open);
        was_up
    }
}

impl State {
    fn join(&mut self, channel: &Arc<str>, inbox: &Arc<Inbox>) {
        let listeners = self.channels.entry(Arc::clone(channel)).or_default();
        if !listeners.iter().any(|it| Arc::ptr_eq(it, inbox)) {
            listeners.push(Arc::clone(inbox));
        }
    }

    fn leave(&mut self, channel: &str, inbox: &Arc<Inbox>) {
        let Some(listeners) = self.channels.get_mut(channel) else { return };
        listeners.retain(|it| !Arc::ptr_eq(it, inbox));
        if listeners.is_empty()
            && let Some((name, _)) = self.channels.remove_entry(channel)
        {
            self.orders.push(Order::Unlisten(name));
        }
    }
}

/// The channel of a NotificationResponse: tag, length, process id, channel, payload.
fn channel_of(frame: &[u8]) -> &[u8] {
    let rest = frame.get(9..).unwrap_or_default();
    rest.split(|byte| *byte == 0).next().unwrap_or_default()
}
