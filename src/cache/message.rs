//! What proxies tell each other: one binary message.

/// The form of messages. A proxy that hears another one does not know what is said.
const VERSION: u8 = 2;
/// Version, sender, number, lease, fence, flags.
const HEAD: usize = 1 + 8 + 8 + 4 + 4 + 1;
const LEAVES: u8 = 1;

/// A proxy's word to the others on what it writes in one database; without marks, that it is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) sender: u64,
    /// Rises with each of a sender's messages.
    pub(super) number: u64,
    /// How long `hot` holds, in milliseconds.
    pub(super) lease_ms: u32,
    /// How long the sender waits before it writes, in microseconds.
    pub(super) fence_us: u32,
    /// It ends, and will write nothing more.
    pub(super) leaves: bool,
    /// What it may write from now on.
    pub(super) hot: Vec<u16>,
    /// What it has written and will not write without another word.
    pub(super) cool: Vec<u16>,
    /// Whom it has heard of late, and up to which of their messages.
    pub(super) heard: Vec<(u64, u64)>,
}

impl Message {
    /// As bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        let marks = self.hot.len() + self.cool.len();
        let mut out = Vec::with_capacity(HEAD + 6 + 2 * marks + 16 * self.heard.len());
        out.push(VERSION);
        out.extend(self.sender.to_be_bytes());
        out.extend(self.number.to_be_bytes());
        out.extend(self.lease_ms.to_be_bytes());
        out.extend(self.fence_us.to_be_bytes());
        out.push(if self.leaves { LEAVES } else { 0 });
        for marks in [&self.hot, &self.cool] {
            out.extend((marks.len() as u16).to_be_bytes());
            marks.iter().for_each(|it| out.extend(it.to_be_bytes()));
        }
        out.extend((self.heard.len() as u16).to_be_bytes());
        for (id, number) in &self.heard {
            out.extend(id.to_be_bytes());
            out.extend(number.to_be_bytes());
        }
        out
    }

    /// From bytes; `None` if they are no message that this proxy knows.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = Rest(bytes);
        if rest.take::<1>()? != [VERSION] {
            return None;
        }
        let message = Self {
            sender: u64::from_be_bytes(rest.take()?),
            number: u64::from_be_bytes(rest.take()?),
            lease_ms: u32::from_be_bytes(rest.take()?),
            fence_us: u32::from_be_bytes(rest.take()?),
            leaves: rest.take::<1>()? == [LEAVES],
            hot: rest.marks()?,
            cool: rest.marks()?,
            heard: rest.heard()?,
        };
        rest.0.is_empty().then_some(message)
    }
}

struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn marks(&mut self) -> Option<Vec<u16>> {
        let count = u16::from_be_bytes(self.take()?);
        (0..count).map(|_| self.take().map(u16::from_be_bytes)).collect()
    }

    fn heard(&mut self) -> Option<Vec<(u64, u64)>> {
        let count = u16::from_be_bytes(self.take()?);
        let mut number = || self.take().map(u64::from_be_bytes);
        (0..count).map(|_| Some((number()?, number()?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_written_and_nothing_else_is() {
        let message = Message {
            sender: 7,
            number: u64::MAX,
            lease_ms: 5000,
            fence_us: 20_000,
            leaves: true,
            hot: vec![0, 16_385],
            cool: vec![3],
            heard: vec![(9, 1), (u64::MAX, 2)],
        };
        let bytes = message.encode();
        assert_eq!(Message::decode(&bytes), Some(message));
        for len in 0..bytes.len() {
            assert_eq!(Message::decode(&bytes[..len]), None, "{len}");
        }
        assert_eq!(Message::decode(&[&bytes[..], b"x"].concat()), None);
        assert_eq!(Message::decode(&[&[VERSION + 1][..], &bytes[1..]].concat()), None);
        let empty = Message::default();
        assert_eq!(Message::decode(&empty.encode()), Some(empty));
    }
}
