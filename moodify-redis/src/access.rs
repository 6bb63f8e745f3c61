//! Whether the user may do what a plan asks for, without doing it.

use futures::future::join_all;
use moodify_core::backend::CacheCapabilities;
use moodify_core::{CallContext, Error, ErrorKind, Result};
use redis::cmd;

use crate::connection::Node;
use crate::error::{Access, BACKEND};
use crate::topology::Servers;

const PREFLIGHT: &str = "check the cache";

/// Everything that is known before the first command of a plan: that each primary answers, and where the server tells it
/// (`ACL DRYRUN`, which runs nothing), that this user may give the commands. A user that may not ask is taken for one
/// that may do the rest.
pub(crate) async fn preflight(servers: &Servers, cx: &CallContext, needed: CacheCapabilities) -> Vec<Error> {
    let topology = match servers.topology(cx, PREFLIGHT).await {
        Ok(topology) => topology,
        Err(problem) => return vec![problem],
    };
    let commands = commands(needed);
    let asked = topology.primaries.iter().map(|primary| denied(cx, &primary.node, &commands));
    let answers: Result<Vec<Vec<&str>>> = join_all(asked).await.into_iter().collect();
    let denied = match answers {
        Ok(denied) => topology.primaries.iter().zip(denied).filter(|(_, denied)| !denied.is_empty()),
        Err(problem) => return vec![problem],
    };
    let told = denied.map(|(primary, denied)| {
        let message = format!("its user may not give the commands {}; nothing was changed", denied.join(", "));
        let allow: Vec<String> = denied.iter().map(|name| format!("+{}", name.to_lowercase())).collect();
        let error = Error::new(ErrorKind::Forbidden, BACKEND, PREFLIGHT, message).on(primary.node.label());
        error.hint(format!("allow them: ACL SETUSER <user> {}", allow.join(" ")))
    });
    told.collect()
}

/// A command, with arguments with which a server would take it.
type Asked = (&'static str, &'static [&'static str]);

const FLUSH: &[Asked] = &[("DBSIZE", &[]), ("FLUSHDB", &["ASYNC"])];
const DELETE: &[Asked] = &[("SCAN", &["0"]), ("UNLINK", &["key"])];
const WARM: &[Asked] = &[("SET", &["key", "value"])];
const SNAPSHOT: &[Asked] = &[("BGSAVE", &[]), ("TIME", &[])];

/// The commands that it takes.
fn commands(needed: CacheCapabilities) -> Vec<Asked> {
    let all = [(needed.flush, FLUSH), (needed.delete, DELETE), (needed.warm, WARM), (needed.snapshot, SNAPSHOT)];
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
        question.arg("DRYRUN").arg(&user).arg(name).arg(*arguments);
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
