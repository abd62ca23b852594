use super::*;

fn parse(rest: &str) -> Result<Configuration, ConfigError> {
    Configuration::parse(&format!("apiVersion: {API_VERSION}\nkind: {KIND}\n{rest}"))
}

fn refused(rest: &str) -> String {
    match parse(rest) {
        Err(error) => error.to_string(),
        Ok(read) => panic!("{rest} was read as {read:?}"),
    }
}

#[test]
fn a_file_with_nothing_in_it_is_the_default() {
    let read = parse("leaderElection: {leaderElect: true}\nparallelism: 16\n").unwrap();
    let [profile] = read.profiles.as_slice() else { panic!("one profile") };
    assert_eq!((profile.name.as_str(), profile.strategy.name()), ("default-scheduler", "LeastAllocated"));
    assert_eq!(profile.weight(Plugin::TaintToleration), 3);
    assert!(profile.filters.has(Plugin::NodePorts));
}

#[test]
fn profiles_switch_plugins_and_choose_strategies() {
    let read = parse(
        "podMaxBackoffSeconds: 20
profiles:
- schedulerName: default-scheduler
- schedulerName: packing
  plugins:
    score:
      disabled: [{name: PodTopologySpread}, {name: NotHere}]
      enabled: [{name: NodeResourcesFit, weight: 5}]
    filter:
      disabled: [{name: NodePorts}]
    multiPoint:
      disabled: [{name: ImageLocality}]
  pluginConfig:
  - name: NodeResourcesFit
    args:
      apiVersion: kubescheduler.config.k8s.io/v1
      kind: NodeResourcesFitArgs
      scoringStrategy:
        type: RequestedToCapacityRatio
        resources: [{name: cpu, weight: 3}, {name: example.com/gpu, weight: 5}]
        requestedToCapacityRatio: {shape: [{utilization: 0, score: 0}, {utilization: 100, score: 10}]}
  - name: InterPodAffinity
    args: {hardPodAffinityWeight: 7}
  - name: PodTopologySpread
    args:
      defaultingType: List
      defaultConstraints: [{maxSkew: 1, topologyKey: rack, whenUnsatisfiable: DoNotSchedule}]
- schedulerName: turns
  pluginConfig:
  - name: NodeResourcesFit
    args: {scoringStrategy: {type: RoundRobin}}
",
    )
    .unwrap();
    assert_eq!(read.backoff.last, Duration::from_secs(20));
    let [_, packing, turns] = read.profiles.as_slice() else { panic!("three profiles") };
    assert_eq!(packing.weight(Plugin::NodeResourcesFit), 5);
    assert_eq!(packing.weight(Plugin::PodTopologySpread), 0);
    assert_eq!(packing.weight(Plugin::ImageLocality), 0);
    assert!(!packing.filters.has(Plugin::NodePorts) && packing.filters.has(Plugin::NodeName));
    assert_eq!(packing.strategy.name(), "RequestedToCapacity");
    assert_eq!(packing.strategy_resources[1], ("example.com/gpu".to_string(), 5));
    assert_eq!(packing.hard_pod_affinity_weight, 7);
    assert!(packing.default_constraints[0].hard && !packing.system_defaulted);
    assert!(turns.strategy.in_turn());
}

#[test]
fn what_is_wrong_is_named_by_its_path() {
    for (rest, want) in [
        ("profile: []", "profile: unknown field"),
        ("profiles: [{name: x}]", "profiles[0].name: unknown field"),
        ("profiles: [{plugins: {filters: {}}}]", "profiles[0].plugins.filters: unknown field"),
        (
            "profiles: [{plugins: {filter: {enabled: [{name: Mine}]}}}]",
            "profiles[0].plugins.filter.enabled[0].name: there is no such plugin",
        ),
        (
            "profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: Best}}}]}]",
            "profiles[0].pluginConfig[0].args.scoringStrategy.type: \"Best\" is none of RoundRobin, LeastAllocated, \
             MostAllocated, Balanced, RequestedToCapacity",
        ),
        (
            "profiles: [{pluginConfig: [{name: NodePorts, args: {x: 1}}]}]",
            "profiles[0].pluginConfig[0].args.x: unknown field",
        ),
        ("percentageOfNodesToScore: 101", "percentageOfNodesToScore: must be a whole number from 0 to 100"),
        (
            "profiles: [{}, {}]",
            "profiles[1].schedulerName: there is another profile of the name \"default-scheduler\"",
        ),
        ("extenders: [{urlPrefix: x}]", "extenders: extenders are not supported"),
    ] {
        assert_eq!(refused(rest), want);
    }
    let error = Configuration::parse("kind: Pod").unwrap_err().to_string();
    assert_eq!(error, "apiVersion: must be \"kubescheduler.config.k8s.io/v1\"");
    assert!(Configuration::parse("{").is_err());
}

#[test]
fn a_strategy_can_be_chosen_by_name_alone() {
    let mut configuration = Configuration::default();
    configuration.use_strategy("RoundRobin").unwrap();
    assert!(configuration.profiles[0].strategy.in_turn());
    assert!(configuration.use_strategy("Random").is_err());
}
