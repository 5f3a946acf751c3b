//! One-dimensional arrays of tenant keys, as parameters carry them.
//! <https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO>

use super::key::{KeyValue, from_binary, from_text};
use crate::error::PgError;
use crate::shard::KeyType;

/// The pseudo-type of a parameter whose type is not known.
pub(super) const UNKNOWN: u32 = 705;

/// The key type of an array type's elements: `int2[]`, `int4[]`, `int8[]`, `text[]`, `varchar[]`,
/// `uuid[]`.
pub(super) fn element_type(array_oid: u32) -> Option<KeyType> {
    match array_oid {
        1005 | 1007 | 1016 => Some(KeyType::Int),
        1009 | 1015 => Some(KeyType::Text),
        2951 => Some(KeyType::Uuid),
        _ => None,
    }
}

/// The values of a text-format array such as `{1,NULL,"a b"}`; `None` if it is anything but a plain
/// one-dimensional array.
pub(super) fn text(kind: KeyType, value: &[u8]) -> Result<Option<Vec<KeyValue>>, PgError> {
    let Some(elements) = std::str::from_utf8(value).ok().and_then(text_elements) else {
        return Ok(None);
    };
    let read = |element: Option<String>| match element {
        Some(text) => from_text(kind, text.as_bytes()),
        None => Ok(KeyValue::Null),
    };
    elements.into_iter().map(read).collect::<Result<_, _>>().map(Some)
}

fn text_elements(value: &str) -> Option<Vec<Option<String>>> {
    let mut rest = trim(value).strip_prefix('{')?.strip_suffix('}')?;
    let mut elements = Vec::new();
    if trim(rest).is_empty() {
        return Some(elements);
    }
    loop {
        let (element, after) = text_element(trim(rest))?;
        elements.push(element);
        match trim(after).strip_prefix(',') {
            Some(next) => rest = next,
            None if trim(after).is_empty() => return Some(elements),
            None => return None,
        }
    }
}

/// The first element, `None` for NULL, and what follows it.
fn text_element(list: &str) -> Option<(Option<String>, &str)> {
    if let Some(opened) = list.strip_prefix('"') {
        return quoted(opened).map(|(element, after)| (Some(element), after));
    }
    let (raw, after) = list.split_at(list.find(',').unwrap_or(list.len()));
    let raw = trim(raw);
    if raw.is_empty() || raw.contains(['"', '\\', '{', '}']) {
        return None;
    }
    Some(((!raw.eq_ignore_ascii_case("null")).then(|| raw.into()), after))
}

fn quoted(opened: &str) -> Option<(String, &str)> {
    let (mut element, mut characters) = (String::new(), opened.char_indices());
    loop {
        match characters.next()? {
            (at, '"') => return Some((element, &opened[at + 1..])),
            (_, '\\') => element.push(characters.next()?.1),
            (_, character) => element.push(character),
        }
    }
}

/// Cuts what `array_in` takes for white space.
fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c'])
}

/// The values of a binary-format array; `None` if it is not one-dimensional, not well-formed, or its
/// elements are of another type.
pub(super) fn binary(kind: KeyType, value: &[u8]) -> Result<Option<Vec<KeyValue>>, PgError> {
    let Some(elements) = binary_elements(kind, value) else { return Ok(None) };
    let read = |element: Option<&[u8]>| match element {
        Some(bytes) => from_binary(kind, bytes),
        None => Ok(KeyValue::Null),
    };
    elements.into_iter().map(read).collect::<Result<_, _>>().map(Some)
}

fn binary_elements(kind: KeyType, value: &[u8]) -> Option<Vec<Option<&[u8]>>> {
    let mut rest = value;
    let (dimensions, _flags, oid) = (int(&mut rest)?, int(&mut rest)?, int(&mut rest)?);
    if KeyType::of_oid(oid as u32) != Some(kind) {
        return None;
    }
    if dimensions == 0 && rest.is_empty() {
        return Some(Vec::new());
    }
    let (length, _lower_bound) = (int(&mut rest)?, int(&mut rest)?);
    let length = usize::try_from(length).ok().filter(|it| *it <= rest.len() / 4)?;
    let mut elements = Vec::with_capacity(length);
    for _ in 0..length {
        elements.push(match int(&mut rest)? {
            -1 => None,
            bytes => Some(rest.split_off(..usize::try_from(bytes).ok()?)?),
        });
    }
    (dimensions == 1 && rest.is_empty()).then_some(elements)
}

fn int(rest: &mut &[u8]) -> Option<i32> {
    let (bytes, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(i32::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_arrays() {
        let read = |text: &str| {
            text_elements(text).map(|elements| {
                let shown = elements.into_iter().map(|it| it.unwrap_or("NULL!".into()));
                shown.collect::<Vec<_>>().join("|")
            })
        };
        assert_eq!(read("{}").as_deref(), Some(""));
        assert_eq!(read(" { 1 , 2,null} ").as_deref(), Some("1|2|NULL!"));
        assert_eq!(read(r#"{"a b","a\"b\\","","NULL"}"#).as_deref(), Some(r#"a b|a"b\||NULL"#));
        for odd in
            ["", "1", "{", "{1,}", "{,}", "{{1}}", "[0:0]={1}", r"{a\,b}", r#"{a"b"}"#, "{1}x"]
        {
            assert_eq!(read(odd), None, "{odd}");
        }
    }

    #[test]
    fn binary_arrays() {
        let array = |dimensions: i32, oid: i32, tail: &[i32]| {
            let head = [dimensions, 0, oid];
            head.iter().chain(tail).flat_map(|it| it.to_be_bytes()).collect::<Vec<u8>>()
        };
        let read = |value: &[u8]| binary(KeyType::Int, value).unwrap().map(|it| it.len());
        assert_eq!(read(&array(0, 23, &[])), Some(0));
        assert_eq!(read(&array(1, 23, &[2, 1, 4, 7, -1])), Some(2));
        assert_eq!(read(&array(1, 25, &[1, 1, 4, 7])), None);
        assert_eq!(read(&array(2, 23, &[1, 1, 1, 1, 4, 7])), None);
        assert_eq!(read(&array(1, 23, &[1, 1, 4, 7, 0])), None);
        assert_eq!(read(&array(1, 23, &[i32::MAX, 1, 4, 7])), None);
    }
}
