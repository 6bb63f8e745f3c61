use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::proposal::{Proposal, Proposed};
use super::{Action, CheckContext, Observed, StepContext};
use crate::error::{Error, ErrorKind, Result};
use crate::journal::Answer;

/// Waits until enough persons said yes, by [`Command`](crate::journal::Command)s in the run's inbox. One who says no ends
/// it. What was said survives a crash.
#[derive(Debug)]
pub(super) struct Approval;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Params {
    /// What would happen if they agree.
    question: String,
    /// How many different persons must say yes.
    #[serde(default = "one")]
    #[schemars(range(min = 1))]
    approvals: u32,
    /// The restore that they agree to: the backup is chosen before they are asked, and they are told what would be lost.
    #[serde(default)]
    restore: Option<Proposal>,
}

fn one() -> u32 {
    1
}

/// Who said yes, and to what.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Approved {
    by: Vec<Answer>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) restore: Option<Proposed>,
}

#[async_trait]
impl Action for Approval {
    type Params = Params;
    type Output = Approved;

    fn has_effects(&self) -> bool {
        false
    }

    fn deadline(&self, _: &Params) -> Option<Duration> {
        // People take the time that they need, unless the plan says otherwise.
        None
    }

    async fn check(&self, cx: &CheckContext<'_>, params: &Params) -> Result<(), Vec<Error>> {
        match &params.restore {
            Some(proposal) => proposal.check(cx),
            None => Ok(()),
        }
    }

    async fn execute(&self, cx: &StepContext, params: &Params) -> Result<Approved> {
        const OPERATION: &str = "wait for approval";
        let wanted = usize::try_from(params.approvals).unwrap_or(usize::MAX).max(1);
        let enough = |answers: &super::Answers| answers.rejected.is_some() || answers.approvals.len() >= wanted;
        // What they are asked for stays the same, however often it is asked.
        let restore = match (&params.restore, cx.last_checkpoint::<Proposed>()) {
            (None, _) => None,
            (Some(_), Some(proposed)) => Some(proposed),
            (Some(proposal), None) => {
                let proposed = proposal.propose(cx).await?;
                cx.checkpoint(&proposed).await?;
                Some(proposed)
            }
        };
        if !enough(&cx.answers()) {
            let told = restore.as_ref().map(|proposed| format!("{} {}", params.question, proposed.told));
            cx.hold(told.as_deref().unwrap_or(&params.question)).await?;
        }
        let answers = cx.call()?.run("engine", OPERATION, async { Ok(cx.answered(enough).await) }).await?;
        match answers.rejected {
            Some(no) => {
                let message = format!("{:?} was rejected by {no}", params.question);
                Err(Error::new(ErrorKind::Refused, "engine", OPERATION, message).on(cx.step().name.as_str()))
            }
            None => Ok(Approved { by: answers.approvals, restore }),
        }
    }

    async fn observe(&self, _: &StepContext, _: &Params) -> Result<Observed<Approved>> {
        Ok(Observed::NotDone)
    }

    async fn undo(&self, _: &StepContext, _: &Params, _: Option<&Approved>) -> Result<()> {
        Ok(())
    }
}
