//! What a seed lets go wrong: what kind of world it is, what happens to requests and watches, and which process or machine breaks when.

use crate::{CONTROLLER_MANAGER, Faults, NodeSpec, SCHEDULER, World, random::Random};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use std::time::Duration;

/// What kind of world it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    /// The API server crashes.
    pub server_crashes: bool,
    /// Nodes are too small for all, so that priority counts.
    pub tight: bool,
    /// Machines come and go for good.
    pub nodes_change: bool,
}

impl Kind {
    pub(super) fn draw(random: &mut Random) -> Self {
        Self {
            server_crashes: random.chance(350),
            tight: random.chance(250),
            nodes_change: random.chance(400),
        }
    }

    pub(super) fn node(self, name: String) -> NodeSpec {
        if self.tight { NodeSpec::new(name, "2", "4Gi") } else { NodeSpec::new(name, "16", "32Gi") }
    }
}

/// What goes wrong with requests and watches.
pub(super) fn faults(random: &mut Random) -> Faults {
    let ms = Duration::from_millis;
    Faults {
        latency: ms(random.pick(&[0, 5, 30, 300]).copied().unwrap_or(0)),
        lags: random.pick(&[0, 0, 20, 100]).copied().unwrap_or(0),
        lag: ms(random.between(500, 8000)),
        breaks: random.pick(&[0, 2, 10]).copied().unwrap_or(0),
        refuses: random.pick(&[0, 0, 10, 50]).copied().unwrap_or(0),
        loses: random.pick(&[0, 0, 0, 10, 50]).copied().unwrap_or(0),
        interferes: random.pick(&[0, 0, 20, 200]).copied().unwrap_or(0),
    }
}

/// Breaks machines and processes.
pub(super) struct Trouble<'a> {
    world: &'a World,
    kind: Kind,
    random: Random,
    /// How many nodes there ever were.
    made: u64,
}

impl<'a> Trouble<'a> {
    pub(super) fn new(world: &'a World, kind: Kind, seed: u64) -> Self {
        Self { world, kind, random: Random::new(seed, "trouble"), made: 0 }
    }

    /// Adds a node to the world.
    pub(super) fn add_node(&mut self) {
        self.world.add_node(self.kind.node(format!("n{}", self.made)));
        self.made += 1;
    }

    fn names(&self) -> Vec<String> {
        self.world.machines().into_iter().map(|(name, _)| name).collect()
    }

    /// Something breaks that is no request. Returns how long it takes until it mends itself.
    pub(super) async fn break_something(&mut self) -> Duration {
        let nodes = self.names();
        let node = self.random.pick(&nodes).cloned().unwrap_or_default();
        let polls = self.random.below(400);
        let away = self.random.time(Duration::ZERO, Duration::from_secs(15));
        match self.random.below(11) {
            0..=2 => self.world.kill(CONTROLLER_MANAGER, polls, away),
            3 => self.world.kill(SCHEDULER, polls, away),
            4 => self.world.kill(&node, polls, away),
            5 => {
                // Mostly back before anybody acts on it; sometimes only after its pods were sent away.
                let (least, most) = if self.random.chance(300) { (345, 400) } else { (1, 60) };
                let away = self.random.time(Duration::from_secs(least), Duration::from_secs(most));
                self.world.power_off(&node, away);
                return away;
            }
            6 => self.world.cut_off(&node, true),
            7 => nodes.iter().for_each(|name| self.world.cut_off(name, false)),
            8 | 9 if self.kind.nodes_change => self.change_nodes(&node, nodes.len(), away).await,
            _ if self.kind.server_crashes => self.world.crash_server(away),
            _ => self.world.kill(CONTROLLER_MANAGER, polls, away),
        }
        away
    }

    async fn change_nodes(&mut self, node: &str, there: usize, away: Duration) {
        match self.random.below(4) {
            // It burns; its object goes now, or when somebody tidies up.
            0 if there > 2 => {
                self.world.remove_machine(node);
                if self.random.chance(600) {
                    self.delete(node).await;
                }
            }
            // Its object goes by mistake, and its agent, started anew, registers it again.
            1 => {
                self.delete(node).await;
                self.world.kill(node, 0, away);
            }
            _ => self.add_node(),
        }
    }

    async fn delete(&self, node: &str) {
        if let Err(error) = Api::<Node>::all(self.world.client()).delete(node, &Default::default()).await {
            tracing::debug!(%error, node, "not deleted");
        }
    }

    /// All machines reach the server again, and who has burned is taken off the list.
    pub(super) async fn mend(&self) {
        let machines = self.names();
        machines.iter().for_each(|name| self.world.cut_off(name, false));
        for node in self.world.objects("", "nodes") {
            let name = node["metadata"]["name"].as_str().unwrap_or_default();
            if !machines.iter().any(|m| m == name) {
                self.delete(name).await;
            }
        }
    }

    /// Where all have room.
    pub(super) fn make_room(&mut self) {
        for _ in 0..3 {
            self.world.add_node(NodeSpec::new(format!("n{}", self.made), "64", "128Gi"));
            self.made += 1;
        }
    }
}
