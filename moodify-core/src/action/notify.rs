use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use schemars::JsonSchema;
use serde::Deserialize;

use super::template::Template;
use super::{Action, CheckContext, Observed, StepContext};
use crate::backend::{Audience, Backends, Link, Notification, Notifier, Urgency};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Environment, Plan};

/// Tells people something. A message cannot be taken back.
#[derive(Debug)]
pub(super) struct Notify;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Params {
    /// The notifier, by its registered name; with neither this nor an audience, every one that is set up.
    #[serde(default)]
    to: Option<String>,
    /// Who is to be told: by the notifiers that the environment names for them.
    #[serde(default)]
    audience: Option<Audience>,
    /// One line.
    title: Template,
    /// The rest.
    #[serde(default)]
    body: Template,
    /// How much it matters.
    #[serde(default)]
    urgency: Urgency,
    /// Where there is more to read. Holds no secret.
    #[serde(default)]
    link: Option<Template>,
    /// What it is about: all that the run says on one topic is one alert, where the channel has alerts.
    #[serde(default)]
    topic: Option<String>,
    /// That it is over: closes the alert of the topic.
    #[serde(default)]
    resolved: bool,
}

impl Params {
    fn invalid(place: &str, message: String) -> Error {
        Error::new(ErrorKind::Invalid, "engine", "read the message", message).on(place)
    }

    /// What is wrong with it besides its channels.
    fn problems(&self, plan: &Plan) -> Vec<Error> {
        let link = self.link.as_ref().and_then(|link| Link::new(&link.sample(plan)).err());
        let link = link.map(|why| Self::invalid("with.link", why));
        let topic = (self.resolved && self.topic.is_none()).then(|| {
            let message = "it says that something is over, and not what".to_owned();
            Self::invalid("with.resolved", message).hint("give it the `topic` of the message that began it")
        });
        link.into_iter().chain(topic).collect()
    }

    fn message(&self, cx: &StepContext) -> Result<Notification> {
        let link = self.link.as_ref().map(|link| Link::new(&link.fill(cx))).transpose();
        Ok(Notification {
            title: self.title.fill(cx),
            body: self.body.fill(cx),
            urgency: self.urgency,
            link: link.map_err(|why| Self::invalid("with.link", why))?,
            topic: self.topic.clone(),
            resolved: self.resolved,
        })
    }

    fn channels<'a>(
        &self,
        backends: &'a Backends,
        environment: &'a Environment,
    ) -> Result<Vec<(&'a str, &'a Arc<dyn Notifier>)>> {
        let named = |name: &'a str| Ok((name, backends.notifier(name)?));
        match (&self.to, self.audience) {
            (Some(_), Some(audience)) => {
                let message = format!("it goes to a notifier and to the audience {audience}: name one of them");
                Err(Self::invalid("with.audience", message))
            }
            (Some(to), None) => {
                let known = backends.notifiers.get_key_value(to).map(|(name, notifier)| (name.as_str(), notifier));
                known.map_or_else(|| backends.notifier(to).map(|_| Vec::new()), |known| Ok(vec![known]))
            }
            (None, Some(audience)) => {
                let names = environment.audiences.get(&audience).filter(|names| !names.is_empty());
                let names = names.ok_or_else(|| {
                    let environment = &environment.name;
                    let message =
                        format!("the environment {environment:?} names no notifier for the audience {audience}");
                    let hint = "name some in the environment: `audiences: {team: [chat]}`";
                    Self::invalid("with.audience", message).hint(hint)
                })?;
                names.iter().map(|name| named(name)).collect()
            }
            (None, None) if backends.notifiers.is_empty() => backends.notifier("any").map(|_| Vec::new()),
            (None, None) => Ok(backends.notifiers.iter().map(|(name, notifier)| (name.as_str(), notifier)).collect()),
        }
    }
}

#[async_trait]
impl Action for Notify {
    type Params = Params;
    type Output = ();

    fn has_effects(&self) -> bool {
        // None that a rollback would have to take back.
        false
    }

    fn is_observer(&self) -> bool {
        true
    }

    fn deadline(&self, _: &Params) -> Option<Duration> {
        Some(Duration::from_secs(60))
    }

    async fn check(&self, cx: &CheckContext<'_>, params: &Params) -> Result<(), Vec<Error>> {
        let mut problems = params.problems(cx.plan);
        problems.extend(params.channels(cx.backends, &cx.plan.environment).err());
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    async fn execute(&self, cx: &StepContext, params: &Params) -> Result<()> {
        let message = params.message(cx)?;
        // Who heard it in an attempt that failed for others need not hear it again.
        let mut told: BTreeSet<String> = cx.last_checkpoint().unwrap_or_default();
        let mut channels = params.channels(cx.backends(), &cx.plan().environment)?;
        channels.retain(|(name, _)| !told.contains(*name));
        let telling = channels.iter().map(async |(_, channel)| channel.notify(&cx.call()?, &message).await);
        let answers = join_all(telling).await;
        let (mut failed, before) = (None, told.len());
        for ((name, _), answer) in channels.iter().zip(answers) {
            match answer {
                Ok(()) => drop(told.insert((*name).to_owned())),
                Err(e) => failed = failed.or(Some(e)),
            }
        }
        let Some(failed) = failed else { return Ok(()) };
        if told.len() > before {
            cx.checkpoint(&told).await?;
        }
        Err(failed)
    }

    async fn observe(&self, _: &StepContext, _: &Params) -> Result<Observed<()>> {
        Ok(Observed::NotDone)
    }

    async fn undo(&self, _: &StepContext, _: &Params, _: Option<&()>) -> Result<()> {
        Ok(())
    }
}
