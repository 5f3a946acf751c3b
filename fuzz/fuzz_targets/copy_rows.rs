//! COPY data gives the same pieces in whatever chunks it comes, and the pieces are the data.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgsluice::error::PgError;
use pgsluice::sql::copy::{CopyFormat, CopyRows, Piece};

/// The pieces up to the end or the first error.
fn pieces(format: &CopyFormat, chunks: &[&[u8]]) -> (Vec<(u8, Vec<u8>, Vec<u8>)>, Option<PgError>) {
    let (mut rows, mut pieces) = (CopyRows::new(format, 1, 1 << 20), Vec::new());
    for chunk in chunks.iter().map(Some).chain([None]) {
        match chunk {
            Some(chunk) => rows.feed(chunk),
            None => rows.finish(),
        }
        loop {
            match rows.next_piece() {
                Ok(Some(Piece::Header(bytes))) => pieces.push((0, bytes.into(), vec![])),
                Ok(Some(Piece::End(bytes))) => pieces.push((1, bytes.into(), vec![])),
                Ok(Some(Piece::Row { bytes, key: None })) => pieces.push((2, bytes.into(), vec![])),
                Ok(Some(Piece::Row { bytes, key: Some(key) })) => {
                    pieces.push((3, bytes.into(), key.into()));
                }
                Ok(None) => break,
                Err(error) => return (pieces, Some(error)),
            }
        }
    }
    (pieces, None)
}

fuzz_target!(|input: (u8, u8, &[u8])| {
    let (choice, size, data) = input;
    let (header, null) = (choice & 4 != 0, if choice & 8 == 0 { "" } else { "\\N" });
    let format = match choice & 3 {
        0 => CopyFormat::Text { delimiter: b'\t', null: null.into(), header },
        1 => CopyFormat::Binary,
        _ => CopyFormat::Csv {
            delimiter: b',',
            quote: b'"',
            escape: if choice & 16 == 0 { b'"' } else { b'\\' },
            null: null.into(),
            header,
            force_null: choice & 32 != 0,
        },
    };
    let whole = pieces(&format, &[data]);
    let chunks: Vec<&[u8]> = data.chunks(usize::from(size).max(1)).collect();
    assert_eq!(whole, pieces(&format, &chunks));
    let joined: Vec<u8> = whole.0.iter().flat_map(|piece| piece.1.iter().copied()).collect();
    assert!(data.starts_with(&joined));
    if whole.1.is_none() && !whole.0.iter().any(|piece| piece.0 == 1) {
        assert_eq!(joined, data);
    }
});
