//! ElastiCache: replication groups and their nodes, which restart and fail over, snapshots, events, tags.

use std::collections::BTreeSet;

use super::{Answer, Form, Refusal, Thing, World, list, look, refuse, tag_list, tags, text};

/// How many snapshots or events are on a page.
const PAGE: usize = 2;

const ACCOUNT: &str = "arn:aws:elasticache:eu-central-1:123456789012";

/// What a node is while it is rebooted.
const REBOOTING: &str = "rebooting cluster nodes";

pub(super) fn handle(world: &mut World, action: &str, form: &Form) -> Option<Answer> {
    Some(match action {
        "CreateReplicationGroup" => create_group(world, form),
        "DescribeReplicationGroups" => describe_groups(world, form),
        "DeleteReplicationGroup" => delete_group(world, form),
        "CreateCacheCluster" => create_cluster(world, form),
        "DescribeCacheClusters" => describe_clusters(world, form),
        "RebootCacheCluster" => reboot(world, form),
        "TestFailover" => fail_over(world, form),
        "DescribeEvents" => describe_events(world, form),
        "CreateSnapshot" => create_snapshot(world, form),
        "CopySnapshot" => copy_snapshot(world, form),
        "DescribeSnapshots" => describe_snapshots(world, form),
        "DeleteSnapshot" => delete_snapshot(world, form),
        "ListTagsForResource" if text(form, "ResourceName").contains(":elasticache:") => list_tags(world, form),
        _ => return None,
    })
}

fn group<'a>(world: &'a mut World, id: &str) -> Result<&'a mut Thing, Refusal> {
    match world.groups.get_mut(id) {
        Some(group) => Ok(group),
        None => refuse(404, "ReplicationGroupNotFoundFault", format!("Replication group {id} not found.")),
    }
}

fn node<'a>(world: &'a mut World, id: &str) -> Result<&'a mut Thing, Refusal> {
    match world.nodes.get_mut(id) {
        Some(node) => Ok(node),
        None => refuse(404, "CacheClusterNotFound", format!("Cache cluster {id} not found.")),
    }
}

/// A node with which something can be begun.
fn steady<'a>(world: &'a mut World, id: &str) -> Result<&'a mut Thing, Refusal> {
    let node = node(world, id)?;
    match node.get("CacheClusterStatus") {
        "available" => Ok(node),
        status => refuse(400, "InvalidCacheClusterState", format!("Cache cluster {id} is in {status} state")),
    }
}

/// Events are of today, as AWS keeps them for 14 days only.
#[expect(clippy::disallowed_methods, reason = "AWS has a clock of its own")]
fn happened(world: &mut World, kind: &str, source: &str, message: &str) {
    world.events.push(Thing::new(&[
        ("SourceType", kind),
        ("SourceIdentifier", source),
        ("Message", message),
        ("Date", &jiff::Timestamp::now().to_string()),
    ]));
}

/// A look at a node: where a reboot ends, there is an event.
fn look_at_nodes(world: &mut World, wanted: &dyn Fn(&Thing) -> bool) {
    let mut nodes = std::mem::take(&mut world.nodes);
    let rebooting = |node: &Thing| node.get("CacheClusterStatus") == REBOOTING;
    let before: Vec<String> = nodes.iter().filter(|(_, node)| rebooting(node)).map(|(id, _)| id.clone()).collect();
    look(&mut nodes, "CacheClusterStatus", &|_, node| wanted(node));
    for id in before.iter().filter(|id| nodes.get(*id).is_some_and(|node| !rebooting(node))) {
        happened(world, "cache-cluster", id, "Cache node 0001 restarted");
    }
    for node in nodes.values_mut().filter(|node| wanted(node)) {
        match node.get("asked") {
            // The first look finds nothing yet.
            "now" => node.set("asked", "before"),
            "before" => {
                node.set("asked", "");
                node.set("CacheClusterStatus", REBOOTING);
                node.next = Some((world.looks, "available"));
            }
            _ => {}
        }
    }
    world.nodes = nodes;
}

fn endpoint(id: &str) -> String {
    format!("<Address>{id}.c1.euc1.cache.amazonaws.com</Address><Port>6380</Port>")
}

fn node_xml(node: &Thing) -> String {
    let groups = node.get("groups").split(',').filter(|group| !group.is_empty());
    let groups: String = groups
        .map(|group| format!("<member><SecurityGroupId>{group}</SecurityGroupId><Status>active</Status></member>"))
        .collect();
    format!(
        "<CacheCluster>{}<CacheNodes><CacheNode><CacheNodeId>0001</CacheNodeId><Endpoint>{}</Endpoint></CacheNode>\
         </CacheNodes><SecurityGroups>{groups}</SecurityGroups><CacheParameterGroup><CacheParameterGroupName>{}\
         </CacheParameterGroupName></CacheParameterGroup></CacheCluster>",
        node.xml(),
        endpoint(node.get("CacheClusterId")),
        node.get("parameters"),
    )
}

fn group_xml(world: &World, id: &str, group: &Thing) -> String {
    let nodes: Vec<&Thing> = world.nodes.values().filter(|node| node.get("ReplicationGroupId") == id).collect();
    let names: String =
        nodes.iter().map(|node| format!("<ClusterId>{}</ClusterId>", node.get("CacheClusterId"))).collect();
    let clustered = group.get("ClusterEnabled") == "true";
    let member = |node: &&Thing| {
        let name = node.get("CacheClusterId");
        // With cluster mode AWS does not tell who is the primary.
        let role = if clustered { String::new() } else { format!("<CurrentRole>{}</CurrentRole>", node.get("role")) };
        format!(
            "<NodeGroupMember><CacheClusterId>{name}</CacheClusterId><CacheNodeId>0001</CacheNodeId>\
             <ReadEndpoint>{}</ReadEndpoint>{role}</NodeGroupMember>",
            endpoint(name)
        )
    };
    let place = if clustered { "ConfigurationEndpoint" } else { "PrimaryEndpoint" };
    let reached = format!("<{place}>{}</{place}>", endpoint(id));
    let (outside, inside) = if clustered { (reached, String::new()) } else { (String::new(), reached) };
    let users: String = group
        .get("users")
        .split(',')
        .filter(|user| !user.is_empty())
        .fold(String::new(), |all, user| format!("{all}<member>{user}</member>"));
    let shards: BTreeSet<&str> = nodes.iter().map(|node| node.get("shard")).collect();
    let shards = shards.iter().map(|shard| {
        let of = nodes.iter().filter(|node| node.get("shard") == *shard);
        let busy = group.get("failing") == *shard && group.get("Status") == "modifying";
        let status = if busy || group.get("failing").is_empty() { group.get("Status") } else { "available" };
        format!(
            "<NodeGroup><NodeGroupId>{shard}</NodeGroupId><Status>{status}</Status>{inside}<NodeGroupMembers>{}\
             </NodeGroupMembers></NodeGroup>",
            of.map(member).collect::<String>()
        )
    });
    format!(
        "<ReplicationGroup>{}{outside}<MemberClusters>{names}</MemberClusters><UserGroupIds>{users}</UserGroupIds>\
         <NodeGroups>{}</NodeGroups></ReplicationGroup>",
        group.xml(),
        shards.collect::<String>(),
    )
}

fn enabled(form: &Form, name: &str) -> &'static str {
    if text(form, name) == "true" { "enabled" } else { "disabled" }
}

fn create_group(world: &mut World, form: &Form) -> Answer {
    let id = text(form, "ReplicationGroupId");
    if world.groups.contains_key(id) {
        return refuse(400, "ReplicationGroupAlreadyExists", format!("Replication group {id} already exists."));
    }
    let from = text(form, "SnapshotName");
    if !from.is_empty() {
        match world.cache_snapshots.get(from).map(|snapshot| snapshot.get("SnapshotStatus")) {
            Some("available") => {}
            Some(_) => return refuse(400, "InvalidSnapshotState", "the snapshot is not available"),
            None => return refuse(404, "SnapshotNotFoundFault", format!("Snapshot {from} not found.")),
        }
    }
    let count = text(form, "NumCacheClusters").parse().unwrap_or(1);
    let clustered = form.contains_key("NumNodeGroups");
    if text(form, "AutomaticFailoverEnabled") == "true" && count < 2 && !clustered {
        return refuse(400, "InvalidParameterCombination", "automatic failover needs a replica");
    }
    let mut made = Thing::new(&[
        ("ReplicationGroupId", id),
        ("ARN", &format!("{ACCOUNT}:replicationgroup:{id}")),
        ("Status", "creating"),
        ("CacheNodeType", text(form, "CacheNodeType")),
        ("AutomaticFailover", enabled(form, "AutomaticFailoverEnabled")),
        ("MultiAZ", enabled(form, "MultiAZEnabled")),
        ("ClusterEnabled", if clustered { "true" } else { "false" }),
        ("AtRestEncryptionEnabled", if text(form, "AtRestEncryptionEnabled") == "true" { "true" } else { "false" }),
        ("TransitEncryptionEnabled", if text(form, "TransitEncryptionEnabled") == "true" { "true" } else { "false" }),
        ("AuthTokenEnabled", if form.contains_key("AuthToken") { "true" } else { "false" }),
        ("Engine", text(form, "Engine")),
        ("version", text(form, "EngineVersion")),
        ("users", &list(form, "UserGroupIds.member").join(",")),
    ]);
    for name in ["KmsKeyId", "TransitEncryptionMode"] {
        if let Some(value) = form.get(name) {
            made.set(name, value);
        }
    }
    made.tags = tags(form);
    // One that is not restored is there already, so that a test need not wait.
    let made = if from.is_empty() {
        made.set("Status", "available");
        made
    } else {
        world.making("group", made)
    };
    let nodes = if clustered { 1 + text(form, "ReplicasPerNodeGroup").parse().unwrap_or(0) } else { count };
    let shards: usize = text(form, "NumNodeGroups").parse().unwrap_or(1);
    for (shard, n) in (1..=shards).flat_map(|shard| (1..=nodes).map(move |n| (format!("{shard:04}"), n))) {
        let name = if clustered { format!("{id}-{shard}-{n:03}") } else { format!("{id}-{n:03}") };
        let mut node = new_node(&name, form);
        node.set("ReplicationGroupId", id);
        node.set("shard", &shard);
        node.set("role", if n == 1 { "primary" } else { "replica" });
        world.twist("node", &mut node);
        world.nodes.insert(name, node);
    }
    world.groups.insert(id.to_owned(), made.clone());
    Ok(group_xml(world, id, &made))
}

fn new_node(name: &str, form: &Form) -> Thing {
    Thing::new(&[
        ("CacheClusterId", name),
        ("ARN", &format!("{ACCOUNT}:cluster:{name}")),
        ("CacheClusterStatus", "available"),
        ("CacheNodeType", text(form, "CacheNodeType")),
        ("PreferredAvailabilityZone", "eu-central-1a"),
        ("Engine", text(form, "Engine")),
        ("EngineVersion", "7.1.0"),
        ("CacheSubnetGroupName", text(form, "CacheSubnetGroupName")),
        ("groups", &list(form, "SecurityGroupIds.SecurityGroupId").join(",")),
        ("parameters", text(form, "CacheParameterGroupName")),
    ])
}

fn create_cluster(world: &mut World, form: &Form) -> Answer {
    let id = text(form, "CacheClusterId");
    if world.nodes.contains_key(id) {
        return refuse(400, "CacheClusterAlreadyExists", format!("Cache cluster {id} already exists."));
    }
    let made = new_node(id, form);
    world.nodes.insert(id.to_owned(), made.clone());
    Ok(node_xml(&made))
}

fn describe_groups(world: &mut World, form: &Form) -> Answer {
    let id = text(form, "ReplicationGroupId");
    let before = group(world, id)?.clone();
    look(&mut world.groups, "Status", &|other, _| other == id);
    if before.get("Status") == "modifying" && world.groups.get(id).is_some_and(|now| now.get("Status") == "available") {
        failed_over(world, id, before.get("failing"));
    }
    let found = match group(world, id) {
        Ok(found) => found.clone(),
        Err(gone) => {
            world.nodes.retain(|_, node| node.get("ReplicationGroupId") != id);
            return Err(gone);
        }
    };
    Ok(format!("<ReplicationGroups>{}</ReplicationGroups>", group_xml(world, id, &found)))
}

fn delete_group(world: &mut World, form: &Form) -> Answer {
    let (id, looks) = (text(form, "ReplicationGroupId"), world.looks);
    let gone = group(world, id)?;
    if gone.get("Status") == "creating" {
        return refuse(400, "InvalidReplicationGroupState", format!("Replication group {id} is in creating state"));
    }
    gone.set("Status", "deleting");
    gone.next = Some((looks, ""));
    let gone = gone.clone();
    Ok(group_xml(world, id, &gone))
}

fn describe_clusters(world: &mut World, form: &Form) -> Answer {
    let id = text(form, "CacheClusterId");
    node(world, id)?;
    look_at_nodes(world, &|node| node.get("CacheClusterId") == id);
    let found = node(world, id)?;
    Ok(format!("<CacheClusters>{}</CacheClusters>", node_xml(found)))
}

/// The next look still finds the node available: so it is with AWS.
fn reboot(world: &mut World, form: &Form) -> Answer {
    let (id, numbers) = (text(form, "CacheClusterId"), list(form, "CacheNodeIdsToReboot.CacheNodeId"));
    let of = steady(world, id)?.get("ReplicationGroupId").to_owned();
    if numbers != ["0001"] {
        return refuse(400, "InvalidParameterValue", format!("Cache cluster {id} has no nodes {numbers:?}"));
    }
    if world.groups.get(&of).is_some_and(|group| group.get("ClusterEnabled") == "true") {
        let message = "Rebooting is not supported for replication groups with cluster mode enabled.";
        return refuse(400, "InvalidParameterCombination", message);
    }
    happened(world, "cache-cluster", id, "Cache node 0001 shutdown");
    let node = node(world, id)?;
    node.set("asked", "now");
    Ok(node_xml(node).replace("<CacheClusterStatus>available", &format!("<CacheClusterStatus>{REBOOTING}")))
}

fn fail_over(world: &mut World, form: &Form) -> Answer {
    let (id, looks) = (text(form, "ReplicationGroupId"), world.looks);
    let failing = group(world, id)?;
    if failing.get("AutomaticFailover") != "enabled" {
        return refuse(400, "InvalidParameterCombination", "automatic failover is not enabled");
    }
    if failing.get("Status") != "available" {
        return refuse(400, "InvalidReplicationGroupState", "the replication group is not available");
    }
    let shard = text(form, "NodeGroupId").to_owned();
    let of = |node: &&Thing| node.get("ReplicationGroupId") == id && node.get("shard") == shard;
    match world.nodes.values().filter(of).count() {
        0 => return refuse(404, "NodeGroupNotFoundFault", format!("Node group {shard} not found.")),
        1 => return refuse(400, "InvalidParameterCombination", format!("Node group {shard} has no replica.")),
        _ => {}
    }
    let failing = group(world, id)?;
    failing.set("Status", "modifying");
    failing.set("failing", &shard);
    failing.next = Some((looks, "available"));
    let failing = failing.clone();
    for node in world.nodes.values_mut().filter(|node| of(&&**node)) {
        node.set("CacheClusterStatus", "modifying");
        node.next = Some((looks, "available"));
    }
    // With cluster mode all that is told of it is events.
    if failing.get("ClusterEnabled") != "true" {
        promote(world, id, &shard);
    }
    happened(world, "replication-group", id, &format!("Test Failover API called for node group {shard}"));
    Ok(group_xml(world, id, &failing))
}

/// Makes the first replica of a shard its primary; returns the old one and the new one.
fn promote(world: &mut World, id: &str, shard: &str) -> (String, String) {
    let of = |node: &&mut Thing| node.get("ReplicationGroupId") == id && node.get("shard") == shard;
    let (mut old, mut new) = (String::new(), String::new());
    for node in world.nodes.values_mut().filter(of) {
        let name = node.get("CacheClusterId").to_owned();
        if node.get("role") == "primary" {
            old = name;
            node.set("role", "replica");
        } else if new.is_empty() {
            new = name;
            node.set("role", "primary");
        }
    }
    (old, new)
}

/// A shard has failed over, which its events tell.
fn failed_over(world: &mut World, id: &str, shard: &str) {
    if world.groups.get(id).is_none_or(|group| group.get("ClusterEnabled") != "true") {
        return;
    }
    let (old, new) = promote(world, id, shard);
    let message = format!("Failover from primary node {old} to replica node {new} completed");
    happened(world, "cache-cluster", &new, &message);
    happened(world, "replication-group", id, &message);
    happened(world, "cache-cluster", &old, &format!("Recovering cache nodes {old}"));
    happened(world, "cache-cluster", &old, &format!("Finished recovery for cache nodes {old}"));
}

fn page(form: &Form, all: &[String]) -> (String, String) {
    let from: usize = text(form, "Marker").parse().unwrap_or(0);
    let page = all.iter().skip(from).take(PAGE).cloned().collect();
    let marker = if from + PAGE < all.len() { format!("<Marker>{}</Marker>", from + PAGE) } else { String::new() };
    (marker, page)
}

fn describe_events(world: &mut World, form: &Form) -> Answer {
    let wanted = |event: &&Thing| {
        event.get("SourceIdentifier") == text(form, "SourceIdentifier")
            && event.get("SourceType") == text(form, "SourceType")
            && event.get("Date") >= text(form, "StartTime")
    };
    // AWS has the newest first.
    let found = world.events.iter().rev().filter(wanted).map(|event| format!("<Event>{}</Event>", event.xml()));
    let (marker, page) = page(form, &found.collect::<Vec<_>>());
    Ok(format!("{marker}<Events>{page}</Events>"))
}

fn snapshot_xml(snapshot: &Thing) -> String {
    let part = match snapshot.get("SnapshotStatus") {
        "available" => {
            format!("<CacheSize>5 MB</CacheSize><SnapshotCreateTime>{}</SnapshotCreateTime>", snapshot.get("at"))
        }
        _ => String::new(),
    };
    let part = format!("<NodeSnapshot><CacheNodeId>0001</CacheNodeId>{part}</NodeSnapshot>");
    let shards = snapshot.get("NumNodeGroups").parse().unwrap_or(1);
    format!("<Snapshot>{}<NodeSnapshots>{}</NodeSnapshots></Snapshot>", snapshot.xml(), part.repeat(shards))
}

fn taken(world: &World, id: &str) -> Result<(), Refusal> {
    if world.cache_snapshots.contains_key(id) {
        return refuse(400, "SnapshotAlreadyExistsFault", format!("Snapshot {id} already exists."));
    }
    if world.cache_snapshots.len() >= world.quota {
        return refuse(400, "SnapshotQuotaExceededFault", "the maximum number of snapshots is reached");
    }
    Ok(())
}

fn insert_snapshot(world: &mut World, form: &Form, id: &str, mut made: Thing) -> Answer {
    made.set("SnapshotName", id);
    made.set("ARN", &format!("{ACCOUNT}:snapshot:{id}"));
    made.set("SnapshotSource", "manual");
    made.set("SnapshotStatus", "creating");
    let at = world.now();
    made.set("at", &at);
    if let Some(key) = form.get("KmsKeyId") {
        made.set("KmsKeyId", key);
    }
    made.tags = tags(form);
    let made = world.making("cache-snapshot", made);
    world.cache_snapshots.insert(id.to_owned(), made.clone());
    Ok(snapshot_xml(&made))
}

fn create_snapshot(world: &mut World, form: &Form) -> Answer {
    let (id, of, of_group) =
        (text(form, "SnapshotName"), text(form, "CacheClusterId"), text(form, "ReplicationGroupId"));
    taken(world, id)?;
    if of_group.is_empty() {
        let looks = world.looks;
        let source = steady(world, of)?;
        source.set("CacheClusterStatus", "snapshotting");
        source.next = Some((looks, "available"));
        let source = source.clone();
        let mut made = Thing::new(&[("CacheClusterId", of)]);
        for name in ["Engine", "EngineVersion", "CacheNodeType", "CacheSubnetGroupName"] {
            made.set(name, source.get(name));
        }
        return insert_snapshot(world, form, id, made);
    }
    let source = group(world, of_group)?.clone();
    if source.get("ClusterEnabled") != "true" {
        return refuse(400, "InvalidParameterCombination", "without cluster mode a snapshot is of a cache cluster");
    }
    let of = world.nodes.values().filter(|node| node.get("ReplicationGroupId") == of_group);
    let shards: BTreeSet<&str> = of.map(|node| node.get("shard")).collect();
    let made = Thing::new(&[
        ("ReplicationGroupId", of_group),
        ("NumNodeGroups", &shards.len().to_string()),
        ("Engine", source.get("Engine")),
        ("EngineVersion", "7.1.0"),
        ("CacheNodeType", source.get("CacheNodeType")),
    ]);
    insert_snapshot(world, form, id, made)
}

fn copy_snapshot(world: &mut World, form: &Form) -> Answer {
    let (from, id) = (text(form, "SourceSnapshotName"), text(form, "TargetSnapshotName"));
    let Some(source) = world.cache_snapshots.get(from).cloned() else {
        return refuse(404, "SnapshotNotFoundFault", format!("Snapshot {from} not found."));
    };
    taken(world, id)?;
    insert_snapshot(world, form, id, source)
}

fn describe_snapshots(world: &mut World, form: &Form) -> Answer {
    let id = text(form, "SnapshotName");
    let wanted = |other: &str, _: &Thing| id.is_empty() || other == id;
    look(&mut world.cache_snapshots, "SnapshotStatus", &wanted);
    // With the snapshot its node is done too.
    let busy = world.nodes.values_mut().filter(|node| node.get("CacheClusterStatus") == "snapshotting");
    for node in busy {
        let mut of = world.cache_snapshots.values().filter(|s| s.get("CacheClusterId") == node.get("CacheClusterId"));
        if of.all(|snapshot| snapshot.get("SnapshotStatus") != "creating") {
            node.set("CacheClusterStatus", "available");
            node.next = None;
        }
    }
    let found: Vec<String> = world
        .cache_snapshots
        .iter()
        .filter(|(other, snapshot)| wanted(other, snapshot))
        .map(|(_, snapshot)| snapshot_xml(snapshot))
        .collect();
    if !id.is_empty() && found.is_empty() {
        return refuse(404, "SnapshotNotFoundFault", format!("Snapshot {id} not found."));
    }
    let (marker, page) = page(form, &found);
    Ok(format!("{marker}<Snapshots>{page}</Snapshots>"))
}

fn delete_snapshot(world: &mut World, form: &Form) -> Answer {
    let id = text(form, "SnapshotName");
    match world.cache_snapshots.remove(id) {
        Some(mut gone) => {
            gone.set("SnapshotStatus", "deleting");
            Ok(snapshot_xml(&gone))
        }
        None => refuse(404, "SnapshotNotFoundFault", format!("Snapshot {id} not found.")),
    }
}

fn list_tags(world: &World, form: &Form) -> Answer {
    let arn = text(form, "ResourceName");
    let mut all = world.groups.values().chain(world.cache_snapshots.values());
    match all.find(|thing| thing.get("ARN") == arn) {
        Some(thing) => Ok(tag_list(&thing.tags)),
        None => refuse(404, "InvalidARN", format!("{arn} not found.")),
    }
}
