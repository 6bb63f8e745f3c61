//! `backup`: what a person does with the backups of one store beside any run.

use std::io::Write as _;
use std::sync::Mutex;

use moodify_core::backend::{Backup, BackupRequest, BackupStoreExt as _, DeleteRequest};
use moodify_core::engine::OpenRuns;
use moodify_core::{Error, ErrorKind, RunId};

use crate::args::{BackupCommand, Global, Output};
use crate::cache::{Tell, open};
use crate::exit::{Exit, Stop};
use crate::{runs, runtime};

pub(crate) fn backup(command: &BackupCommand, global: &Global) -> Result<Exit, Stop> {
    let tell = Tell { json: global.output == Some(Output::Json) };
    runtime()?.block_on(async {
        match command {
            BackupCommand::List(named) => {
                let (backends, cx) = open(named, "list backups")?;
                let all = backends.backup_store(&named.name)?.list(&cx).await?;
                let none = || vec!["there are no backups".to_owned()];
                tell.tell(&all, || if all.is_empty() { none() } else { all.iter().map(line).collect() });
            }
            BackupCommand::Create(named) => {
                let (backends, cx) = open(named, "backup")?;
                let store = backends.backup_store(&named.name)?;
                let begun = store.create(&cx, &BackupRequest::new()).await?;
                let told = Mutex::new(String::new());
                let seen = |backup: &Backup| tell.progress(&told, backup.to_string());
                store.wait_available(&cx, &begun.id, &seen).await?;
                let made = store.verify(&cx, &begun.id).await?;
                tell.tell(&made, || vec![line(&made)]);
            }
            BackupCommand::Verify { store: named, id } => {
                let (backends, cx) = open(named, "verify a backup")?;
                let found = backends.backup_store(&named.name)?.verify(&cx, id).await?;
                tell.tell(&found, || vec![line(&found)]);
            }
            BackupCommand::Delete { store: named, id, confirm, although_needed } => {
                let request = DeleteRequest::confirmed(id, confirm)?;
                let (backends, cx) = open(named, "delete a backup")?;
                let store = backends.backup_store(&named.name)?;
                if let Some(backup) = store.describe(&cx, id).await? {
                    refuse_if_needed(&backup, although_needed, global).await?;
                }
                store.delete(&cx, &request).await?;
                tell.tell(&serde_json::json!({"deleted": id}), || vec![format!("{id} deleted")]);
            }
        }
        Ok(Exit::Completed)
    })
}

/// Refuses what a run may still need, unless a person says by that run's name that it is to go nevertheless.
async fn refuse_if_needed(backup: &Backup, although_needed: &[RunId], global: &Global) -> Result<(), Stop> {
    if !runs::named(global) && !runs::any(global) {
        let _ = writeln!(
            std::io::stderr(),
            "note: no runs are kept here, so none was asked whether it needs the backup; --journal and --cluster say where"
        );
        return Ok(());
    }
    let open = OpenRuns::of(runs::open(global).await?.as_ref()).await?;
    let needed: Vec<&str> =
        open.that_need(backup).filter(|run| !although_needed.contains(run)).map(RunId::as_str).collect();
    if needed.is_empty() {
        return Ok(());
    }
    let names = needed.join(", ");
    let message = format!("it may still be needed by a run that is not over: {names}; nothing was deleted");
    let refused = Error::new(ErrorKind::Refused, "moodify", "delete a backup", message).on(backup.id.as_str());
    let flags = format!("--although-needed {}", needed.join(" --although-needed "));
    Err(refused.hint(format!("bring it to its end first, or add {flags} if the run can do without")).into())
}

fn line(backup: &Backup) -> String {
    let created = backup.created.map(|created| format!(", begun {created:.0}")).unwrap_or_default();
    let run = backup.run.as_ref().map(|run| format!(", made by {run}")).unwrap_or_default();
    format!("{backup}{created}{run}")
}
