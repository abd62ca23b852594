//! A whole cluster in one thread, in virtual time, that can be repeated: the real API server over a store in memory, the real controllers
//! and the real scheduler, and nodes whose agents are real clients but whose containers only exist on paper. Nothing here listens, opens a
//! file, starts a thread or waits for real time; nothing decides anything that a controller or the scheduler should decide.
//!
//! ```
//! use orlop_simulation::{NodeSpec, Options, World, block_on};
//! use std::time::Duration;
//!
//! let pods = block_on(1, async {
//!     let world = World::start(Options::default()).await?;
//!     world.start_controllers();
//!     world.start_scheduler();
//!     world.add_node(NodeSpec::new("n1", "4", "8Gi"));
//!     let deployment = serde_json::json!({
//!         "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "default"},
//!         "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": {
//!             "metadata": {"labels": {"app": "web"}},
//!             "spec": {"containers": [{"name": "main", "image": "image:1"}]},
//!         }},
//!     });
//!     let deployments = kube::Api::namespaced(world.client(), "default");
//!     let deployment: k8s_openapi::api::apps::v1::Deployment = serde_json::from_value(deployment).unwrap();
//!     deployments.create(&Default::default(), &deployment).await.unwrap();
//!     world.run_until_quiet(Duration::from_secs(30), Duration::from_secs(600)).await;
//!     Ok::<_, orlop_simulation::Error>(world.objects("", "pods").len())
//! });
//! assert_eq!(pods.unwrap(), 3);
//! ```
//!
//! [`block_on`] gives a future a runtime whose clock jumps to the next timer when nobody has anything to do. What containers do, and how
//! long it takes, stands in annotations of their pods ([`machine`]); [`Options::pace`] says what happens without them. [`Faults`] and
//! [`World::kill`] make things go wrong; [`World::observe`] tells of every commit.

mod agent;
mod directories;
mod faults;
mod line;
pub mod machine;
mod process;
pub mod proof;
mod provisioner;
pub mod random;
mod store;
mod usage;
mod world;

pub use agent::NodeSpec;
pub use faults::Faults;
pub use machine::Pace;
pub use store::Observer;
pub use world::{CONTROLLER_MANAGER, Options, Rest, SCHEDULER, World};

/// Why a world could not begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The runtime could not be built.
    #[error("building the runtime")]
    Runtime(#[source] std::io::Error),
    /// The store failed.
    #[error("preparing the store")]
    Store(#[from] orlop_store::Error),
    /// The API server did not start.
    #[error("starting the API server")]
    ApiServer(#[from] orlop_apiserver::Error),
    /// An object that the world was to begin with is none.
    #[error("an object to begin with: {0}")]
    Object(String),
}

/// Runs a future in virtual time: whenever nobody has anything to do, the clock jumps to the next timer.
///
/// # Errors
/// Where the runtime cannot be built, or the future fails.
pub fn block_on<T>(seed: u64, future: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    // Clients of the API draw how long they back off from this generator.
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.map_err(Error::Runtime)?.block_on(future)
}
