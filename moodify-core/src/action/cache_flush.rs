use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Action, CheckContext, Observed, StepContext, cache};
use crate::backend::FlushRequest;
use crate::error::{Error, ErrorKind, Result};
use crate::model::EnvironmentKind;

/// Deletes everything in a cache. What is gone comes back as it is asked for, so undoing it does nothing.
#[derive(Debug)]
pub(super) struct FlushCache;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Params {
    /// The cache, by its name among the backends.
    cache: String,
    /// The name of the cache once more, so that nobody flushes another one.
    confirm: String,
    /// Whether it is meant to be flushed in production too.
    #[serde(default)]
    production: bool,
    /// How many keys may be there at most: with more of them nothing is deleted.
    at_most: Option<u64>,
}

/// What a `cache-flush` step gives to later ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlushedCache {
    /// Keys that were there right before the attempt that finished.
    pub keys: u64,
}

#[async_trait]
impl Action for FlushCache {
    type Params = Params;
    type Output = FlushedCache;

    async fn check(&self, cx: &CheckContext<'_>, params: &Params) -> Result<(), Vec<Error>> {
        let refused = |message: String| {
            Error::new(ErrorKind::Refused, "engine", "check the step", message).on(cx.step.name.as_str())
        };
        let mut wrong = Vec::new();
        wrong.extend(cache::check(cx, &params.cache, "be flushed", |can| can.flush).err());
        if params.confirm != params.cache {
            wrong.push(refused(format!("{:?} was confirmed, but the cache is {:?}", params.confirm, params.cache)));
        }
        if cx.plan.environment.kind == EnvironmentKind::Production && !params.production {
            let error = refused("a cache of production is flushed only when the plan says so".to_owned());
            wrong.push(error.hint("write `production: true` if customers can wait for an empty cache"));
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    async fn execute(&self, cx: &StepContext, params: &Params) -> Result<FlushedCache> {
        let admin = cache::admin(cx, &params.cache)?;
        let there = admin.flush(&cx.call()?, &FlushRequest::dry_run()).await?;
        cx.note(format!("{there} keys are in {}, and all of them are to be deleted", params.cache));
        let mut request = FlushRequest::confirmed(&params.confirm);
        request.in_production = params.production;
        request.at_most = params.at_most;
        let keys = admin.flush(&cx.call()?, &request).await?;
        cx.note(format!("{keys} keys of {} deleted", params.cache));
        Ok(FlushedCache { keys })
    }

    async fn observe(&self, _: &StepContext, _: &Params) -> Result<Observed<FlushedCache>> {
        // An empty cache is flushed to no harm.
        Ok(Observed::NotDone)
    }

    async fn undo(&self, _: &StepContext, _: &Params, _: Option<&FlushedCache>) -> Result<()> {
        Ok(())
    }
}
