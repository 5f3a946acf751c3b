//! The command line. Each command is one call.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use pgsluice::app::check;
use pgsluice::{app, playground};

/// Gives memory back when clients have left, which the system's allocator does not.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A sharding-aware Postgres proxy: one DATABASE_URL over many Postgres servers.
///
/// Applications connect to pgsluice as to any Postgres. Each statement goes to the shard that holds
/// its tenant, reads go to replicas, and what concerns several shards is merged or committed in two
/// phases. A statement that could not be answered exactly as one Postgres would is refused, with the
/// reason and what to write instead.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the proxy until SIGTERM or SIGINT.
    ///
    /// The configuration is read again when the file changes, on SIGHUP and on RELOAD in the admin
    /// console; a file with mistakes changes nothing. SIGTERM drains: no new clients, running
    /// transactions may end within listen.shutdown_grace, then the exit code is 0.
    Run(Run),
    /// Checks a configuration, and where statements would go.
    ///
    /// Prints all mistakes at once as `file:line: key: what; what to write instead`, and connects to
    /// every server the file names. With --sql it also tells for each statement of a file where it
    /// would go and how answers would be merged, or why it is refused, by the schema of the home shard.
    ///
    /// Exit code: 0 if `pgsluice run` would start and no statement is refused, else 1.
    Check(Check),
    /// Tells which sequences of sharded tables shards share, and sets up those that they do not.
    ///
    /// Of a shared sequence every shard gives numbers of its own, so that none is given twice. The proxy
    /// shares sequences with the DDL that makes them; those that were there before it, came with a dump
    /// or were set past it are set up by --repair, beyond every number that was given or is in a row.
    ///
    /// Exit code: 0 if all are shared, else 1.
    Sequences(Repair),
    /// Tells whether shards keep the keys of global_unique together, and sets up those that they do not.
    ///
    /// The proxy sets a key up with the DDL that makes it. One that was declared later, or whose table was
    /// written past the proxy, is set up by --repair, from the rows that are there; two rows with one value
    /// must be mended first. While it looks nobody writes the tables.
    ///
    /// Exit code: 0 if all are kept, else 1.
    Unique(Repair),
    /// Starts a sharded, replicated Postgres on this machine with the proxy in front of it.
    ///
    /// Needs the programs of a Postgres server (in PG_BIN, PATH or /usr/lib/postgresql/*/bin). Makes
    /// per shard a primary and streaming replicas on free ports of 127.0.0.1 and loads a small SaaS
    /// schema with 64 tenants through the proxy. Prints `DATABASE_URL=…` on stdout once ready, and
    /// things to try on stderr. Ctrl-C stops everything it started.
    Playground(Playground),
    /// Shows where one statement would go and how its answers would be merged.
    ///
    /// The same tree that EXPLAIN (SLUICE) shows. Nothing is run; the schema is read from the home
    /// shard.
    Explain(Explain),
}

#[derive(Debug, Args)]
struct Run {
    /// The configuration; config/pgsluice.toml has every key explained
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Reloads take effect although buckets change their shard while the old one still holds rows of
    /// them, which are hidden then
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
struct Check {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Statements, separated by semicolons
    #[arg(long, value_name = "FILE")]
    sql: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Repair {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Which of the configuration's databases [default: all]
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    /// Sets up those that are not
    #[arg(long)]
    repair: bool,
}

#[derive(Debug, Args)]
struct Playground {
    /// Where the servers live; kept and used again [default: a temporary folder, removed at the end]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The proxy's port on 127.0.0.1 [default: 6432]
    #[arg(long)]
    port: Option<u16>,
    /// How many shards, 1 to 128 [default: 4]
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=128))]
    shards: Option<u8>,
    /// Streaming replicas per shard, 0 to 8 [default: 1]
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=8))]
    replicas: Option<u8>,
    /// Without the sample schema and its rows
    #[arg(long)]
    empty: bool,
}

#[derive(Debug, Args)]
struct Explain {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Which of the configuration's databases, if it has several
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    /// The statement
    sql: String,
}

fn main() -> ExitCode {
    let ended = match Cli::parse().command {
        Command::Run(run) => {
            app::run(&run.config, run.force, || ()).map_err(|error| error.to_string())
        }
        Command::Check(options) => sql_of(options.sql.as_deref())
            .and_then(|sql| tell(check::check(&options.config, sql.as_deref()))),
        Command::Explain(options) => {
            tell(check::explain(&options.config, options.database.as_deref(), &options.sql))
        }
        Command::Sequences(options) => tell(app::sequences::sequences(
            &options.config,
            options.database.as_deref(),
            options.repair,
        )),
        Command::Unique(options) => {
            tell(app::unique::unique(&options.config, options.database.as_deref(), options.repair))
        }
        Command::Playground(options) => {
            playground::run(&options.into(), |config, ready| app::run(config, false, ready))
                .map_err(|error| error.to_string())
        }
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn sql_of(path: Option<&Path>) -> Result<Option<String>, String> {
    let read = |path: &Path| {
        std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
    };
    path.map(read).transpose()
}

/// Prints a report; problems make the exit code 1.
fn tell(report: Result<check::Report, app::AppError>) -> Result<(), String> {
    let report = report.map_err(|error| error.to_string())?;
    print!("{}", report.text);
    match report.problems {
        0 => Ok(()),
        count => Err(format!("{count} problem{}", if count == 1 { "" } else { "s" })),
    }
}

impl From<Playground> for playground::Options {
    fn from(options: Playground) -> Self {
        Self {
            dir: options.dir,
            port: options.port,
            shards: options.shards.map(usize::from),
            replicas: options.replicas.map(usize::from),
            empty: options.empty,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
