//! A token: positions that reads of another session, at whichever proxy, are to have seen.
//!
//! `1.0-16B374D848.2-5000060`: a version, then for each shard its number and the position of its primary's
//! log, both without what a cookie or a comment would have to quote.

use super::positions::Lsn;
use crate::error::{PgError, sqlstate};
use crate::shard::ShardId;

const VERSION: &str = "1";
/// Shards that a token names at most.
const LIMIT: usize = 128;

/// Positions by shard; a shard stands in it once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Token(Vec<(ShardId, Lsn)>);

impl Token {
    /// Reads a token.
    ///
    /// # Errors
    /// 22023 for anything that no proxy has told.
    pub fn parse(text: &str) -> Result<Self, PgError> {
        let mut parts = text.split('.');
        let mut token = Self::default();
        let part = |it: &str| {
            let (shard, lsn) = it.split_once('-')?;
            let is_number = |it: &str, radix| it.chars().all(|it| it.is_digit(radix));
            let valid = is_number(shard, 10) && is_number(lsn, 16);
            let read = (shard.parse().ok()?, u64::from_str_radix(lsn, 16).ok()?);
            valid.then_some((ShardId(read.0), Lsn(read.1)))
        };
        if parts.next() != Some(VERSION) || text.len() > LIMIT * 24 {
            return Err(malformed(text));
        }
        for it in parts {
            let (shard, lsn) = part(it).ok_or_else(|| malformed(text))?;
            token.raise(shard, lsn);
        }
        Ok(token)
    }

    /// Reads of the shard are to have seen this position, too.
    pub fn raise(&mut self, shard: ShardId, lsn: Lsn) {
        match self.0.iter_mut().find(|it| it.0 == shard) {
            Some((_, known)) => *known = lsn.max(*known),
            None => {
                self.0.push((shard, lsn));
                self.0.sort_by_key(|it| it.0);
            }
        }
    }

    /// What reads of the shard are to have seen.
    pub fn of(&self, shard: ShardId) -> Lsn {
        self.0.iter().find(|it| it.0 == shard).map_or(Lsn::default(), |it| it.1)
    }
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(VERSION)?;
        self.0.iter().try_for_each(|(shard, lsn)| write!(f, ".{shard}-{:X}", lsn.0))
    }
}

fn malformed(text: &str) -> PgError {
    let shown: String = text.chars().take(60).collect();
    PgError::new(
        sqlstate::INVALID_PARAMETER_VALUE,
        format!("invalid value for sluice.token: {shown:?}"),
    )
    .hint("give what SHOW sluice.token has told, or '' for none")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_round_trip() {
        let mut token = Token::default();
        assert_eq!(token.to_string(), "1");
        token.raise(ShardId(2), Lsn(0x500_0060));
        token.raise(ShardId(0), Lsn(0x16_b374_d848));
        token.raise(ShardId(2), Lsn(1));
        assert_eq!(token.to_string(), "1.0-16B374D848.2-5000060");
        assert_eq!(Token::parse(&token.to_string()), Ok(token.clone()));
        assert_eq!((token.of(ShardId(2)), token.of(ShardId(1))), (Lsn(0x500_0060), Lsn(0)));
    }

    #[test]
    fn what_no_proxy_has_told_is_refused() {
        for text in
            ["", "2", "1.", "1.0", "1.0-", "1.0-G", "1.-5", "1.0-+5", "1.300-5", "1 .0-5", "1.0-5;"]
        {
            assert_eq!(Token::parse(text).unwrap_err().code, "22023", "{text}");
        }
    }
}
