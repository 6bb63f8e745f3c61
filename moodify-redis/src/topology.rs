//! Finds who takes the writes, and goes on with whoever does after a failover.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use moodify_core::backend::CacheRole;
use moodify_core::{CallContext, Error, ErrorKind, Result};
use redis::{RedisResult, cmd};
use tokio::time::Instant;
use tracing::debug;

use crate::address::Address;
use crate::cluster::{self, Member};
use crate::config::{Place, RedisConfig};
use crate::connection::{Node, Way};
use crate::error::{Access, BACKEND};
use crate::info::Fields;
use crate::slot;

/// How often is asked who takes the writes while nobody does.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// How long the last sentinels are waited for when most have answered.
const STRAGGLERS: Duration = Duration::from_millis(200);

/// How long one node of a cluster is waited for before another one is asked too.
const NEXT_NODE: Duration = Duration::from_millis(500);

/// A node that takes writes.
#[derive(Debug)]
pub(crate) struct Primary {
    pub(crate) node: Arc<Node>,
    pub(crate) fields: Fields,
    pub(crate) replicas: Vec<Arc<Node>>,
    /// First and last of each range; none but in a cluster.
    pub(crate) slots: Vec<(u16, u16)>,
    /// Slots that are being moved to it or from it.
    pub(crate) moving: Vec<u16>,
    /// Rises when it takes slots over; 0 but in a cluster.
    pub(crate) epoch: u64,
}

/// What stays the same of a primary as long as its data has one history: as soon as it differs, another node may have
/// taken over, and this one may have lost what it was told last.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tenure {
    address: Address,
    history: String,
    slots: Vec<(u16, u16)>,
}

impl Tenure {
    /// Whether it is about the same part of the data.
    pub(crate) fn has_slots_of(&self, other: &Self) -> bool {
        self.slots == other.slots
    }
}

impl Primary {
    pub(crate) fn tenure(&self) -> Tenure {
        let (address, slots) = (self.node.address().clone(), self.slots.clone());
        Tenure { address, history: self.fields.history(), slots }
    }
}

/// All primaries at one moment.
#[derive(Debug)]
pub(crate) struct Topology {
    pub(crate) primaries: Vec<Primary>,
    pub(crate) clustered: bool,
}

impl Topology {
    pub(crate) fn tenures(&self) -> Vec<Tenure> {
        let mut all: Vec<Tenure> = self.primaries.iter().map(Primary::tenure).collect();
        all.sort();
        all
    }

    /// Who has this key.
    pub(crate) fn place_of(&self, key: &[u8]) -> usize {
        if !self.clustered {
            return 0;
        }
        let slot = slot::of(key);
        let has = |primary: &Primary| primary.slots.iter().any(|(first, last)| (*first..=*last).contains(&slot));
        // Every slot is somebody's, or there would be no topology.
        self.primaries.iter().position(has).unwrap_or(0)
    }

    /// By slot, who has it, and in which of its times; nobody has one that is being moved.
    pub(crate) fn owners(&self) -> Vec<Option<(&Address, String, u64)>> {
        let mut owners = vec![None; usize::from(slot::SLOTS)];
        for primary in &self.primaries {
            let owner = (primary.node.address(), primary.fields.history(), primary.epoch);
            for (first, last) in &primary.slots {
                owners[usize::from(*first)..=usize::from(*last)].fill(Some(owner.clone()));
            }
        }
        for slot in self.primaries.iter().flat_map(|primary| &primary.moving) {
            owners[usize::from(*slot)] = None;
        }
        owners
    }
}

/// All servers of a cache.
#[derive(Debug)]
pub(crate) struct Servers {
    place: Place,
    way: Arc<Way>,
    patience: Duration,
    dump_dirs: BTreeMap<Address, PathBuf>,
    sentinels: Vec<Node>,
    nodes: Mutex<BTreeMap<Address, Arc<Node>>>,
}

impl Servers {
    /// Reads the trust store; connects later.
    pub(crate) fn new(config: &RedisConfig) -> Result<Self> {
        let problems = |all: Vec<String>| Error::new(ErrorKind::Invalid, BACKEND, "connect", all.join("; "));
        let setup = config.setup().map_err(problems)?;
        let timeouts = config.timeouts();
        let way = Arc::new(Way::new(setup.login, setup.tls, config.authorities(), timeouts)?);
        let sentinels = match &setup.place {
            Place::Sentinel { sentinels, login, .. } => {
                let way = Arc::new(way.with_login(login.clone()));
                sentinels.iter().map(|address| Node::new(address.clone(), way.clone())).collect()
            }
            _ => Vec::new(),
        };
        let nodes = Mutex::default();
        Ok(Self { place: setup.place, way, patience: timeouts.failover, dump_dirs: setup.dump_dirs, sentinels, nodes })
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    pub(crate) fn sentinels(&self) -> &[Node] {
        &self.sentinels
    }

    /// Where this process sees the files of a node, if the configuration says so.
    pub(crate) fn dump_dir(&self, node: &Address) -> Option<&Path> {
        self.dump_dirs.get(node).map(PathBuf::as_path)
    }

    pub(crate) fn has_dump_dirs(&self) -> bool {
        !self.dump_dirs.is_empty()
    }

    pub(crate) fn database(&self) -> i64 {
        self.way.login.db()
    }

    /// Whether another node can take over.
    pub(crate) fn can_fail_over(&self) -> bool {
        !matches!(self.place, Place::Single(_))
    }

    /// The node at this address, with the connection to it that there is.
    pub(crate) fn node(&self, address: &Address) -> Arc<Node> {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Node::new(address.clone(), self.way.clone()));
        nodes.entry(address.clone()).or_insert_with(new).clone()
    }

    /// Closes what is of no more use.
    fn keep(&self, topology: &Topology) {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |primary: &Primary, address: &Address| {
            primary.node.address() == address || primary.replicas.iter().any(|node| node.address() == address)
        };
        nodes.retain(|address, _| topology.primaries.iter().any(|primary| of(primary, address)));
    }

    /// Does something with all primaries, and does it again when meanwhile one went away or was replaced: `pass` must
    /// take that. Fails when there was no primary for the configured time, or none that `pass` got on with.
    pub(crate) async fn follow<T, F: Future<Output = Result<T>>>(
        &self,
        cx: &CallContext,
        operation: &'static str,
        mut pass: impl FnMut(Arc<Topology>) -> F,
    ) -> Result<T> {
        let mut failing: Option<(Instant, Vec<Tenure>)> = None;
        loop {
            let (tenures, problem) = match self.topology(cx, operation).await {
                Ok(topology) => {
                    let topology = Arc::new(topology);
                    match pass(topology.clone()).await {
                        Ok(done) => return Ok(done),
                        Err(problem) => (topology.tenures(), problem),
                    }
                }
                Err(problem) => (Vec::new(), problem),
            };
            let in_passing = matches!(problem.kind(), ErrorKind::Unavailable | ErrorKind::Timeout);
            if !in_passing || !self.can_fail_over() || cx.remaining().is_zero() {
                return Err(problem);
            }
            // The time begins anew when others have taken over.
            failing = failing.filter(|(_, before)| tenures.is_empty() || *before == tenures);
            let since = failing.get_or_insert_with(|| (Instant::now(), tenures)).0;
            if since.elapsed() > self.patience {
                return Err(problem.hint("no primary took over in failover-timeout; look at the replicas"));
            }
            debug!(%problem, "waiting for a primary");
            pause(cx, operation, LOOK_AGAIN).await.map_err(|e| e.with_source(problem).on("the cache's primaries"))?;
        }
    }

    /// Fails in passing unless the primaries are the same as before, with the same history.
    pub(crate) async fn unchanged(&self, cx: &CallContext, operation: &'static str, before: &Topology) -> Result<()> {
        if self.topology(cx, operation).await?.tenures() == before.tenures() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unavailable, BACKEND, operation, "another node took over meanwhile"))
    }

    /// Who takes the writes now.
    pub(crate) async fn topology(&self, cx: &CallContext, operation: &'static str) -> Result<Topology> {
        let topology = match &self.place {
            Place::Single(address) => self.single(cx, operation, address).await?,
            Place::Sentinel { master, .. } => self.watched(cx, operation, master).await?,
            Place::Cluster(seeds) => self.cluster(cx, operation, seeds).await?,
        };
        self.keep(&topology);
        Ok(topology)
    }

    async fn single(&self, cx: &CallContext, operation: &'static str, address: &Address) -> Result<Topology> {
        let node = self.node(address);
        let fields = fields(cx, operation, &node).await?;
        let mode = fields.mode();
        if mode != "standalone" {
            let message = format!("the server runs in {mode} mode, and was set up as a single server");
            let error = Error::new(ErrorKind::Unsupported, BACKEND, operation, message).on(node.label());
            return Err(error.hint("set mode to cluster or sentinel, with addresses"));
        }
        let primary = Primary { node, fields, replicas: Vec::new(), slots: Vec::new(), moving: Vec::new(), epoch: 0 };
        Ok(Topology { primaries: vec![primary], clustered: false })
    }

    async fn watched(&self, cx: &CallContext, operation: &'static str, master: &str) -> Result<Topology> {
        let address = self.sentinels_say(cx, operation, master).await?;
        let node = self.node(&address);
        let fields = fields(cx, operation, &node).await?;
        if fields.role() != CacheRole::Primary {
            let message = "the sentinels say it is the primary, and it says it is a replica: a failover is under way";
            return Err(Error::new(ErrorKind::Unavailable, BACKEND, operation, message).on(node.label()));
        }
        let replicas = fields.replicas().iter().map(|address| self.node(address)).collect();
        let primary = Primary { node, fields, replicas, slots: Vec::new(), moving: Vec::new(), epoch: 0 };
        Ok(Topology { primaries: vec![primary], clustered: false })
    }

    /// The primary by the sentinel that knows of the latest failover.
    async fn sentinels_say(&self, cx: &CallContext, operation: &'static str, master: &str) -> Result<Address> {
        let mut question = cmd("SENTINEL");
        question.arg("MASTER").arg(master);
        let ask = |node| Node::ask::<HashMap<String, String>>(node, cx, operation, Access::Read, &question);
        let mut asked: FuturesUnordered<_> = self.sentinels.iter().map(ask).collect();
        let (mut answers, mut failure) = (Vec::new(), None);
        loop {
            let most = 2 * answers.len() > self.sentinels.len();
            let wait = if most { STRAGGLERS } else { cx.remaining() + STRAGGLERS };
            match tokio::time::timeout(wait, asked.next()).await {
                Ok(Some(Ok(answer))) => answers.push(answer),
                Ok(Some(Err(problem))) => failure = Some(problem),
                Ok(None) | Err(_) => break,
            }
        }
        let epoch = |answer: &HashMap<String, String>| answer.get("config-epoch").and_then(|e| e.parse::<u64>().ok());
        let latest = answers.iter().max_by_key(|answer| epoch(answer));
        let address =
            latest.and_then(|answer| Some(Address::new(answer.get("ip")?, answer.get("port")?.parse().ok()?)));
        let unknown =
            || Error::new(ErrorKind::Unavailable, BACKEND, operation, "no sentinel says where it is").on(master);
        address.ok_or_else(|| {
            failure.map_or_else(unknown, |problem| problem.hint("no sentinel says where the primary is"))
        })
    }

    async fn cluster(&self, cx: &CallContext, operation: &'static str, seeds: &[Address]) -> Result<Topology> {
        let all = self.members(cx, operation, seeds).await?;
        let candidates = all.iter().filter(|member| member.primary && member.alive && !member.slots.is_empty());
        let asked = candidates.map(|member| self.primary(cx, operation, &all, member));
        let (primaries, views): (Vec<Primary>, Vec<Vec<Member>>) =
            join_all(asked).await.into_iter().collect::<Result<Vec<_>>>()?.into_iter().unzip();
        // It is whole when all primaries say the same of one another.
        let owners = |view: &[Member]| {
            let of = |m: &Member| (m.id.clone(), m.slots.clone());
            let mut all: Vec<_> = view.iter().filter(|m| m.primary && m.alive && !m.slots.is_empty()).map(of).collect();
            all.sort();
            all
        };
        let agreed = owners(&all);
        if views.iter().any(|view| owners(view) != agreed) {
            let message = "its nodes do not agree who takes the writes: a failover is under way, or slots are moving";
            return Err(Error::new(ErrorKind::Unavailable, BACKEND, operation, message).on("the cluster"));
        }
        let missing = slot::missing(primaries.iter().flat_map(|primary| primary.slots.iter().copied()));
        if missing > 0 {
            let message = format!("nobody takes the writes of {missing} slots");
            let error = Error::new(ErrorKind::Unavailable, BACKEND, operation, message).on("the cluster");
            return Err(error.hint("redis-cli --cluster check says which, and why"));
        }
        Ok(Topology { primaries, clustered: true })
    }

    /// What the first node that answers knows of all others; the next one is asked when one does not answer soon.
    async fn members(&self, cx: &CallContext, operation: &'static str, seeds: &[Address]) -> Result<Vec<Member>> {
        // Those that there are connections to come first.
        let mut known: Vec<Address> =
            self.nodes.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
        let others = seeds.iter().filter(|seed| !known.contains(seed)).cloned().collect::<Vec<_>>();
        known.extend(others);
        let (mut known, mut asked, mut failure) = (known.iter(), FuturesUnordered::new(), None);
        loop {
            let next = known.next();
            let more = next.is_some();
            asked.extend(next.map(|address| self.members_by(cx, operation, address)));
            match tokio::time::timeout(NEXT_NODE, asked.next()).await {
                Ok(Some(Ok(members))) => return Ok(members),
                Ok(Some(Err(problem))) => failure = Some(problem),
                Ok(None) if !more => break,
                Ok(None) | Err(_) => {}
            }
        }
        let nobody = || Error::new(ErrorKind::Unavailable, BACKEND, operation, "no node of the cluster answers");
        Err(failure.unwrap_or_else(nobody))
    }

    async fn members_by(&self, cx: &CallContext, operation: &'static str, address: &Address) -> Result<Vec<Member>> {
        let node = self.node(address);
        let text: String = node.ask(cx, operation, Access::Read, cmd("CLUSTER").arg("NODES")).await?;
        Ok(cluster::members(&text, address, self.way.is_tls()))
    }

    /// A primary as it sees itself, and how it sees the others.
    async fn primary(
        &self,
        cx: &CallContext,
        operation: &'static str,
        all: &[Member],
        member: &Member,
    ) -> Result<(Primary, Vec<Member>)> {
        let node = self.node(&member.address);
        let mut questions = redis::pipe();
        questions.cmd("INFO").cmd("CLUSTER").arg("NODES");
        let answers: Vec<RedisResult<String>> = node.ask_all(cx, operation, Access::Read, &mut questions).await?;
        let mut texts = answers.into_iter().map(|answer| answer.map_err(|e| node.failed(e, operation, Access::Read)));
        let fields = Fields::parse(&texts.next().transpose()?.unwrap_or_default());
        let text = texts.next().transpose()?.unwrap_or_default();
        let view = cluster::members(&text, &member.address, self.way.is_tls());
        let myself = view.iter().find(|other| other.myself);
        let (moving, epoch) = myself.map(|me| (me.moving.clone(), me.epoch)).unwrap_or_default();
        let follows = |other: &&Member| other.alive && other.follows.as_ref() == Some(&member.id);
        let replicas = all.iter().filter(follows).map(|other| self.node(&other.address)).collect();
        Ok((Primary { node, fields, replicas, slots: member.slots.clone(), moving, epoch }, view))
    }
}

/// What a node says of itself.
pub(crate) async fn fields(cx: &CallContext, operation: &'static str, node: &Node) -> Result<Fields> {
    // Without sections: naming several of them at once is younger than Redis 7.
    let text: String = node.ask(cx, operation, Access::Read, &cmd("INFO")).await?;
    Ok(Fields::parse(&text))
}

/// Waits, but not longer than the call may take.
pub(crate) async fn pause(cx: &CallContext, operation: &'static str, time: Duration) -> Result<()> {
    let wait = async {
        tokio::time::sleep(time).await;
        Ok(())
    };
    cx.run(BACKEND, operation, wait).await
}
