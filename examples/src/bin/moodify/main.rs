//! The reference application: all that it does goes through the public API of the moodify crates.

mod args;
mod backends;
mod backup;
mod cache;
mod check;
mod exit;
mod export;
mod leave;
mod order;
mod plan;
mod preflight;
mod prune;
mod rbac;
mod run;
mod runs;
mod schema;
mod show;
mod signals;
mod simulate;
mod status;
mod undo;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use moodify_core::journal::CommandKind;
use moodify_core::secret;
use tracing_subscriber::EnvFilter;

use args::{Cli, Command, Global};
use exit::{Exit, Stop};

fn main() -> ExitCode {
    let cli = Cli::parse();
    std::panic::set_hook(Box::new(|panic| {
        let _ = writeln!(io::stderr(), "{}", secret::redact(&panic.to_string()));
    }));
    log_to_stderr(&cli.global);
    let global = &cli.global;
    let done = match &cli.command {
        Command::Check(args) => check::check(args),
        Command::Run(args) => run::run(args, global),
        Command::Resume(args) => run::resume(args, global),
        Command::Status(args) => status::status(args, global),
        Command::Pause(args) => order::give(CommandKind::Pause, args, global),
        Command::Continue(args) => order::give(CommandKind::Continue, args, global),
        Command::Abort(args) => order::give(CommandKind::Abort, args, global),
        Command::Approve(args) => order::answer(CommandKind::Approve, args, global),
        Command::Reject(args) => order::answer(CommandKind::Reject, args, global),
        Command::Skip(args) => order::skip(args, global),
        Command::Undo(args) => undo::undo(args, global),
        Command::Leave(args) => leave::leave(args, global),
        Command::Export(args) => export::export(args, global),
        Command::Prune(args) => prune::prune(args, global),
        Command::Rbac(args) => rbac::rbac(args, global),
        Command::Cache(command) => cache::cache(command, global),
        Command::Backup(command) => backup::backup(command, global),
        Command::Schema => {
            show::say(&format!("{:#}", schema::schema()));
            Ok(Exit::Completed)
        }
    };
    let exit = done.unwrap_or_else(|stop| {
        let _ = writeln!(io::stderr(), "{}", secret::redact(&stop.to_string()));
        stop.exit
    });
    exit.into()
}

/// The runtime of everything that is not simulated.
fn runtime() -> Result<tokio::runtime::Runtime, Stop> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.map_err(|e| Stop::refused(format!("the runtime cannot start: {e}")))
}

/// Logs never mix with what is shown on stdout.
fn log_to_stderr(global: &Global) {
    let level = match global.verbose {
        0 => "error",
        1 => {
            "moodify=info,moodify_core=info,moodify_k8s=info,moodify_http=info,moodify_aws=info,moodify_gcp=info,moodify_redis=info,warn"
        }
        _ => {
            "moodify=debug,moodify_core=debug,moodify_k8s=debug,moodify_http=debug,moodify_aws=debug,moodify_gcp=debug,moodify_redis=debug,info"
        }
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(show::colours()).with_writer(|| Log).init();
}

/// Stderr, without secrets that something below us may have logged, beside whatever picture is on the terminal.
#[derive(Debug)]
struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = secret::redact(&String::from_utf8_lossy(bytes)).into_owned();
        show::beside_the_picture(|| {
            let _ = io::stderr().write_all(text.as_bytes());
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
