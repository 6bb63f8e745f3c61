//! Lets a replica take over.

use std::collections::HashMap;
use std::time::Duration;

use futures::future::join_all;
use moodify_core::backend::{Failover, FailoverRequest};
use moodify_core::{CallContext, Effect, Error, ErrorKind, Result};
use redis::{Cmd, cmd};
use tokio::time::Instant;

use crate::address::Address;
use crate::config::Place;
use crate::connection::Node;
use crate::error::{Access, BACKEND};
use crate::topology::{Primary, Servers, Topology, fields, pause};

const FAILOVER: &str = "failover";

/// How often is asked whether it is over.
const LOOK: Duration = Duration::from_millis(200);

/// A replica of a cluster gives up after 5 s without saying so. What is seen not to have happened is asked for again.
const AGAIN: Duration = Duration::from_secs(10);

pub(crate) async fn failover(servers: &Servers, cx: &CallContext, request: &FailoverRequest) -> Result<Failover> {
    if !servers.can_fail_over() {
        let message = "a single server has nobody who could take over";
        return Err(Error::new(ErrorKind::Unsupported, BACKEND, FAILOVER, message).on(request.from.as_str()));
    }
    let from = &request.from;
    let over = |to: &Primary| Failover { from: from.clone(), to: to.node.address().to_string() };
    let mut asked: Option<Instant> = None;
    loop {
        let topology = servers.follow(cx, FAILOVER, |topology| std::future::ready(Ok(topology))).await?;
        match shard_of(&topology, from) {
            Shard::Primary(primary) => {
                if asked.is_none_or(|asked| asked.elapsed() > AGAIN) {
                    asked = Some(Instant::now());
                    ask(servers, cx, primary).await?;
                }
            }
            Shard::Replica(primary) => return Ok(over(primary)),
            Shard::None => {
                let former = asked.is_some() || sentinels_know(servers, cx, from).await?;
                match topology.primaries.as_slice() {
                    // A former primary is seen as a replica only a little later.
                    [primary] if former && !topology.clustered => return Ok(over(primary)),
                    _ if former => {}
                    _ => return Err(unknown(&topology, from)),
                }
            }
        }
        pause(cx, FAILOVER, LOOK).await.map_err(|e| {
            let hint = "nobody has taken over yet; who takes the writes is seen in info, and asking again is fine";
            e.on(from.as_str()).hint(hint)
        })?;
    }
}

/// What a node is in the shard that it is of.
enum Shard<'a> {
    Primary(&'a Primary),
    Replica(&'a Primary),
    None,
}

fn shard_of<'a>(topology: &'a Topology, address: &str) -> Shard<'a> {
    let is = |node: &Node| node.address().to_string() == address;
    for primary in &topology.primaries {
        if is(&primary.node) {
            return Shard::Primary(primary);
        }
        if primary.replicas.iter().any(|replica| is(replica)) {
            return Shard::Replica(primary);
        }
    }
    Shard::None
}

fn unknown(topology: &Topology, from: &str) -> Error {
    let known: Vec<String> = topology.primaries.iter().map(|primary| primary.node.address().to_string()).collect();
    let message = format!("it is no node of this cache; primaries are: {}", known.join(", "));
    Error::new(ErrorKind::NotFound, BACKEND, FAILOVER, message).on(from)
}

/// Whether a sentinel knows it as a replica.
async fn sentinels_know(servers: &Servers, cx: &CallContext, address: &str) -> Result<bool> {
    let Place::Sentinel { master, .. } = servers.place() else { return Ok(false) };
    let mut question = cmd("SENTINEL");
    question.arg("REPLICAS").arg(master);
    let asked = servers
        .sentinels()
        .iter()
        .map(|sentinel| sentinel.ask::<Vec<HashMap<String, String>>>(cx, FAILOVER, Access::Read, &question));
    let answers = join_all(asked).await;
    let place = |replica: &HashMap<String, String>| {
        Some(Address::new(replica.get("ip")?, replica.get("port")?.parse().ok()?).to_string())
    };
    if answers.iter().flatten().flatten().any(|replica| place(replica).as_deref() == Some(address)) {
        return Ok(true);
    }
    if answers.iter().any(Result::is_ok) {
        Ok(false)
    } else {
        answers.into_iter().collect::<Result<Vec<_>>>().map(|_| false)
    }
}

async fn ask(servers: &Servers, cx: &CallContext, primary: &Primary) -> Result<()> {
    let mut problem = None;
    if let Place::Sentinel { master, .. } = servers.place() {
        let mut command = cmd("SENTINEL");
        command.arg("FAILOVER").arg(master);
        for sentinel in servers.sentinels() {
            match told(cx, sentinel, &command).await {
                Ok(()) => return Ok(()),
                Err(e) => problem = Some(e),
            }
        }
    } else {
        for replica in &primary.replicas {
            // One that lags would lose what it does not have yet.
            if !fields(cx, FAILOVER, replica).await.is_ok_and(|fields| fields.follows()) {
                continue;
            }
            let mut command = cmd("CLUSTER");
            command.arg("FAILOVER");
            match told(cx, replica, &command).await {
                Ok(()) => return Ok(()),
                Err(e) => problem = Some(e),
            }
        }
    }
    Err(problem.unwrap_or_else(|| {
        let message = "no replica of it has all of its data";
        let error = Error::new(ErrorKind::Unavailable, BACKEND, FAILOVER, message).on(primary.node.label());
        error.hint("INFO replication of its replicas says why")
    }))
}

/// Whether the failover may have begun; what becomes of it is observed.
async fn told(cx: &CallContext, node: &Node, command: &Cmd) -> Result<()> {
    match node.ask::<String>(cx, FAILOVER, Access::Write, command).await {
        Ok(_) => Ok(()),
        Err(e) if e.effect_of() == Effect::Unknown => Ok(()),
        Err(e) if e.message().contains("INPROG") => Ok(()),
        Err(e) => Err(e),
    }
}
