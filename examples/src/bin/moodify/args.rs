//! The command line.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use jiff::Timestamp;
use moodify_core::RunId;
use moodify_core::backend::KeyPattern;
use moodify_core::model::Period;

/// Rolls a release out as its plan says, and back by itself when it is bad.
///
/// Exit codes: 0 completed, 2 invalid plan or arguments, 3 refused before anything was changed, 4 rolled back,
/// 5 needs attention, 130 interrupted (and resumable).
#[derive(Debug, Parser)]
#[command(name = "moodify", version, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command knows.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The directory that keeps the runs [default: .moodify]
    #[arg(long, global = true, env = "MOODIFY_JOURNAL", value_name = "DIR")]
    pub(crate) journal: Option<PathBuf>,
    /// Keep the runs in this namespace of the cluster that kubectl would use: any machine can go on with them
    #[arg(long, global = true, env = "MOODIFY_CLUSTER", value_name = "NAMESPACE", conflicts_with = "journal")]
    pub(crate) cluster: Option<String>,
    /// How to show it [default: progress on a terminal, else plain]
    #[arg(long, global = true, value_enum, value_name = "HOW")]
    pub(crate) output: Option<Output>,
    /// Tell more about what goes on, on stderr; twice for much more. `RUST_LOG` says it in detail
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

/// How it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// One line for everything that happens
    Plain,
    /// A picture that changes; needs a terminal
    Progress,
    /// One event a line, as JSON
    Json,
}

impl Global {
    /// The flag that names where the runs are, for a command that is to be typed; none if none was given.
    pub(crate) fn place(&self) -> Option<String> {
        let cluster = self.cluster.as_ref().map(|namespace| format!("--cluster {namespace}"));
        cluster.or_else(|| self.journal.as_ref().map(|dir| format!("--journal {}", dir.display())))
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Says what is wrong with a plan, and what it would change; changes nothing
    Check(Check),
    /// Begins a run and drives it to its end
    Run(Run),
    /// Takes a run that was interrupted, and drives it to its end
    Resume(Resume),
    /// Shows all runs, those that ended too, or one in detail
    Status(Status),
    /// Makes a run stand still; what bakes stays under watch
    Pause(Order),
    /// Lets a paused run go on
    Continue(Order),
    /// Takes back what an unfinished run did so far
    Abort(Order),
    /// Says yes to a step that waits for approval
    Approve(Answer),
    /// Says no to a step that waits for approval
    Reject(Answer),
    /// Ends an analysis without its verdict; who says so answers for it
    Skip(Skip),
    /// Takes a completed run back, by a run of its own: what served before it is rolled out again
    Undo(Undo),
    /// Makes plain objects of what takes turns in a plan: what serves comes to the Deployment that the plan names
    Leave(Leave),
    /// Prints a run as one JSON document, with everything that is known of it
    Export(Export),
    /// Removes runs that ended long ago; one that has not ended is never removed
    Prune(Prune),
    /// Prints the least that a plan needs in its cluster, as Roles that `kubectl apply -f -` takes; asks no cluster
    Rbac(Rbac),
    /// Looks after one cache by hand: no plan, no run
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Looks after the backups of one store by hand: no plan, no run
    #[command(subcommand)]
    Backup(BackupCommand),
    /// Prints the JSON Schema of plan files
    Schema,
}

/// Which cache or store, and where its settings are.
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// Its name among the backends
    pub(crate) name: String,
    /// The plan whose `backends` say where it is [default: only the environment does]
    #[arg(long, value_name = "PLAN")]
    pub(crate) settings: Option<PathBuf>,
    /// The longest that it may take: 90s, 10m, 2h
    #[arg(long, value_name = "TIME", value_parser = age, default_value = "1h")]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// Shows its nodes: memory, keys, hits, clients
    Info(Named),
    /// Deletes everything in it
    Flush {
        #[command(flatten)]
        cache: Named,
        /// The name of the cache once more, so that nobody flushes another one
        #[arg(long, value_name = "NAME", required_unless_present = "dry_run")]
        confirm: Option<String>,
        /// Also if it is a cache of production
        #[arg(long)]
        production: bool,
        /// Only if there are no more keys than that
        #[arg(long, value_name = "KEYS")]
        at_most: Option<u64>,
        /// Only count the keys
        #[arg(long)]
        dry_run: bool,
    },
    /// Deletes the keys of a pattern
    Delete {
        #[command(flatten)]
        cache: Named,
        /// Which keys: `mood:user:*`
        pattern: KeyPattern,
        /// The most keys a second [default: as fast as it can]
        #[arg(long, value_name = "N")]
        keys_per_second: Option<NonZeroU32>,
        /// Only count the keys
        #[arg(long)]
        dry_run: bool,
    },
    /// Makes a snapshot of every primary
    Snapshot(Named),
}

#[derive(Debug, Subcommand)]
pub(crate) enum BackupCommand {
    /// Shows its backups, newest first
    List(Named),
    /// Makes a backup, waits until it is complete, and verifies it
    Create(Named),
    /// Says whether a backup is complete and plausible
    Verify {
        #[command(flatten)]
        store: Named,
        /// The backup
        id: String,
    },
    /// Deletes one backup, unless a run of the journal may still need it
    Delete {
        #[command(flatten)]
        store: Named,
        /// The backup
        id: String,
        /// The backup once more, so that nobody deletes another one
        #[arg(long, value_name = "ID")]
        confirm: String,
        /// Also if this run may still need it; may be given several times
        #[arg(long, value_name = "RUN")]
        although_needed: Vec<RunId>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The plan, YAML or JSON
    pub(crate) plan: PathBuf,
    /// Only the file: ask no cluster
    #[arg(long, conflicts_with = "simulate")]
    pub(crate) offline: bool,
    /// Check against a simulated world
    #[arg(long)]
    pub(crate) simulate: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Rbac {
    /// The plan, YAML or JSON
    pub(crate) plan: PathBuf,
    /// Bind the Roles to this user too
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// Bind the Roles to this service account too
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = service_account)]
    pub(crate) service_account: Option<(String, String)>,
}

fn service_account(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => Err(format!("{text:?} is not NAMESPACE/NAME")),
    }
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The plan, YAML or JSON
    pub(crate) plan: PathBuf,
    #[command(flatten)]
    pub(crate) simulation: Simulation,
    #[command(flatten)]
    pub(crate) who: Who,
    /// With --output json: progress too, not only events
    #[arg(long)]
    pub(crate) progress: bool,
}

/// Everything about `--simulate`.
#[derive(Debug, Default, Args)]
pub(crate) struct Simulation {
    /// Run in a simulated world; needs nothing installed, and changes nothing
    #[arg(long)]
    pub(crate) simulate: bool,
    /// What happens in it: a name or a file [default: healthy]
    #[arg(long, requires = "simulate", value_name = "NAME|FILE")]
    pub(crate) scenario: Option<String>,
    /// So many simulated seconds a second, or max: at once [default: 120 when it is watched, else max]
    #[arg(long, requires = "simulate", value_name = "N|max")]
    pub(crate) speed: Option<Speed>,
    /// Where chance begins: the same seed is the same history
    #[arg(long, requires = "simulate", value_name = "S")]
    pub(crate) seed: Option<u64>,
    /// When it begins [default: when the plan's gates are open]
    #[arg(long, requires = "simulate", value_name = "TIME")]
    pub(crate) at: Option<Timestamp>,
}

#[derive(Debug, Args)]
pub(crate) struct Resume {
    /// The run; may be left out if exactly one is unfinished
    pub(crate) run: Option<RunId>,
    /// With --output json: progress too, not only events
    #[arg(long)]
    pub(crate) progress: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// The run; left out, all of them
    pub(crate) run: Option<RunId>,
    /// Only runs that have not ended
    #[arg(long, conflicts_with = "run")]
    pub(crate) unfinished: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Order {
    /// The run; may be left out if exactly one is unfinished
    pub(crate) run: Option<RunId>,
    /// Why, for the record
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) reason: String,
    #[command(flatten)]
    pub(crate) who: Who,
}

#[derive(Debug, Args)]
pub(crate) struct Answer {
    #[command(flatten)]
    pub(crate) order: Order,
    /// The step; may be left out if exactly one waits
    #[arg(long)]
    pub(crate) step: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Skip {
    /// The run; may be left out if exactly one is unfinished
    pub(crate) run: Option<RunId>,
    /// The step; may be left out if exactly one analysis runs
    #[arg(long)]
    pub(crate) step: Option<String>,
    /// Why, for the record
    #[arg(long)]
    pub(crate) reason: String,
    #[command(flatten)]
    pub(crate) who: Who,
}

#[derive(Debug, Args)]
pub(crate) struct Undo {
    /// The completed run
    pub(crate) run: RunId,
    /// Why, for the record
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) reason: String,
    #[command(flatten)]
    pub(crate) simulation: Simulation,
    #[command(flatten)]
    pub(crate) who: Who,
    /// With --output json: progress too, not only events
    #[arg(long)]
    pub(crate) progress: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Leave {
    /// The plan, YAML or JSON
    pub(crate) plan: PathBuf,
    /// Why, for the record
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) reason: String,
    #[command(flatten)]
    pub(crate) who: Who,
    /// With --output json: progress too, not only events
    #[arg(long)]
    pub(crate) progress: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    /// The run
    pub(crate) run: RunId,
}

#[derive(Debug, Args)]
pub(crate) struct Prune {
    /// How long ago a run must have ended: 30d, 12h, 90m
    #[arg(long, value_name = "AGE", value_parser = age)]
    pub(crate) older_than: Duration,
    /// Only say what would be removed
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// A length of time, of days too.
fn age(text: &str) -> Result<Duration, String> {
    const DAY: u64 = 24 * 3600;
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u32>().ok());
    match days {
        Some(days) => Ok(Duration::from_secs(u64::from(days) * DAY)),
        None => text.parse::<Period>().map(Period::get).map_err(|e| format!("{e}; days are written 30d")),
    }
}

#[derive(Debug, Args)]
pub(crate) struct Who {
    /// Who says so, for the record [default: your user name]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

impl Who {
    pub(crate) fn name(&self) -> String {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        let user = self.by.clone().or_else(|| variable("USER")).or_else(|| variable("LOGNAME"));
        user.unwrap_or_else(|| "somebody".to_owned())
    }
}

/// How fast simulated time passes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Speed {
    /// As fast as it can be computed.
    Max,
    /// So many times as fast as ours.
    Times(f64),
}

impl FromStr for Speed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let times = || text.parse::<f64>().ok().filter(|n| n.is_finite() && (0.1..=1e6).contains(n));
        match text {
            "max" => Ok(Self::Max),
            _ => times().map(Self::Times).ok_or_else(|| format!("{text:?} is neither a number from 0.1 on nor max")),
        }
    }
}
