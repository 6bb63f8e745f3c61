//! `rbac`: the least that a plan needs in its cluster.

use moodify_k8s::roles_for;
use serde_json::{Value, json};

use crate::args::{Global, Rbac};
use crate::exit::{Exit, Stop};
use crate::plan::Loaded;
use crate::show::say;

pub(crate) fn rbac(args: &Rbac, global: &Global) -> Result<Exit, Stop> {
    let loaded = Loaded::read(&args.plan)?;
    let roles = roles_for(&loaded.plan, global.cluster.as_deref());
    let subjects = subjects(args);
    let bindings: Vec<Value> = match subjects.as_slice() {
        [] => Vec::new(),
        subjects => roles.iter().map(|role| binding(role, subjects)).collect(),
    };
    let items: Vec<Value> = roles.into_iter().chain(bindings).collect();
    say(&format!("{:#}", json!({"apiVersion": "v1", "kind": "List", "items": items})));
    Ok(Exit::Completed)
}

fn subjects(args: &Rbac) -> Vec<Value> {
    let user = |name: &String| json!({"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": name});
    let account =
        |(namespace, name): &(String, String)| json!({"kind": "ServiceAccount", "namespace": namespace, "name": name});
    args.user.iter().map(user).chain(args.service_account.iter().map(account)).collect()
}

fn binding(role: &Value, subjects: &[Value]) -> Value {
    let kind = role["kind"].as_str().unwrap_or("Role");
    json!({
        "apiVersion": role["apiVersion"],
        "kind": format!("{kind}Binding"),
        "metadata": role["metadata"],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role["metadata"]["name"]},
        "subjects": subjects,
    })
}
