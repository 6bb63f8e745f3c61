use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use moodify_core::{CallContext, Result};

use super::rows::{DeploymentRow, PodRow, ServiceRow};
use super::{Select, Verbs};
use crate::client::{DEPLOYMENT, POD, SERVICE, typed, until_error};
use crate::error::{Access, Ask};

impl Verbs {
    /// The Deployments: `kubectl get deployments`.
    ///
    /// # Errors
    /// When the server cannot be asked, or refuses.
    pub async fn deployments(&self, cx: &CallContext, select: &Select) -> Result<Vec<DeploymentRow>> {
        let all: Vec<Deployment> = self.list(cx, DEPLOYMENT, select).await?;
        Ok(all.iter().map(DeploymentRow::of).collect())
    }

    /// The pods: `kubectl get pods`.
    ///
    /// # Errors
    /// When the server cannot be asked, or refuses.
    pub async fn pods(&self, cx: &CallContext, select: &Select) -> Result<Vec<PodRow>> {
        let all: Vec<Pod> = self.list(cx, POD, select).await?;
        Ok(all.iter().map(PodRow::of).collect())
    }

    /// The pods now, and again after every change that a row shows, until the context ends: in place of looking every
    /// five seconds. The stream ends with an error if going on is hopeless.
    ///
    /// # Errors
    /// None at once; those of the stream are the server's refusals.
    pub fn watch_pods(&self, cx: &CallContext, select: &Select) -> BoxStream<'static, Result<Vec<PodRow>>> {
        let ask = Ask::new(Access::Read, "watch pods", self.namespace.to_string());
        let mut last = None;
        let rows = self.watch_all(cx, POD, select).map(move |all| {
            let pods = all?.into_iter().map(|pod| typed::<Pod>(&ask, pod).map(|pod| PodRow::of(&pod)));
            pods.collect::<Result<Vec<PodRow>>>()
        });
        let changed = rows.try_filter_map(move |rows| {
            let news = (last.as_ref() != Some(&rows)).then(|| rows.clone());
            last = Some(rows);
            std::future::ready(Ok(news))
        });
        until_error(changed)
    }

    /// The Services: `kubectl get services`.
    ///
    /// # Errors
    /// When the server cannot be asked, or refuses.
    pub async fn services(&self, cx: &CallContext, select: &Select) -> Result<Vec<ServiceRow>> {
        let all: Vec<Service> = self.list(cx, SERVICE, select).await?;
        Ok(all.iter().map(ServiceRow::of).collect())
    }
}
