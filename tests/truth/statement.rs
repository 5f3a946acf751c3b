//! A statement and the ways it runs.

use super::query::{MARK, Param};
use super::support::wire::{Answer, Arguments, Wire};

/// A random statement.
#[derive(Clone, Debug, Default)]
pub struct Statement {
    /// With marks where parameters are.
    pub sql: String,
    pub params: Vec<Param>,
    pub is_ordered: bool,
    /// Tables it may change.
    pub changes: Vec<String>,
    /// A comment that no other statement has, so that nothing is known of it yet.
    pub comment: String,
    /// A write before it in the same transaction.
    pub first: Option<Box<Self>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// With literals for parameters.
    Simple,
    Text,
    /// Parameters whose types are left to the server.
    Untyped,
    Binary,
}

/// How a statement runs.
#[derive(Clone, Copy, Debug)]
pub struct Mode {
    pub protocol: Protocol,
    pub in_tx: bool,
}

impl Mode {
    pub fn nth(n: usize) -> Self {
        const ALL: [Protocol; 4] =
            [Protocol::Simple, Protocol::Binary, Protocol::Text, Protocol::Untyped];
        Self { protocol: ALL[n % 4], in_tx: n / 4 % 2 == 1 }
    }
}

impl Statement {
    pub fn text(&self, protocol: Protocol) -> String {
        let mut text = String::new();
        for (i, part) in self.sql.split(MARK).enumerate() {
            match (i % 2, part.parse::<usize>()) {
                (1, Ok(n)) if protocol == Protocol::Simple => {
                    text.push_str(&self.params[n - 1].literal);
                }
                (1, Ok(n)) => text.push_str(&format!("${n}")),
                _ => text.push_str(part),
            }
        }
        text.push_str(&self.comment);
        text
    }

    /// Its answer.
    pub fn run(&self, wire: &mut Wire, protocol: Protocol) -> Answer {
        let text = self.text(protocol);
        let format = i16::from(protocol == Protocol::Binary);
        let value = |it: &Param| match protocol {
            Protocol::Binary => binary(it.oid, &it.text),
            _ => it.text.as_bytes().to_vec(),
        };
        let values: Vec<_> = self.params.iter().map(|it| Some(value(it))).collect();
        let types: Vec<u32> = self.params.iter().map(|it| it.oid).collect();
        let types = if protocol == Protocol::Untyped { &[][..] } else { &types };
        match protocol {
            Protocol::Simple => wire.query(&text),
            _ => wire.extended(&text, &Arguments { types, values: &values, format }),
        }
    }
}

/// A value in its type's binary format.
fn binary(oid: u32, text: &str) -> Vec<u8> {
    let number = |text: &str| text.parse::<i64>().unwrap();
    let element = match oid {
        1007 => 23,
        1009 => 25,
        1016 => 20,
        2951 => 2950,
        16 => return vec![u8::from(text == "true")],
        20 => return number(text).to_be_bytes().to_vec(),
        23 => return (number(text) as i32).to_be_bytes().to_vec(),
        2950 => {
            let digits = text.replace('-', "");
            return u128::from_str_radix(&digits, 16).unwrap().to_be_bytes().to_vec();
        }
        _ => return text.as_bytes().to_vec(),
    };
    let items: Vec<&str> =
        text.trim_matches(['{', '}']).split(',').map(|it| it.trim_matches('"')).collect();
    let header = [1, 0, element, items.len() as i32, 1];
    let mut bytes: Vec<u8> = header.iter().flat_map(|it: &i32| it.to_be_bytes()).collect();
    for item in items {
        let item = binary(element as u32, item);
        bytes.extend((item.len() as i32).to_be_bytes());
        bytes.extend(item);
    }
    bytes
}
