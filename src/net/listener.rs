//! Accepts clients and gives each to the least loaded thread, where it stays.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::unix::UnixDoor;
use super::{Stream, Thread};

/// Connections that wait for a thread to take them.
const QUEUE: usize = 1024;

/// A data-plane thread: one single-threaded runtime.
pub struct Worker {
    streams: mpsc::Sender<Stream>,
    /// Clients it serves.
    load: Arc<AtomicUsize>,
}

impl Worker {
    /// Starts a thread that serves every stream it is given by `serve`, as a task of its own, which
    /// keeps the [`Place`] to its end.
    ///
    /// # Errors
    /// If no thread or runtime can be made.
    pub fn start<F, S>(thread: Arc<Thread>, serve: F) -> io::Result<Self>
    where
        F: Fn(Stream, Place) -> S + Send + 'static,
        S: Future<Output = ()> + Send + 'static,
    {
        let number = thread.number;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .on_thread_unpark(move || thread.look_at_clock())
            .build()?;
        let (streams, mut queue) = mpsc::channel::<Stream>(QUEUE);
        let load = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&load);
        std::thread::Builder::new().name(format!("data-{number}")).spawn(move || {
            runtime.block_on(async move {
                while let Some(stream) = queue.recv().await {
                    let place = Place(Arc::clone(&counter));
                    match stream.register_here() {
                        Ok(stream) => drop(tokio::spawn(serve(stream, place))),
                        Err(error) => {
                            tracing::warn!(%error, "a client could not be taken over");
                        }
                    }
                }
                // No new clients: those that are here are served to their end.
                while counter.load(Ordering::Relaxed) > 0 {
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            });
        })?;
        Ok(Self { streams, load })
    }
}

/// A client's place on a thread: one client less there when dropped, also when its task panics.
pub struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where clients connect.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixDoor),
}

impl Listener {
    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, _)| Stream::Tcp(stream)),
            Self::Unix(door) => door.accept().await.map(Stream::Unix),
        }
    }
}

/// Accepts until the task is dropped.
pub async fn accept(listener: Listener, workers: Arc<[Worker]>) {
    loop {
        let stream = match listener.accept().await {
            Ok(stream) => stream,
            Err(error) => {
                // Out of file descriptors: others are served on, new ones wait in the backlog.
                tracing::error!(%error, "a client could not be accepted");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(worker) = workers.iter().min_by_key(|it| it.load.load(Ordering::Relaxed)) else {
            return;
        };
        worker.load.fetch_add(1, Ordering::Relaxed);
        if worker.streams.send(stream).await.is_err() {
            worker.load.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
