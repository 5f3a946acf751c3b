//! Which host serves: who has seen enough; the nearest that answer, those first that have least to do and
//! are quick; when a host is let be for a while; and
//! who is the primary.

mod breaker;
pub mod budget;
mod latency;
mod order;
mod outlier;
pub mod positions;
pub mod roles;
pub mod token;

pub use breaker::{Breaker, Rules, State};
pub use latency::Latency;
pub use order::{Load, first, order};
pub use outlier::{Rest, Sample, outlier};
