//! `backup`: what a person does with the backups of one store beside any run.

use moodify_core::backend::{Backup, BackupRequest, BackupStoreExt as _, DeleteRequest};

use crate::args::{BackupCommand, Global, Output};
use crate::cache::{Tell, open};
use crate::exit::{Exit, Stop};
use crate::runtime;

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
                store.wait_available(&cx, &begun.id, &|_| ()).await?;
                let made = store.verify(&cx, &begun.id).await?;
                tell.tell(&made, || vec![line(&made)]);
            }
            BackupCommand::Verify { store: named, id } => {
                let (backends, cx) = open(named, "verify a backup")?;
                let found = backends.backup_store(&named.name)?.verify(&cx, id).await?;
                tell.tell(&found, || vec![line(&found)]);
            }
            BackupCommand::Delete { store: named, id, confirm } => {
                let request = DeleteRequest::confirmed(id, confirm)?;
                let (backends, cx) = open(named, "delete a backup")?;
                backends.backup_store(&named.name)?.delete(&cx, &request).await?;
                tell.tell(&serde_json::json!({"deleted": id}), || vec![format!("{id} deleted")]);
            }
        }
        Ok(Exit::Completed)
    })
}

fn line(backup: &Backup) -> String {
    let created = backup.created.map(|created| format!(", begun {created:.0}")).unwrap_or_default();
    let run = backup.run.as_ref().map(|run| format!(", made by {run}")).unwrap_or_default();
    format!("{backup}{created}{run}")
}
