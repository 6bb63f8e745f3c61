//! DocumentDB: clusters without instances after a restore, snapshots, tags.

use super::{Answer, Form, Refusal, Thing, World, list, look, refuse, tag_list, tags, text};

/// How many snapshots are on a page.
const PAGE: usize = 2;

const ACCOUNT: &str = "arn:aws:rds:eu-central-1:123456789012";

pub(super) fn handle(world: &mut World, action: &str, form: &Form) -> Option<Answer> {
    Some(match action {
        "CreateDBCluster" => create_cluster(world, form),
        "DescribeDBClusters" => describe_clusters(world, form),
        "ModifyDBCluster" => modify_cluster(world, form),
        "DeleteDBCluster" => delete_cluster(world, form),
        "RestoreDBClusterFromSnapshot" => restore(world, form),
        "RestoreDBClusterToPointInTime" => restore_to_time(world, form),
        "CreateDBInstance" => create_instance(world, form),
        "DescribeDBInstances" => describe_instances(world, form),
        "DeleteDBInstance" => delete_instance(world, form),
        "CreateDBClusterSnapshot" => create_snapshot(world, form),
        "DescribeDBClusterSnapshots" => describe_snapshots(world, form),
        "DeleteDBClusterSnapshot" => delete_snapshot(world, form),
        "ListTagsForResource" if text(form, "ResourceName").contains(":rds:") => list_tags(world, form),
        _ => return None,
    })
}

fn cluster<'a>(world: &'a mut World, id: &str) -> Result<&'a mut Thing, Refusal> {
    match world.clusters.get_mut(id) {
        Some(cluster) => Ok(cluster),
        None => refuse(404, "DBClusterNotFoundFault", format!("DBCluster {id} not found.")),
    }
}

/// A cluster that can be worked with.
fn steady<'a>(world: &'a mut World, id: &str) -> Result<&'a mut Thing, Refusal> {
    let cluster = cluster(world, id)?;
    match cluster.get("Status") {
        "available" => Ok(cluster),
        status => refuse(400, "InvalidDBClusterStateFault", format!("DbCluster {id} is in {status} state")),
    }
}

fn cluster_xml(world: &World, id: &str, cluster: &Thing) -> String {
    let of = |instance: &&Thing| instance.get("DBClusterIdentifier") == id;
    let members = world.instances.values().filter(of).enumerate().map(|(n, instance)| {
        let id = instance.get("DBInstanceIdentifier");
        format!(
            "<DBClusterMember><DBInstanceIdentifier>{id}</DBInstanceIdentifier><IsClusterWriter>{}</IsClusterWriter>\
             </DBClusterMember>",
            n == 0
        )
    });
    let groups = cluster.get("groups").split(',').filter(|group| !group.is_empty()).map(|group| {
        format!(
            "<VpcSecurityGroupMembership><VpcSecurityGroupId>{group}</VpcSecurityGroupId><Status>active</Status>\
             </VpcSecurityGroupMembership>"
        )
    });
    format!(
        "<DBCluster>{}<DBClusterMembers>{}</DBClusterMembers><VpcSecurityGroups>{}</VpcSecurityGroups></DBCluster>",
        cluster.xml(),
        members.collect::<String>(),
        groups.collect::<String>()
    )
}

fn new_cluster(id: &str, engine: &str, encrypted: &str, status: &str) -> Thing {
    Thing::new(&[
        ("DBClusterIdentifier", id),
        ("DBClusterArn", &format!("{ACCOUNT}:cluster:{id}")),
        ("Engine", engine),
        ("EngineVersion", "5.0.0"),
        ("StorageEncrypted", encrypted),
        ("Status", status),
        ("Endpoint", &format!("{id}.cluster-c1.eu-central-1.docdb.amazonaws.com")),
        ("LatestRestorableTime", "2026-11-24T12:00:00Z"),
        ("DeletionProtection", "false"),
        ("DBClusterParameterGroup", "default.docdb5.0"),
        ("Port", "27017"),
    ])
}

fn create_cluster(world: &mut World, form: &Form) -> Answer {
    let id = text(form, "DBClusterIdentifier");
    if world.clusters.contains_key(id) {
        return refuse(400, "DBClusterAlreadyExistsFault", "DB Cluster already exists");
    }
    let encrypted = if text(form, "StorageEncrypted") == "true" { "true" } else { "false" };
    let mut made = new_cluster(id, text(form, "Engine"), encrypted, "available");
    if encrypted == "true" {
        made.set("KmsKeyId", "arn:aws:kms:eu-central-1:123456789012:key/1");
    }
    made.tags = tags(form);
    world.clusters.insert(id.to_owned(), made.clone());
    Ok(cluster_xml(world, id, &made))
}

fn describe_clusters(world: &mut World, form: &Form) -> Answer {
    let id = text(form, "DBClusterIdentifier");
    cluster(world, id)?;
    let mut clusters = std::mem::take(&mut world.clusters);
    look(&mut clusters, "Status", &|other, _| other == id);
    world.clusters = clusters;
    let found = cluster(world, id)?.clone();
    Ok(format!("<DBClusters>{}</DBClusters>", cluster_xml(world, id, &found)))
}

fn modify_cluster(world: &mut World, form: &Form) -> Answer {
    let id = text(form, "DBClusterIdentifier");
    let changed = steady(world, id)?;
    for name in ["DeletionProtection", "DBClusterParameterGroupName"] {
        if let Some(value) = form.get(name) {
            changed.set(name.trim_end_matches("Name"), value);
        }
    }
    let changed = changed.clone();
    Ok(cluster_xml(world, id, &changed))
}

fn delete_cluster(world: &mut World, form: &Form) -> Answer {
    let (id, looks) = (text(form, "DBClusterIdentifier"), world.looks);
    let living =
        |instance: &Thing| instance.get("DBClusterIdentifier") == id && instance.get("DBInstanceStatus") != "deleting";
    let lives = world.instances.values().any(living);
    let gone = steady(world, id)?;
    if gone.get("DeletionProtection") == "true" {
        return refuse(400, "InvalidParameterCombination", "Cannot delete protected Cluster");
    }
    if lives {
        return refuse(400, "InvalidDBClusterStateFault", "it still contains DB instances in non-deleting state");
    }
    gone.set("Status", "deleting");
    gone.next = Some((looks, ""));
    let gone = gone.clone();
    Ok(cluster_xml(world, id, &gone))
}

/// What a restore carries from its request into the new cluster.
fn carry(form: &Form, made: &mut Thing) {
    for (from, to) in [
        ("DBSubnetGroupName", "DBSubnetGroup"),
        ("DBClusterParameterGroupName", "DBClusterParameterGroup"),
        ("KmsKeyId", "KmsKeyId"),
        ("DeletionProtection", "DeletionProtection"),
        ("Port", "Port"),
    ] {
        if let Some(value) = form.get(from) {
            made.set(to, value);
        }
    }
    made.set("groups", &list(form, "VpcSecurityGroupIds.VpcSecurityGroupId").join(","));
    made.tags = tags(form);
}

fn insert_restored(world: &mut World, form: &Form, from: &Thing) -> Answer {
    let id = text(form, "DBClusterIdentifier");
    let encrypted = if form.contains_key("KmsKeyId") { "true" } else { from.get("StorageEncrypted") };
    let mut made = new_cluster(id, from.get("Engine"), encrypted, "creating");
    if !from.get("KmsKeyId").is_empty() {
        made.set("KmsKeyId", from.get("KmsKeyId"));
    }
    carry(form, &mut made);
    let made = world.making("cluster", made);
    world.clusters.insert(id.to_owned(), made.clone());
    Ok(cluster_xml(world, id, &made))
}

fn restore(world: &mut World, form: &Form) -> Answer {
    if world.clusters.contains_key(text(form, "DBClusterIdentifier")) {
        return refuse(400, "DBClusterAlreadyExistsFault", "DB Cluster already exists");
    }
    let id = text(form, "SnapshotIdentifier");
    let Some(snapshot) = world.snapshots.get(id).cloned() else {
        return refuse(404, "DBClusterSnapshotNotFoundFault", format!("DBClusterSnapshot {id} not found."));
    };
    if snapshot.get("Status") != "available" {
        return refuse(400, "InvalidDBClusterSnapshotStateFault", "the snapshot is not available");
    }
    insert_restored(world, form, &snapshot)
}

fn restore_to_time(world: &mut World, form: &Form) -> Answer {
    if world.clusters.contains_key(text(form, "DBClusterIdentifier")) {
        return refuse(400, "DBClusterAlreadyExistsFault", "DB Cluster already exists");
    }
    if form.contains_key("DBClusterParameterGroupName") {
        return refuse(400, "InvalidParameterCombination", "a parameter group cannot be given here");
    }
    let source = cluster(world, text(form, "SourceDBClusterIdentifier"))?.clone();
    if text(form, "RestoreToTime") > source.get("LatestRestorableTime") {
        return refuse(400, "InvalidRestoreFault", "the time is after the latest restorable time");
    }
    insert_restored(world, form, &source)
}

fn create_instance(world: &mut World, form: &Form) -> Answer {
    let (id, of) = (text(form, "DBInstanceIdentifier"), text(form, "DBClusterIdentifier"));
    if world.instances.contains_key(id) {
        return refuse(400, "DBInstanceAlreadyExists", "DB instance already exists");
    }
    steady(world, of)?;
    let made = Thing::new(&[
        ("DBInstanceIdentifier", id),
        ("DBClusterIdentifier", of),
        ("DBInstanceClass", text(form, "DBInstanceClass")),
        ("DBInstanceStatus", "creating"),
    ]);
    let made = world.making("instance", made);
    world.instances.insert(id.to_owned(), made.clone());
    Ok(format!("<DBInstance>{}</DBInstance>", made.xml()))
}

fn describe_instances(world: &mut World, form: &Form) -> Answer {
    let of = text(form, "Filters.Filter.1.Values.Value.1");
    look(&mut world.instances, "DBInstanceStatus", &|_, instance| instance.get("DBClusterIdentifier") == of);
    let found = world.instances.values().filter(|instance| instance.get("DBClusterIdentifier") == of);
    let all: String = found.map(|instance| format!("<DBInstance>{}</DBInstance>", instance.xml())).collect();
    Ok(format!("<DBInstances>{all}</DBInstances>"))
}

fn delete_instance(world: &mut World, form: &Form) -> Answer {
    let (id, looks) = (text(form, "DBInstanceIdentifier"), world.looks);
    let Some(gone) = world.instances.get_mut(id) else {
        return refuse(404, "DBInstanceNotFound", format!("DBInstance {id} not found."));
    };
    gone.set("DBInstanceStatus", "deleting");
    gone.next = Some((looks, ""));
    Ok(format!("<DBInstance>{}</DBInstance>", gone.xml()))
}

fn snapshot_xml(snapshot: &Thing) -> String {
    let percent = if snapshot.get("Status") == "available" { 100 } else { 40 };
    format!("<DBClusterSnapshot>{}<PercentProgress>{percent}</PercentProgress></DBClusterSnapshot>", snapshot.xml())
}

fn create_snapshot(world: &mut World, form: &Form) -> Answer {
    let (id, of) = (text(form, "DBClusterSnapshotIdentifier"), text(form, "DBClusterIdentifier"));
    if world.snapshots.contains_key(id) {
        return refuse(400, "DBClusterSnapshotAlreadyExistsFault", format!("{id} already exists."));
    }
    let source = steady(world, of)?.clone();
    if world.snapshots.len() >= world.quota {
        return refuse(400, "SnapshotQuotaExceeded", "the maximum number of snapshots is reached");
    }
    let mut made = Thing::new(&[
        ("DBClusterSnapshotIdentifier", id),
        ("DBClusterSnapshotArn", &format!("{ACCOUNT}:cluster-snapshot:{id}")),
        ("DBClusterIdentifier", of),
        ("Engine", source.get("Engine")),
        ("EngineVersion", source.get("EngineVersion")),
        ("StorageEncrypted", source.get("StorageEncrypted")),
        ("SnapshotType", "manual"),
        ("SnapshotCreateTime", &world.now()),
        ("Status", "creating"),
    ]);
    if !source.get("KmsKeyId").is_empty() {
        made.set("KmsKeyId", source.get("KmsKeyId"));
    }
    made.tags = tags(form);
    let made = world.making("snapshot", made);
    world.snapshots.insert(id.to_owned(), made.clone());
    Ok(snapshot_xml(&made))
}

fn describe_snapshots(world: &mut World, form: &Form) -> Answer {
    let (id, of) = (text(form, "DBClusterSnapshotIdentifier"), text(form, "DBClusterIdentifier"));
    let wanted = |other: &str, snapshot: &Thing| {
        if id.is_empty() { snapshot.get("DBClusterIdentifier") == of } else { other == id }
    };
    look(&mut world.snapshots, "Status", &wanted);
    let found: Vec<&Thing> =
        world.snapshots.iter().filter(|(other, snapshot)| wanted(other, snapshot)).map(|(_, found)| found).collect();
    if !id.is_empty() && found.is_empty() {
        return refuse(404, "DBClusterSnapshotNotFoundFault", format!("DBClusterSnapshot {id} not found."));
    }
    let from: usize = text(form, "Marker").parse().unwrap_or(0);
    let page: String = found.iter().skip(from).take(PAGE).map(|snapshot| snapshot_xml(snapshot)).collect();
    let more = from + PAGE < found.len();
    let marker = if more { format!("<Marker>{}</Marker>", from + PAGE) } else { String::new() };
    Ok(format!("{marker}<DBClusterSnapshots>{page}</DBClusterSnapshots>"))
}

fn delete_snapshot(world: &mut World, form: &Form) -> Answer {
    let id = text(form, "DBClusterSnapshotIdentifier");
    match world.snapshots.remove(id) {
        Some(gone) => Ok(snapshot_xml(&gone)),
        None => refuse(404, "DBClusterSnapshotNotFoundFault", format!("DBClusterSnapshot {id} not found.")),
    }
}

fn list_tags(world: &World, form: &Form) -> Answer {
    let arn = text(form, "ResourceName");
    let all = world.clusters.values().chain(world.snapshots.values());
    let arns = ["DBClusterArn", "DBClusterSnapshotArn"];
    match all.clone().find(|thing| arns.iter().any(|name| thing.get(name) == arn)) {
        Some(thing) => Ok(tag_list(&thing.tags)),
        None => refuse(404, "DBClusterNotFoundFault", format!("{arn} not found.")),
    }
}
