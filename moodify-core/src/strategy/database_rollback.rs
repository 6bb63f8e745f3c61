use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::action::{ApplicationParams, ExecParams, RestoreFrom};
use crate::backend::{Connection, ProbeRequest};
use crate::model::Period;

/// Settings of a database rollback (runbook, "Option 3: Database Rollback"): persons agree to the loss, the application
/// is stopped, a backup is restored into a new database, the application is pointed to that and started with as many
/// instances as before, looked at, and a person confirms. Until then all of it can be taken back: the old database is left
/// as it is.
///
/// ```
/// use moodify_core::strategy::DatabaseRollback;
/// let rollback: DatabaseRollback = serde_json::from_str(r#"{"store": "documentdb", "target": "moods-restored",
///     "connections": [{"secret": {"name": "database", "key": "URI"}}]}"#).unwrap();
/// assert_eq!(rollback.approvals, 2);
/// assert!(rollback.problems().is_empty());
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DatabaseRollback {
    /// The backup store, by its name among the backends.
    pub store: String,
    /// What is restored; by default the newest complete backup.
    #[serde(default = "latest")]
    pub from: RestoreFrom,
    /// The name of the new database. Nothing of that name may exist.
    pub target: String,
    /// How many different persons must agree to the loss of what was written since the backup.
    #[serde(default = "two")]
    #[schemars(range(min = 1))]
    pub approvals: u32,
    /// What is stopped meanwhile; left out, all Deployments and stateful sets of the namespace.
    #[serde(default)]
    pub stops: ApplicationParams,
    /// The `CronJob`s that are suspended meanwhile, by name, and resumed as they were. What they have started goes on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cron_jobs: Vec<String>,
    /// From where the application takes the address of its database; all of these are pointed to the new one.
    #[schemars(length(min = 1))]
    pub connections: Vec<Connection>,
    /// What is looked at when the application runs on the new database, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verify: Vec<Check>,
    /// How many different persons must confirm that it is well.
    #[serde(default = "one")]
    #[schemars(range(min = 1))]
    pub confirmations: u32,
    /// How long the application may take to stop.
    #[serde(default = "ten_minutes")]
    pub stop_deadline: Period,
    /// How long the restore may take.
    #[serde(default = "two_hours")]
    pub restore_deadline: Period,
    /// How long the application may take to become ready.
    #[serde(default = "ten_minutes")]
    pub ready_deadline: Period,
}

fn latest() -> RestoreFrom {
    RestoreFrom::Latest
}

fn one() -> u32 {
    1
}

fn two() -> u32 {
    2
}

fn ten_minutes() -> Period {
    Period::from_mins(10)
}

fn two_hours() -> Period {
    Period::from_mins(120)
}

/// A look at whether the application is well.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Check {
    /// An endpoint answers as it should.
    Probe(ProbeRequest),
    /// A command beside the application succeeds.
    Exec(ExecParams),
}

impl DatabaseRollback {
    /// What is wrong with the settings: where (a JSON pointer from these settings on), and what.
    #[must_use]
    pub fn problems(&self) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        let mut report = |at: String, what: &str| problems.push((at, what.to_owned()));
        for (at, name) in [("/store", &self.store), ("/target", &self.target)] {
            if name.trim().is_empty() {
                report(at.to_owned(), "must not be empty");
            }
        }
        if self.from == RestoreFrom::Approved {
            report("/from".to_owned(), "say what is to be approved: latest, this-run, or a backup, run or time");
        }
        for (at, number) in [("/approvals", self.approvals), ("/confirmations", self.confirmations)] {
            if number == 0 {
                report(at.to_owned(), "must be at least 1: somebody has to answer for it");
            }
        }
        if self.connections.is_empty() {
            report("/connections".to_owned(), "no connections: the application would go on with the old database");
        }
        let mut seen = BTreeSet::new();
        for (index, connection) in self.connections.iter().enumerate() {
            let problem = connection.problem();
            problem.iter().for_each(|problem| report(format!("/connections/{index}"), problem));
            if !seen.insert(connection.to_string()) {
                report(format!("/connections/{index}"), "this connection is there already");
            }
        }
        for (index, name) in self.cron_jobs.iter().enumerate() {
            if name.trim().is_empty() {
                report(format!("/cron-jobs/{index}"), "must not be empty");
            } else if self.cron_jobs[..index].contains(name) {
                report(format!("/cron-jobs/{index}"), "this CronJob is there already");
            }
        }
        for (index, check) in self.verify.iter().enumerate() {
            if let Check::Exec(ExecParams { command, .. }) = check
                && command.first().is_none_or(String::is_empty)
            {
                report(format!("/verify/{index}/exec/command"), "no command: name a program and its arguments");
            }
        }
        let deadlines = [
            ("/stop-deadline", self.stop_deadline),
            ("/restore-deadline", self.restore_deadline),
            ("/ready-deadline", self.ready_deadline),
        ];
        for (at, _) in deadlines.into_iter().filter(|(_, deadline)| *deadline == Period::ZERO) {
            report(at.to_owned(), "a deadline of no time at all");
        }
        let stops = self.stops.problems().into_iter();
        problems.extend(stops.map(|(at, what)| (format!("/stops{at}"), what)));
        problems
    }
}

#[cfg(test)]
mod tests {
    use crate::action::kinds;
    use crate::strategy::DatabaseRollback;
    use serde_json::{Value, json};

    fn rollback(with: &Value) -> DatabaseRollback {
        let mut settings = json!({"store": "documentdb", "target": "restored",
            "connections": [{"secret": {"name": "database", "key": "URI"}}]});
        let more = with.as_object().unwrap().clone();
        settings.as_object_mut().unwrap().extend(more);
        serde_json::from_value(settings).unwrap()
    }

    #[test]
    fn each_connection_and_each_check_is_a_step_and_the_last_ones_confirm() {
        let strategy = rollback(&json!({
            "cron-jobs": ["report"],
            "connections": [{"secret": {"name": "a", "key": "k"}}, {"config-map": {"name": "b", "key": "k"}}],
            "verify": [{"exec": {"workload": "backend", "command": ["true"]}}, {"probe": {"url": "http://x/"}}],
        }));
        let phases = strategy.phases("back");
        let steps: Vec<(&str, &str)> =
            phases.iter().flat_map(|p| &p.steps).map(|s| (s.name.as_str(), s.action.as_str())).collect();
        assert_eq!(
            steps,
            [
                ("back-approve", kinds::APPROVAL),
                ("back-suspend-cron-jobs", kinds::SUSPEND_CRON_JOBS),
                ("back-stop", kinds::STOP_APPLICATION),
                ("back-restore", kinds::RESTORE),
                ("back-switch-1", kinds::SWITCH_CONNECTION),
                ("back-switch-2", kinds::SWITCH_CONNECTION),
                ("back-start", kinds::START_APPLICATION),
                ("back-resume-cron-jobs", kinds::RESUME_CRON_JOBS),
                ("back-verify-1", kinds::EXEC),
                ("back-verify-2", kinds::PROBE),
                ("back-confirm", kinds::APPROVAL),
                ("back-forget", kinds::FORGET_CONNECTIONS),
            ]
        );
        let approve = &phases[0].steps[0].with;
        assert_eq!((&approve["approvals"], &approve["restore"]["from"]), (&json!(2), &json!("latest")));
        assert_eq!(phases[2].steps[0].with["from"], "approved", "what is restored is what was agreed to");
    }

    #[test]
    fn what_cannot_be_good_is_told_with_its_place() {
        assert!(rollback(&json!({})).problems().is_empty());
        let wrong = rollback(&json!({
            "target": " ", "from": "approved", "approvals": 0, "ready-deadline": "0s",
            "connections": [
                {"config-map": {"name": "a", "key": "k", "template": "mongodb://old/"}},
                {"secret": {"name": "b", "key": "k"}}, {"secret": {"name": "b", "key": "k"}}],
            "stops": {"workloads": ["daemon-set/agent"], "except": ["web"]},
            "cron-jobs": ["report", "report", " "],
            "verify": [{"exec": {"workload": "backend", "command": []}}],
        }));
        let places: Vec<String> = wrong.problems().into_iter().map(|(at, _)| at).collect();
        assert_eq!(
            places,
            [
                "/target",
                "/from",
                "/approvals",
                "/connections/0",
                "/connections/2",
                "/cron-jobs/1",
                "/cron-jobs/2",
                "/verify/0/exec/command",
                "/ready-deadline",
                "/stops/workloads/0",
                "/stops/except/0",
            ]
        );
        assert_eq!(rollback(&json!({"connections": []})).problems()[0].0, "/connections");
    }
}
