//! The one error that reaches a client, and its mapping to SQLSTATE.
//!
//! Every refusal and every failure of our own ends as a [`PgError`]; errors of a server are relayed
//! as they came and never pass through here.

use std::borrow::Cow;
use std::fmt;

/// Five-character codes of <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
pub mod sqlstate {
    /// A warning without a code of its own.
    pub const WARNING: &str = "01000";
    /// A statement the proxy cannot answer exactly as one Postgres would.
    pub const FEATURE_NOT_SUPPORTED: &str = "0A000";
    /// A connection to a server was lost.
    pub const CONNECTION_FAILURE: &str = "08006";
    /// The outcome of a COMMIT is unknown.
    pub const TRANSACTION_RESOLUTION_UNKNOWN: &str = "08007";
    /// The client broke the protocol.
    pub const PROTOCOL_VIOLATION: &str = "08P01";
    /// `LIMIT` below zero.
    pub const INVALID_LIMIT: &str = "2201W";
    /// `OFFSET` below zero.
    pub const INVALID_OFFSET: &str = "2201X";
    /// An integer or numeric left its range.
    pub const NUMERIC_VALUE_OUT_OF_RANGE: &str = "22003";
    /// A value was NULL where it may not be.
    pub const NOT_NULL_VIOLATION: &str = "23502";
    /// COPY data is not in the announced form.
    pub const BAD_COPY_FILE_FORMAT: &str = "22P04";
    /// Text does not read as its type.
    pub const INVALID_TEXT_REPRESENTATION: &str = "22P02";
    /// No such prepared statement.
    pub const UNDEFINED_STATEMENT: &str = "26000";
    /// A prepared statement of that name exists.
    pub const DUPLICATE_STATEMENT: &str = "42P05";
    /// A cursor of that name exists.
    pub const DUPLICATE_CURSOR: &str = "42P03";
    /// No such portal or cursor.
    pub const INVALID_CURSOR_NAME: &str = "34000";
    /// The user may not log in.
    pub const INVALID_AUTHORIZATION: &str = "28000";
    /// A wrong password.
    pub const INVALID_PASSWORD: &str = "28P01";
    /// No such database.
    pub const INVALID_CATALOG_NAME: &str = "3D000";
    /// No such schema.
    pub const INVALID_SCHEMA_NAME: &str = "3F000";
    /// The statement cannot run in the current transaction state.
    pub const ACTIVE_SQL_TRANSACTION: &str = "25001";
    /// A transaction command outside a transaction.
    pub const NO_ACTIVE_SQL_TRANSACTION: &str = "25P01";
    /// The transaction is aborted.
    pub const IN_FAILED_SQL_TRANSACTION: &str = "25P02";
    /// No such savepoint.
    pub const INVALID_SAVEPOINT: &str = "3B001";
    /// The transaction cannot be serialized or was given up.
    pub const SERIALIZATION_FAILURE: &str = "40001";
    /// The text is not SQL.
    pub const SYNTAX_ERROR: &str = "42601";
    /// The value of a parameter is not allowed.
    pub const INVALID_PARAMETER_VALUE: &str = "22023";
    /// Not in the state that it would take.
    pub const OBJECT_NOT_IN_PREREQUISITE_STATE: &str = "55000";
    /// No such object.
    pub const UNDEFINED_OBJECT: &str = "42704";
    /// A memory bound of the configuration was reached.
    pub const CONFIGURATION_LIMIT_EXCEEDED: &str = "53400";
    /// The transaction was idle for too long.
    pub const IDLE_IN_TRANSACTION_SESSION_TIMEOUT: &str = "25P03";
    /// The transaction took too long.
    pub const TRANSACTION_TIMEOUT: &str = "25P04";
    /// The session was idle for too long.
    pub const IDLE_SESSION_TIMEOUT: &str = "57P05";
    /// No connection was free in time.
    pub const TOO_MANY_CONNECTIONS: &str = "53300";
    /// A message or statement is too long or nested too deep.
    pub const PROGRAM_LIMIT_EXCEEDED: &str = "54000";
    /// Too complex to analyse.
    pub const STATEMENT_TOO_COMPLEX: &str = "54001";
    /// Transactions wait for each other.
    pub const DEADLOCK_DETECTED: &str = "40P01";
    /// Cancelled by the client, or for taking too long.
    pub const QUERY_CANCELED: &str = "57014";
    /// The proxy is going down.
    pub const ADMIN_SHUTDOWN: &str = "57P01";
    /// No server can be reached now.
    pub const CANNOT_CONNECT_NOW: &str = "57P03";
    /// A bug.
    pub const INTERNAL_ERROR: &str = "XX000";
}

/// How an error ends the conversation: `ERROR` ends a statement, `FATAL` the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Error,
    Fatal,
}

impl Severity {
    /// The word of the wire's `S` and `V` fields.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
        }
    }
}

/// An error as a client sees it: what happened, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PgError {
    pub severity: Severity,
    /// SQLSTATE: one of [`sqlstate`], or a server's.
    pub code: Cow<'static, str>,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    /// 1-based character of the statement the error is about.
    pub position: Option<u32>,
    /// The key of the configuration whose bound was reached; whoever tells the error counts it.
    /// Behind a pointer of one word, which keeps the error small.
    pub limit: Option<&'static &'static str>,
    /// Whether it may be over in a moment and nothing has happened: a server that cannot be reached, or
    /// was lost before it was sent anything.
    pub is_passing: bool,
}

impl PgError {
    /// Whether a server says by it that it goes down, or was not up yet.
    pub fn is_of_going(&self) -> bool {
        let is_connection =
            self.code.starts_with("08") && self.code != sqlstate::PROTOCOL_VIOLATION;
        is_connection || ["57P01", "57P02", "57P03"].contains(&&*self.code)
    }

    /// An `ERROR` with a code of [`sqlstate`].
    pub fn new(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            code: code.into(),
            message: message.into(),
            detail: None,
            hint: None,
            position: None,
            limit: None,
            is_passing: false,
        }
    }

    /// A bound of the configuration was reached: `key` and its value become the DETAIL.
    pub fn limit(
        code: &'static str,
        message: impl Into<String>,
        key: &'static &'static str,
        value: impl fmt::Display,
    ) -> Self {
        Self { limit: Some(key), ..Self::new(code, message).detail(format!("{key} = {value}")) }
    }

    /// A statement that is refused because it could not be answered exactly: 0A000.
    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(sqlstate::FEATURE_NOT_SUPPORTED, message)
    }

    /// The same error, ending the session.
    #[must_use]
    pub fn fatal(mut self) -> Self {
        self.severity = Severity::Fatal;
        self
    }

    /// The same error, as one that may be over in a moment.
    #[must_use]
    pub fn passing(mut self) -> Self {
        self.is_passing = true;
        self
    }

    /// Adds the DETAIL line.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds the HINT line.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for PgError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.severity.as_str(), self.code, self.message)?;
        if let Some(detail) = &self.detail {
            write!(f, "\nDETAIL: {detail}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\nHINT: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for PgError {}
