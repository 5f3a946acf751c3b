//! `tests/golden/wire`: transcripts of a pipeline, frames built, frames read.

#![allow(clippy::unwrap_used)] // a test may panic in its helpers, too

#[path = "golden/runner.rs"]
mod runner;

use bytes::{Bytes, BytesMut};
use pgsluice::error::PgError;
use pgsluice::wire::pipeline::{Action, Pipeline, Verdict};
use pgsluice::wire::{TxStatus, backend, frame, frontend};

#[test]
fn wire() {
    runner::run("wire", |input| {
        let lines = input.lines().map(|line| match line.split_once(' ') {
            Some(("pipeline", words)) => pipeline(words),
            Some(("build", words)) => build(words),
            Some(("read", words)) => read(words),
            _ => panic!("bad line {line}"),
        });
        lines.collect::<Vec<_>>().join("\n")
    });
}

/// `>P` request, `>P-` request of ours, `>C*` faked request, `<1` reply, `<ZT` with its status.
/// Out: what the client gets (`3*` a fake, `~` an error of our own, `!` an unexpected frame), then
/// the state.
fn pipeline(transcript: &str) -> String {
    let (mut pipeline, mut out) = (Pipeline::new(), String::new());
    for word in transcript.split_whitespace() {
        let (side, tag, mode) = match *word.as_bytes() {
            [side, tag] => (side, tag, b' '),
            [side, tag, mode] => (side, tag, mode),
            _ => panic!("bad word {word}"),
        };
        match side {
            b'>' => pipeline.on_request(tag, action(mode)),
            _ => match pipeline.on_reply(tag, TxStatus::from_byte(mode).or(Some(TxStatus::Idle))) {
                Ok(Verdict::Forward) => out.push(tag as char),
                Ok(Verdict::Skip) => {}
                Ok(Verdict::OwnError) => out.push('~'),
                Err(_) => out.push('!'),
            },
        }
        while let Some(fake) = pipeline.next_fake() {
            out.push(fake[0] as char);
            out.push('*');
        }
    }
    let state = if pipeline.is_idle() { "idle" } else { "busy" };
    format!("{out} {state} {:?}", pipeline.tx())
}

fn action(mode: u8) -> Action {
    match mode {
        b'-' => Action::Skip,
        b'*' => Action::Fake(Bytes::from_static(b"3")),
        _ => Action::Forward,
    }
}

fn build(what: &str) -> String {
    let mut out = BytesMut::new();
    let built = build_into(&mut out, what);
    match built {
        Ok(()) => out.escape_ascii().to_string(),
        Err(error) => error.to_string(),
    }
}

fn build_into(out: &mut BytesMut, what: &str) -> Result<(), PgError> {
    let error = PgError::refused("no\0pe").detail("why").hint("do");
    let client_bind = b"B\0\0\0\x1ap\0old\0\0\x01\0\x01\0\x01\0\0\0\x02\xff\0\0\x01\0\x01";
    match what {
        "ErrorResponse" => backend::error_response(out, &error),
        "NoticeResponse" => backend::notice_response(out, "WARNING", &error),
        "ReadyForQuery" => backend::ready_for_query(out, TxStatus::Failed),
        "CommandComplete" => backend::command_complete(out, "SELECT 3"),
        "ParameterStatus" => backend::parameter_status(out, b"TimeZone", b"UTC"),
        "BackendKeyData" => backend::backend_key_data(out, 7, b"\0\0\0\x09")?,
        "BackendKeyData long" => backend::backend_key_data(out, 7, b"0123456789")?,
        "BackendKeyData short" => backend::backend_key_data(out, 7, b"012")?,
        "NegotiateProtocolVersion" => {
            backend::negotiate_protocol_version(out, 0x30002, vec!["_pq_.x".into()])?;
        }
        "AuthenticationOk" => backend::authentication_ok(out),
        "AuthenticationCleartext" => backend::authentication_cleartext(out),
        "AuthenticationMD5" => backend::authentication_md5(out, *b"salt"),
        "AuthenticationSASL" => backend::authentication_sasl(out, &["SCRAM-SHA-256"]),
        "AuthenticationSASLContinue" => backend::authentication_sasl_continue(out, b"r=x"),
        "AuthenticationSASLFinal" => backend::authentication_sasl_final(out, b"v=x"),
        "RowDescription" => backend::row_description(out, &["database"]),
        "DataRow" => backend::data_row(out, &[Some("app"), None]),
        "ParameterDescription" => backend::parameter_description(out, &[23, 25]),
        "CopyInResponse" => backend::copy_in_response(out, 0, &[0, 0]),
        "CopyOutResponse" => backend::copy_out_response(out, 1, &[1]),
        "NotificationResponse" => backend::notification_response(out, 7, b"news", b"hello"),
        "empty" => {
            backend::parse_complete(out);
            backend::bind_complete(out);
            backend::close_complete(out);
            backend::no_data(out);
            backend::empty_query_response(out);
            backend::portal_suspended(out);
        }
        "Query" => frontend::query(out, b"SELECT 1"),
        "Parse" => frontend::parse(out, b"s1", b"SELECT $1", [23]),
        "Bind renamed" => {
            let bind = frontend::Bind::read(client_bind)?;
            frontend::bind_renamed(out, client_bind, &bind, b"sluice_12");
        }
        "Bind" => frontend::bind(out, b"s1", &[Some(b"5"), None], 0),
        "Describe" => frontend::describe(out, frontend::Target::Statement, b"s1"),
        "Close" => frontend::close(out, frontend::Target::Portal, b"p"),
        "Execute" => frontend::execute(out, b"", 100),
        "Sync Flush Terminate" => {
            frontend::sync(out);
            frontend::flush(out);
            frontend::terminate(out);
        }
        "Copy" => {
            frontend::copy_data(out, b"1\n");
            frontend::copy_done(out);
            frontend::copy_fail(out, "gave up");
        }
        "Startup" => frontend::startup(out, 0, [("user", "u"), ("database", "d")])?,
        "CancelRequest" => frontend::cancel_request(out, 7, b"\0\0\0\x09")?,
        "SSLRequest" => frontend::ssl_request(out),
        "Password" => frontend::password(out, b"secret"),
        "SASLInitialResponse" => frontend::sasl_initial_response(out, "SCRAM-SHA-256", b"n,,")?,
        "SASLResponse" => frontend::sasl_response(out, b"c=biws")?,
        _ => panic!("unknown message {what}"),
    }
    Ok(())
}

/// `Name body`, the body in escapes as of `build`; `Name` of a client's message ends with `<`. A
/// body of `raw …` is the whole frame.
fn read(what: &str) -> String {
    let (name, body) = what.split_once(' ').unwrap_or((what, ""));
    let bytes = match body.strip_prefix("raw ") {
        Some(raw) => unescape(raw),
        None => framed(tag_of(name), &unescape(body)),
    };
    let shown = show(name, &bytes);
    shown.unwrap_or_else(|error| error.to_string())
}

fn tag_of(name: &str) -> Option<u8> {
    Some(match name {
        "RowDescription" => b'T',
        "DataRow" | "Describe" => b'D',
        "CommandComplete" | "Close" => b'C',
        "ErrorResponse" | "Execute" => b'E',
        "ReadyForQuery" => b'Z',
        "ParameterStatus" => b'S',
        "BackendKeyData" => b'K',
        "ParameterDescription" => b't',
        "CopyInResponse" => b'G',
        "Query" => b'Q',
        "Parse" => b'P',
        "Bind" => b'B',
        "Password" | "SASLInitialResponse" | "SASLResponse" => b'p',
        "Initial" => return None,
        _ => panic!("unknown message {name}"),
    })
}

fn framed(tag: Option<u8>, body: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    match tag {
        Some(tag) => frame::put(&mut out, tag, |out| out.extend_from_slice(body)),
        None => {
            out.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
            out.extend_from_slice(body);
        }
    }
    out.to_vec()
}

fn show(name: &str, frame: &[u8]) -> Result<String, PgError> {
    Ok(match name {
        "RowDescription" => {
            let view = backend::RowDescription::read(frame)?;
            let column = |c: &backend::Column<'_>| {
                let name = c.name.escape_ascii();
                format!("{name} {}.{} {} {:?}", c.table, c.attribute, c.type_oid, c.range)
            };
            let mut shorter = BytesMut::new();
            view.put_without_last(&mut shorter, 1);
            let columns: Vec<_> = view.columns.iter().map(column).collect();
            format!("[{}]\nwithout the last: {}", columns.join(", "), shorter.escape_ascii())
        }
        "DataRow" => {
            let fields: Vec<_> = backend::DataRow::read(frame)?.collect::<Result<_, _>>()?;
            format!("{fields:?}")
        }
        "CommandComplete" => {
            let tag = backend::CommandTag::read(frame)?;
            let verb = tag.verb.escape_ascii();
            format!("{verb} {:?}, with 7: {}", tag.count, tag.with_count(7))
        }
        "ErrorResponse" => {
            let fields = backend::ErrorFields::read(frame)?;
            let code = fields.code().escape_ascii();
            format!("{code} {} fatal {}", fields.message(), fields.is_fatal())
        }
        "ReadyForQuery" => format!("{:?}", backend::view::ready_status(frame)?),
        "ParameterStatus" => {
            let view = backend::Parameter::read(frame)?;
            format!("{} = {}", view.name.escape_ascii(), view.value.escape_ascii())
        }
        "BackendKeyData" => {
            let view = backend::KeyData::read(frame)?;
            format!("{} {}", view.pid, view.key.escape_ascii())
        }
        "ParameterDescription" => {
            format!("{:?}", backend::view::parameter_types(frame)?.iter().collect::<Vec<_>>())
        }
        "CopyInResponse" => {
            let (format, columns) = backend::view::copy_formats(frame)?;
            format!("{format} {:?}", columns.iter().collect::<Vec<_>>())
        }
        _ => return show_frontend(name, frame),
    })
}

fn show_frontend(name: &str, frame: &[u8]) -> Result<String, PgError> {
    use frontend::view;
    Ok(match name {
        "Query" => view::query(frame)?.escape_ascii().to_string(),
        "Parse" => {
            let view = frontend::Parse::read(frame)?;
            let (name, sql) = (view.name.escape_ascii(), view.sql.escape_ascii());
            format!("'{name}' '{sql}' {:?}", view.types.iter().collect::<Vec<_>>())
        }
        "Bind" => {
            let view = frontend::Bind::read(frame)?;
            let (portal, name) = (view.portal.escape_ascii(), view.statement.escape_ascii());
            let formats: Vec<_> = view.formats.iter().collect();
            let results: Vec<_> = view.result_formats.iter().collect();
            format!("'{portal}' '{name}' {formats:?} {:?} {results:?}", view.values)
        }
        "Describe" | "Close" => {
            let view = frontend::Subject::read(frame)?;
            format!("{:?} '{}'", view.target, view.name.escape_ascii())
        }
        "Execute" => {
            let view = frontend::Execute::read(frame)?;
            format!("'{}' {}", view.portal.escape_ascii(), view.max_rows)
        }
        "Initial" => initial(&frontend::Initial::read(frame)?),
        "Password" => view::password(frame)?.escape_ascii().to_string(),
        "SASLInitialResponse" => {
            let view = frontend::SaslInitial::read(frame)?;
            let data = view.data.map(|data| data.escape_ascii().to_string());
            format!("{} {data:?}", view.mechanism.escape_ascii())
        }
        "SASLResponse" => view::sasl_response(frame)?.escape_ascii().to_string(),
        _ => panic!("unknown message {name}"),
    })
}

fn initial(packet: &frontend::Initial<'_>) -> String {
    match packet {
        frontend::Initial::Startup(startup) => {
            let pair = |(name, value): &(&[u8], &[u8])| {
                format!("{}={}", name.escape_ascii(), value.escape_ascii())
            };
            let parameters: Vec<_> = startup.parameters.iter().map(pair).collect();
            format!("startup 3.{} {}", startup.minor, parameters.join(" "))
        }
        frontend::Initial::Cancel(cancel) => {
            format!("cancel {} {}", cancel.pid, cancel.key.escape_ascii())
        }
        frontend::Initial::Ssl => "ssl".into(),
        frontend::Initial::GssEnc => "gssenc".into(),
    }
}

/// Bytes of `\x00`, `\0`, `\n`, `\t`, `\\` and plain characters.
fn unescape(text: &str) -> Vec<u8> {
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::new(), 0);
    while at < bytes.len() {
        let (byte, len) = match &bytes[at..] {
            [b'\\', b'x', high, low, ..] => {
                let hex = [*high, *low];
                (u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap(), 4)
            }
            [b'\\', b'0', ..] => (0, 2),
            [b'\\', b'n', ..] => (b'\n', 2),
            [b'\\', b't', ..] => (b'\t', 2),
            [b'\\', b'\\', ..] => (b'\\', 2),
            [byte, ..] => (*byte, 1),
            [] => unreachable!("in bounds"),
        };
        out.push(byte);
        at += len;
    }
    out
}

/// No bytes make a view panic. Mutations of well-formed frames, seeded.
#[test]
fn views_never_panic() {
    let seed = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(20_261_121_u64);
    println!("SEED={seed}");
    let mut state = seed;
    let mut random = move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    let names = [
        "RowDescription",
        "DataRow",
        "CommandComplete",
        "ErrorResponse",
        "ReadyForQuery",
        "ParameterStatus",
        "BackendKeyData",
        "ParameterDescription",
        "CopyInResponse",
        "Query",
        "Parse",
        "Bind",
        "Describe",
        "Close",
        "Execute",
        "Initial",
        "Password",
        "SASLInitialResponse",
        "SASLResponse",
    ];
    for _ in 0..40_000 {
        let name = names[random() % names.len()];
        let few = [0, 0, 0, 1, 2, 4, 255, b'a', b'S', 3];
        let body: Vec<u8> = (0..random() % 40).map(|_| few[random() % few.len()]).collect();
        let mut bytes = framed(tag_of(name), &body);
        if random() % 4 == 0 {
            bytes.truncate(random() % (bytes.len() + 1));
        }
        let _ = show(name, &bytes);
        let _ = frame::next_frame(&bytes);
        let _ = frame::next_frontend(&bytes, 1000);
        let _ = frame::next_startup(&bytes);
    }
}
