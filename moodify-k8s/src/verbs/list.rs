use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use kube::api::DynamicObject;
use kube::core::Request;
use kube::core::params::ListParams;
use kube::runtime::watcher;
use moodify_core::{CallContext, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Verbs;
use crate::client::{Kind, Object, until_error};
use crate::error::{Access, Ask};

/// How many objects an answer holds at most.
const PAGE: u32 = 500;

/// Which objects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Select {
    labels: Option<String>,
    fields: Option<String>,
    everywhere: bool,
}

impl Select {
    /// All of the namespace.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// Only those with these labels, as `version=canary,tier in (web,api)`.
    #[must_use]
    pub fn labels(mut self, selector: impl Into<String>) -> Self {
        self.labels = Some(selector.into());
        self
    }

    /// Only those with these fields, as `status.phase=Failed`.
    #[must_use]
    pub fn fields(mut self, selector: impl Into<String>) -> Self {
        self.fields = Some(selector.into());
        self
    }

    /// Those of all namespaces.
    #[must_use]
    pub fn all_namespaces(mut self) -> Self {
        self.everywhere = true;
        self
    }

    /// Those of the verbs' own namespace only.
    pub(super) fn own_namespace(mut self) -> Self {
        self.everywhere = false;
        self
    }

    /// All of the same namespaces.
    pub(super) fn unfiltered(&self) -> Self {
        Self { labels: None, fields: None, everywhere: self.everywhere }
    }

    fn params(&self) -> ListParams {
        ListParams {
            label_selector: self.labels.clone(),
            field_selector: self.fields.clone(),
            limit: Some(PAGE),
            ..ListParams::default()
        }
    }
}

/// One answer to a question for many objects.
#[derive(Deserialize)]
#[serde(bound = "T: DeserializeOwned")]
struct Page<T> {
    items: Option<Vec<T>>,
    #[serde(default)]
    metadata: PageMeta,
}

#[derive(Deserialize, Default)]
struct PageMeta {
    #[serde(rename = "continue", default)]
    next: Option<String>,
}

impl Verbs {
    pub(super) fn object(&self, kind: Kind, name: &str) -> Object {
        Object::new(kind, &self.namespace, name)
    }

    /// The objects of a kind, page by page, in the order of namespace and name.
    pub(crate) async fn list<T: DeserializeOwned>(
        &self,
        cx: &CallContext,
        kind: Kind,
        select: &Select,
    ) -> Result<Vec<T>> {
        let place = if select.everywhere { "all namespaces" } else { &self.namespace };
        let ask = Ask::new(Access::Read, format!("list {}", kind.plural), place);
        let request = if select.everywhere {
            Request::new(format!("{}/{}", kind.root(), kind.plural))
        } else {
            // The name is only there to be valid: a list names none.
            self.object(kind, "all").request(&ask)?
        };
        let (mut params, mut all) = (select.params(), Vec::new());
        loop {
            let page: Page<T> = self.kube.json(cx, &ask, request.list(&params)).await?;
            all.extend(page.items.unwrap_or_default());
            match page.metadata.next.filter(|next| !next.is_empty()) {
                Some(next) => params.continue_token = Some(next),
                None => return Ok(all),
            }
        }
    }

    /// The same, and every change, until the context ends.
    pub(super) fn watch(
        &self,
        cx: &CallContext,
        kind: Kind,
        select: &Select,
    ) -> impl Stream<Item = Result<watcher::Event<DynamicObject>>> + Send + 'static {
        let mut config = watcher::Config::default();
        config.label_selector.clone_from(&select.labels);
        config.field_selector.clone_from(&select.fields);
        self.kube.watch(cx, kind, if select.everywhere { "" } else { &self.namespace }, config)
    }

    /// The objects of a kind now, and all of them again after every change of one.
    pub(super) fn watch_all(
        &self,
        cx: &CallContext,
        kind: Kind,
        select: &Select,
    ) -> BoxStream<'static, Result<Vec<Value>>> {
        let mut known = Known::default();
        let lists = self.watch(cx, kind, select).filter_map(move |event| {
            std::future::ready(match event {
                Ok(event) => known.on(event).map(Ok),
                Err(e) => Some(Err(e)),
            })
        });
        until_error(lists)
    }
}

/// The objects that a watch has seen, by namespace and name.
#[derive(Default)]
struct Known {
    now: std::collections::BTreeMap<(String, String), Value>,
    /// Filled by a new list, in place of `now` when it is complete.
    listed: Option<std::collections::BTreeMap<(String, String), Value>>,
}

impl Known {
    fn on(&mut self, event: watcher::Event<DynamicObject>) -> Option<Vec<Value>> {
        use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
        let key = |o: &DynamicObject| {
            (o.metadata.namespace.clone().unwrap_or_default(), o.metadata.name.clone().unwrap_or_default())
        };
        match event {
            Init => self.listed = Some(std::collections::BTreeMap::new()),
            InitApply(object) | Apply(object) => {
                let value = serde_json::to_value(&object).unwrap_or_default();
                self.listed.as_mut().unwrap_or(&mut self.now).insert(key(&object), value);
            }
            InitDone => self.now = self.listed.take().unwrap_or_default(),
            Delete(object) => drop(self.now.remove(&key(&object))),
        }
        self.listed.is_none().then(|| self.now.values().cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::client::POD;
    use crate::testing::{cx, kube};

    #[tokio::test]
    async fn long_lists_come_in_pages() {
        let (kube, asked) = kube(|_, path, _| {
            let (items, next) =
                if path.contains("continue=more") { (json!(["c"]), "") } else { (json!(["a", "b"]), "more") };
            (200, json!({"metadata": {"continue": next}, "items": items}))
        });
        let verbs = kube.verbs("shop");
        let all: Vec<String> = verbs.list(&cx(), POD, &Select::all().labels("app=web")).await.unwrap();
        assert_eq!(all, ["a", "b", "c"]);
        let asked = asked.lock().unwrap();
        assert!(
            asked.len() == 2 && asked.iter().all(|a| a.contains("/namespaces/shop/pods?") && a.contains("app%3Dweb")),
            "{asked:?}"
        );
        assert!(asked[0].contains("limit=500"), "{asked:?}");
    }

    #[tokio::test]
    async fn a_name_never_becomes_another_path() {
        let (kube, asked) = kube(|_, _, _| (200, json!({"items": []})));
        for namespace in ["", "../x", "a/b", "A", "a?b"] {
            let error = kube.verbs(namespace).pods(&cx(), &Select::all()).await.unwrap_err();
            assert_eq!(error.kind(), moodify_core::ErrorKind::Invalid, "{namespace}");
        }
        kube.verbs("shop").pods(&cx(), &Select::all().all_namespaces()).await.unwrap();
        assert_eq!(asked.lock().unwrap().len(), 1);
    }
}
