//! A small tool that operates a cluster with the verbs of `moodify-k8s`: it shows how a workload is, restarts it, or
//! takes it back to an earlier revision, and waits until its pods are as they are to be.
//!
//! ```text
//! operate --namespace shop status deployment/backend
//! operate --namespace shop restart deployment/backend
//! operate --namespace shop undo deployment/backend --to-revision 3 --reason "v4 leaks memory"
//! ```

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use moodify_core::{CallContext, Result};
use moodify_k8s::verbs::{Look, Verbs, Workload, table};
use moodify_k8s::{Kube, KubeConfig};

/// Shows, restarts and takes back workloads.
#[derive(Parser)]
struct Args {
    /// The namespace.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// The context of the kubeconfig; by default its current one.
    #[arg(long)]
    context: Option<String>,
    /// How many seconds all of it may take.
    #[arg(long, default_value_t = 600)]
    timeout: u64,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// What it runs, what it ran, its pods, and why they are as they are.
    Status {
        /// As deployment/backend.
        workload: Workload,
    },
    /// Renews all its pods.
    Restart {
        /// As deployment/backend.
        workload: Workload,
    },
    /// Rolls out again what ran before.
    Undo {
        /// As deployment/backend.
        workload: Workload,
        /// Which revision; by default the one before.
        #[arg(long)]
        to_revision: Option<i64>,
        /// Why, for the history.
        #[arg(long, default_value = "taken back by hand")]
        reason: String,
    },
}

async fn wait(verbs: &Verbs, cx: &CallContext, workload: &Workload) -> Result<()> {
    verbs.rollout_status(cx, workload, &|seen| println!("{seen}")).await.map(drop)
}

async fn operate(args: Args) -> Result<()> {
    let mut config = KubeConfig::from_env()?;
    if let Some(context) = args.context {
        config = config.context(context);
    }
    let verbs = Kube::connect(&config).await?.verbs(&args.namespace);
    let cx = CallContext::by_hand("operate", Duration::from_secs(args.timeout));
    match args.command {
        Command::Status { workload } => {
            print!("{}", verbs.describe_workload(&cx, &workload).await?);
            print!("\n{}", table(&verbs.rollout_history(&cx, &workload).await?, &Look::wide()));
            Ok(())
        }
        Command::Restart { workload } => {
            verbs.rollout_restart(&cx, &workload).await?;
            wait(&verbs, &cx, &workload).await
        }
        Command::Undo { workload, to_revision, reason } => {
            let undone = verbs.because(&reason).rollout_undo(&cx, &workload, to_revision).await?;
            println!(
                "back to revision {}{}",
                undone.revision,
                if undone.change.changed { "" } else { ", as it is already" }
            );
            wait(&verbs, &cx, &workload).await
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match operate(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("operate: {error}");
            ExitCode::FAILURE
        }
    }
}
