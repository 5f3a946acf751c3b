//! A tenant key in canonical text, as `tenant_id::text` prints it, and its bucket.

use std::fmt;

use md5::{Digest, Md5};
use smallvec::SmallVec;
use thiserror::Error;

/// In how many slots it is noted what was written of tenants.
pub const SLOTS: u16 = 1 << 14;

/// The column types a tenant key may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyType {
    /// `text` and `varchar`: the bytes themselves.
    Text,
    Uuid,
    /// `int2`, `int4` and `int8`: a decimal number.
    Int,
}

impl KeyType {
    /// The key type of a column with this type OID; `None` if the type cannot be a tenant key.
    pub fn of_oid(oid: u32) -> Option<Self> {
        match oid {
            25 | 1043 => Some(Self::Text),
            2950 => Some(Self::Uuid),
            20 | 21 | 23 => Some(Self::Int),
            _ => None,
        }
    }
}

/// A value that does not read as a key of its type.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    #[error("{value:?} is not a {expected}")]
    Malformed { value: String, expected: &'static str },
    #[error("a binary value of {length} bytes is not a {expected}")]
    Length { length: usize, expected: &'static str },
}

/// A tenant key in canonical text: `7` for `'07'`, lower-case hyphenated for a uuid.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// UTF-8.
    text: SmallVec<[u8; 36]>,
    bucket: u8,
    slot: u16,
}

impl Key {
    fn new(text: &str) -> Self {
        let hash = Md5::digest(text.as_bytes());
        let slot = u16::from_be_bytes([hash[1], hash[2]]) % SLOTS;
        Self { text: text.as_bytes().into(), bucket: hash[0], slot }
    }

    /// Reads a key from SQL text (a literal's value or a text-format parameter) as Postgres' input
    /// function of the type would.
    ///
    /// # Errors
    /// [`KeyError::Malformed`] where Postgres reports 22P02, or where the proxy does not read it.
    pub fn from_text(kind: KeyType, value: &str) -> Result<Self, KeyError> {
        let key = match kind {
            KeyType::Text => Ok(Self::new(value)),
            KeyType::Int => int_from_text(value),
            KeyType::Uuid => uuid_from_text(value),
        };
        key.map_err(|expected| KeyError::Malformed { value: value.into(), expected })
    }

    /// Reads a key from a binary-format parameter: 2, 4 or 8 bytes big-endian, 16 bytes, or UTF-8.
    ///
    /// # Errors
    /// [`KeyError::Length`] for another length, [`KeyError::Malformed`] for text that is not UTF-8.
    pub fn from_binary(kind: KeyType, value: &[u8]) -> Result<Self, KeyError> {
        match kind {
            KeyType::Text => {
                std::str::from_utf8(value).map(Self::new).map_err(|_| KeyError::Malformed {
                    value: String::from_utf8_lossy(value).into(),
                    expected: "UTF-8 text",
                })
            }
            KeyType::Int => int_from_binary(value),
            KeyType::Uuid => match <[u8; 16]>::try_from(value) {
                Ok(bytes) => Ok(uuid(bytes)),
                Err(_) => Err(KeyError::Length { length: value.len(), expected: "uuid" }),
            },
        }
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text).expect("made of a str")
    }

    /// The bucket, 0 to 255: the first byte of the MD5 of the canonical text, which is
    /// `get_byte(decode(md5(tenant_id::text), 'hex'), 0)` in SQL.
    pub fn bucket(&self) -> u8 {
        self.bucket
    }

    /// A number below [`SLOTS`] that few tenants share, from the second and third byte of the MD5: where
    /// it is noted what was written of the tenant.
    pub fn slot(&self) -> u16 {
        self.slot
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn int_from_text(value: &str) -> Result<Key, &'static str> {
    if is_canonical(value.as_bytes()) {
        return Ok(Key::new(value));
    }
    let trimmed = value.trim_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
    let digits = trimmed.strip_prefix(['+', '-']).unwrap_or(trimmed);
    if digits.is_empty() || !digits.bytes().all(|it| it.is_ascii_digit()) {
        return Err("plain decimal integer");
    }
    match trimmed.strip_prefix('+').unwrap_or(trimmed).parse::<i128>() {
        Ok(number) => Ok(Key::new(&number.to_string())),
        Err(_) => Err("integer in range"),
    }
}

/// Whether these digits are just how an integer is printed: the common case.
fn is_canonical(digits: &[u8]) -> bool {
    matches!(digits, [b'1'..=b'9', rest @ ..] if rest.len() < 18 && rest.iter().all(u8::is_ascii_digit))
}

fn int_from_binary(value: &[u8]) -> Result<Key, KeyError> {
    let number = match *value {
        [a, b] => i64::from(i16::from_be_bytes([a, b])),
        [a, b, c, d] => i64::from(i32::from_be_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] => i64::from_be_bytes([a, b, c, d, e, f, g, h]),
        _ => return Err(KeyError::Length { length: value.len(), expected: "integer" }),
    };
    Ok(Key::new(&number.to_string()))
}

/// Reads what Postgres' `uuid_in` reads: hex digits, a hyphen allowed after each group of four,
/// braces around the whole.
fn uuid_from_text(value: &str) -> Result<Key, &'static str> {
    const EXPECTED: &str = "uuid";
    let inner = match value.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}').ok_or(EXPECTED)?,
        None => value,
    };
    let (mut bytes, mut rest) = ([0_u8; 16], inner.as_bytes());
    for (i, byte) in bytes.iter_mut().enumerate() {
        let [high, low, tail @ ..] = rest else { return Err(EXPECTED) };
        *byte = hex(*high).ok_or(EXPECTED)? << 4 | hex(*low).ok_or(EXPECTED)?;
        rest = match tail {
            [b'-', after @ ..] if i % 2 == 1 && i < 15 => after,
            _ => tail,
        };
    }
    if rest.is_empty() { Ok(uuid(bytes)) } else { Err(EXPECTED) }
}

fn hex(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).map(|it| it as u8)
}

fn uuid(bytes: [u8; 16]) -> Key {
    let mut text = String::with_capacity(36);
    for (i, byte) in bytes.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
        text.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('0'));
    }
    Key::new(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(kind: KeyType, value: &str) -> String {
        Key::from_text(kind, value).map_or_else(|e| e.to_string(), |key| key.to_string())
    }

    #[test]
    fn text_is_canonical() {
        assert_eq!(text(KeyType::Int, " 07 "), "7");
        assert_eq!(text(KeyType::Int, "-0"), "0");
        assert_eq!(text(KeyType::Int, "+5"), "5");
        assert_eq!(text(KeyType::Int, "5.0"), "\"5.0\" is not a plain decimal integer");
        assert_eq!(text(KeyType::Int, "+-5"), "\"+-5\" is not a plain decimal integer");
        let canonical = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
        for form in [
            "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
            "{a0eebc999c0b4ef8bb6d6bb9bd380a11}",
            "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
        ] {
            assert_eq!(text(KeyType::Uuid, form), canonical);
        }
        assert!(Key::from_text(KeyType::Uuid, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1").is_err());
        assert!(Key::from_text(KeyType::Uuid, "a-0eebc999c0b4ef8bb6d6bb9bd380a11").is_err());
    }

    #[test]
    fn binary_equals_text() {
        let key = |bytes: &[u8]| Key::from_binary(KeyType::Int, bytes).unwrap().to_string();
        assert_eq!(key(&7_i16.to_be_bytes()), "7");
        assert_eq!(key(&(-7_i32).to_be_bytes()), "-7");
        assert_eq!(key(&i64::MIN.to_be_bytes()), i64::MIN.to_string());
        assert!(Key::from_binary(KeyType::Int, &[1, 2, 3]).is_err());
        assert!(Key::from_binary(KeyType::Uuid, &[0; 15]).is_err());
        assert!(Key::from_binary(KeyType::Text, &[0xff]).is_err());
    }

    #[test]
    fn bucket_is_the_first_byte_of_md5() {
        // SELECT get_byte(decode(md5('acme'), 'hex'), 0)
        assert_eq!(Key::from_text(KeyType::Text, "acme").unwrap().bucket(), 0x53);
        assert_eq!(Key::from_text(KeyType::Int, "1").unwrap().bucket(), 0xc4);
    }
}
