//! Controllers and scheduler of a server. Where it is the only one they run as long as it does. Where several share a store they
//! run on the one that leads, and its writes are fenced: whoever led before and was asleep changes nothing more.

use crate::{Error, roles::Roles};
use futures::future::BoxFuture;
use orlop_apiserver::{ApiServer, FENCED, Fence, Identity, identity::CONTROLLERS};
use orlop_client::{Clock, election::Candidate};
use orlop_controllers::{NodeRanges, Pool};
use orlop_pki::{Authority, ServiceAccountKey};
use std::{net::SocketAddr, sync::Arc};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

const NAMESPACE: &str = "kube-system";
const LEASE: &str = "orlop-control-plane";

/// What they are started with.
pub(crate) struct ControlPlane {
    pub(crate) api: Arc<ApiServer>,
    pub(crate) authority: Arc<Authority>,
    pub(crate) service_accounts: Arc<ServiceAccountKey>,
    pub(crate) scheduling: orlop_scheduler::config::Configuration,
    pub(crate) node_ranges: NodeRanges,
    pub(crate) pool: Option<Pool>,
    /// How long a node may be silent.
    pub(crate) node_grace: std::time::Duration,
}

/// Something that runs until it is dropped.
type Part = BoxFuture<'static, ()>;

struct Parts {
    manager: Vec<Part>,
    scheduler: Part,
}

/// A client of the API in this process, with an identity of its own.
pub(crate) fn client(api: &Arc<ApiServer>, user: &str, groups: &[&str]) -> kube::Client {
    fenced_client(api, user, groups, None)
}

fn fenced_client(api: &Arc<ApiServer>, user: &str, groups: &[&str], fence: Option<&Fence>) -> kube::Client {
    kube::Client::new(api.service_for(Identity::new(user, groups).behind(fence.cloned())), "default")
}

impl ControlPlane {
    fn parts(&self, fence: Option<&Fence>) -> Parts {
        let clock: Clock = Arc::new(jiff::Timestamp::now);
        let manager = || fenced_client(&self.api, "system:kube-controller-manager", &[CONTROLLERS], fence);
        // What both follow is decoded and kept once.
        let caches = orlop_client::Caches::default();
        let mut cluster = orlop_controllers::Cluster::new(manager(), clock.clone(), &caches);
        cluster.node_grace = self.node_grace;
        let authority = self.authority.certificate().to_string();
        let controllers = orlop_controllers::run_cluster(cluster, authority);
        let keys = orlop_controllers::Keys {
            authority: self.authority.clone(),
            service_accounts: self.service_accounts.clone(),
        };
        let signers = orlop_controllers::run_signers(manager(), clock.clone(), keys);
        let ranges = orlop_controllers::run_node_ranges(manager(), clock.clone(), self.node_ranges.clone());
        let mut parts: Vec<Part> = vec![Box::pin(controllers), Box::pin(signers), Box::pin(ranges)];
        if let Some(pool) = self.pool.clone() {
            parts.push(Box::pin(orlop_controllers::run_balancer(manager(), clock.clone(), pool)));
        }
        let scheduler = fenced_client(&self.api, "system:kube-scheduler", &[], fence);
        let scheduling = self.scheduling.clone();
        let scheduler = async move {
            orlop_scheduler::run_sharing(scheduler, clock, scheduling, &caches).await;
        };
        Parts { manager: parts, scheduler: Box::pin(scheduler) }
    }

    /// Runs them as long as the server.
    pub(crate) fn start_alone(&self, roles: &mut Roles, shutdown: &CancellationToken) {
        let parts = self.parts(None);
        let manager = parts.manager.into_iter().map(|part| roles.start_endless(part, shutdown)).collect();
        let scheduler = roles.start_endless(parts.scheduler, shutdown);
        self.show("controller-manager", manager);
        self.show("scheduler", vec![scheduler]);
    }

    /// Runs them whenever this server leads, until `resign`; `resigned` tells that another one may lead. `address` is where this
    /// server is, and `node` names it.
    pub(crate) fn start_elected(
        self,
        roles: &mut Roles,
        (node, address): (&str, SocketAddr),
        resign: CancellationToken,
        resigned: CancellationToken,
    ) -> Result<(), Error> {
        let random = orlop_store::sealed::Keys::generate().map_err(Error::at("naming the candidate"))?;
        let suffix: String = random.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        let clock: Clock = Arc::new(jiff::Timestamp::now);
        let own = client(&self.api, "system:apiserver", &["system:masters"]);
        let candidate = Candidate::new(own, NAMESPACE, LEASE, format!("{node}_{suffix}"), clock)
            .annotated(FENCED, "true");
        for component in ["controller-manager", "scheduler"] {
            self.api.show_component(component, || Ok(()));
        }
        roles.start("control plane", async move {
            let lead = |term: orlop_client::election::Term| {
                let fence = Fence::new(NAMESPACE, LEASE, term.began);
                let parts = self.parts(Some(&fence));
                let of_servers =
                    fenced_client(&self.api, "system:apiserver", &["system:masters"], Some(&fence));
                let endpoints: Part =
                    Box::pin(orlop_controllers::run_api_servers(of_servers, address.is_ipv4()));
                async move {
                    // Dropped with the term.
                    let mut running = JoinSet::new();
                    for part in parts.manager.into_iter().chain([parts.scheduler, endpoints]) {
                        running.spawn(part);
                    }
                    running.join_next().await;
                }
            };
            let asked = candidate.run(lead, resign.cancelled()).await;
            resigned.cancel();
            match asked {
                true => Ok(()),
                false => Err(Error::Configuration("a controller or the scheduler ended by itself".into())),
            }
        });
        Ok(())
    }

    /// Shows a component as well as long as all its tasks run.
    fn show(&self, name: &'static str, tasks: Vec<AbortHandle>) {
        self.api.show_component(name, move || match tasks.iter().any(AbortHandle::is_finished) {
            true => Err(format!("the {name} has ended")),
            false => Ok(()),
        });
    }
}
