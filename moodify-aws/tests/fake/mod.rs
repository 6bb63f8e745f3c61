//! A server of the query protocol as DocumentDB and ElastiCache speak it, with their real states and what goes wrong in
//! them. A thing that changes by itself is done after so many looks at it, so that tests do not depend on time.

#![allow(dead_code, reason = "each test uses what it needs")]

mod docdb;
mod elasticache;

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

/// The parameters of a request.
pub(crate) type Form = BTreeMap<String, String>;

/// An answer: what is in the result, or a refusal.
type Answer = Result<String, Refusal>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) code: String,
    message: String,
}

fn refuse<T>(status: u16, code: &str, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { status, code: code.to_owned(), message: message.into() })
}

/// What goes wrong with requests of one action.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// It is refused, and nothing happens.
    Refuse(u16, &'static str),
    /// It happens, but the answer is lost.
    LoseAnswer,
}

/// Something with fields, tags and a status that changes by itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Thing {
    fields: BTreeMap<String, String>,
    tags: Vec<(String, String)>,
    /// What it becomes after so many looks; it vanishes where that is empty.
    next: Option<(u32, &'static str)>,
}

impl Thing {
    pub(crate) fn new(fields: &[(&str, &str)]) -> Self {
        let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self { fields, ..Self::default() }
    }

    pub(crate) fn get(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.fields.insert(name.to_owned(), value.to_owned());
    }

    fn changes(mut self, looks: u32, to: &'static str) -> Self {
        self.next = Some((looks, to));
        self
    }

    /// The fields as elements; names that begin in lower case are the fake's own.
    fn xml(&self) -> String {
        let shown = self.fields.iter().filter(|(name, _)| name.starts_with(|c: char| c.is_ascii_uppercase()));
        shown.fold(String::new(), |mut all, (name, value)| {
            let _ = write!(all, "<{name}>{value}</{name}>");
            all
        })
    }
}

/// Things of one kind, by identifier.
type Things = BTreeMap<String, Thing>;

/// One look at all of a kind: what is due changes, in the field that is its status.
fn look(things: &mut Things, status: &str, wanted: &dyn Fn(&str, &Thing) -> bool) {
    things.retain(|id, thing| {
        if !wanted(id, thing) {
            return true;
        }
        match thing.next {
            Some((0, "")) => return false,
            Some((0, to)) => {
                thing.set(status, to);
                thing.next = None;
            }
            Some((looks, to)) => thing.next = Some((looks - 1, to)),
            None => {}
        }
        true
    });
}

#[derive(Debug, Default)]
pub(crate) struct World {
    pub(crate) clusters: Things,
    pub(crate) instances: Things,
    pub(crate) snapshots: Things,
    /// Replication groups of ElastiCache, their nodes, snapshots and events.
    pub(crate) groups: Things,
    pub(crate) nodes: Things,
    pub(crate) cache_snapshots: Things,
    pub(crate) events: Vec<Thing>,
    /// How many looks a change takes.
    pub(crate) looks: u32,
    /// What new snapshots, clusters and instances become, where it is not `available`; `None` is never.
    pub(crate) ends: BTreeMap<&'static str, Option<&'static str>>,
    /// What new clusters, instances and groups become other than asked for: kind, field and value.
    pub(crate) twists: Vec<(&'static str, &'static str, &'static str)>,
    /// How many manual snapshots there may be.
    pub(crate) quota: usize,
    /// The actions of all requests, in order.
    pub(crate) requests: Vec<String>,
    faults: Vec<(&'static str, VecDeque<Fault>)>,
    clock: u64,
}

impl World {
    fn twist(&self, kind: &'static str, thing: &mut Thing) {
        for (_, field, value) in self.twists.iter().filter(|(of, ..)| *of == kind) {
            thing.set(field, value);
        }
    }

    fn making(&self, kind: &'static str, mut thing: Thing) -> Thing {
        self.twist(kind, &mut thing);
        match self.ends.get(kind) {
            None => thing.changes(self.looks, "available"),
            Some(Some(end)) => thing.changes(self.looks, end),
            Some(None) => thing,
        }
    }

    /// A time that is later with every call.
    fn now(&mut self) -> String {
        self.clock += 1;
        format!("2026-11-24T{:02}:{:02}:{:02}.000Z", 9 + self.clock / 3600, self.clock / 60 % 60, self.clock % 60)
    }

    fn handle(&mut self, form: &Form) -> Answer {
        let action = text(form, "Action");
        match docdb::handle(self, action, form).or_else(|| elasticache::handle(self, action, form)) {
            Some(answer) => answer,
            None => refuse(400, "InvalidAction", format!("the fake does not know {action}")),
        }
    }
}

fn text<'a>(form: &'a Form, name: &str) -> &'a str {
    form.get(name).map_or("", String::as_str)
}

/// A list of the query protocol: `Name.1`, `Name.2`, ...
fn list(form: &Form, name: &str) -> Vec<String> {
    (1..).map_while(|n| form.get(&format!("{name}.{n}")).cloned()).collect()
}

fn tags(form: &Form) -> Vec<(String, String)> {
    let pair =
        |n| Some((form.get(&format!("Tags.Tag.{n}.Key"))?.clone(), text(form, &format!("Tags.Tag.{n}.Value")).into()));
    (1..).map_while(pair).collect()
}

fn tag_list(tags: &[(String, String)]) -> String {
    let all = tags.iter().fold(String::new(), |mut all, (key, value)| {
        let _ = write!(all, "<Tag><Key>{key}</Key><Value>{value}</Value></Tag>");
        all
    });
    format!("<TagList>{all}</TagList>")
}

/// The fake, listening on a free port of 127.0.0.1 as long as the runtime of its test lives.
#[derive(Debug, Clone)]
pub(crate) struct Fake {
    world: Arc<Mutex<World>>,
    url: String,
}

impl Fake {
    pub(crate) async fn start() -> Self {
        let world = Arc::new(Mutex::new(World { quota: 100, ..World::default() }));
        let app = axum::Router::new().fallback(answer).with_state(world.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { world, url }
    }

    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// The next so many requests of an action go wrong.
    pub(crate) fn fault(&self, action: &'static str, times: usize, fault: &Fault) {
        self.world().faults.push((action, std::iter::repeat_n(fault.clone(), times).collect()));
    }

    /// How many requests of an action there were.
    pub(crate) fn count(&self, action: &str) -> usize {
        self.world().requests.iter().filter(|request| *request == action).count()
    }

    /// Sends a request as moto is sent one: the status and the error code, which is empty if there is none.
    pub(crate) fn ask(&self, form: &str) -> (u16, String) {
        let (status, code, _) = self.answer(form);
        (status, code)
    }

    /// The same, and the body.
    pub(crate) fn answer(&self, form: &str) -> (u16, String, String) {
        let form = parse(form);
        let result = self.world().handle(&form);
        let body = document(text(&form, "Action"), &result);
        match result {
            Ok(_) => (200, String::new(), body),
            Err(refusal) => (refusal.status, refusal.code, body),
        }
    }
}

fn parse(body: &str) -> Form {
    url::form_urlencoded::parse(body.as_bytes()).into_owned().collect()
}

async fn answer(Shared(world): Shared<Arc<Mutex<World>>>, body: String) -> Response {
    let form = parse(&body);
    let action = text(&form, "Action").to_owned();
    let mut world = world.lock().unwrap();
    world.requests.push(action.clone());
    let fault = world.faults.iter_mut().filter(|(of, _)| *of == action).find_map(|(_, faults)| faults.pop_front());
    let result = match fault {
        Some(Fault::Refuse(status, code)) => refuse(status, code, "as the test says"),
        Some(Fault::LoseAnswer) => {
            let _ = world.handle(&form);
            return (StatusCode::BAD_GATEWAY, "<html>a proxy</html>").into_response();
        }
        None => world.handle(&form),
    };
    let status = result.as_ref().err().map_or(200, |refusal| refusal.status);
    (StatusCode::from_u16(status).unwrap(), document(&action, &result)).into_response()
}

fn document(action: &str, result: &Answer) -> String {
    match result {
        Ok(inner) => format!("<{action}Response><{action}Result>{inner}</{action}Result></{action}Response>"),
        Err(Refusal { code, message, .. }) => format!(
            "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>\
             <RequestId>1</RequestId></ErrorResponse>"
        ),
    }
}
