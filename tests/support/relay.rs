//! A relay between two ends of TCP connections that can be cut, silenced and slowed down, also at an exact
//! byte or message of what passes.
//!
//! ```text
//! proxy ── Relay ── server        client ── Relay ── proxy
//! ```
//!
//! Connections of the proxy's control plane pass, but do not count for a [`Trap`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What becomes of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Open,
    /// New ones are refused.
    Refused,
    /// Nothing passes, and nobody is told: a cable that was pulled.
    Silent,
    /// What a server says does not arrive.
    Deaf,
    /// Everything arrives so much later.
    Slow(Duration),
}

/// Who says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Whoever has connected.
    Client,
    Server,
}

/// Where a [`Trap`] springs, counted over all connections from when it is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// After so many bytes.
    Byte(usize),
    /// Before the message of this number, from 0; not for packets of the start-up.
    Message(usize),
}

/// What happens then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The connection is closed at both ends.
    Close,
    /// The same with RST, so that what was not read yet is lost.
    Reset,
    /// Nothing passes any more, on any connection: [`Mode::Silent`].
    Hold,
}

/// A fault at an exact place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trap {
    pub of: Side,
    pub at: At,
    pub then: Fate,
}

/// A running relay. Its connections are closed when this is dropped.
pub struct Relay {
    pub port: u16,
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

struct Shared {
    to: u16,
    state: watch::Sender<State>,
    trap: parking_lot::Mutex<Option<Trap>>,
    sprung: AtomicBool,
    /// Since the last trap was set, by [`Side`].
    bytes: [AtomicUsize; 2],
    messages: [AtomicUsize; 2],
}

#[derive(Clone, Copy)]
struct State {
    mode: Mode,
    /// Connections of an earlier number end.
    cuts: usize,
    /// Connections of an earlier number never say anything again, and are told nothing.
    frozen: usize,
    is_over: bool,
}

impl Relay {
    /// To a port of this machine.
    pub fn start(to: u16) -> Self {
        Self::start_at("127.0.0.1", 0, to)
    }

    /// At this address and port; 0: any that is free.
    pub fn start_at(address: &str, port: u16, to: u16) -> Self {
        let state = State { mode: Mode::Open, cuts: 0, frozen: 0, is_over: false };
        let shared = Arc::new(Shared {
            to,
            state: watch::Sender::new(state),
            trap: parking_lot::Mutex::default(),
            sprung: AtomicBool::new(false),
            bytes: Default::default(),
            messages: Default::default(),
        });
        let listener = std::net::TcpListener::bind((address, port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let running = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(accept(listener, running));
        });
        Self { port, shared, thread: Some(thread) }
    }

    /// From now on.
    pub fn set(&self, mode: Mode) {
        self.shared.state.send_modify(|it| it.mode = mode);
    }

    /// Closes every connection; new ones are as the mode says.
    pub fn cut(&self) {
        self.shared.state.send_modify(|it| it.cuts += 1);
    }

    /// Nothing passes any more on the connections of now, as after a server's machine was lost: new ones do.
    pub fn freeze(&self) {
        self.shared.state.send_modify(|it| it.frozen += 1);
    }

    /// Sets a trap, in the place of any other, and counts from now on.
    pub fn trap(&self, trap: Trap) {
        let mut held = self.shared.trap.lock();
        *held = Some(trap);
        self.count_anew();
        self.shared.sprung.store(false, Ordering::SeqCst);
    }

    /// There is no trap any more, and it is counted from now on.
    pub fn disarm(&self) {
        *self.shared.trap.lock() = None;
        self.count_anew();
    }

    fn count_anew(&self) {
        let counters = self.shared.bytes.iter().chain(&self.shared.messages);
        counters.for_each(|it| it.store(0, Ordering::SeqCst));
    }

    /// Whether the trap has sprung.
    pub fn has_sprung(&self) -> bool {
        self.shared.sprung.load(Ordering::SeqCst)
    }

    /// Bytes that were said since the last trap was set or disarmed.
    pub fn bytes(&self, of: Side) -> usize {
        self.shared.bytes[of as usize].load(Ordering::SeqCst)
    }

    /// Messages that were begun since then.
    pub fn messages(&self, of: Side) -> usize {
        self.shared.messages[of as usize].load(Ordering::SeqCst)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.state.send_modify(|it| it.is_over = true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: std::net::TcpListener, shared: Arc<Shared>) {
    let listener = TcpListener::from_std(listener).unwrap();
    let mut state = shared.state.subscribe();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = state.wait_for(|it| it.is_over) => return,
        };
        let Ok((stream, _)) = accepted else { continue };
        if shared.state.borrow().mode == Mode::Refused {
            let _ = stream.set_zero_linger();
            continue;
        }
        tokio::spawn(serve(stream, Arc::clone(&shared)));
    }
}

/// One connection, until it ends or is cut.
async fn serve(client: TcpStream, shared: Arc<Shared>) {
    let mut state = shared.state.subscribe();
    let cuts = state.borrow_and_update().cuts;
    let is_over = |it: &State| it.is_over || it.cuts != cuts;
    // What was held back does not pass when it is cut and opened in one moment.
    tokio::select! {
        biased;
        _ = state.wait_for(is_over) => (),
        _ = link(client, &shared) => (),
    }
}

/// A connection has to end at both ends.
struct Cut;

async fn link(client: TcpStream, shared: &Shared) -> Result<(), Cut> {
    let mut state = shared.state.subscribe();
    let _ = state.wait_for(|it| it.mode != Mode::Silent).await;
    let server = TcpStream::connect(("127.0.0.1", shared.to)).await.map_err(|_| Cut)?;
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let mut is_counted = true;
    // Packets of the start-up: requests for encryption, which are declined, then the parameters.
    loop {
        let length = from_client.read_u32().await.map_err(|_| Cut)?;
        let mut packet = length.to_be_bytes().to_vec();
        packet.resize(length.clamp(8, 10_000) as usize, 0);
        from_client.read_exact(&mut packet[4..]).await.map_err(|_| Cut)?;
        let needle = b"pgsluice control";
        is_counted &= !packet.windows(needle.len()).any(|it| it == needle);
        to_server.write_all(&packet).await.map_err(|_| Cut)?;
        match u32::from_be_bytes([packet[4], packet[5], packet[6], packet[7]]) {
            80_877_103 | 80_877_104 => {
                let answer = from_server.read_u8().await.map_err(|_| Cut)?;
                to_client.write_u8(answer).await.map_err(|_| Cut)?;
            }
            // Cancel requests.
            80_877_102 => is_counted = false,
            _ => break,
        }
    }
    tokio::try_join!(
        pump(&mut from_client, &mut to_server, Side::Client, is_counted, shared),
        pump(&mut from_server, &mut to_client, Side::Server, is_counted, shared),
    )?;
    Ok(())
}

async fn pump(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    side: Side,
    is_counted: bool,
    shared: &Shared,
) -> Result<(), Cut> {
    let mut state = shared.state.subscribe();
    let frozen = state.borrow().frozen;
    let mut frames = Frames::default();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = from.read(&mut buffer).await.map_err(|_| Cut)?;
        let mut rest = &buffer[..count];
        if count == 0 {
            wait(&mut state, side, frozen).await;
            let _ = to.shutdown().await;
            return Ok(());
        }
        let mode = state.borrow().mode;
        if let Mode::Slow(delay) = mode {
            tokio::time::sleep(delay).await;
        }
        while !rest.is_empty() {
            wait(&mut state, side, frozen).await;
            let passed = shared.pass(side, is_counted, &mut frames, rest);
            to.write_all(&rest[..passed.bytes]).await.map_err(|_| Cut)?;
            rest = &rest[passed.bytes..];
            match passed.fate {
                Some(Fate::Close) => return Err(Cut),
                Some(Fate::Reset) => {
                    let sockets = [from.as_ref(), to.as_ref()];
                    sockets.iter().for_each(|it| drop(it.set_zero_linger()));
                    return Err(Cut);
                }
                Some(Fate::Hold) => {
                    shared.state.send_modify(|it| it.mode = Mode::Silent);
                    shared.sprung.store(true, Ordering::SeqCst);
                }
                None => (),
            }
        }
    }
}

async fn wait(state: &mut watch::Receiver<State>, side: Side, frozen: usize) {
    let passes = |it: &State| match it.mode {
        _ if it.frozen != frozen => false,
        Mode::Silent => false,
        Mode::Deaf => side == Side::Client,
        Mode::Open | Mode::Refused | Mode::Slow(_) => true,
    };
    let _ = state.wait_for(passes).await;
}

/// How much of some bytes may pass, and what happens then.
struct Passed {
    bytes: usize,
    fate: Option<Fate>,
}

impl Shared {
    fn pass(&self, side: Side, is_counted: bool, frames: &mut Frames, bytes: &[u8]) -> Passed {
        let mut trap = self.trap.lock();
        let ended = frames.ahead(bytes);
        if !is_counted {
            frames.skip(bytes);
            return Passed { bytes: bytes.len(), fate: None };
        }
        let (before, begun) =
            (self.bytes(side), self.messages[side as usize].load(Ordering::SeqCst));
        let limit = trap.filter(|it| it.of == side).and_then(|it| match it.at {
            At::Byte(at) => Some(at.saturating_sub(before)).filter(|it| *it <= bytes.len()),
            At::Message(number) => ended.get(number.saturating_sub(begun)).copied(),
        });
        let passing = limit.unwrap_or(bytes.len());
        frames.skip(&bytes[..passing]);
        self.bytes[side as usize].fetch_add(passing, Ordering::SeqCst);
        let messages = ended.iter().filter(|it| **it < passing).count();
        self.messages[side as usize].fetch_add(messages, Ordering::SeqCst);
        let Some(sprung) = limit.and_then(|_| trap.take()) else {
            return Passed { bytes: passing, fate: None };
        };
        if sprung.then != Fate::Hold {
            self.sprung.store(true, Ordering::SeqCst);
        }
        Passed { bytes: passing, fate: Some(sprung.then) }
    }

    fn bytes(&self, side: Side) -> usize {
        self.bytes[side as usize].load(Ordering::SeqCst)
    }
}

/// Finds where messages begin in a stream of them.
#[derive(Clone, Default)]
struct Frames {
    /// Of the message that is under way.
    header: Vec<u8>,
    /// Bytes that are left of its body.
    body: usize,
}

impl Frames {
    /// Where messages begin in the bytes that come next.
    fn ahead(&self, bytes: &[u8]) -> Vec<usize> {
        self.clone().walk(bytes)
    }

    fn skip(&mut self, bytes: &[u8]) {
        self.walk(bytes);
    }

    fn walk(&mut self, bytes: &[u8]) -> Vec<usize> {
        let (mut begins, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            if self.body > 0 {
                let count = self.body.min(bytes.len() - at);
                (self.body, at) = (self.body - count, at + count);
                continue;
            }
            if self.header.is_empty() {
                begins.push(at);
            }
            self.header.push(bytes[at]);
            at += 1;
            if let [_, a, b, c, d] = self.header[..] {
                self.body = (u32::from_be_bytes([a, b, c, d]) as usize).saturating_sub(4);
                self.header.clear();
            }
        }
        begins
    }
}

/// Waits until a trap springs; whether it did in time.
pub fn springs(relays: &[&Relay], within: Duration) -> bool {
    let deadline = Instant::now() + within;
    while !relays.iter().any(|it| it.has_sprung()) {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}
