//! What a Deployment's status says: counts, and the conditions Available and Progressing (Kubernetes documentation,
//! "Deployments", "Deployment status").

use super::{Cluster, Error, Sets, numbers, replicas, wanted};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::ResourceExt;
use std::time::Duration;

/// Whether all pods are of the present template and available, and no others are left.
pub(super) fn is_complete(d: &Deployment, sets: &Sets) -> bool {
    let status = counts(d, sets);
    let wanted = d.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
    status.updated_replicas == Some(wanted)
        && status.replicas == Some(wanted)
        && status.available_replicas == Some(wanted)
        && status.observed_generation == d.metadata.generation
}

fn counts(d: &Deployment, sets: &Sets) -> DeploymentStatus {
    let status = |s: &k8s_openapi::api::apps::v1::ReplicaSet| s.status.clone().unwrap_or_default();
    let total: i32 = sets.all().map(|s| status(s).replicas).sum();
    let available: i32 = sets.all().map(|s| numbers(s).available).sum();
    let asked: i32 = sets.all().map(|s| replicas(s)).sum();
    DeploymentStatus {
        observed_generation: d.metadata.generation,
        replicas: Some(total),
        updated_replicas: Some(sets.new.as_ref().map_or(0, |s| status(s).replicas)),
        ready_replicas: Some(sets.all().map(|s| status(s).ready_replicas.unwrap_or(0)).sum()),
        available_replicas: Some(available),
        unavailable_replicas: Some((asked - available).max(0)),
        terminating_replicas: Some(sets.all().map(|s| status(s).terminating_replicas.unwrap_or(0)).sum()),
        collision_count: d.status.as_ref().and_then(|s| s.collision_count),
        conditions: None,
    }
}

/// Absent counts are zero.
fn normalized(mut status: DeploymentStatus) -> DeploymentStatus {
    for field in [
        &mut status.replicas,
        &mut status.updated_replicas,
        &mut status.ready_replicas,
        &mut status.available_replicas,
        &mut status.unavailable_replicas,
        &mut status.terminating_replicas,
    ] {
        field.get_or_insert(0);
    }
    status
}

/// Sets a condition; its transition time changes only with its status.
fn set_condition(
    all: &mut Vec<DeploymentCondition>,
    type_: &str,
    status: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) {
    let old = all.iter().position(|c| c.type_ == type_);
    if let Some(i) = old
        && all[i].status == status
        && all[i].reason.as_deref() == Some(reason)
    {
        all[i].message = Some(message);
        return;
    }
    let transition =
        old.map(|i| all.remove(i)).filter(|c| c.status == status).and_then(|c| c.last_transition_time);
    all.push(DeploymentCondition {
        type_: type_.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_transition_time: Some(transition.unwrap_or(Time(now))),
        last_update_time: Some(Time(now)),
    });
}

/// Writes the status if it changed; returns when to look again because the progress deadline ends.
/// `refused` is why the set with the present template could not be made.
pub(super) async fn write(
    cluster: &Cluster,
    d: &Deployment,
    sets: &Sets,
    refused: Option<&Error>,
) -> Result<Option<Duration>, Error> {
    // What `step` wrote meanwhile (the revision, a collision) is in the cache.
    let namespace = d.namespace().unwrap_or_default();
    let Some(current) = cluster.deployments.get(&namespace, &d.name_any()) else { return Ok(None) };
    let latest = Sets {
        new: sets
            .new
            .as_ref()
            .map(|s| cluster.replica_sets.get(&namespace, &s.name_any()).unwrap_or(s.clone())),
        old: sets
            .old
            .iter()
            .map(|s| cluster.replica_sets.get(&namespace, &s.name_any()).unwrap_or(s.clone()))
            .collect(),
    };
    let (mut status, wait) = next(&current, d.metadata.generation, &latest, cluster.now());
    if let Some(error) = refused {
        let conditions = status.conditions.get_or_insert_default();
        let (reason, why) = ("ReplicaSetCreateError", error.message());
        set_condition(conditions, "Progressing", "False", reason, why, cluster.now());
    }
    if normalized(current.status.clone().unwrap_or_default()) != status {
        let mut changed = (*current).clone();
        changed.status = Some(status);
        cluster.write_status(&cluster.deployments, &changed).await?;
    }
    Ok(wait)
}

/// The status that follows from what is there, and how long until the progress deadline.
fn next(
    d: &Deployment,
    observed: Option<i64>,
    sets: &Sets,
    now: Timestamp,
) -> (DeploymentStatus, Option<Duration>) {
    let spec = d.spec.clone().unwrap_or_default();
    let old = normalized(d.status.clone().unwrap_or_default());
    let mut status = counts(d, sets);
    status.observed_generation = observed;
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let wanted = wanted(&spec);
    let mut set = |type_: &str, status: &str, reason: &str, message: String| {
        set_condition(&mut conditions, type_, status, reason, message, now);
    };

    if status.available_replicas.unwrap_or(0) >= wanted.replicas - wanted.unavailable {
        set("Available", "True", "MinimumReplicasAvailable", "Deployment has minimum availability.".into());
    } else {
        let message = "Deployment does not have minimum availability.".to_string();
        set("Available", "False", "MinimumReplicasUnavailable", message);
    }

    let mut wait = None;
    let deadline = spec.progress_deadline_seconds.filter(|s| *s != i32::MAX);
    if let Some(deadline) = deadline {
        let subject = sets.new.as_ref().map_or_else(
            || format!("Deployment \"{}\"", d.name_any()),
            |s| format!("ReplicaSet \"{}\"", s.name_any()),
        );
        let progressing = old.conditions.iter().flatten().find(|c| c.type_ == "Progressing");
        let reason = progressing.and_then(|c| c.reason.as_deref()).unwrap_or_default();
        let complete = is_complete_counts(&status, wanted.replicas);
        // A finished rollout stays finished when pods come and go; only another template starts a new one.
        let was_complete = reason == "NewReplicaSetAvailable"
            && old.updated_replicas.unwrap_or(0) > 0
            && status.updated_replicas == status.replicas;
        let progressed = status.updated_replicas > old.updated_replicas
            || status.ready_replicas > old.ready_replicas
            || status.available_replicas > old.available_replicas
            || replicas_of_others(&status) < replicas_of_others(&old);
        if spec.paused.unwrap_or(false) {
            set("Progressing", "Unknown", "DeploymentPaused", "Deployment is paused".into());
        } else if complete {
            let message = format!("{subject} has successfully progressed.");
            set("Progressing", "True", "NewReplicaSetAvailable", message);
        } else if was_complete {
            // Keep it.
        } else if progressed || reason.is_empty() || (reason == "NewReplicaSetAvailable") {
            // Every progress starts the deadline anew.
            conditions.retain(|c| c.type_ != "Progressing" || c.status == "True");
            let message = format!("{subject} is progressing.");
            set_condition(&mut conditions, "Progressing", "True", "ReplicaSetUpdated", message, now);
            if let Some(c) = conditions.iter_mut().find(|c| c.type_ == "Progressing") {
                c.last_update_time = Some(Time(now));
            }
            wait = Some(SignedDuration::from_secs(deadline.into()));
        } else if reason == "DeploymentPaused" {
            set("Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed".into());
            wait = Some(SignedDuration::from_secs(deadline.into()));
        } else if !["ProgressDeadlineExceeded", "ReplicaSetCreateError"].contains(&reason) {
            let since = progressing.and_then(|c| c.last_update_time.as_ref()).map_or(now, |t| t.0);
            let left = SignedDuration::from_secs(deadline.into()) - now.duration_since(since);
            if left <= SignedDuration::ZERO {
                set(
                    "Progressing",
                    "False",
                    "ProgressDeadlineExceeded",
                    format!("{subject} has timed out progressing."),
                );
            } else {
                wait = Some(left);
            }
        }
    } else {
        conditions.retain(|c| c.type_ != "Progressing");
    }

    // A set that cannot make its pods says why; the Deployment repeats it.
    conditions.retain(|c| c.type_ != "ReplicaFailure");
    let failure = sets
        .all()
        .filter_map(|s| s.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == "ReplicaFailure"));
    if let Some(failure) = failure.last() {
        conditions.push(DeploymentCondition {
            type_: failure.type_.clone(),
            status: failure.status.clone(),
            reason: failure.reason.clone(),
            message: failure.message.clone(),
            last_transition_time: failure.last_transition_time.clone(),
            last_update_time: failure.last_transition_time.clone(),
        });
    }
    status.conditions = Some(conditions);
    (status, wait.map(|w| w.unsigned_abs()))
}

fn is_complete_counts(status: &DeploymentStatus, wanted: i32) -> bool {
    [status.updated_replicas, status.replicas, status.available_replicas].iter().all(|n| *n == Some(wanted))
}

fn replicas_of_others(status: &DeploymentStatus) -> i32 {
    status.replicas.unwrap_or(0) - status.updated_replicas.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::{DeploymentSpec, ReplicaSet, ReplicaSetSpec, ReplicaSetStatus};
    use std::sync::Arc;

    fn deployment(replicas: i32) -> Deployment {
        let mut d = Deployment::default();
        d.metadata.name = Some("web".into());
        d.metadata.generation = Some(1);
        d.spec = Some(DeploymentSpec {
            replicas: Some(replicas),
            progress_deadline_seconds: Some(600),
            ..DeploymentSpec::default()
        });
        d
    }

    fn sets(replicas: i32, available: i32) -> Sets {
        let mut set = ReplicaSet::default();
        set.metadata.name = Some("web-1".into());
        set.spec = Some(ReplicaSetSpec { replicas: Some(replicas), ..ReplicaSetSpec::default() });
        set.status = Some(ReplicaSetStatus {
            replicas,
            ready_replicas: Some(available),
            available_replicas: Some(available),
            ..ReplicaSetStatus::default()
        });
        Sets { new: Some(Arc::new(set)), old: vec![] }
    }

    fn reason(status: &DeploymentStatus, type_: &str) -> (String, String) {
        let c = status.conditions.iter().flatten().find(|c| c.type_ == type_).expect("a condition");
        (c.status.clone(), c.reason.clone().unwrap_or_default())
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    #[test]
    fn a_rollout_that_stands_still_times_out_and_one_that_moves_does_not() {
        let mut d = deployment(3);
        let (status, wait) = next(&d, Some(1), &sets(3, 0), at(0));
        assert_eq!(reason(&status, "Progressing"), ("True".into(), "ReplicaSetUpdated".into()));
        assert_eq!(wait, Some(Duration::from_secs(600)));
        d.status = Some(status);
        let (status, _) = next(&d, Some(1), &sets(3, 1), at(500));
        assert_eq!(reason(&status, "Progressing").1, "ReplicaSetUpdated");
        d.status = Some(status);
        let (status, wait) = next(&d, Some(1), &sets(3, 1), at(700));
        assert_eq!(reason(&status, "Progressing").1, "ReplicaSetUpdated");
        assert_eq!(wait, Some(Duration::from_secs(400)));
        d.status = Some(status);
        let (status, _) = next(&d, Some(1), &sets(3, 1), at(1200));
        assert_eq!(reason(&status, "Progressing"), ("False".into(), "ProgressDeadlineExceeded".into()));
        d.status = Some(status);
        let (status, _) = next(&d, Some(1), &sets(3, 3), at(1300));
        assert_eq!(reason(&status, "Progressing"), ("True".into(), "NewReplicaSetAvailable".into()));
    }

    #[test]
    fn a_finished_rollout_stays_finished_when_a_pod_dies() {
        let mut d = deployment(2);
        let (status, _) = next(&d, Some(1), &sets(2, 2), at(0));
        d.status = Some(status);
        let (status, _) = next(&d, Some(1), &sets(2, 1), at(10));
        assert_eq!(reason(&status, "Progressing").1, "NewReplicaSetAvailable");
        assert_eq!(reason(&status, "Available").0, "False");
    }
}
