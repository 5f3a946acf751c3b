//! Both sides of every method against each other, and what must fail.

#![allow(clippy::unwrap_used)] // a test may panic in its helpers, too

use bytes::{Bytes, BytesMut};
use pgsluice::auth::scram::client::Binding;
use pgsluice::auth::scram::{self, Verifier};
use pgsluice::auth::{
    AuthMethod, ClientExchange, ClientNext, Next, Random, Secret, ServerExchange,
};
use pgsluice::error::PgError;
use pgsluice::wire::{backend, frame, frontend};

const RANDOM: Random =
    Random { nonce: [1; scram::NONCE_BYTES], salt: *b"salt", key: [7; 32], iterations: 4096 };

/// Runs both sides; gives the tags and codes on the wire and how it ended.
fn exchange(
    method: AuthMethod,
    secret: Option<&Secret>,
    password: Option<&str>,
) -> (String, Result<(), PgError>) {
    let mut wire = String::new();
    let mut client = ClientExchange::new("app", password, [2; scram::NONCE_BYTES]);
    let mut server = match ServerExchange::start(method, "app", secret, &RANDOM, None) {
        Next::Send(frames, server) => Ok((frames, server)),
        Next::Done(frames, _) => Err(frames),
        Next::Failed(error) => return (wire, Err(error)),
    };
    loop {
        let frames = match &server {
            Ok((frames, _)) | Err(frames) => frames.clone(),
        };
        let answer = match feed(client, frames, &mut wire) {
            Ok(Some((next, answer))) => {
                client = next;
                answer
            }
            Ok(None) => return (wire, Ok(())),
            Err(error) => return (wire, Err(error)),
        };
        wire.push_str(" p");
        let Ok((_, waiting)) = server else { panic!("the client answers AuthenticationOk") };
        server = match waiting.step(&answer) {
            Next::Send(frames, server) => Ok((frames, server)),
            Next::Done(frames, _) => Err(frames),
            Next::Failed(error) => return (wire, Err(error)),
        };
    }
}

type Fed = Result<Option<(ClientExchange, Bytes)>, PgError>;

/// Passes the server's frames on; `None` when the client is done.
fn feed(mut client: ClientExchange, frames: Bytes, wire: &mut String) -> Fed {
    let mut frames = BytesMut::from(&frames[..]);
    while let Some(header) = frame::next_frame(&frames).unwrap() {
        let frame = frames.split_to(header.len);
        wire.push_str(&format!(" R{}", frame[8]));
        client = match client.step(&frame) {
            ClientNext::Send(bytes, client) => return Ok(Some((client, bytes))),
            ClientNext::Wait(client) => client,
            ClientNext::Done => return Ok(None),
            ClientNext::Failed(error) => return Err(error),
        };
    }
    panic!("the client waits and the server sends nothing");
}

fn plain(password: &str) -> Secret {
    Secret::Plain(password.into())
}

fn verifier(password: &str) -> Secret {
    Secret::Verifier(Verifier::derive(password, b"0123456789abcdef", 64).to_string())
}

/// `SELECT 'md5' || md5('pencil' || 'app')`.
fn md5() -> Secret {
    Secret::Md5("md506d701b4dd9f7cbb00816251a451b978".into())
}

#[test]
fn right_passwords() {
    use AuthMethod::{Md5, Password, ScramSha256, Trust};
    let cases = [
        (Trust, Secret::None, None, " R0"),
        (Password, plain("pencil"), Some("pencil"), " R3 p R0"),
        (Md5, plain("pencil"), Some("pencil"), " R5 p R0"),
        (ScramSha256, plain("pencil"), Some("pencil"), " R10 p R11 p R12 R0"),
        (ScramSha256, plain("p\u{e4}ss\u{2168}"), Some("p\u{e4}ssIX"), " R10 p R11 p R12 R0"),
        // A password in clear fits everything that is stored.
        (Password, verifier("pencil"), Some("pencil"), " R3 p R0"),
        (Password, md5(), Some("pencil"), " R3 p R0"),
        (Md5, md5(), Some("pencil"), " R5 p R0"),
        // As in Postgres: MD5 cannot be asked for where a SCRAM verifier is stored.
        (Md5, verifier("pencil"), Some("pencil"), " R10 p R11 p R12 R0"),
    ];
    for (method, secret, password, expected) in cases {
        let (wire, end) = exchange(method, Some(&secret), password);
        assert_eq!((wire.as_str(), end), (expected, Ok(())), "{method:?} {secret:?}");
    }
}

/// A wrong password, a user that does not exist and a secret that is none look alike.
#[test]
fn all_failures_are_alike() {
    let message = "FATAL 28P01: password authentication failed for user \"app\"";
    let broken = Secret::Verifier("SCRAM-SHA-256$x".into());
    for (method, expected) in [
        (AuthMethod::Password, " R3 p"),
        (AuthMethod::Md5, " R5 p"),
        (AuthMethod::ScramSha256, " R10 p R11 p"),
    ] {
        for secret in [Some(&plain("pencil")), Some(&Secret::None), None, Some(&plain(""))] {
            let (wire, end) = exchange(method, secret, Some("wrong"));
            assert_eq!((wire.as_str(), end.unwrap_err().to_string()), (expected, message.into()));
        }
    }
    for secret in [verifier("pencil"), md5(), broken] {
        let (_, end) = exchange(AuthMethod::ScramSha256, Some(&secret), Some("wrong"));
        assert_eq!(end.unwrap_err().to_string(), message);
    }
    // Trust is for users that exist.
    let (wire, end) = exchange(AuthMethod::Trust, None, Some("x"));
    assert_eq!((wire.as_str(), end.is_err()), (" R10 p R11 p", true));
}

/// The salt shown for a user that does not exist is the same in the next exchange.
#[test]
fn mock_salts_last() {
    let first = |nonce: u8| {
        let random = Random { nonce: [nonce; scram::NONCE_BYTES], ..RANDOM };
        let Next::Send(_, server) =
            ServerExchange::start(AuthMethod::ScramSha256, "nobody", None, &random, None)
        else {
            panic!("SCRAM begins with a frame")
        };
        let mut out = BytesMut::new();
        frontend::sasl_initial_response(&mut out, scram::MECHANISM, b"n,,n=,r=abc").unwrap();
        let Next::Send(frames, _) = server.step(&out) else { panic!("server-first") };
        let text = String::from_utf8_lossy(&frames[9..]).into_owned();
        text.split_once(",s=").unwrap().1.to_owned()
    };
    assert_eq!(first(1), first(2));
    assert!(first(1).ends_with(",i=4096"));
}

#[test]
fn passwords_that_are_missing() {
    let hint = "HINT: Add the password to the shard's URL, or as server_password to the user.";
    for (method, asked) in [
        (AuthMethod::Password, "a cleartext password"),
        (AuthMethod::Md5, "an MD5 password"),
        (AuthMethod::ScramSha256, "a SCRAM-SHA-256 password"),
    ] {
        let (_, end) = exchange(method, Some(&plain("pencil")), None);
        let expected = format!(
            "ERROR 28P01: server asked for {asked} for user \"app\", but none is known\n{hint}"
        );
        assert_eq!(end.unwrap_err().to_string(), expected);
    }
}

fn client_error(frames: &[Bytes]) -> String {
    let mut client = ClientExchange::new("app", Some("pencil"), [2; scram::NONCE_BYTES]);
    for frame in frames {
        client = match client.step(frame) {
            ClientNext::Send(_, client) | ClientNext::Wait(client) => client,
            ClientNext::Done => return "done".into(),
            ClientNext::Failed(error) => return error.to_string(),
        };
    }
    "waits".into()
}

#[test]
fn servers_that_are_refused() {
    let frame = |code: u8, data: &[u8]| {
        let mut out = BytesMut::new();
        frame::put(&mut out, b'R', |body| {
            body.extend_from_slice(&[0, 0, 0, code]);
            body.extend_from_slice(data);
        });
        out.freeze()
    };
    let mut sasl = BytesMut::new();
    backend::authentication_sasl(&mut sasl, &[scram::MECHANISM]);
    let sasl = sasl.freeze();
    let ok = frame(0, b"");
    assert!(client_error(&[frame(7, b"")]).contains("by GSSAPI, which is not supported"));
    assert!(client_error(&[frame(99, b"abc")]).contains("by method 99, which is not supported"));
    assert!(client_error(&[frame(10, b"OAUTHBEARER\0\0")]).contains("by SASL with OAUTHBEARER"));
    // A server that skips its proof.
    assert!(
        client_error(&[sasl.clone(), ok.clone()]).contains("expected AuthenticationSASLContinue")
    );
    let first = scram::client::First::new(&[2; scram::NONCE_BYTES], Binding::Unsupported).message();
    let server_first = format!("{}x,s=AAAA,i=1", first.strip_prefix("n,,n=,").unwrap());
    let next = frame(11, server_first.as_bytes());
    assert!(
        client_error(&[sasl.clone(), next.clone(), ok])
            .contains("expected AuthenticationSASLFinal")
    );
    assert!(client_error(&[sasl.clone(), next, frame(12, b"v=AAAA")]).contains("did not prove"));
    assert!(client_error(&[sasl.clone(), sasl]).contains("server sent AuthenticationSASL,"));
    assert!(client_error(&[frame(5, b"abc")]).contains("Expected a salt of 4 bytes"));
}

#[test]
fn clients_that_break_the_protocol() {
    let start =
        |method| match ServerExchange::start(method, "app", Some(&plain("x")), &RANDOM, None) {
            Next::Send(_, server) => server,
            _ => panic!("begins with a frame"),
        };
    let mut plus = BytesMut::new();
    frontend::sasl_initial_response(&mut plus, "SCRAM-SHA-256-PLUS", b"p=x,,n=,r=a").unwrap();
    for (server, frame) in [
        (start(AuthMethod::Password), &b"p\0\0\0\x05x"[..]),
        (start(AuthMethod::Md5), b"Q\0\0\0\x05\0"),
        (start(AuthMethod::ScramSha256), b"p\0\0\0\x05\0"),
        (start(AuthMethod::ScramSha256), &plus),
    ] {
        let Next::Failed(error) = server.step(frame) else { panic!("accepted {frame:?}") };
        assert!(error.to_string().starts_with("FATAL 08P01"), "{error}");
    }
}

/// Initial response without data: the server asks for it once more.
#[test]
fn scram_without_initial_data() {
    let Next::Send(_, server) =
        ServerExchange::start(AuthMethod::ScramSha256, "app", Some(&plain("x")), &RANDOM, None)
    else {
        panic!("SCRAM begins with a frame")
    };
    let initial = b"p\0\0\0\x16SCRAM-SHA-256\0\xff\xff\xff\xff";
    let Next::Send(frames, server) = server.step(initial) else { panic!("an empty challenge") };
    assert_eq!(&frames[..], b"R\0\0\0\x08\0\0\0\x0b");
    let mut out = BytesMut::new();
    frontend::sasl_response(&mut out, b"n,,n=,r=abc").unwrap();
    assert!(matches!(server.step(&out), Next::Send(..)));
}

/// A verifier that PostgreSQL 15 made with `CREATE ROLE app PASSWORD 'pencil'`.
#[test]
fn verifier_of_postgres() {
    let secret = Secret::Verifier("SCRAM-SHA-256$4096:K8/Ha/NjADB9rh15KkKs1g==$WNxiUgqJjx59ZsO7CcN6qoSjFiFNNXx29WHAgpAMQ48=:B1kq9pSJ9EAXQSqh2hGLCAOLZnvW+JuXe4+R41Xs2ro=".into());
    assert_eq!(exchange(AuthMethod::ScramSha256, Some(&secret), Some("pencil")).1, Ok(()));
}

/// Runs SCRAM or a cleartext login and then one with what was proved, to a server with `stored`.
fn passed_on(method: AuthMethod, secret: &Secret, stored: &Secret) -> Result<(), PgError> {
    let mut client = ClientExchange::new("app", Some("pencil"), [2; scram::NONCE_BYTES]);
    let mut next = ServerExchange::start(method, "app", Some(secret), &RANDOM, None);
    let won = loop {
        match next {
            Next::Send(frames, server) => {
                let (waiting, answer) = feed(client, frames, &mut String::new())?.unwrap();
                client = waiting;
                next = server.step(&answer);
            }
            Next::Done(_, won) => break won,
            Next::Failed(error) => return Err(error),
        }
    };
    assert!(!format!("{won:?}").contains("pencil"), "{won:?}");
    let method = if matches!(stored, Secret::Md5(_)) { AuthMethod::Md5 } else { method };
    let mut client = ClientExchange::new("app", won, [3; scram::NONCE_BYTES]);
    let mut next = ServerExchange::start(method, "app", Some(stored), &RANDOM, None);
    loop {
        match next {
            Next::Send(frames, server) => {
                let Some((waiting, answer)) = feed(client, frames, &mut String::new())? else {
                    return Ok(());
                };
                client = waiting;
                next = server.step(&answer);
            }
            Next::Done(frames, _) => return feed(client, frames, &mut String::new()).map(drop),
            Next::Failed(error) => return Err(error),
        }
    }
}

#[test]
fn what_was_proved_logs_in_to_servers() {
    use AuthMethod::{Md5, Password, ScramSha256};
    let ours = verifier("pencil");
    assert_eq!(passed_on(ScramSha256, &ours, &ours), Ok(()));
    assert_eq!(passed_on(Md5, &md5(), &md5()), Ok(()));
    assert_eq!(passed_on(Password, &plain("pencil"), &plain("pencil")), Ok(()));
    let message = |it: Result<(), PgError>| it.unwrap_err().to_string();
    // The same password with another salt.
    let other = Verifier::derive("pencil", b"another salt", 64).to_string();
    let error = message(passed_on(ScramSha256, &ours, &Secret::Verifier(other)));
    assert!(error.contains("another verifier than the one logged in by"), "{error}");
    let error = message(passed_on(ScramSha256, &ours, &md5()));
    assert!(error.contains("an MD5 password for user \"app\", but only its SCRAM keys"), "{error}");
    let error = message(passed_on(Md5, &md5(), &ours));
    assert!(error.contains("a SCRAM-SHA-256 password"), "{error}");
    // A password in clear gives keys, too.
    let error = message(passed_on(Password, &ours, &ours));
    assert!(error.contains("a cleartext password for user \"app\", but only its SCRAM"), "{error}");
}

/// A client that binds to the channel is let in by the certificate both sides see.
#[test]
fn scram_plus() {
    let run = |ours: Option<&[u8]>, theirs: Option<&[u8]>| {
        let end_point = |it: Option<&[u8]>| it.map(<[u8]>::to_vec);
        let secret = verifier("pencil");
        let (method, ours) = (AuthMethod::ScramSha256, end_point(ours));
        let mut next = ServerExchange::start(method, "app", Some(&secret), &RANDOM, ours);
        let mut client = ClientExchange::new("app", Some("pencil"), [2; scram::NONCE_BYTES])
            .bound_to(end_point(theirs));
        let mut mechanism = String::new();
        loop {
            match next {
                Next::Send(frames, server) => {
                    let (waiting, answer) = feed(client, frames, &mut String::new())?.unwrap();
                    if mechanism.is_empty() {
                        mechanism = String::from_utf8_lossy(&answer[5..23]).into_owned();
                    }
                    client = waiting;
                    next = server.step(&answer);
                }
                Next::Done(frames, _) => {
                    feed(client, frames, &mut String::new())?;
                    return Ok(mechanism);
                }
                Next::Failed(error) => return Err(error),
            }
        }
    };
    let (x, y): (Option<&[u8]>, Option<&[u8]>) = (Some(&[1; 32]), Some(&[2; 32]));
    assert_eq!(run(x, x).unwrap(), "SCRAM-SHA-256-PLUS");
    assert!(run(None, None).unwrap().starts_with("SCRAM-SHA-256\0"));
    // A TLS client of a server that does not offer it, and the other way round.
    assert!(run(None, x).unwrap().starts_with("SCRAM-SHA-256\0"));
    assert!(run(x, None).unwrap().starts_with("SCRAM-SHA-256\0"));
    let error = run(x, y).unwrap_err().to_string();
    assert_eq!(error, "FATAL 28000: SCRAM channel binding check failed");
}

/// Nothing that is derived for printing shows a secret.
#[test]
fn nothing_prints_secrets() {
    let secret = plain("pencil");
    let mut printed = format!("{secret:?} {:?} {:?}", verifier("pencil"), md5());
    printed += &format!("{:?}", ClientExchange::new("app", Some("pencil"), [0; 18]));
    for method in [AuthMethod::Password, AuthMethod::Md5, AuthMethod::ScramSha256] {
        for secret in [&secret, &verifier("pencil"), &md5()] {
            printed +=
                &format!("{:?}", ServerExchange::start(method, "app", Some(secret), &RANDOM, None));
        }
    }
    let Secret::Md5(stored) = md5() else { panic!("md5") };
    for word in ["pencil", &stored, "SCRAM-SHA-256$"] {
        assert!(!printed.contains(word), "{word}: {printed}");
    }
}
