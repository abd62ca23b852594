//! What must hold of pods that have no node when nothing changes any more: no node has room for them, and none would have if those of
//! lower priority left it. It looks at what is stored and at nothing else.

use super::facts::{NodeFacts, PodFacts};
use crate::World;
use orlop_api::object::text;
use serde_json::Value;

/// Who waits for no reason in a world at rest.
pub(super) fn check(world: &World) -> Vec<String> {
    let pods: Vec<PodFacts> = world.objects("", "pods").iter().map(PodFacts::of).collect();
    check_objects(&pods, &world.objects("", "nodes"))
}

fn check_objects(pods: &[PodFacts], nodes: &[Value]) -> Vec<String> {
    let mut wrong = Vec::new();
    // A pod of a DaemonSet waits for its one node, and one with claims for the node that has their volumes.
    let free = |p: &&PodFacts| {
        p.claims.is_empty() && p.meta.controller.as_ref().is_none_or(|(kind, _)| kind != "DaemonSet")
    };
    for waiting in pods.iter().filter(|p| p.waits()).filter(free) {
        for node in nodes {
            let (name, Some(has)) = (text(node, "/metadata/name"), NodeFacts::of(node)) else { continue };
            let stays = |p: &&PodFacts| {
                p.node == name && !p.is_finished() && (waiting.patient || p.priority >= waiting.priority)
            };
            let staying: Vec<&PodFacts> = pods.iter().filter(stays).collect();
            let cpu = waiting.cpu + staying.iter().map(|p| p.cpu).sum::<i64>();
            let memory = waiting.memory + staying.iter().map(|p| p.memory).sum::<i64>();
            let count = i64::try_from(staying.len() + 1).unwrap_or(i64::MAX);
            if cpu <= has.cpu && memory <= has.memory && count <= has.pods {
                let (namespace, pod) = (&waiting.meta.namespace, &waiting.meta.name);
                wrong.push(format!(
                    "{namespace}/{pod} of priority {} waits, though {name} has room beside those that would stay",
                    waiting.priority
                ));
                break;
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, node: &str, cpu: i64, priority: i64) -> PodFacts {
        let mut pod = PodFacts { node: node.into(), cpu, priority, ..PodFacts::default() };
        pod.meta.name = name.into();
        pod
    }

    #[test]
    fn who_waits_though_there_is_room_or_lower_ones_could_go_is_found() {
        let nodes =
            [json!({"metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "1", "pods": "2"}}})];
        let wrong = |pods: &[PodFacts]| check_objects(pods, &nodes).len();
        let runs = pod("runs", "n", 800, 100);
        assert_eq!(wrong(&[runs.clone(), pod("waits", "", 400, 100)]), 0);
        assert_eq!(wrong(&[runs.clone(), pod("waits", "", 200, 100)]), 1, "there is room");
        assert_eq!(wrong(&[runs.clone(), pod("waits", "", 400, 200)]), 1, "it comes first");
        let mut patient = pod("waits", "", 400, 200);
        patient.patient = true;
        assert_eq!(wrong(&[runs.clone(), patient]), 0);
        let ended = PodFacts { phase: "Succeeded".into(), ..runs };
        assert_eq!(wrong(&[ended, pod("waits", "", 400, 100)]), 1, "what has ended takes no room");
    }
}
