use super::*;

fn text(header: bool) -> CopyFormat {
    CopyFormat::Text { delimiter: b'\t', null: "\\N".into(), header }
}

fn csv(escape: u8, force_null: bool) -> CopyFormat {
    let (delimiter, quote, null) = (b',', b'"', String::new());
    CopyFormat::Csv { delimiter, quote, escape, null, header: false, force_null }
}

/// Feeds data in chunks of `size`; shows the key of each row, `-` for NULL, `H` and `E` for header and
/// end. The pieces together must be the data.
fn split(format: &CopyFormat, column: usize, data: &[u8], size: usize) -> Result<String, PgError> {
    let (mut rows, mut shown, mut whole) = (CopyRows::new(format, column, 100), vec![], vec![]);
    let mut take = |rows: &mut CopyRows| {
        while let Some(piece) = rows.next_piece()? {
            let (bytes, show) = match piece {
                Piece::Header(bytes) => (bytes, "H".into()),
                Piece::End(bytes) => (bytes, "E".into()),
                Piece::Row { bytes, key: None } => (bytes, "-".into()),
                Piece::Row { bytes, key: Some(key) } => {
                    (bytes, String::from_utf8_lossy(&key).into_owned())
                }
            };
            whole.extend_from_slice(bytes);
            shown.push(show);
        }
        Ok::<(), PgError>(())
    };
    for chunk in data.chunks(size) {
        rows.feed(chunk);
        take(&mut rows)?;
    }
    rows.finish();
    take(&mut rows)?;
    if !shown.iter().any(|it| it == "E") {
        assert_eq!(whole, data);
    }
    Ok(shown.join("|"))
}

/// The same for every size of chunks.
fn keys(format: &CopyFormat, column: usize, data: &[u8]) -> String {
    let show = |size| split(format, column, data, size).unwrap_or_else(|it| it.to_string());
    let all = show(data.len().max(1));
    for size in 1..data.len() {
        assert_eq!(show(size), all, "in chunks of {size}");
    }
    all
}

#[test]
fn text_rows() {
    let keys = |column, data: &str| keys(&text(false), column, data.as_bytes());
    assert_eq!(keys(0, "a\t1\nb\t2\n"), "a|b");
    assert_eq!(keys(1, "a\t1\r\nb\t\\N\r\nc\t"), "1|-|");
    assert_eq!(keys(0, "a\rb\r"), "a|b");
    assert_eq!(keys(0, "a\\\nb\\tc\\x41\\101\\q\\\\\n"), "a\nb\tcAAq\\");
    assert_eq!(keys(1, "a\\\tb\tc\n"), "c");
    assert_eq!(keys(0, "a\n\\.\nignored\n"), "a|E");
    assert_eq!(keys(0, "a\n\\."), "a|E");
    assert_eq!(keys(0, "a\r\n\\.\r\n"), "a|E");
    assert_eq!(keys(0, ""), "");
    assert_eq!(keys(0, "\n\n"), "|");
    assert_eq!(keys(0, "a\\"), "a\\");
}

#[test]
fn text_errors() {
    let keys = |column, data: &str| keys(&text(true), column, data.as_bytes());
    assert_eq!(keys(0, "h\t\\N\na\n"), "H|a");
    assert!(keys(1, "h\na\n").contains("22P04: missing data"));
    assert!(keys(0, "h\na\nb\r").ends_with(
        "22P04: literal carriage return found in data\nDETAIL: COPY line 3\nHINT: Use \"\\r\" to represent carriage return."
    ));
    assert!(keys(0, "h\r\na\n").contains("literal newline found"));
    assert!(keys(0, "h\na\\.\n").contains("not alone on its line"));
    assert!(keys(0, "h\n\\.a\n").contains("not alone on its line"));
    assert!(keys(0, &format!("h\n{}", "a".repeat(300))).contains("54000"));
}

#[test]
fn csv_rows() {
    let plain = |column, data: &str| keys(&csv(b'"', false), column, data.as_bytes());
    assert_eq!(plain(1, "a,b\n\"x,\"\"\ny\",\"c\"\"d\"\n"), "b|c\"d");
    assert_eq!(plain(0, "\"a\nb\",1\r\n\"\",2\r\n,3"), "a\nb||-");
    assert_eq!(plain(0, "a\"b,\"c,1\n"), "ab,c");
    assert_eq!(keys(&csv(b'"', true), 0, b"\"\",2\n"), "-");
    let backslash = |data: &str| keys(&csv(b'\\', false), 0, data.as_bytes());
    assert_eq!(backslash("\"a\\\"\nb\",1\n\"c\\\\\",1\n"), "a\"\nb|c\\");
    assert_eq!(backslash("a\\,1\n"), "a\\");
}

#[test]
fn csv_errors_and_markers() {
    let keys = |column, data: &str| keys(&csv(b'"', false), column, data.as_bytes());
    assert!(keys(0, "\"a\nb\n").contains("unterminated CSV quoted field"));
    assert!(keys(0, "z,0\n\"a\nb\",1\nd\r").contains("DETAIL: COPY line 4"));
    assert!(keys(1, "a,1\nb\n").contains("missing data"));
    assert_eq!(keys(1, "a,1\n\\.\n"), "1|E");
    assert_eq!(keys(0, "a\n\\."), "a|\\.");
    assert!(keys(1, "a,1\n\\.\nb,2\n").contains("0A000"));
    assert_eq!(keys(0, "\"\\.\"\n\\.a\n"), "\\.|\\.a");
}

#[test]
fn binary_rows() {
    let mut data = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\x02xx".to_vec();
    data.extend_from_slice(b"\0\x02\0\0\0\x01a\0\0\0\x02bc");
    data.extend_from_slice(b"\0\x02\0\0\0\0\xff\xff\xff\xff");
    assert_eq!(keys(&CopyFormat::Binary, 1, &data), "H|bc|-");
    data.extend_from_slice(b"\xff\xff");
    assert_eq!(keys(&CopyFormat::Binary, 0, &data), "H|a||E");
    let of = |data: &[u8]| keys(&CopyFormat::Binary, 0, data);
    assert!(keys(&CopyFormat::Binary, 2, &data).contains("the tenant is missing"));
    assert!(of(&[&data[..], b"x"].concat()).contains("after EOF marker"));
    assert!(of(&data[..30]).contains("unexpected EOF"));
    assert!(of(b"").contains("unexpected EOF"));
    assert!(of(b"PGCOPX").contains("signature"));
}
