use serde::Serialize;
use serde_json::{Value, json};

use super::{BlueGreen, Canary, Check, DatabaseRollback, Mirrored, Recreate, Rolling, TestingFirst};
use crate::action::{AdmitParams, BakeParams, LAG, MirrorParams, Proposal, RestoreFrom, ShiftParams, kinds};
use crate::analysis::Analysis;
use crate::model::{Period, Phase, RetryPolicy, Step, Weight};

impl Canary {
    /// The phases of a canary release; `name` begins the names of phases and steps.
    ///
    /// Prepare (look at what serves, make the canaries), one phase a weight (shift, bake), promote (roll the stable
    /// workloads while the canaries carry all of the traffic, send the traffic back to them, remove the canaries).
    ///
    /// ```
    /// use moodify_core::strategy::Canary;
    /// let phases = Canary::default().phases("rollout");
    /// let names: Vec<&str> = phases.iter().map(|p| p.name.as_str()).collect();
    /// assert_eq!(names, ["rollout: prepare", "rollout: 10 %", "rollout: 50 %", "rollout: 100 %", "rollout: promote"]);
    /// ```
    #[must_use]
    pub fn phases(&self, name: &str) -> Vec<Phase> {
        let mut phases = self.rise(name);
        let mut steps = vec![
            step(name, "promote", kinds::PROMOTE, &Value::Null, Some(self.ready_deadline)),
            step(name, "return-traffic", kinds::RETURN_TRAFFIC, &Value::Null, None),
        ];
        steps.extend(dismissal(name, self.testers.as_ref()));
        steps.push(step(name, "retire-canary", kinds::RETIRE_CANARY, &Value::Null, None));
        phases.push(Phase { name: format!("{name}: promote"), parallel: false, steps });
        phases
    }

    /// Until the new version carries all of the traffic.
    fn rise(&self, name: &str) -> Vec<Phase> {
        let (ready, moved) = (Some(self.ready_deadline), Some(moving(self.ready_deadline)));
        let first = self.weights.first().copied().unwrap_or_default();
        // Copies are work as the requests themselves are.
        let first = self.mirror.as_ref().map_or(first, |mirror| first.max(mirror.percent));
        let mut phases = vec![Phase {
            name: format!("{name}: prepare"),
            parallel: false,
            steps: vec![
                step(name, "baseline", kinds::BASELINE, &Value::Null, None),
                step(name, "deploy", kinds::DEPLOY_CANARY, &json!({"weight": first}), ready),
            ],
        }];
        phases.extend(self.testers.as_ref().map(|testers| testers.phase(name)));
        phases.extend(self.mirror.as_ref().map(|mirror| mirror.phase(name, &self.analysis)));
        for (index, &weight) in self.weights.iter().enumerate() {
            let percent = weight.percent();
            let shift = ShiftParams { weight, services: Vec::new() };
            let period = self.bake.of(index);
            let bake = BakeParams { weight, period, analysis: self.analysis.clone(), services: Vec::new() };
            phases.push(Phase {
                name: format!("{name}: {weight}"),
                parallel: false,
                steps: vec![
                    step(name, &format!("shift-{percent}"), kinds::SHIFT_TRAFFIC, &shift, moved),
                    step(name, &format!("bake-{percent}"), kinds::BAKE, &bake, None),
                ],
            });
        }
        phases
    }
}

impl BlueGreen {
    /// The phases of a blue-green release; `name` begins the names of phases and steps.
    ///
    /// Prepare (look at what serves, make the other workload), one phase a weight (shift, bake), hand over (the name
    /// stands for the new version, and the traffic goes to the name), keep (what served before stays), retire it.
    ///
    /// ```
    /// use moodify_core::strategy::BlueGreen;
    /// let phases = BlueGreen::default().phases("rollout");
    /// let names: Vec<&str> = phases.iter().skip(4).map(|p| p.name.as_str()).collect();
    /// assert_eq!(names, ["rollout: hand over", "rollout: keep"]);
    /// ```
    #[must_use]
    pub fn phases(&self, name: &str) -> Vec<Phase> {
        let mut phases = self.rising().rise(name);
        let ready = Some(self.ready_deadline);
        let keep = json!({"period": self.keep});
        let mut steps = vec![
            step(name, "hand-over", kinds::HAND_OVER, &Value::Null, Some(moving(self.ready_deadline))),
            step(name, "return-traffic", kinds::RETURN_TRAFFIC, &Value::Null, None),
        ];
        steps.extend(dismissal(name, self.testers.as_ref()));
        phases.push(Phase { name: format!("{name}: hand over"), parallel: false, steps });
        phases.push(Phase {
            name: format!("{name}: keep"),
            parallel: false,
            steps: vec![
                step(name, "keep-old", kinds::WAIT, &keep, None),
                step(name, "retire-old", kinds::RETIRE_OLD, &Value::Null, ready),
            ],
        });
        phases
    }
}

impl Rolling {
    /// The phases of a rolling release; `name` begins the names of phases and steps.
    ///
    /// Prepare (look at what serves), one phase a batch (roll, bake), finish (give the workload back as it was).
    ///
    /// ```
    /// use moodify_core::strategy::Rolling;
    /// let phases = Rolling::default().phases("rollout");
    /// let names: Vec<&str> = phases.iter().map(|p| p.name.as_str()).collect();
    /// assert_eq!(names, ["rollout: prepare", "rollout: 10 %", "rollout: 50 %", "rollout: 100 %", "rollout: finish"]);
    /// ```
    #[must_use]
    pub fn phases(&self, name: &str) -> Vec<Phase> {
        let ready = Some(self.ready_deadline);
        let mut phases = vec![prepare(name)];
        for (index, &weight) in self.batches.iter().enumerate() {
            let percent = weight.percent();
            let batch = ShiftParams { weight, services: Vec::new() };
            let period = self.bake.of(index);
            let bake = BakeParams { weight, period, analysis: self.analysis.clone(), services: Vec::new() };
            phases.push(Phase {
                name: format!("{name}: {weight}"),
                parallel: false,
                steps: vec![
                    step(name, &format!("roll-{percent}"), kinds::ROLL_BATCH, &batch, ready),
                    step(name, &format!("bake-{percent}"), kinds::BAKE, &bake, None),
                ],
            });
        }
        let steps = vec![step(name, "promote", kinds::PROMOTE, &Value::Null, ready)];
        phases.push(Phase { name: format!("{name}: finish"), parallel: false, steps });
        phases
    }
}

impl Recreate {
    /// The phases of a release that stops the old version first; `name` begins the names of phases and steps.
    ///
    /// ```
    /// use moodify_core::strategy::Recreate;
    /// let phases = Recreate::default().phases("rollout");
    /// let steps: Vec<&str> = phases.iter().flat_map(|p| &p.steps).map(|s| s.name.as_str()).collect();
    /// assert_eq!(steps, ["rollout-baseline", "rollout-stop", "rollout-start", "rollout-bake"]);
    /// ```
    #[must_use]
    pub fn phases(&self, name: &str) -> Vec<Phase> {
        let ready = Some(self.ready_deadline);
        let bake = BakeParams {
            weight: Weight::FULL,
            period: self.bake,
            analysis: self.analysis.clone(),
            services: Vec::new(),
        };
        let steps = vec![
            step(name, "stop", kinds::STOP, &Value::Null, ready),
            step(name, "start", kinds::START, &Value::Null, ready),
            step(name, "bake", kinds::BAKE, &bake, None),
        ];
        vec![prepare(name), Phase { name: format!("{name}: recreate"), parallel: false, steps }]
    }
}

impl TestingFirst {
    /// Lets the testers in, and gives them their time.
    fn phase(&self, name: &str) -> Phase {
        let admit = AdmitParams { testers: self.testers(), services: Vec::new() };
        let mut steps = vec![step(name, "admit-testers", kinds::ADMIT_TESTERS, &admit, None)];
        let wait = |period: Period| step(name, "testers", kinds::WAIT, &json!({"period": period}), None);
        steps.extend(self.period.map(wait));
        Phase { name: format!("{name}: testers"), parallel: false, steps }
    }
}

impl Mirrored {
    /// Sends copies for a time, and watches what becomes of them.
    fn phase(&self, name: &str, analysis: &Analysis) -> Phase {
        let mirror = MirrorParams { percent: self.percent, services: Vec::new() };
        let (weight, period) = (Weight::ZERO, self.period);
        let bake = BakeParams { weight, period, analysis: analysis.clone(), services: Vec::new() };
        let steps = vec![
            step(name, "mirror", kinds::MIRROR, &mirror, None),
            step(name, "watch-mirror", kinds::BAKE, &bake, None),
            step(name, "stop-mirror", kinds::STOP_MIRROR, &Value::Null, None),
        ];
        Phase { name: format!("{name}: mirror"), parallel: false, steps }
    }
}

/// Sends the testers where all go.
fn dismissal(name: &str, testers: Option<&TestingFirst>) -> Option<Step> {
    testers.map(|_| step(name, "dismiss-testers", kinds::DISMISS_TESTERS, &Value::Null, None))
}

impl DatabaseRollback {
    /// The phases of a database rollback; `name` begins the names of phases and steps.
    ///
    /// ```
    /// use moodify_core::strategy::DatabaseRollback;
    /// let rollback: DatabaseRollback = serde_json::from_str(r#"{"store": "documentdb", "target": "moods-restored",
    ///     "connections": [{"secret": {"name": "database", "key": "URI"}}]}"#).unwrap();
    /// let phases = rollback.phases("back");
    /// let names: Vec<&str> = phases.iter().map(|p| p.name.as_str()).collect();
    /// assert_eq!(names, ["back: approve", "back: stop", "back: restore", "back: switch", "back: start", "back: confirm"]);
    /// ```
    #[must_use]
    pub fn phases(&self, name: &str) -> Vec<Phase> {
        let proposal = Proposal {
            store: self.store.clone(),
            from: self.from.clone(),
            target: Some(self.target.clone()),
            stops: self.stops.clone(),
            connections: self.connections.clone(),
        };
        let approve = json!({
            "question": "Take the database back to a backup?",
            "approvals": self.approvals,
            "restore": proposal,
        });
        let restore = json!({"store": self.store, "from": RestoreFrom::Approved, "target": self.target});
        let confirm = json!({
            "question": format!(
                "Is the application well on {0}? A yes ends the way back to the old database; a no takes it, \
                 and what was written to {0} is lost.", self.target
            ),
            "approvals": self.confirmations,
        });
        let forget = json!({"connections": self.connections});
        let switch = |(index, connection)| {
            let with = json!({"connection": connection});
            step(name, &format!("switch-{}", index + 1), kinds::SWITCH_CONNECTION, &with, None)
        };
        let verify = |(index, check): (usize, &Check)| {
            let (kind, with) = match check {
                Check::Probe(request) => (kinds::PROBE, json!(request)),
                Check::Exec(params) => (kinds::EXEC, json!(params)),
            };
            step(name, &format!("verify-{}", index + 1), kind, &with, None)
        };
        let mut stop = vec![step(name, "stop", kinds::STOP_APPLICATION, &self.stops, Some(self.stop_deadline))];
        let start = step(name, "start", kinds::START_APPLICATION, &Value::Null, Some(self.ready_deadline));
        let mut start = vec![start];
        if !self.cron_jobs.is_empty() {
            let suspend = json!({"cron-jobs": self.cron_jobs});
            stop.insert(0, step(name, "suspend-cron-jobs", kinds::SUSPEND_CRON_JOBS, &suspend, None));
            start.push(step(name, "resume-cron-jobs", kinds::RESUME_CRON_JOBS, &Value::Null, None));
        }
        let all = [
            ("approve", vec![step(name, "approve", kinds::APPROVAL, &approve, None)]),
            ("stop", stop),
            ("restore", vec![step(name, "restore", kinds::RESTORE, &restore, Some(self.restore_deadline))]),
            ("switch", self.connections.iter().enumerate().map(switch).collect()),
            ("start", start),
            ("verify", self.verify.iter().enumerate().map(verify).collect()),
            (
                "confirm",
                vec![
                    step(name, "confirm", kinds::APPROVAL, &confirm, None),
                    step(name, "forget", kinds::FORGET_CONNECTIONS, &forget, None),
                ],
            ),
        ];
        let phase = |(of, steps)| Phase { name: format!("{name}: {of}"), parallel: false, steps };
        all.into_iter().filter(|(_, steps): &(_, Vec<Step>)| !steps.is_empty()).map(phase).collect()
    }
}

/// Looks at what serves.
fn prepare(name: &str) -> Phase {
    let steps = vec![step(name, "baseline", kinds::BASELINE, &Value::Null, None)];
    Phase { name: format!("{name}: prepare"), parallel: false, steps }
}

/// When a step must have ended that waits for instances and then moves traffic: the time for which it lets the data plane
/// learn of them is not theirs.
fn moving(ready: Period) -> Period {
    ready.get().saturating_add(2 * LAG).into()
}

fn step(prefix: &str, name: &str, action: &str, with: &impl Serialize, deadline: Option<Period>) -> Step {
    Step {
        name: format!("{prefix}-{name}"),
        action: action.to_owned(),
        with: serde_json::to_value(with).unwrap_or_default(),
        deadline,
        retry: RetryPolicy::default(),
    }
}
