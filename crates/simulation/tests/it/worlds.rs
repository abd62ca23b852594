use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    batch::v1::Job,
    core::v1::{ConfigMap, Node, Pod},
};
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use orlop_simulation::{NodeSpec, Options, Rest, SCHEDULER, World, block_on};
use serde_json::{Value, json};
use std::time::Duration;

fn deployment(replicas: u32) -> Deployment {
    let template = json!({
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "main", "image": "image:1", "resources": {"requests": {"cpu": "500m"}}}]},
    });
    let spec =
        json!({"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template});
    serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": spec})).unwrap()
}

async fn world(options: Options, nodes: u32) -> World {
    let world = World::start(options).await.unwrap();
    world.start_controllers();
    world.start_scheduler();
    for i in 0..nodes {
        world.add_node(NodeSpec::new(format!("n{i}"), "4", "8Gi"));
    }
    world.run_for(Duration::from_secs(5)).await;
    world
}

async fn rest(world: &World) {
    let rest = world.run_until_quiet(Duration::from_secs(30), Duration::from_secs(3600)).await;
    assert_eq!(rest, Rest::Quiet);
}

fn nodes_of(pods: &[Value]) -> Vec<&str> {
    pods.iter().filter_map(|p| p["spec"]["nodeName"].as_str()).collect()
}

#[test]
fn a_deployment_runs_in_no_time() {
    let start = std::time::Instant::now();
    block_on(1, async {
        let world = world(Options::default(), 3).await;
        let api = Api::<Deployment>::namespaced(world.client(), "default");
        api.create(&PostParams::default(), &deployment(6)).await.unwrap();
        rest(&world).await;
        let pods = world.objects("", "pods");
        assert_eq!(nodes_of(&pods).len(), 6);
        assert!(pods.iter().all(|p| p["status"]["phase"] == "Running"), "{pods:#?}");
        let deployment = api.get("web").await.unwrap();
        assert_eq!(deployment.status.unwrap().available_replicas, Some(6));
        Ok(())
    })
    .unwrap();
    assert!(start.elapsed() < Duration::from_secs(30));
}

#[test]
fn pods_of_a_node_that_loses_power_move_and_a_killed_scheduler_comes_back() {
    block_on(2, async {
        let world = world(Options::default(), 2).await;
        let api = Api::<Deployment>::namespaced(world.client(), "default");
        api.create(&PostParams::default(), &deployment(4)).await.unwrap();
        rest(&world).await;
        world.power_off("n0", Duration::from_secs(100_000));
        world.kill(SCHEDULER, 3, Duration::from_secs(20));
        world.run_for(Duration::from_secs(500)).await;
        let pods = world.objects("", "pods");
        let on_n1 = nodes_of(&pods).into_iter().filter(|n| *n == "n1").count();
        assert_eq!(on_n1, 4, "{pods:#?}");
        assert!(world.deaths() >= 1);
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_job_completes_in_virtual_time() {
    block_on(3, async {
        let world = world(Options::default(), 1).await;
        let job = json!({"metadata": {"name": "work"}, "spec": {"completions": 3, "parallelism": 1, "template": {
            "metadata": {"annotations": {"simulation.orlop.dev/run-seconds": "600"}},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "image:1"}]},
        }}});
        let api = Api::<Job>::namespaced(world.client(), "default");
        let before = world.now();
        api.create(&PostParams::default(), &serde_json::from_value(job).unwrap()).await.unwrap();
        rest(&world).await;
        let status = api.get("work").await.unwrap().status.unwrap();
        assert_eq!(status.succeeded, Some(3));
        assert!(world.now().duration_since(before).as_secs() >= 1800);
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_world_begins_with_objects_that_somebody_else_made() {
    block_on(4, async {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "old", "namespace": "default", "uid": "11111111-1111-4111-8111-111111111111"},
            "spec": {"nodeName": "n0", "containers": [{"name": "main", "image": "image:1"}]},
        });
        pod["status"] = json!({"phase": "Running"});
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n0"},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let world = world(Options { objects: vec![node, pod], ..Options::default() }, 1).await;
        rest(&world).await;
        let pods = world.objects("", "pods");
        assert_eq!(pods[0]["metadata"]["uid"], "11111111-1111-4111-8111-111111111111");
        assert_eq!(pods[0]["status"]["containerStatuses"][0]["ready"], true, "its node's agent goes on with it");
        Ok(())
    })
    .unwrap();
}

#[test]
fn an_api_server_that_crashes_comes_back_with_all_that_it_acknowledged() {
    block_on(5, async {
        let world = world(Options::default(), 2).await;
        let deployments = Api::<Deployment>::namespaced(world.client(), "default");
        deployments.create(&PostParams::default(), &deployment(2)).await.unwrap();
        let maps = Api::<ConfigMap>::namespaced(world.client(), "default");
        let mut acknowledged = Vec::new();
        for i in 0..60 {
            if i % 20 == 10 {
                world.crash_server(Duration::from_secs(7));
            }
            let mut map = ConfigMap::default();
            map.metadata.name = Some(format!("m{i}"));
            if let Ok(made) = maps.create(&PostParams::default(), &map).await {
                acknowledged.push((made.metadata.name, made.metadata.uid));
            }
            world.run_for(Duration::from_millis(500)).await;
        }
        assert!((30..60).contains(&acknowledged.len()), "{}", acknowledged.len());
        rest(&world).await;
        for (name, uid) in acknowledged {
            assert_eq!(maps.get(&name.unwrap()).await.unwrap().metadata.uid, uid);
        }
        let status = deployments.get("web").await.unwrap().status.unwrap();
        assert_eq!(status.available_replicas, Some(2), "everybody goes on with the new one");
        assert_eq!(world.deaths(), 3);
        Ok(())
    })
    .unwrap();
}

/// Whether a pod with this name runs on more than one machine.
fn runs_twice(world: &World, name: &str) -> bool {
    let on = |machine: &orlop_simulation::machine::Machine| {
        machine.runs.values().any(|run| run.name == name && run.runs_at(world.now()))
    };
    world.machines().iter().filter(|(_, machine)| on(&machine.lock())).count() > 1
}

#[test]
fn a_stateful_pod_waits_for_its_lost_node_unless_somebody_says_that_it_is_gone() {
    block_on(6, async {
        let world = world(Options::default(), 2).await;
        let set = json!({"metadata": {"name": "db"}, "spec": {
            "serviceName": "db", "replicas": 1, "selector": {"matchLabels": {"app": "db"}},
            "template": {"metadata": {"labels": {"app": "db"}},
                "spec": {"containers": [{"name": "main", "image": "image:1"}]}}}});
        let sets = Api::<StatefulSet>::namespaced(world.client(), "default");
        sets.create(&PostParams::default(), &serde_json::from_value(set).unwrap()).await.unwrap();
        rest(&world).await;
        let node = nodes_of(&world.objects("", "pods"))[0].to_string();
        world.cut_off(&node, true);
        world.run_for(Duration::from_secs(1000)).await;
        assert!(!runs_twice(&world, "db-0"), "nobody knows what runs there");
        let pods = Api::<Pod>::namespaced(world.client(), "default");
        pods.delete("db-0", &DeleteParams::default().grace_period(0)).await.unwrap();
        world.run_for(Duration::from_secs(10)).await;
        assert!(runs_twice(&world, "db-0"), "whoever deletes by force has said that it is gone");
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_node_that_comes_back_in_time_finds_its_pods() {
    block_on(7, async {
        let world = world(Options::default(), 1).await;
        let deployments = Api::<Deployment>::namespaced(world.client(), "default");
        deployments.create(&PostParams::default(), &deployment(3)).await.unwrap();
        rest(&world).await;
        let uids = || -> Vec<Value> {
            world.objects("", "pods").iter().map(|p| p["metadata"]["uid"].clone()).collect()
        };
        let before = uids();
        let nodes = Api::<Node>::all(world.client());
        nodes.delete("n0", &DeleteParams::default()).await.unwrap();
        world.kill("n0", 0, Duration::from_secs(30));
        world.run_for(Duration::from_secs(60)).await;
        assert_eq!(uids(), before);
        nodes.delete("n0", &DeleteParams::default()).await.unwrap();
        world.kill("n0", 0, Duration::from_secs(60));
        world.run_for(Duration::from_secs(60)).await;
        rest(&world).await;
        let after = uids();
        assert!(after.len() == 3 && after.iter().all(|uid| !before.contains(uid)), "{before:?} {after:?}");
        Ok(())
    })
    .unwrap();
}
