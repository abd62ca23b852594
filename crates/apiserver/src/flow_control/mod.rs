//! How many requests are worked on at the same time, so that a flood of them costs memory and time within bounds, and nobody's
//! flood starves others (Kubernetes documentation, "API Priority and Fairness"): FlowSchemas tell to which priority level a
//! request belongs, and a level has so many seats, queues, or neither. Only the exempt level has no bounds.

mod classify;
mod follow;
mod level;
mod shares;

pub(crate) use classify::{Asked, Mark};
pub(crate) use follow::start;
pub(crate) use level::{Figures, Seat};

use arc_swap::ArcSwap;
use classify::{Schema, Schemas};
use k8s_openapi::api::flowcontrol::v1::{FlowSchemaSpec, PriorityLevelConfigurationSpec};
use level::{Level, Limit, Queuing};
use orlop_api::{Status, kinds::flow_control, object::text};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde_json::Value;
use shares::{Demand, Share};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// A level with what it was configured with.
struct Configured {
    level: Arc<Level>,
    uid: String,
    /// `None` for an exempt level.
    limit: Option<Limit>,
    /// Demand over a longer time.
    smooth: Mutex<f64>,
}

/// What is in force.
struct Plan {
    schemas: Schemas,
    levels: BTreeMap<String, Configured>,
}

/// Priority and fairness.
pub(crate) struct FlowControl {
    /// Seats of all levels together.
    seats: usize,
    /// How long a request may wait for one.
    patience: Duration,
    plan: ArcSwap<Plan>,
}

fn spec<T: DeserializeOwned>(object: &Value) -> Option<T> {
    serde_json::from_value(object.get("spec")?.clone()).ok()
}

/// How a level is configured; `None` where it is broken.
fn share(spec: &PriorityLevelConfigurationSpec) -> Option<(Share, Option<Option<Queuing>>)> {
    let number = |n: Option<i32>| n.and_then(|n| u32::try_from(n).ok());
    match spec.type_.as_str() {
        "Exempt" => {
            let exempt = spec.exempt.clone().unwrap_or_default();
            let shares = number(exempt.nominal_concurrency_shares).unwrap_or(0);
            let lendable = number(exempt.lendable_percent).unwrap_or(0);
            Some((Share { shares, lendable, borrowing: None }, None))
        }
        "Limited" => {
            let limited = spec.limited.as_ref()?;
            let response = limited.limit_response.as_ref()?;
            let queuing = match (response.type_.as_str(), &response.queuing) {
                ("Queue", Some(queuing)) => Some(Queuing {
                    queues: number(queuing.queues).filter(|n| *n > 0).map(u64::from)?,
                    hand: number(queuing.hand_size).filter(|n| *n > 0)? as usize,
                    length: number(queuing.queue_length_limit)? as usize,
                }),
                ("Reject", None) => None,
                _ => return None,
            };
            let share = Share {
                shares: number(limited.nominal_concurrency_shares).unwrap_or(30),
                lendable: number(limited.lendable_percent).unwrap_or(0),
                borrowing: number(limited.borrowing_limit_percent),
            };
            Some((share, Some(queuing)))
        }
        _ => None,
    }
}

impl Plan {
    /// What these objects say. Levels that were there before go on with who sits and waits there.
    fn new(seats: usize, schemas: &[Value], levels: &[Value], before: Option<&Self>) -> Self {
        let named = |objects: &[Value], name: &str| objects.iter().any(|o| text(o, "/metadata/name") == name);
        let imagined = |kind: &str, objects: &[Value]| -> Vec<Value> {
            // What is mandatory is there whatever the objects say.
            let missing = flow_control::defaults().iter().filter(|d| {
                d.mandatory && d.object["kind"] == kind && !named(objects, text(&d.object, "/metadata/name"))
            });
            missing.map(|d| d.object.clone()).collect()
        };
        let all_levels = [levels, &imagined("PriorityLevelConfiguration", levels)].concat();
        let read: Vec<(&Value, Share, Option<Option<Queuing>>)> = all_levels
            .iter()
            .filter_map(|object| {
                let (share, queuing) = share(&spec(object)?)?;
                Some((object, share, queuing))
            })
            .collect();
        let shares: Vec<Share> = read.iter().map(|(_, share, _)| *share).collect();
        let bounds = shares::bounds(seats, &shares);
        let mut configured = BTreeMap::new();
        for ((object, _, queuing), bounds) in read.into_iter().zip(bounds) {
            let name = text(object, "/metadata/name");
            let old = before.and_then(|plan| plan.levels.get(name));
            let level = old.map_or_else(Arc::default, |old| old.level.clone());
            let limit = queuing.map(|queuing| Limit { bounds, queuing });
            level.configure(limit);
            let smooth = Mutex::new(old.map_or(0.0, |old| *old.smooth.lock()));
            let uid = text(object, "/metadata/uid").to_string();
            configured.insert(name.to_string(), Configured { level, uid, limit, smooth });
        }
        let all_schemas = [schemas, &imagined("FlowSchema", schemas)].concat();
        let schemas = all_schemas.iter().filter_map(|object| {
            let spec: FlowSchemaSpec = spec(object)?;
            let level = configured.get(&spec.priority_level_configuration.name)?;
            let mark = Mark::new(text(object, "/metadata/uid"), &level.uid);
            let name = text(object, "/metadata/name").to_string();
            Some(Schema { name, spec, level: level.level.clone(), mark: Arc::new(mark) })
        });
        let schemas = Schemas::new(schemas.collect());
        Self { schemas, levels: configured }
    }
}

impl FlowControl {
    /// With the objects that every cluster has. `patience` is how long a request may wait.
    pub(crate) fn new(seats: usize, patience: Duration) -> Self {
        let of = |kind: &str| -> Vec<Value> {
            let defaults = flow_control::defaults().iter().map(|d| &d.object);
            defaults.filter(|o| o["kind"] == kind).cloned().collect()
        };
        let plan = Plan::new(seats, &of("FlowSchema"), &of("PriorityLevelConfiguration"), None);
        Self { seats, patience, plan: ArcSwap::from_pointee(plan) }
    }

    /// Goes by these objects from now on.
    fn configure(&self, schemas: &[Value], levels: &[Value]) {
        let before = self.plan.load_full();
        self.plan.store(Arc::new(Plan::new(self.seats, schemas, levels, Some(&before))));
    }

    /// Lets levels lend each other what they did not need lately.
    fn lend(&self) {
        let plan = self.plan.load_full();
        let limited: Vec<(&Configured, Demand)> = plan
            .levels
            .values()
            .filter_map(|configured| {
                let bounds = configured.limit?.bounds;
                let high = configured.level.take_high();
                let mut over_time = configured.smooth.lock();
                *over_time = shares::smooth(*over_time, high);
                Some((configured, Demand { bounds, high, smooth: *over_time }))
            })
            .collect();
        let demands: Vec<Demand> = limited.iter().map(|(_, demand)| *demand).collect();
        for ((configured, _), seats) in limited.iter().zip(shares::allot(self.seats, &demands)) {
            configured.level.resize(seats);
        }
    }

    /// A seat for a request, or 429; and how its answer is marked, whatever it is.
    pub(crate) async fn enter(&self, asked: &Asked<'_>) -> (Option<Arc<Mark>>, Result<Seat, Status>) {
        let found = {
            let plan = self.plan.load();
            plan.schemas.find(asked).map(|(schema, flow)| (schema.mark.clone(), schema.level.clone(), flow))
        };
        let refused = || Status::too_many_requests("Too many requests, please try again later.", 1);
        let Some((mark, level, flow)) = found else { return (None, Err(refused())) };
        let seat = level.enter(flow, self.patience).await;
        if let Err(why) = &seat {
            tracing::debug!(user = asked.who.user, path = asked.path, ?why, "a request is turned away");
        }
        (Some(mark), seat.map_err(|_| refused()))
    }

    /// What each level is doing.
    pub(crate) fn figures(&self) -> Vec<(String, Figures)> {
        let plan = self.plan.load();
        plan.levels.iter().map(|(name, c)| (name.clone(), c.level.figures())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Identity;
    use serde_json::json;

    fn asked<'a>(who: &'a Identity, path: &'a str) -> Asked<'a> {
        Asked { who, verb: "get", target: None, path }
    }

    fn figures(control: &FlowControl, name: &str) -> Figures {
        control.figures().into_iter().find(|(n, _)| n == name).unwrap().1
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_users_is_turned_away_and_starves_neither_nodes_nor_the_owner() {
        let control = FlowControl::new(49, Duration::from_secs(1));
        let (jane, node) = (Identity::new("jane", &[]), Identity::new("system:node:a", &["system:nodes"]));
        let admin = Identity::new("admin", &["system:masters"]);
        let seats = figures(&control, "global-default").seats;
        assert_eq!(seats, 4);
        let mut held = Vec::new();
        for _ in 0..seats {
            held.push(control.enter(&asked(&jane, "/version")).await.1.ok().unwrap());
        }
        let refused = control.enter(&asked(&jane, "/version")).await.1.err().unwrap();
        assert_eq!(
            (refused.code, refused.message.as_str()),
            (429, "Too many requests, please try again later.")
        );
        for who in [&node, &admin] {
            assert!(control.enter(&asked(who, "/version")).await.1.is_ok());
        }
        for _ in 0..1000 {
            held.push(control.enter(&asked(&admin, "/version")).await.1.ok().unwrap());
        }
        drop(held);
        assert!(control.enter(&asked(&jane, "/version")).await.1.is_ok());
        assert_eq!(figures(&control, "exempt").executing, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn idle_levels_lend_their_seats_until_they_need_them() {
        let control = FlowControl::new(245, Duration::from_secs(1));
        let jane = Identity::new("jane", &[]);
        let mut held = Vec::new();
        while let Ok(seat) = control.enter(&asked(&jane, "/version")).await.1 {
            held.push(seat);
        }
        assert_eq!(held.len(), 20);
        control.lend();
        let lent = figures(&control, "global-default").seats;
        assert!(lent > 20, "{lent}");
        let least = figures(&control, "workload-low").seats;
        assert!(least >= 10, "{least}");
        assert!(control.enter(&asked(&jane, "/version")).await.1.is_ok());
    }

    #[tokio::test]
    async fn what_is_mandatory_is_there_without_any_objects_and_levels_outlive_changes() {
        let control = FlowControl::new(100, Duration::from_secs(1));
        let jane = Identity::new("jane", &[]);
        control.configure(&[], &[]);
        assert_eq!(control.figures().len(), 2);
        let seat = control.enter(&asked(&jane, "/version")).await.1.ok().unwrap();
        assert_eq!(figures(&control, "catch-all").executing, 1);
        let broken = json!({"metadata": {"name": "broken"}, "spec": {"type": "Limited"}});
        let mine = json!({"metadata": {"name": "mine", "uid": "l"}, "spec": {"type": "Limited", "limited": {
            "nominalConcurrencyShares": 5, "limitResponse": {"type": "Reject"}}}});
        let all = json!({"verbs": ["*"], "nonResourceURLs": ["*"]});
        let schema = |name: &str, level: &str| {
            json!({"metadata": {"name": name, "uid": "s"}, "spec": {
                "matchingPrecedence": 500, "priorityLevelConfiguration": {"name": level},
                "rules": [{"subjects": [{"kind": "User", "user": {"name": "jane"}}], "nonResourceRules": [all]}]}})
        };
        control.configure(&[schema("a", "broken"), schema("b", "mine")], &[broken, mine]);
        assert_eq!(figures(&control, "catch-all").executing, 1);
        let (mark, entered) = control.enter(&asked(&jane, "/version")).await;
        let mut answer = http::Response::new(());
        mark.unwrap().put(&mut answer);
        assert_eq!(answer.headers()["x-kubernetes-pf-flowschema-uid"], "s");
        assert_eq!(answer.headers()["x-kubernetes-pf-prioritylevel-uid"], "l");
        assert_eq!((figures(&control, "mine").executing, figures(&control, "mine").nominal), (1, 50));
        drop((seat, entered));
        assert_eq!(figures(&control, "catch-all").executing, 0);
    }
}
