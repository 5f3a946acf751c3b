//! A small blocking client that shows what drivers hide: tags, types, states, raw bytes.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bytes::BytesMut;
use pgsluice::auth::{ClientExchange, ClientNext};
use pgsluice::wire::backend::{self, CommandTag, DataRow, ErrorFields, RowDescription};
use pgsluice::wire::{frame, frontend};

/// One statement's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Names and type OIDs.
    pub columns: Vec<(String, u32)>,
    /// Modifiers of the types (`numeric(12, 2)`), and formats.
    pub forms: Vec<(i32, i16)>,
    pub rows: Vec<Vec<Option<Vec<u8>>>>,
    /// Bytes of COPY … TO STDOUT.
    pub copied: Vec<u8>,
    pub tags: Vec<String>,
    /// SQLSTATE and message.
    pub error: Option<(String, String)>,
    /// The error's DETAIL.
    pub detail: String,
    /// Of the last ReadyForQuery: `I`, `T` or `E`.
    pub status: char,
}

impl Answer {
    /// SQLSTATE, or an empty text.
    pub fn code(&self) -> &str {
        self.error.as_ref().map_or("", |it| &it.0)
    }

    /// A field of the first row as text; an empty text if there is none.
    pub fn first(&self) -> String {
        let field = self.rows.first().and_then(|row| row.first().cloned()).flatten();
        String::from_utf8(field.unwrap_or_default()).unwrap()
    }
}

/// A connection.
pub struct Wire {
    pub stream: TcpStream,
    input: BytesMut,
    pub out: BytesMut,
    /// The key of CancelRequest.
    pub key: (i32, Vec<u8>),
}

/// A statement's arguments, in text or in binary.
#[derive(Default)]
pub struct Arguments<'a> {
    pub types: &'a [u32],
    pub values: &'a [Option<Vec<u8>>],
    /// 0 text, 1 binary; results too.
    pub format: i16,
}

impl Wire {
    /// Logs in; an error has SQLSTATE and message.
    pub fn login(
        port: u16,
        user: &str,
        password: &str,
        database: &str,
    ) -> Result<Self, (String, String)> {
        Self::login_with(port, &[("user", user), ("database", database)], password)
    }

    /// Logs in with these start-up parameters.
    pub fn login_with(
        port: u16,
        parameters: &[(&str, &str)],
        password: &str,
    ) -> Result<Self, (String, String)> {
        Self::login_by(0, port, parameters, password)
    }

    /// Logs in by minor version `minor` of protocol 3.
    pub fn login_by(
        minor: u16,
        port: u16,
        parameters: &[(&str, &str)],
        password: &str,
    ) -> Result<Self, (String, String)> {
        let lost = |error: io::Error| ("lost".to_owned(), error.to_string());
        let stream = TcpStream::connect(("127.0.0.1", port)).map_err(lost)?;
        Self::login_on(stream, minor, parameters, password)
    }

    /// Logs in from another address of this machine.
    pub fn login_from(
        address: std::net::Ipv4Addr,
        port: u16,
        user: &str,
        password: &str,
        database: &str,
    ) -> Result<Self, (String, String)> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        let stream = runtime.block_on(async {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind((address, 0).into()).unwrap();
            let to = (std::net::Ipv4Addr::LOCALHOST, port).into();
            socket.connect(to).await.unwrap().into_std().unwrap()
        });
        stream.set_nonblocking(false).unwrap();
        let parameters = [("user", user), ("database", database)];
        Self::login_on(stream, 0, &parameters, password)
    }

    fn login_on(
        stream: TcpStream,
        minor: u16,
        parameters: &[(&str, &str)],
        password: &str,
    ) -> Result<Self, (String, String)> {
        let lost = |error: io::Error| ("lost".to_owned(), error.to_string());
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let empty = BytesMut::new();
        let mut wire = Self { stream, input: empty.clone(), out: empty, key: (0, Vec::new()) };
        frontend::startup(&mut wire.out, minor, parameters.iter().copied()).unwrap();
        let mut exchange = Some(ClientExchange::new(parameters[0].1, Some(password), [7; 18]));
        loop {
            wire.send().map_err(lost)?;
            let (tag, bytes) = wire.frame().map_err(lost)?;
            match tag {
                b'R' => {
                    let Some(waiting) = exchange.take() else { continue };
                    match waiting.step(&bytes) {
                        ClientNext::Send(bytes, next) => {
                            wire.out.extend_from_slice(&bytes);
                            exchange = Some(next);
                        }
                        ClientNext::Wait(next) => exchange = Some(next),
                        ClientNext::Done => (),
                        ClientNext::Failed(it) => return Err((it.code.into_owned(), it.message)),
                    }
                }
                b'E' => return Err(error_of(&bytes)),
                b'K' => {
                    let it = backend::KeyData::read(&bytes).unwrap();
                    wire.key = (it.pid, it.key.to_vec());
                }
                b'Z' => return Ok(wire),
                _ => (),
            }
        }
    }

    /// Sends what was built in `out`.
    pub fn send(&mut self) -> io::Result<()> {
        let out = self.out.split();
        self.stream.write_all(&out)
    }

    /// The next frame.
    pub fn frame(&mut self) -> io::Result<(u8, BytesMut)> {
        loop {
            let next = frame::next_frame(&self.input).map_err(io::Error::other)?;
            if let Some(next) = next.filter(|it| self.input.len() >= it.len) {
                return Ok((next.tag, self.input.split_to(next.len)));
            }
            let mut chunk = [0; 16 * 1024];
            let count = self.stream.read(&mut chunk)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.input.extend_from_slice(&chunk[..count]);
        }
    }

    /// Runs by the simple protocol.
    pub fn query(&mut self, sql: &str) -> Answer {
        frontend::query(&mut self.out, sql.as_bytes());
        self.answer(b"")
    }

    /// Runs by the simple protocol and expects no error.
    pub fn run(&mut self, sql: &str) -> Answer {
        let answer = self.query(sql);
        assert_eq!(answer.error, None, "{sql}");
        answer
    }

    /// As [`Self::query`]; COPY … FROM STDIN gets this data.
    pub fn copy(&mut self, sql: &str, data: &[u8]) -> Answer {
        frontend::query(&mut self.out, sql.as_bytes());
        self.answer(data)
    }

    /// Runs by the extended protocol: Parse, Bind, Describe, Execute, Sync.
    pub fn extended(&mut self, sql: &str, arguments: &Arguments<'_>) -> Answer {
        frontend::parse(&mut self.out, b"", sql.as_bytes(), arguments.types.iter().copied());
        let values: Vec<Option<&[u8]>> = arguments.values.iter().map(Option::as_deref).collect();
        frontend::bind(&mut self.out, b"", &values, arguments.format);
        frontend::describe(&mut self.out, frontend::Target::Portal, b"");
        frontend::execute(&mut self.out, b"", 0);
        frontend::sync(&mut self.out);
        self.answer(b"")
    }

    /// Reads to ReadyForQuery. A lost connection is error `lost`.
    pub fn answer(&mut self, data: &[u8]) -> Answer {
        let mut answer = Answer::default();
        if let Err(error) = self.send().and_then(|()| self.read_answer(data, &mut answer)) {
            answer.error.get_or_insert(("lost".to_owned(), error.to_string()));
        }
        answer
    }

    fn read_answer(&mut self, data: &[u8], answer: &mut Answer) -> io::Result<()> {
        loop {
            let (tag, bytes) = self.frame()?;
            match tag {
                b'T' => {
                    let columns = RowDescription::read(&bytes).unwrap().columns;
                    answer.forms = columns.iter().map(|it| (it.modifier, it.format)).collect();
                    let columns = columns.into_iter();
                    let name = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
                    answer.columns = columns.map(|it| (name(it.name), it.type_oid)).collect();
                }
                b'D' => {
                    let fields = DataRow::read(&bytes).unwrap();
                    let field =
                        |range: Option<std::ops::Range<usize>>| Some(bytes[range?].to_vec());
                    answer.rows.push(fields.map(|it| field(it.unwrap())).collect());
                }
                b'C' => {
                    CommandTag::read(&bytes).unwrap();
                    answer.tags.push(String::from_utf8_lossy(&bytes[5..bytes.len() - 1]).into());
                }
                b'I' => answer.tags.push("(empty)".into()),
                b'E' => {
                    let detail = ErrorFields::read(&bytes).unwrap();
                    let detail = detail.field(b'D').unwrap_or_default();
                    answer.detail = String::from_utf8_lossy(detail).into_owned();
                    answer.error = Some(error_of(&bytes));
                }
                b'G' => {
                    data.chunks(8192).for_each(|it| frontend::copy_data(&mut self.out, it));
                    frontend::copy_done(&mut self.out);
                    self.send()?;
                }
                b'd' => answer.copied.extend_from_slice(&bytes[5..]),
                b'Z' => {
                    answer.status = bytes[5] as char;
                    return Ok(());
                }
                _ => (),
            }
        }
    }
}

fn error_of(frame: &[u8]) -> (String, String) {
    let fields = ErrorFields::read(frame).unwrap();
    (String::from_utf8_lossy(fields.code()).into_owned(), fields.message())
}
