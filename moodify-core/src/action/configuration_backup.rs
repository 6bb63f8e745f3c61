use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Action, CheckContext, Observed, StepContext, kinds};
use crate::backend::{ConfigurationBackup, ExportRequest, ImportRequest, ImportedConfiguration};
use crate::error::{Error, ErrorKind, Result};
use crate::model::Step;

fn check(cx: &CheckContext<'_>, store: &str) -> Vec<Error> {
    let missing = [cx.backends.artifact_store(store).err(), cx.backends.configuration_files().err()];
    missing.into_iter().flatten().collect()
}

/// Writes the objects of the environment's namespace, with Secrets encrypted or by their names only, as files to an
/// artifact store, under the id of the run, and verifies them. Undone, they are kept: they take nothing from what serves.
#[derive(Debug)]
pub(super) struct BackUpConfiguration;

/// What a `backup-configuration` step is to do.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BackUpConfigurationParams {
    /// The artifact store, by its name among the backends.
    pub store: String,
    /// The public keys for which Secrets are encrypted, such as `age1…`; left out, only their names are told.
    #[serde(default)]
    pub encrypt_secrets_to: Vec<String>,
}

impl BackUpConfigurationParams {
    fn request(&self, namespace: &str) -> ExportRequest {
        ExportRequest::of_namespace(namespace).encrypt_secrets_to(&self.encrypt_secrets_to)
    }
}

/// What a `backup-configuration` step gives to later ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackedUpConfiguration {
    /// The store that has it.
    pub store: String,
    /// Where it is in there.
    pub path: String,
    /// How many objects are in it.
    pub objects: usize,
    /// The Secrets that the objects name and that are not in it.
    pub secrets: Vec<String>,
}

impl BackedUpConfiguration {
    fn of(store: &str, backup: ConfigurationBackup) -> Self {
        let objects = backup.objects();
        Self { store: store.to_owned(), path: backup.path, objects, secrets: backup.secrets }
    }
}

fn path(cx: &StepContext) -> String {
    format!("configuration/{}/{}", cx.run_id(), cx.step().name)
}

#[async_trait]
impl Action for BackUpConfiguration {
    type Params = BackUpConfigurationParams;
    type Output = BackedUpConfiguration;

    async fn check(&self, cx: &CheckContext<'_>, params: &BackUpConfigurationParams) -> Result<(), Vec<Error>> {
        let mut wrong = check(cx, &params.store);
        if let Ok(files) = cx.backends.configuration_files() {
            let request = params.request(&cx.plan.environment.namespace);
            wrong.extend(files.check_export(&request).err().map(|e| e.on(cx.step.name.as_str())));
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    async fn execute(&self, cx: &StepContext, params: &BackUpConfigurationParams) -> Result<BackedUpConfiguration> {
        if let Observed::Done(done) = self.observe(cx, params).await? {
            return Ok(done);
        }
        let store = cx.backends().artifact_store(&params.store)?.as_ref();
        let namespace = &cx.plan().environment.namespace;
        let taken = cx.clock().now();
        let exported = cx.backends().configuration_files()?.export(&cx.call()?, &params.request(namespace)).await?;
        let backup = ConfigurationBackup::write(store, &cx.call()?, &path(cx), namespace, taken, &exported).await?;
        cx.note(format!("{backup}"));
        if !backup.secrets.is_empty() {
            cx.note(format!("the Secrets that they name are not in it: {}", backup.secrets.join(", ")));
        }
        Ok(BackedUpConfiguration::of(&params.store, backup))
    }

    async fn observe(
        &self,
        cx: &StepContext,
        params: &BackUpConfigurationParams,
    ) -> Result<Observed<BackedUpConfiguration>> {
        let store = cx.backends().artifact_store(&params.store)?.as_ref();
        match ConfigurationBackup::read(store, &cx.call()?, &path(cx)).await {
            Ok((backup, _)) => Ok(Observed::Done(BackedUpConfiguration::of(&params.store, backup))),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Observed::NotDone),
            Err(e) => Err(e),
        }
    }

    async fn undo(
        &self,
        cx: &StepContext,
        _: &BackUpConfigurationParams,
        output: Option<&BackedUpConfiguration>,
    ) -> Result<()> {
        if let Some(made) = output {
            cx.note(format!("the backup in {} is kept", made.path));
        }
        Ok(())
    }
}

/// Makes the objects of a namespace what a backup says. What was there before is not kept, so there is no way back by
/// undoing: back it up first.
#[derive(Debug)]
pub(super) struct RestoreConfiguration;

/// What a `restore-configuration` step is to do.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreConfigurationParams {
    /// The artifact store, by its name among the backends.
    pub store: String,
    /// Where the backup is in there, such as `configuration/RUN/STEP`; left out, it is that of the last
    /// `backup-configuration` step before this one.
    pub path: Option<String>,
    /// The namespace, which must be there; left out, it is that of the environment.
    pub namespace: Option<String>,
    /// Whether what others changed since is set back too.
    #[serde(default)]
    pub force: bool,
    /// Whether Secrets that are encrypted in it are restored too.
    #[serde(default)]
    pub secrets: bool,
}

#[async_trait]
impl Action for RestoreConfiguration {
    type Params = RestoreConfigurationParams;
    type Output = ImportedConfiguration;

    fn is_pivot(&self) -> bool {
        true
    }

    async fn check(&self, cx: &CheckContext<'_>, params: &RestoreConfigurationParams) -> Result<(), Vec<Error>> {
        let mut wrong = check(cx, &params.store);
        let mut earlier = cx.plan.steps().map(|(_, step)| step).take_while(|step| step.name != cx.step.name);
        let makes = |step: &Step| step.action == kinds::BACKUP_CONFIGURATION && step.with["store"] == *params.store;
        if params.path.is_none() && !earlier.any(makes) {
            let message = format!("no step before this one backs configuration up in {:?}", params.store);
            let error = Error::new(ErrorKind::Invalid, "engine", "check the step", message);
            wrong.push(error.on(cx.step.name.as_str()).hint("say with `path` where the backup is"));
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    async fn execute(&self, cx: &StepContext, params: &RestoreConfigurationParams) -> Result<ImportedConfiguration> {
        let store = cx.backends().artifact_store(&params.store)?.as_ref();
        let path = match &params.path {
            Some(path) => path.clone(),
            None => cx.output_of_kind::<BackedUpConfiguration>(kinds::BACKUP_CONFIGURATION)?.path,
        };
        let (backup, mut files) = ConfigurationBackup::read(store, &cx.call()?, &path).await?;
        for file in files.extract_if(.., |file| file.sealed && !params.secrets) {
            cx.note(format!("{} is left alone: `secrets` is not asked for", file.name));
        }
        if !backup.secrets.is_empty() {
            cx.note(format!("these Secrets must be there, and are not restored: {}", backup.secrets.join(", ")));
        }
        let namespace = params.namespace.as_ref().unwrap_or(&cx.plan().environment.namespace);
        let request = ImportRequest { namespace: namespace.clone(), force: params.force };
        let done = cx.backends().configuration_files()?.import(&cx.call()?, &request, &files).await?;
        cx.note(format!("{backup}: {done} in {namespace}"));
        Ok(done)
    }

    async fn observe(
        &self,
        _: &StepContext,
        _: &RestoreConfigurationParams,
    ) -> Result<Observed<ImportedConfiguration>> {
        // What is so already is not changed again.
        Ok(Observed::NotDone)
    }

    async fn undo(
        &self,
        _: &StepContext,
        _: &RestoreConfigurationParams,
        _: Option<&ImportedConfiguration>,
    ) -> Result<()> {
        Ok(())
    }
}
