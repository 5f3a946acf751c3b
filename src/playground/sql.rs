//! SQL on one server or through the proxy, for code that is not async.

use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use super::error::{PlaygroundError, Result};

/// Rows as text.
pub type Rows = Vec<Vec<Option<String>>>;

/// Where to log in.
#[derive(Clone, Debug)]
pub struct Login {
    /// For messages.
    pub name: String,
    pub port: u16,
    pub user: String,
    pub password: Option<String>,
    pub database: String,
}

impl Login {
    /// The superuser of one of our servers.
    pub fn superuser(name: &str, port: u16, database: &str) -> Self {
        let (name, database) = (name.to_owned(), database.to_owned());
        Self { name, port, user: "postgres".to_owned(), password: None, database }
    }

    fn config(&self) -> Config {
        let mut config = Config::new();
        config.host("127.0.0.1").port(self.port).user(&self.user).dbname(&self.database);
        config.connect_timeout(std::time::Duration::from_secs(10));
        if let Some(password) = &self.password {
            config.password(password);
        }
        config
    }

    pub(super) fn failed(&self, what: &str, error: &tokio_postgres::Error) -> PlaygroundError {
        let message = error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string);
        let what = what.chars().take(120).collect();
        PlaygroundError::Sql { server: self.name.clone(), what, message }
    }

    /// Connects; the connection is driven by a task of the current runtime.
    pub(super) async fn connect(&self) -> Result<Client> {
        let connected = self.config().connect(NoTls).await;
        let (client, connection) = connected.map_err(|it| self.failed("cannot connect", &it))?;
        // What the connection fails with, the client's next call fails with too.
        tokio::spawn(async { drop(connection.await) });
        Ok(client)
    }

    /// Runs statements by the simple protocol and returns all rows as text. May be called from
    /// anywhere, also from a task of a runtime (which it blocks).
    ///
    /// # Errors
    /// No connection, or what the server says.
    pub fn run(&self, sql: &str) -> Result<Rows> {
        blocking(async {
            let client = self.connect().await?;
            let messages = client.simple_query(sql).await.map_err(|it| self.failed(sql, &it))?;
            Ok(messages.iter().filter_map(row).collect())
        })
    }
}

fn row(message: &SimpleQueryMessage) -> Option<Vec<Option<String>>> {
    let SimpleQueryMessage::Row(row) = message else { return None };
    Some((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect())
}

/// Runs a future on a thread and a runtime of its own.
pub(super) fn blocking<T: Send>(future: impl Future<Output = Result<T>> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let failed = |it: std::io::Error| PlaygroundError::Proxy(it.to_string());
            runtime.map_err(failed)?.block_on(future)
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
