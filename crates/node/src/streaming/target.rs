//! Finds what a request is about among the agent's pods, and words what is not there as the kubelet does.

use super::response::Refusal;
use crate::{Agent, ContainerHandle, PodHandle};
use http::StatusCode;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use orlop_runtime::ContainerRuntime;
use std::sync::Arc;

/// What the endpoint needs of an agent.
#[async_trait::async_trait]
pub trait Pods: Send + Sync + 'static {
    /// A pod on this node.
    fn pod(&self, namespace: &str, name: &str) -> Option<PodHandle>;
    /// All pods on this node.
    fn pods(&self) -> Vec<PodHandle>;
    /// The runtime that their containers live in.
    fn runtime(&self) -> &Arc<dyn ContainerRuntime>;
    /// Name of the node.
    fn node_name(&self) -> &str;
    /// What `/metrics` shows, in the Prometheus text format.
    async fn metrics(&self) -> String;
}

#[async_trait::async_trait]
impl Pods for Agent {
    fn pod(&self, namespace: &str, name: &str) -> Option<PodHandle> {
        Agent::pod(self, namespace, name)
    }

    fn pods(&self) -> Vec<PodHandle> {
        Agent::pods(self)
    }

    fn runtime(&self) -> &Arc<dyn ContainerRuntime> {
        Agent::runtime(self)
    }

    fn node_name(&self) -> &str {
        &self.config().name
    }

    async fn metrics(&self) -> String {
        Agent::metrics(self).await
    }
}

/// The pod, container (and uid) that a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub namespace: String,
    pub pod: String,
    pub uid: Option<String>,
    /// Empty where the path has none.
    pub container: String,
}

impl Target {
    /// The pod, if it is here and still the one that is meant.
    pub fn find_pod(&self, pods: &dyn Pods) -> Option<PodHandle> {
        pods.pod(&self.namespace, &self.pod)
            .filter(|handle| self.uid.is_none() || handle.pod.metadata.uid.as_deref() == self.uid.as_deref())
    }

    /// The pod, for a stream.
    pub fn pod(&self, pods: &dyn Pods) -> Result<PodHandle, Refusal> {
        self.find_pod(pods).ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "pod does not exist"))
    }

    /// The container to run something in.
    pub fn running_container(&self, pods: &dyn Pods) -> Result<ContainerHandle, Refusal> {
        let pod = self.pod(pods)?;
        let newest = pod.containers.get(&self.container).and_then(|tries| tries.last());
        newest.filter(|c| c.running).cloned().ok_or_else(|| {
            let text = format!("container not found ({:?})", self.container);
            Refusal::new(StatusCode::NOT_FOUND, text)
        })
    }

    /// The try of a container whose log is wanted.
    pub fn logged_container(&self, pods: &dyn Pods, previous: bool) -> Result<ContainerHandle, Refusal> {
        let missing = |text| Refusal::new(StatusCode::NOT_FOUND, text);
        let pod =
            self.find_pod(pods).ok_or_else(|| missing(format!("pod {:?} does not exist\n", self.pod)))?;
        if !declares(&pod.pod, &self.container) {
            return Err(missing(format!("container {:?} not found in pod {:?}\n", self.container, self.pod)));
        }
        let tries = pod.containers.get(&self.container).map(Vec::as_slice).unwrap_or_default();
        let status = container_status(&pod.pod, &self.container);
        let subject = format!("container {:?} in pod {:?}", self.container, self.pod);
        choose_try(tries, status, previous)
            .cloned()
            .map_err(|why| match why {
                NoTry::NoPrevious => format!("previous terminated {subject} not found"),
                NoTry::Waiting(reason) => format!("{subject} is waiting to start: {reason}"),
            })
            .map_err(|text| Refusal::new(StatusCode::BAD_REQUEST, text))
    }
}

#[derive(Debug, PartialEq, Eq)]
enum NoTry {
    NoPrevious,
    Waiting(String),
}

/// The kubelet's choice: the one that runs or has ended last; with `previous` the one before a running one, and the last
/// one while its successor waits for its back-off.
fn choose_try<'a>(
    tries: &'a [ContainerHandle],
    status: Option<&ContainerStatus>,
    previous: bool,
) -> Result<&'a ContainerHandle, NoTry> {
    let state = status.and_then(|s| s.state.as_ref());
    let waiting = state.and_then(|s| s.waiting.as_ref());
    let begun: Vec<_> = tries.iter().filter(|t| t.running || t.log_path.exists()).collect();
    let Some((newest, older)) = begun.split_last() else {
        if previous {
            return Err(NoTry::NoPrevious);
        }
        let reason = waiting.and_then(|w| w.reason.as_deref()).unwrap_or("ContainerCreating");
        return Err(NoTry::Waiting(match reason {
            "ErrImagePull" => "image can't be pulled".into(),
            "ImagePullBackOff" => "trying and failing to pull image".into(),
            reason => reason.into(),
        }));
    };
    let backing_off = !newest.running && waiting.is_some();
    match previous {
        true if !backing_off => older.last().copied().ok_or(NoTry::NoPrevious),
        _ => Ok(newest),
    }
}

fn declares(pod: &Pod, container: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let init = spec.init_containers.iter().flatten();
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| &c.name);
    spec.containers.iter().chain(init).map(|c| &c.name).chain(ephemeral).any(|name| name == container)
}

fn container_status<'a>(pod: &'a Pod, container: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let lists =
        [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    lists.into_iter().flatten().flatten().find(|s| s.name == container)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{ContainerState, ContainerStateWaiting};

    fn tries(folder: &std::path::Path, running: &[bool]) -> Vec<ContainerHandle> {
        let one = |(n, running): (usize, &bool)| {
            let log_path = folder.join(format!("{n}.log"));
            std::fs::write(&log_path, "").expect("a log");
            ContainerHandle { id: format!("c{n}"), attempt: n as u32, running: *running, log_path }
        };
        running.iter().enumerate().map(one).collect()
    }

    fn waiting(reason: &str) -> ContainerStatus {
        let waiting = ContainerStateWaiting { reason: Some(reason.into()), message: None };
        let state = ContainerState { waiting: Some(waiting), ..Default::default() };
        ContainerStatus { state: Some(state), ..Default::default() }
    }

    #[test]
    fn the_log_that_is_shown_is_the_newest_and_the_previous_one_the_one_before() {
        let folder = tempfile::tempdir().expect("a folder");
        let all = tries(folder.path(), &[false, false, true]);
        let backoff = waiting("CrashLoopBackOff");
        let id = |tries: &[ContainerHandle], status, previous| {
            choose_try(tries, status, previous).map(|t| t.id.clone())
        };
        assert_eq!(id(&all, None, false).as_deref(), Ok("c2"));
        assert_eq!(id(&all, None, true).as_deref(), Ok("c1"));
        let ended = &all[..2];
        assert_eq!(id(ended, None, false).as_deref(), Ok("c1"), "one that has ended");
        assert_eq!(id(ended, None, true).as_deref(), Ok("c0"));
        assert_eq!(id(ended, Some(&backoff), true).as_deref(), Ok("c1"), "its successor waits");
        assert_eq!(id(&all[2..], None, true), Err(NoTry::NoPrevious));
    }

    #[test]
    fn a_container_that_waits_says_what_for() {
        let cases = [
            ("ImagePullBackOff", "trying and failing to pull image"),
            ("ErrImagePull", "image can't be pulled"),
            ("CreateContainerConfigError", "CreateContainerConfigError"),
        ];
        for (reason, words) in cases {
            let got = choose_try(&[], Some(&waiting(reason)), false).map(|t| t.id.clone());
            assert_eq!(got, Err(NoTry::Waiting(words.into())));
        }
        let got = choose_try(&[], None, false).map(|t| t.id.clone());
        assert_eq!(got, Err(NoTry::Waiting("ContainerCreating".into())));
    }
}
