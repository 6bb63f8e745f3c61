use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Action, CheckContext, Observed, RestoredBackup, StepContext, kinds};
use crate::backend::{Connection, Endpoint, Repair};
use crate::error::{Error, ErrorKind, Result};

/// What is wrong with connections in a plan; they are to point to what the store restores, if one is named.
pub(super) fn check(cx: &CheckContext<'_>, connections: &[Connection], store: Option<&str>) -> Vec<Error> {
    let invalid = |connection: &Connection, message: String| {
        let message = format!("{connection}: {message}");
        Error::new(ErrorKind::Invalid, "engine", "check the step", message).on(cx.step.name.as_str())
    };
    // That there is no such store is told where the restore is.
    let store = store.and_then(|name| Some((name, cx.backends.backup_store(name).ok()?)));
    let misfit = |one: &Connection| {
        let (name, store) = store?;
        let misfit = one.misfit(store.capabilities().endpoint)?;
        Some(format!("what {name:?} restores does not fit there: {misfit}"))
    };
    let problem = |one: &Connection| one.problem().or_else(|| misfit(one));
    let wrong = connections.iter().filter_map(|one| problem(one).map(|problem| invalid(one, problem)));
    wrong.chain(cx.backends.operations().err()).collect()
}

/// Where the database answers that an earlier step of the plan restored.
fn restored(cx: &StepContext) -> Result<Endpoint> {
    let restored: RestoredBackup = cx.output_of_kind(kinds::RESTORE)?;
    restored.endpoint.parse()
}

/// Points the application to the database that an earlier step restored. The value that was there is kept in the same
/// object, and nowhere else. Undone, it comes back.
#[derive(Debug)]
pub(super) struct SwitchConnection;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Params {
    /// From where the application takes the address of its database.
    connection: Connection,
}

/// What a `switch-connection` step gives to later ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchedConnection {
    /// Which one.
    pub connection: Connection,
    /// Where it points to now.
    pub endpoint: Endpoint,
}

#[async_trait]
impl Action for SwitchConnection {
    type Params = Params;
    type Output = SwitchedConnection;

    async fn check(&self, cx: &CheckContext<'_>, params: &Params) -> Result<(), Vec<Error>> {
        let earlier = cx.plan.steps().map(|(_, step)| step).take_while(|step| step.name != cx.step.name);
        let restores = earlier.filter(|step| step.action == kinds::RESTORE).last();
        let store = restores.and_then(|step| step.with["store"].as_str());
        let mut wrong = check(cx, std::slice::from_ref(&params.connection), store);
        if restores.is_none() {
            let message = "no step before this one restores a database";
            wrong.push(Error::new(ErrorKind::Invalid, "engine", "check the step", message).on(cx.step.name.as_str()));
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    async fn execute(&self, cx: &StepContext, params: &Params) -> Result<SwitchedConnection> {
        let (endpoint, namespace) = (restored(cx)?, &cx.plan().environment.namespace);
        cx.backends().operations()?.switch(&cx.call()?, namespace, &params.connection, &endpoint).await?;
        Ok(SwitchedConnection { connection: params.connection.clone(), endpoint })
    }

    async fn observe(&self, _: &StepContext, _: &Params) -> Result<Observed<SwitchedConnection>> {
        // Switching again finds its own work.
        Ok(Observed::NotDone)
    }

    async fn undo(&self, cx: &StepContext, params: &Params, _: Option<&SwitchedConnection>) -> Result<()> {
        // Nothing was switched to a place that has no name.
        let Ok(endpoint) = restored(cx) else { return Ok(()) };
        let namespace = &cx.plan().environment.namespace;
        cx.backends().operations()?.revert(&cx.call()?, namespace, &params.connection, &endpoint).await
    }

    fn by_hand(&self, cx: &StepContext, params: &Params) -> Vec<String> {
        let namespace = cx.plan().environment.namespace.clone();
        let repair = Repair::Revert { namespace, connection: params.connection.clone() };
        cx.backends().operations().map(|operations| operations.by_hand(&repair)).unwrap_or_default()
    }
}

/// Removes the values that were kept when connections were switched. There is no way back after that.
#[derive(Debug)]
pub(super) struct ForgetConnections;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ForgetParams {
    /// Which ones.
    connections: Vec<Connection>,
}

#[async_trait]
impl Action for ForgetConnections {
    type Params = ForgetParams;
    type Output = ();

    fn is_pivot(&self) -> bool {
        true
    }

    async fn check(&self, cx: &CheckContext<'_>, params: &ForgetParams) -> Result<(), Vec<Error>> {
        let wrong = check(cx, &params.connections, None);
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    async fn execute(&self, cx: &StepContext, params: &ForgetParams) -> Result<()> {
        let (operations, namespace) = (cx.backends().operations()?, &cx.plan().environment.namespace);
        for connection in &params.connections {
            operations.forget(&cx.call()?, namespace, connection).await?;
        }
        Ok(())
    }

    async fn observe(&self, _: &StepContext, _: &ForgetParams) -> Result<Observed<()>> {
        Ok(Observed::NotDone)
    }

    async fn undo(&self, _: &StepContext, _: &ForgetParams, _: Option<&()>) -> Result<()> {
        Ok(())
    }
}
