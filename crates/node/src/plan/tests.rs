use super::*;
use crate::pod_state::{Container, Sandbox, container_id, sandbox_id, spec_hash};
use orlop_runtime::ContainerState;
use serde_json::{Value, json};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("in range")
}

fn pod(mut spec: Value) -> Pod {
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for c in spec[list].as_array_mut().into_iter().flatten() {
            c["image"] = "img".into();
        }
    }
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec}))
        .expect("a pod")
}

fn image() -> Image {
    Image { id: "i".into(), tags: vec![], digests: vec![], size: 0, uid: None, username: None }
}

/// What a case stands on.
struct Case {
    pod: Pod,
    state: PodState,
    known: Known,
    termination: Option<Termination>,
    settled: bool,
    now: i64,
}

impl Case {
    fn new(spec: Value) -> Self {
        let known = Known::default();
        Self {
            pod: pod(spec),
            state: PodState::default(),
            known,
            termination: None,
            settled: true,
            now: 1000,
        }
    }

    /// With a sandbox, volumes and all images.
    fn prepared(spec: Value) -> Self {
        let mut case = Self::new(spec);
        case.sandbox(0, true);
        case.known.addresses.insert(sandbox_id(&case.pod, 0), vec![]);
        case.known.mounted = true;
        case.known.images =
            case.pod.containers().into_iter().map(|(_, c)| (c.name.clone(), image())).collect();
        case
    }

    fn sandbox(&mut self, attempt: u32, ready: bool) {
        let id = sandbox_id(&self.pod, attempt);
        self.state.put_sandbox(Sandbox { id, attempt, ready, netns: None });
    }

    fn container(
        &mut self,
        name: &str,
        attempt: u32,
        state: ContainerState,
        exit_code: i32,
    ) -> &mut Container {
        let spec = self.pod.container(name).expect("a spec").into_owned();
        let sandbox = self.state.newest_sandbox().map(|s| s.id.clone()).unwrap_or_default();
        let container = Container {
            id: container_id(&self.pod, name, attempt),
            sandbox_id: sandbox,
            name: name.into(),
            attempt,
            hash: spec_hash(&spec),
            image: "img".into(),
            image_digest: String::new(),
            state,
            created_at: Some(at(0)),
            started_at: Some(at(0)),
            finished_at: (state == ContainerState::Exited).then(|| at(990)),
            exit_code,
            signal: 0,
            reason: String::new(),
            message: String::new(),
            message_file: None,
            log_path: Default::default(),
        };
        self.state.put(container);
        self.state.containers.last_mut().expect("just put in")
    }

    fn runs(&mut self, name: &str) {
        self.container(name, 0, ContainerState::Running, 0);
    }

    fn exited(&mut self, name: &str, code: i32) {
        self.container(name, 0, ContainerState::Exited, code);
    }

    fn ends(&mut self, cause: Cause, grace: u64) {
        self.termination = Some(Termination { cause, since: at(1000), grace: Duration::from_secs(grace) });
    }

    fn view(&self) -> View<'_> {
        View {
            pod: &self.pod,
            state: &self.state,
            known: &self.known,
            termination: self.termination,
            settled: self.settled,
            now: at(self.now),
        }
    }

    fn plan(&self) -> Plan {
        plan(&self.view())
    }

    /// The plan in words.
    fn words(&self) -> Vec<String> {
        self.plan().actions.iter().map(words).collect()
    }
}

fn words(action: &Action) -> String {
    match action {
        Action::CreateSandbox { attempt } => format!("sandbox {attempt}"),
        Action::Attach { sandbox } => format!("attach {sandbox}"),
        Action::Mount => "mount".into(),
        Action::Pull { container } => format!("pull {container}"),
        Action::Start { container, attempt, .. } => format!("start {container} {attempt}"),
        Action::Stop { id, grace, .. } => format!("stop {id} {}", grace.as_secs()),
        Action::Kill { id } => format!("kill {id}"),
        Action::Resize { id, .. } => format!("resize {id}"),
        Action::RemoveContainer { id } => format!("remove {id}"),
        Action::StopSandbox { id } => format!("stop-sandbox {id}"),
        Action::RemoveSandbox { id } => format!("remove-sandbox {id}"),
        Action::Unmount => "unmount".into(),
        Action::Delete => "delete".into(),
    }
}

fn two() -> Value {
    json!({"containers": [{"name": "a"}, {"name": "b"}]})
}

fn with_init() -> Value {
    json!({"initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}], "containers": [{"name": "a"}]})
}

#[test]
fn a_new_pod_gets_everything_that_does_not_depend_on_another_at_once() {
    let case = Case::new(two());
    assert_eq!(case.words(), ["sandbox 0", "mount", "pull a", "pull b"]);
    let case = Case::new(with_init());
    assert_eq!(case.words(), ["sandbox 0", "mount", "pull i"]);
}

#[test]
fn what_is_under_way_is_not_begun_again() {
    let mut case = Case::new(two());
    case.known.in_flight = [Key::Sandbox, Key::Mount, Key::Pull("a".into())].into();
    assert_eq!(case.words(), ["pull b"]);
}

#[test]
fn what_failed_waits_and_the_plan_says_until_when() {
    let mut case = Case::new(two());
    for (key, until) in [(Key::Sandbox, 1010), (Key::Mount, 1005), (Key::Pull("a".into()), 999)] {
        let failure =
            Failure { reason: String::new(), message: String::new(), times: 1, retry_at: at(until) };
        case.known.failures.insert(key, failure);
    }
    assert_eq!(case.words(), ["pull a", "pull b"]);
    assert_eq!(case.plan().wake_at, Some(at(1005)));
}

#[test]
fn containers_start_one_after_the_other_when_all_is_there() {
    let mut case = Case::prepared(two());
    assert_eq!(case.words(), ["start a 0"]);
    case.known.in_flight.insert(Key::Start("a".into()));
    assert_eq!(case.words(), Vec::<String>::new());
    case.known.in_flight.clear();
    case.runs("a");
    assert_eq!(case.words(), ["start b 0"]);
    case.runs("b");
    assert_eq!(case.words(), Vec::<String>::new());
}

#[test]
fn nothing_starts_without_volumes_or_a_link() {
    let mut case = Case::prepared(two());
    case.known.mounted = false;
    assert_eq!(case.words(), ["mount"]);
    case.known.mounted = true;
    case.known.addresses.clear();
    assert_eq!(case.words(), ["attach u_0"]);
}

#[test]
fn init_containers_come_one_by_one_and_sidecars_hold_the_next_up_until_started() {
    let mut case = Case::prepared(with_init());
    assert_eq!(case.words(), ["start i 0"]);
    case.runs("i");
    assert_eq!(case.words(), Vec::<String>::new());
    case.exited("i", 0);
    assert_eq!(case.words(), ["start s 0"]);
    case.runs("s");
    assert_eq!(case.words(), ["start a 0"]);
    case.runs("a");
    assert_eq!(case.words(), Vec::<String>::new());
    case.exited("s", 0);
    assert_eq!(case.words(), ["start s 1"], "a sidecar is kept running");
}

#[test]
fn a_sidecar_with_a_startup_probe_is_waited_for() {
    let mut case = Case::prepared(json!({
        "initContainers": [{"name": "s", "restartPolicy": "Always", "startupProbe": {"exec": {"command": ["x"]}}}],
        "containers": [{"name": "a"}]}));
    case.runs("s");
    assert_eq!(case.words(), Vec::<String>::new());
    let probed = Probed { container_id: "u_s_0".into(), started: true, ..Probed::default() };
    case.known.probes.insert("s".into(), probed);
    assert_eq!(case.words(), ["start a 0"]);
}

#[test]
fn an_ephemeral_container_is_started_once_whatever_the_others_do() {
    let mut case = Case::prepared(json!({
        "initContainers": [{"name": "i"}], "containers": [{"name": "a"}], "ephemeralContainers": [{"name": "e"}]}));
    case.runs("i");
    assert_eq!(case.words(), ["pull e"]);
    case.known.images.insert("e".into(), image());
    assert_eq!(case.words(), ["start e 0"]);
    case.runs("e");
    case.exited("i", 0);
    assert_eq!(case.words(), ["start a 0"]);
    case.runs("a");
    case.exited("e", 1);
    assert_eq!(case.words(), Vec::<String>::new(), "it is not started again");
    case.exited("a", 0);
    assert_eq!(ended(&case.pod, &case.state, &case.known), None, "a comes again, e counts for nothing");
    case.runs("e");
    case.ends(Cause::Deleted, 30);
    assert_eq!(case.words(), ["stop u_e_0 30"]);
}

#[test]
fn an_ended_container_is_restarted_by_policy_and_back_off() {
    for (policy, code, expected) in [
        ("Always", 0, vec!["start a 1"]),
        ("OnFailure", 0, vec![]),
        ("OnFailure", 1, vec!["start a 1"]),
        ("Never", 1, vec![]),
    ] {
        let mut case = Case::prepared(json!({"restartPolicy": policy, "containers": [{"name": "a"}]}));
        case.exited("a", code);
        assert_eq!(case.words(), expected, "{policy} {code}");
        assert_eq!(ended(&case.pod, &case.state, &case.known).is_some(), expected.is_empty());
    }
    let mut case = Case::prepared(json!({"containers": [{"name": "a"}]}));
    case.exited("a", 1);
    case.known.crashes.insert("a".into(), BackOff::after_failures(2, at(985)));
    assert_eq!(case.words(), Vec::<String>::new());
    assert_eq!(case.plan().wake_at, Some(at(1010)), "20 s after it ended");
    case.now = 1010;
    assert_eq!(case.words(), ["start a 1"]);
}

#[test]
fn containers_that_are_not_well_or_not_as_wanted_are_replaced() {
    let mut case = Case::prepared(two());
    case.runs("a");
    case.runs("b");
    let probed = Probed { container_id: "u_a_0".into(), failed: Some(Why::Liveness), ..Probed::default() };
    case.known.probes.insert("a".into(), probed);
    case.state.containers[1].hash = "other".into();
    assert_eq!(case.words(), ["stop u_a_0 30", "stop u_b_0 30"]);
    case.known.probes.get_mut("a").expect("there").container_id = "u_a_7".into();
    assert_eq!(case.words(), ["stop u_b_0 30"], "what was found of another try does not count");
}

#[test]
fn a_container_that_was_made_but_not_started_is_made_again() {
    let mut case = Case::prepared(json!({"containers": [{"name": "a"}]}));
    case.container("a", 3, ContainerState::Created, 0);
    assert_eq!(case.words(), ["remove u_a_3"]);
}

#[test]
fn a_lost_sandbox_is_put_away_before_its_successor_comes() {
    let mut case = Case::prepared(with_init());
    case.exited("i", 0);
    case.exited("s", 137);
    case.exited("a", 137);
    case.sandbox(0, false);
    assert_eq!(case.words(), ["stop-sandbox u_0"]);
    case.known.stopped.insert("u_0".into());
    assert_eq!(case.words(), ["sandbox 1"]);
    case.sandbox(1, true);
    case.known.addresses.insert("u_1".into(), vec![]);
    assert_eq!(case.words(), ["start i 1"], "a new sandbox is initialized anew");
}

#[test]
fn only_the_last_dead_try_is_kept() {
    let mut case = Case::prepared(json!({"containers": [{"name": "a"}]}));
    for attempt in 0..3 {
        case.container("a", attempt, ContainerState::Exited, 1);
    }
    case.container("a", 3, ContainerState::Running, 0);
    assert_eq!(case.words(), ["remove u_a_0", "remove u_a_1"]);
}

#[test]
fn volumes_are_refreshed_when_due() {
    let mut case = Case::prepared(json!({"containers": [{"name": "a"}]}));
    case.runs("a");
    case.known.refresh_at = Some(at(1020));
    assert_eq!((case.words(), case.plan().wake_at), (vec![], Some(at(1020))));
    case.now = 1020;
    assert_eq!(case.words(), ["mount"]);
}

#[test]
fn a_pod_ends_from_the_inside_out() {
    let mut case = Case::prepared(json!({
        "initContainers": [{"name": "s1", "restartPolicy": "Always"}, {"name": "s2", "restartPolicy": "Always"}],
        "containers": [{"name": "a"}, {"name": "b"}]}));
    for name in ["s1", "s2", "a", "b"] {
        case.runs(name);
    }
    case.ends(Cause::Deleted, 30);
    assert_eq!(case.words(), ["stop u_a_0 30", "stop u_b_0 30"]);
    case.exited("a", 0);
    case.exited("b", 0);
    case.now = 1020;
    assert_eq!(case.words(), ["stop u_s2_0 10"], "sidecars share what is left of the time");
    case.exited("s2", 0);
    case.now = 1100;
    assert_eq!(case.words(), ["stop u_s1_0 1"]);
    case.exited("s1", 0);
    assert_eq!(case.words(), ["stop-sandbox u_0"]);
    case.known.stopped.insert("u_0".into());
    case.settled = false;
    assert_eq!(case.words(), ["unmount"]);
    case.known.unmounted = true;
    assert_eq!(case.words(), Vec::<String>::new(), "the API must have the last status first");
    case.settled = true;
    assert_eq!(case.words(), ["delete"]);
    case.known.deleted = true;
    assert_eq!(case.words(), ["remove-sandbox u_0"]);
    case.state = PodState::default();
    assert!(!case.plan().done, "a finalizer may still hold the object");
    case.ends(Cause::Gone, 0);
    assert!(case.plan().done);
}

#[test]
fn a_grace_period_that_becomes_shorter_is_kept_to() {
    let mut case = Case::prepared(json!({"containers": [{"name": "a"}]}));
    case.runs("a");
    case.known.in_flight.insert(Key::Stop("u_a_0".into()));
    case.known.stopping.insert("u_a_0".into(), at(1300));
    case.ends(Cause::Deleted, 300);
    assert_eq!(case.words(), Vec::<String>::new());
    case.ends(Cause::Deleted, 5);
    assert_eq!((case.words(), case.plan().wake_at), (vec![], Some(at(1005))));
    case.now = 1005;
    assert_eq!(case.words(), ["kill u_a_0"]);
}

#[test]
fn a_pod_that_has_ended_keeps_its_records_until_it_is_deleted() {
    let mut case = Case::prepared(json!({"restartPolicy": "Never", "containers": [{"name": "a"}]}));
    case.exited("a", 0);
    assert_eq!(ended(&case.pod, &case.state, &case.known), Some(true));
    case.ends(Cause::Ended, 30);
    assert_eq!(case.words(), ["stop-sandbox u_0"]);
    case.known.stopped.insert("u_0".into());
    case.known.unmounted = true;
    assert_eq!(case.words(), Vec::<String>::new());
    case.ends(Cause::Deleted, 30);
    assert_eq!(case.words(), ["delete"]);
}

mod converging {
    //! Whatever fails and whenever the agent dies, a pod that is to run comes to run, and one that is to go comes to go.

    use super::*;
    use proptest::prelude::*;

    /// What happens next in a world of random faults.
    #[derive(Clone, Copy, Debug)]
    enum Fate {
        /// The oldest step that is under way succeeds.
        Succeed,
        /// It fails.
        Fail,
        /// Some container's process ends by itself.
        Exit(u8, bool),
        /// The sandbox is lost.
        LoseSandbox,
        /// The agent dies: all that it knew is gone.
        Forget,
        /// Time passes.
        Wait(u8),
    }

    fn fate() -> impl Strategy<Value = Fate> {
        prop_oneof![
            8 => Just(Fate::Succeed),
            2 => Just(Fate::Fail),
            1 => (any::<u8>(), any::<bool>()).prop_map(|(n, well)| Fate::Exit(n, well)),
            1 => Just(Fate::LoseSandbox),
            1 => Just(Fate::Forget),
            2 => any::<u8>().prop_map(Fate::Wait),
        ]
    }

    struct World {
        case: Case,
        under_way: Vec<Action>,
        deleted: bool,
    }

    impl World {
        fn new() -> Self {
            let mut spec = with_init();
            spec["containers"] = json!([{"name": "a"}, {"name": "b"}]);
            Self { case: Case::new(spec), under_way: Vec::new(), deleted: false }
        }

        /// Lets the planner begin whatever it wants; checks what must hold of every plan.
        fn begin(&mut self) -> Option<Timestamp> {
            let plan = self.case.plan();
            for action in plan.actions {
                let key = action.key();
                assert!(self.case.known.in_flight.insert(key), "the same work twice: {action:?}");
                match &action {
                    Action::Start { sandbox, container, attempt } => {
                        assert!(self.case.state.current_sandbox().is_some_and(|s| s.id == *sandbox));
                        let taken = container_id(&self.case.pod, container, *attempt);
                        assert!(
                            !self.case.state.containers.iter().any(|c| c.id == taken),
                            "{taken} is there"
                        );
                        assert!(self.case.termination.is_none(), "nothing starts while the pod ends");
                    }
                    Action::Delete => {
                        assert!(!self.case.state.containers.iter().any(Container::running), "something runs");
                    }
                    _ => {}
                }
                self.under_way.push(action);
            }
            plan.wake_at
        }

        fn finish(&mut self, well: bool) {
            if self.under_way.is_empty() {
                return;
            }
            let action = self.under_way.remove(0);
            let key = action.key();
            self.case.known.in_flight.remove(&key);
            if !well {
                let retry_at = at(self.case.now + 5);
                let failure = Failure { reason: String::new(), message: String::new(), times: 1, retry_at };
                self.case.known.failures.insert(key, failure);
                return;
            }
            self.case.known.failures.remove(&key);
            let case = &mut self.case;
            match action {
                Action::CreateSandbox { attempt } => {
                    case.sandbox(attempt, true);
                    case.known.addresses.insert(sandbox_id(&case.pod, attempt), vec![]);
                }
                Action::Attach { sandbox } => drop(case.known.addresses.insert(sandbox, vec![])),
                Action::Mount => (case.known.mounted, case.known.unmounted) = (true, false),
                Action::Unmount => (case.known.mounted, case.known.unmounted) = (false, true),
                Action::Pull { container } => drop(case.known.images.insert(container, image())),
                Action::Start { container, attempt, sandbox } => {
                    let ready = case.state.sandboxes.iter().any(|s| s.id == sandbox && s.ready);
                    let state = if ready { ContainerState::Running } else { ContainerState::Exited };
                    case.container(&container, attempt, state, 0).sandbox_id = sandbox;
                    case.known.images.remove(&container);
                }
                Action::Stop { id, .. } | Action::Kill { id } => self.exit(&id, 143),
                Action::Resize { .. } => {}
                Action::RemoveContainer { id } => case.state.containers.retain(|c| c.id != id),
                Action::StopSandbox { id } => {
                    case.state.sandboxes.iter_mut().filter(|s| s.id == id).for_each(|s| s.ready = false);
                    case.known.stopped.insert(id);
                }
                Action::RemoveSandbox { id } => {
                    case.state.sandboxes.retain(|s| s.id != id);
                    case.state.containers.retain(|c| c.sandbox_id != id);
                }
                Action::Delete => {
                    case.known.deleted = true;
                    self.deleted = true;
                    case.ends(Cause::Gone, 0);
                }
            }
        }

        fn exit(&mut self, id: &str, code: i32) {
            let now = at(self.case.now);
            for c in self.case.state.containers.iter_mut().filter(|c| c.id == id && c.running()) {
                (c.state, c.exit_code, c.finished_at) = (ContainerState::Exited, code, Some(now));
            }
        }

        fn suffer(&mut self, fate: Fate) {
            match fate {
                Fate::Succeed => self.finish(true),
                Fate::Fail => self.finish(false),
                Fate::Exit(number, well) => {
                    let running: Vec<String> = self
                        .case
                        .state
                        .containers
                        .iter()
                        .filter(|c| c.running())
                        .map(|c| c.id.clone())
                        .collect();
                    if let Some(id) = running.get(usize::from(number) % running.len().max(1)) {
                        self.exit(id, i32::from(!well));
                    }
                }
                Fate::LoseSandbox => {
                    let Some(id) = self.case.state.current_sandbox().map(|s| s.id.clone()) else { return };
                    self.case.state.sandboxes.iter_mut().filter(|s| s.id == id).for_each(|s| s.ready = false);
                    let inside: Vec<String> =
                        self.case.state.containers.iter().map(|c| c.id.clone()).collect();
                    inside.iter().for_each(|c| self.exit(c, 137));
                }
                Fate::Forget => {
                    self.case.known = Known::default();
                    self.under_way.clear();
                }
                Fate::Wait(seconds) => self.case.now += i64::from(seconds),
            }
        }

        /// Lets everything go well until nothing is left to do but to wait; init containers end well by themselves.
        fn settle(&mut self) {
            for _ in 0..300 {
                let wake = self.begin();
                if let Some(init) = self.case.state.newest("i").filter(|c| c.running()).map(|c| c.id.clone())
                {
                    self.exit(&init, 0);
                } else if !self.under_way.is_empty() {
                    self.finish(true);
                } else if let Some(at) = wake {
                    self.case.now = self.case.now.max(at.as_second());
                } else {
                    return;
                }
            }
            panic!("it never comes to rest: {:?}", self.case.words());
        }
    }

    proptest! {
        #[test]
        fn a_pod_comes_to_run_and_then_to_go(
            before in proptest::collection::vec(fate(), 0..60),
            after in proptest::collection::vec(fate(), 0..40),
        ) {
            let mut world = World::new();
            for fate in before {
                world.begin();
                world.suffer(fate);
            }
            world.settle();
            for name in ["s", "a", "b"] {
                let last = world.case.state.newest(name).expect("started");
                prop_assert!(last.running(), "{name} does not run");
                prop_assert_eq!(Some(&last.sandbox_id), world.case.state.current_sandbox().map(|s| &s.id));
            }
            world.case.ends(Cause::Deleted, 30);
            for fate in after {
                world.begin();
                world.suffer(fate);
            }
            world.settle();
            prop_assert!(world.deleted);
            prop_assert!(world.case.state.sandboxes.is_empty() && world.case.state.containers.is_empty());
            prop_assert!(world.case.plan().done);
        }
    }
}

#[test]
fn a_container_gets_what_it_was_promised_in_place_or_by_starting_anew() {
    let policy = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    let mut case = Case::prepared(json!({"containers": [{"name": "a", "resizePolicy": policy}]}));
    case.container("a", 0, ContainerState::Running, 0).sandbox_id = sandbox_id(&case.pod, 0);
    let amount = |value: Value| serde_json::from_value::<ResourceRequirements>(value).expect("amounts");
    let small = amount(json!({"requests": {"cpu": "1", "memory": "1Mi"}}));
    case.known.given.insert("a".into(), small.clone());
    assert!(case.words().is_empty(), "what it has is not known: nothing is done");
    case.known.applied.insert("u_a_0".into(), small);
    assert!(case.words().is_empty());
    case.known.given.insert("a".into(), amount(json!({"requests": {"cpu": "2", "memory": "1Mi"}})));
    assert_eq!(case.words(), ["resize u_a_0"]);
    case.known.given.insert("a".into(), amount(json!({"requests": {"cpu": "1", "memory": "2Mi"}})));
    assert_eq!(case.words(), ["stop u_a_0 30"]);
}
