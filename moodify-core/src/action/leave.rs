use async_trait::async_trait;

use super::hand_over::check_turns;
use super::services::{Services, check, each};
use super::{Action, CheckContext, Observed, StepContext};
use crate::error::{Error, Result};

/// Ends the turns of two workloads: what the plan names stays, and is plain. What it removes runs nothing and is not put
/// back: what fails on the way is for a person, who lets moodify leave once more.
#[derive(Debug)]
pub(super) struct Leave;

#[async_trait]
impl Action for Leave {
    type Params = Services;
    type Output = ();

    fn is_pivot(&self) -> bool {
        true
    }

    async fn check(&self, cx: &CheckContext<'_>, params: &Services) -> Result<(), Vec<Error>> {
        check(cx, &params.services)?;
        check_turns(cx, &params.services)
    }

    async fn execute(&self, cx: &StepContext, params: &Services) -> Result<()> {
        let targets = params.targets(cx)?;
        each(&targets, async |target| cx.backends().deployer()?.leave(&cx.call()?, &target).await).await.map(drop)
    }

    async fn observe(&self, _: &StepContext, _: &Services) -> Result<Observed<()>> {
        // Leaving again observes by itself: what is gone is not removed again.
        Ok(Observed::NotDone)
    }

    async fn undo(&self, _: &StepContext, _: &Services, _: Option<&()>) -> Result<()> {
        Ok(())
    }
}
