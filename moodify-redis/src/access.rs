//! Whether the user may do what a plan asks for, without doing it.

use futures::future::join_all;
use moodify_core::backend::CacheCapabilities;
use moodify_core::{CallContext, Error, ErrorKind, Result};
use redis::cmd;

use crate::config::Place;
use crate::connection::Node;
use crate::error::{Access, BACKEND};
use crate::topology::Servers;

const PREFLIGHT: &str = "check the cache";

/// Everything that is known before the first command of a plan: that each node that is needed answers, and where the server tells it
/// (`ACL DRYRUN`, which runs nothing), that this user may give the commands. A user that may not ask is taken for one
/// that may do the rest.
pub(crate) async fn preflight(servers: &Servers, cx: &CallContext, needed: CacheCapabilities) -> Vec<Error> {
    let topology = match servers.topology(cx, PREFLIGHT).await {
        Ok(topology) => topology,
        Err(problem) => return vec![problem],
    };
    let primaries = topology.primaries.iter().map(|primary| (&*primary.node, commands(servers, needed)));
    let mut asked: Vec<(&Node, Vec<Asked>)> = primaries.collect();
    if needed.failover {
        match servers.place() {
            Place::Sentinel { .. } => asked.extend(servers.sentinels().iter().map(|node| (node, SENTINELS.to_vec()))),
            Place::Cluster(_) => {
                let replicas = topology.primaries.iter().flat_map(|primary| &primary.replicas);
                asked.extend(replicas.map(|node| (&**node, TAKE_OVER.to_vec())));
            }
            Place::Single(_) => {}
        }
    }
    let answers = join_all(asked.iter().map(|(node, commands)| denied(cx, node, commands))).await;
    let told = asked.iter().zip(answers).filter_map(|((node, _), answer)| match answer {
        Ok(denied) if denied.is_empty() => None,
        Ok(denied) => Some(forbidden(node, &denied)),
        Err(problem) => Some(problem),
    });
    told.collect()
}

fn forbidden(node: &Node, denied: &[&str]) -> Error {
    let names: Vec<String> = denied.iter().map(|name| name.replace('|', " ")).collect();
    let message = format!("its user may not give the commands {}; nothing was changed", names.join(", "));
    let allow: Vec<String> = denied.iter().map(|name| format!("+{}", name.to_lowercase())).collect();
    let error = Error::new(ErrorKind::Forbidden, BACKEND, PREFLIGHT, message).on(node.label());
    error.hint(format!("allow them: ACL SETUSER <user> {}", allow.join(" ")))
}

/// A command, with its subcommand if it has one, and arguments with which a server would take it.
type Asked = (&'static str, &'static [&'static str]);

const FLUSH: &[Asked] = &[("DBSIZE", &[]), ("FLUSHDB", &["ASYNC"])];
const DELETE: &[Asked] = &[("SCAN", &["0"]), ("UNLINK", &["key"])];
const WARM: &[Asked] = &[("SET", &["key", "value"])];
const SNAPSHOT: &[Asked] = &[("BGSAVE", &[]), ("TIME", &[])];
const FILES: &[Asked] = &[("CONFIG|GET", &["dir"])];
const DIAGNOSTICS: &[Asked] = &[("CLIENT|LIST", &[]), ("SLOWLOG|GET", &["1"])];
/// At the replicas of a cluster.
const TAKE_OVER: &[Asked] = &[("CLUSTER|FAILOVER", &[])];
const SENTINELS: &[Asked] = &[("SENTINEL|REPLICAS", &["name"]), ("SENTINEL|FAILOVER", &["name"])];

/// The commands that it takes at the primaries.
fn commands(servers: &Servers, needed: CacheCapabilities) -> Vec<Asked> {
    let all = [
        (needed.flush, FLUSH),
        (needed.delete, DELETE),
        (needed.warm, WARM),
        (needed.snapshot, SNAPSHOT),
        // Without it a snapshot is made as well, and its file is not looked at: which was asked for there.
        (needed.snapshot && servers.has_dump_dirs(), FILES),
        (needed.diagnostics, DIAGNOSTICS),
    ];
    all.into_iter().filter(|(needed, _)| *needed).flat_map(|(_, commands)| commands).copied().collect()
}

async fn denied(cx: &CallContext, node: &Node, commands: &[Asked]) -> Result<Vec<&'static str>> {
    if commands.is_empty() {
        return Ok(Vec::new());
    }
    let user = match node.ask::<String>(cx, PREFLIGHT, Access::Read, cmd("ACL").arg("WHOAMI")).await {
        Err(e) if cannot_tell(&e) => return Ok(Vec::new()),
        user => user?,
    };
    let mut denied = Vec::new();
    for (name, arguments) in commands {
        let mut question = cmd("ACL");
        question.arg("DRYRUN").arg(&user).arg(name.split('|').collect::<Vec<_>>()).arg(*arguments);
        match node.ask::<String>(cx, PREFLIGHT, Access::Read, &question).await {
            Err(e) if cannot_tell(&e) => return Ok(Vec::new()),
            // Which keys it may touch depends on the plan, and is told when it is a key that it may not.
            Ok(answer) if answer.contains("to run the") || answer.contains("run the command") => denied.push(*name),
            answer => drop(answer?),
        }
    }
    Ok(denied)
}

/// It may not ask, or the server is too old for the question.
fn cannot_tell(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Forbidden | ErrorKind::Unsupported | ErrorKind::Invalid)
}
