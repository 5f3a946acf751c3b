//! Which tenants other proxies write, through Redis: `[redis]`.
//!
//! A *mark* is a tenant's slot, or what stands for more (`pool::writes`). What a proxy writes itself it
//! knows; this is how it knows of the others in time. Redis keeps nothing: it is one loudspeaker.
//!
//! # The argument
//!
//! *Promise*: nobody who has seen a write through proxy A acknowledged, or its rows, is served through
//! proxy B by a replica that does not have it.
//!
//! 1. A marks the write as open for itself, and then looks whether the mark is announced. If not, it has
//!    Redis PUBLISH that the mark is *hot* at A for `LEASE`, waits for the reply, then for the `fence`, and
//!    only then sends the statement to a server. Let the message have passed Redis at P; the write is seen by
//!    somebody at P + fence at the earliest.
//! 2. B trusts what it knows at time t only if a PING that it sent on its connection after t - ⅞ fence
//!    was answered. Redis answers a connection in order, and messages are taken in before the answer to the PING
//!    (`redis`): so B knows all that passed Redis before t - ⅞ fence. If a client has seen the write at t,
//!    then t ≥ P + fence, so B knows that the mark is hot, and the primary serves the read. (B decides at t and
//!    reads later; a write seen by nobody at t may be missing.) A B that cannot trust what it knows uses primaries.
//!    A need not wait for the whole fence once every B has confirmed the message, which it does once it holds
//!    the mark: from then on every look of B's finds it held. Every B that trusts what it knows is known to A: it has been
//!    heard for a `LEASE` before it trusts anything (5.), at least every `HEARTBEAT`, and A hears since `SILENCE`. It
//!    counts until it has said goodbye, and it trusts nothing any more when it says that. In large fleets nobody confirms.
//! 3. B holds the mark until the lease ends by its own clock, which it starts when the message comes; A
//!    starts its own before it sends the message, so A's ends first. A uses a lease for new statements, COMMIT
//!    included, in its first half only, and announces anew, each `RENEWAL`, what is open or in use. So a write
//!    under way at A is held at B.
//! 4. When a mark has not been used for `QUIET`, A says that it is *cool*. A first takes the announcement back
//!    for itself, then looks whether a write is open (in 1. a write does both in the other order), so no write
//!    slips between. B then, or when the lease ends, gives the mark a ticket of its own: the position that
//!    the primary tells after that is at or above all that A committed.
//! 5. B that has just connected has missed what was said before: it counts everything as open for one
//!    `LEASE`. Messages of a connection that A has given up may come late: they are numbered, older ones do not count.
//!
//! Only the clocks' speed counts, and that they do not stop: ⅞ is for their difference.
//!
//! *Without Redis* A cannot announce. Writes go on (nothing may depend on what may be lost), so others must notice:
//! each proxy is heard every `HEARTBEAT`; when one is silent for `SILENCE` without a goodbye, all
//! others use primaries until it is heard again, or for `distrust`. A writes what is not announced only
//! `NOTICE` after it lost Redis: the others have noticed by then. When it is back its first message names all
//! that it has open.
//!
//! *Not covered*: a process, or its server, that stands still for more than half a lease between its last look
//! and the statement's arrival; a proxy that has never reached Redis, or not for longer than `distrust`; two Redis
//! servers that both take themselves for the one (then the heartbeats are missed, within `SILENCE`).

mod channel;
mod fleet;
mod leases;
mod message;
mod peers;
mod redis;
#[cfg(test)]
mod simulation;

pub use channel::{Channel, Ledger};
pub use fleet::{Fleet, Member};
pub use peers::PeerState;

use crate::shard::SLOTS;

/// What stands for rows of no tenant, and for everything.
pub const UNTENANTED: u16 = SLOTS;
/// See [`UNTENANTED`].
pub const EVERYTHING: u16 = SLOTS + 1;
/// How many marks there are.
pub const MARKS: usize = EVERYTHING as usize + 1;

/// One second of the fleet's clock, which counts microseconds.
const SECOND: u64 = 1_000_000;
/// How long an announcement holds.
const LEASE: u64 = 5 * SECOND;
/// How soon it is repeated.
const RENEWAL: u64 = SECOND;
/// How long a mark is not used before it is taken back.
const QUIET: u64 = SECOND / 5;
/// How often a proxy is heard.
const HEARTBEAT: u64 = SECOND / 2;
/// How long it is not, before it is distrusted.
const SILENCE: u64 = 2 * SECOND;
/// With more others than that nobody confirms what it has heard: each would have to be told by each.
const CONFIRMING: usize = 8;
/// How long after the loss of Redis a proxy writes what it cannot announce: [`SILENCE`], and what may lie in
/// a lost connection ([`redis::STALE`]).
const NOTICE: u64 = SILENCE + SECOND + SECOND / 2;
