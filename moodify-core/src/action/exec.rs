use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Action, CheckContext, Observed, StepContext};
use crate::backend::{ExecRequest, WorkloadRef};
use crate::error::{Error, ErrorKind, Result};
use crate::model::Period;

/// Runs a command beside the application until it succeeds, as one that asks the database for a row. It must change
/// nothing: it may run any number of times, and there is no taking it back.
#[derive(Debug)]
pub(super) struct Exec;

/// A command that looks whether the application is well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecParams {
    /// In a ready pod of this workload: its name, or `stateful-set/NAME`.
    pub workload: WorkloadRef,
    /// In this container; by default the pod's first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The program and its arguments, which no shell reads. Its exit code says whether it is well: 0 is.
    #[schemars(length(min = 1))]
    pub command: Vec<String>,
    /// How long it may run; by default 30 seconds.
    #[serde(default = "half_a_minute")]
    pub timeout: Period,
}

fn half_a_minute() -> Period {
    Period::from_secs(30)
}

/// In which pod the command succeeded.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Succeeded {
    pod: String,
}

#[async_trait]
impl Action for Exec {
    type Params = ExecParams;
    type Output = Succeeded;

    fn has_effects(&self) -> bool {
        false
    }

    fn deadline(&self, _: &ExecParams) -> Option<Duration> {
        Some(Duration::from_secs(120))
    }

    async fn check(&self, cx: &CheckContext<'_>, params: &ExecParams) -> Result<(), Vec<Error>> {
        let mut wrong: Vec<Error> = cx.backends.operations().err().into_iter().collect();
        if params.command.first().is_none_or(|program| program.is_empty()) {
            let message = "there is no command: name a program and its arguments";
            wrong.push(Error::new(ErrorKind::Invalid, "engine", "check the step", message).on(cx.step.name.as_str()));
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    async fn execute(&self, cx: &StepContext, params: &ExecParams) -> Result<Succeeded> {
        let ExecParams { workload, container, command, timeout } = params.clone();
        let request = ExecRequest { workload, container, command };
        let call = cx.call()?.at_most(timeout.get());
        let namespace = &cx.plan().environment.namespace;
        let result = cx.backends().operations()?.exec(&call, namespace, &request).await?;
        if result.code == 0 {
            return Ok(Succeeded { pod: result.pod });
        }
        let program = request.command.first().map(String::as_str).unwrap_or_default();
        let message = format!("{program} ended with the exit code {}: {}", result.code, result.said);
        let error = Error::new(ErrorKind::Unhealthy, "engine", "execute a command", message).transient(true);
        Err(error.on(format!("{namespace}/{}", result.pod)))
    }

    async fn observe(&self, _: &StepContext, _: &ExecParams) -> Result<Observed<Succeeded>> {
        Ok(Observed::NotDone)
    }

    async fn undo(&self, _: &StepContext, _: &ExecParams, _: Option<&Succeeded>) -> Result<()> {
        Ok(())
    }
}
