//! Pod specs that Kubernetes refuses, and with which words.

use super::*;
use crate::pod_spec::defaults::set_pod_defaults;
use serde_json::{Value, json};

fn wrong(mut spec: Value) -> Vec<String> {
    set_pod_defaults(&mut spec);
    let spec: PodSpec = serde_json::from_value(spec).unwrap();
    let mut errors = FieldErrors::new();
    let path = Path::new("spec");
    validate_spec(&spec, &path, &mut errors);
    validate_host_network(&spec, true, &path, &mut errors);
    validate_for_pod(&spec, &path, &mut errors);
    errors.into_vec().into_iter().map(|e| e.to_string()).collect()
}

/// A good container with more fields.
fn container(more: Value) -> Value {
    let mut container = json!({"name": "a", "image": "x"});
    container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    container
}

fn with_container(more: Value) -> Vec<String> {
    wrong(json!({"containers": [container(more)], "volumes": [{"name": "v"}]}))
}

fn with(more: Value) -> Vec<String> {
    let mut spec = json!({"containers": [container(json!({}))]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    wrong(spec)
}

#[test]
fn a_usual_pod_is_right() {
    let spec = json!({
        "initContainers": [container(json!({"name": "i"})), container(json!({"name": "s", "restartPolicy": "Always",
            "readinessProbe": {"tcpSocket": {"port": "http"}}}))],
        "containers": [container(json!({
            "ports": [{"name": "http", "containerPort": 80, "hostPort": 8080}],
            "env": [{"name": "A", "value": "b"}, {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                {"name": "D", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}}],
            "envFrom": [{"configMapRef": {"name": "c"}}],
            "volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "a/b"}],
            "livenessProbe": {"httpGet": {"path": "/", "port": 80}},
            "lifecycle": {"preStop": {"sleep": {"seconds": 3}}},
            "resources": {"requests": {"cpu": "100m", "example.com/gpu": 1}, "limits": {"cpu": 1, "example.com/gpu": 1}},
            "securityContext": {"runAsUser": 0, "allowPrivilegeEscalation": false,
                "seccompProfile": {"type": "RuntimeDefault"}}}))],
        "volumes": [{"name": "v"}, {"name": "h", "hostPath": {"path": "/x", "type": "Directory"}},
            {"name": "p", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}},
                {"configMap": {"name": "c", "items": [{"key": "k", "path": "p"}]}},
                {"downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]}}],
        "nodeSelector": {"kubernetes.io/os": "linux"}, "serviceAccountName": "default",
        "tolerations": [{"operator": "Exists"}, {"key": "k", "value": "v", "effect": "NoSchedule"}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}],
             "matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}]}},
            "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100,
                "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname", "labelSelector": {}}}]}},
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}],
        "securityContext": {"fsGroup": 10, "sysctls": [{"name": "net.core.somaxconn", "value": "1"}]},
    });
    assert_eq!(wrong(spec), Vec::<String>::new());
}

#[test]
fn containers_are_checked() {
    for (more, want) in [
        (json!({"name": ""}), "spec.containers[0].name: Required value"),
        (json!({"image": ""}), "spec.containers[0].image: Required value"),
        (
            json!({"image": " x"}),
            "spec.containers[0].image: Invalid value: \" x\": must not have leading or trailing whitespace",
        ),
        (
            json!({"imagePullPolicy": "Often"}),
            "spec.containers[0].imagePullPolicy: Unsupported value: \"Often\": supported values: \"Always\", \
             \"IfNotPresent\", \"Never\"",
        ),
        (
            json!({"ports": [{"containerPort": 0}]}),
            "spec.containers[0].ports[0].containerPort: Required value",
        ),
        (
            json!({"ports": [{"containerPort": 65536}]}),
            "spec.containers[0].ports[0].containerPort: Invalid value: 65536: must be between 1 and 65535, inclusive",
        ),
        (
            json!({"ports": [{"containerPort": 1, "name": "a"}, {"containerPort": 2, "name": "a"}]}),
            "spec.containers[0].ports[1].name: Duplicate value: \"a\"",
        ),
        (
            json!({"ports": [{"containerPort": 1, "hostPort": 3}, {"containerPort": 2, "hostPort": 3}]}),
            "spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//3\"",
        ),
        (
            json!({"ports": [{"containerPort": 1, "protocol": "tcp"}]}),
            "spec.containers[0].ports[0].protocol: Unsupported value: \"tcp\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
        ),
        (
            json!({"env": [{"name": "a=b"}]}),
            "spec.containers[0].env[0].name: Invalid value: \"a=b\": a valid environment variable name must consist \
             only of printable ASCII characters other than '='",
        ),
        (
            json!({"env": [{"name": "a", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}),
            "spec.containers[0].env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
        ),
        (
            json!({"env": [{"name": "a", "valueFrom": {"fieldRef": {"fieldPath": "spec.x"}}}]}),
            "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.x\": error converting \
             fieldPath: field label not supported: spec.x",
        ),
        (
            json!({"volumeMounts": [{"name": "w", "mountPath": "/w"}]}),
            "spec.containers[0].volumeMounts[0].name: Not found: \"w\"",
        ),
        (
            json!({"volumeMounts": [{"name": "v", "mountPath": "/w"}, {"name": "v", "mountPath": "/w"}]}),
            "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/w\": must be unique",
        ),
        (
            json!({"volumeMounts": [{"name": "v", "mountPath": "/w", "subPath": "../x"}]}),
            "spec.containers[0].volumeMounts.subPath: Invalid value: \"../x\": must not contain '..'",
        ),
        (
            json!({"env": [{"name": "a", "valueFrom": {"fieldRef": {"fieldPath": "spec.x['y']"}}}]}),
            "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.x['y']\": error converting \
             fieldPath: field label does not support subscript: spec.x['y']",
        ),
        (
            json!({"env": [{"name": "a", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "2"}}}]}),
            "spec.containers[0].env[0].valueFrom.resourceFieldRef.divisor: Invalid value: \"limits.cpu\": only divisor's \
             values 1m and 1 are supported with the cpu resource",
        ),
        (
            json!({"envFrom": [{}]}),
            "spec.containers[0].envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`",
        ),
        (
            json!({"volumeMounts": [{"name": "v", "mountPath": "/v", "recursiveReadOnly": "Enabled"}]}),
            "spec.containers[0].volumeMounts.recursiveReadOnly: Forbidden: may only be specified when readOnly is true",
        ),
        (
            json!({"lifecycle": {"preStop": {"sleep": {"seconds": 31}}}}),
            "spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than \
             terminationGracePeriodSeconds (30)",
        ),
        (
            json!({"terminationMessagePolicy": "Maybe"}),
            "spec.containers[0].terminationMessagePolicy: Unsupported value: \"Maybe\": supported values: \"File\", \
             \"FallbackToLogsOnError\"",
        ),
        (
            json!({"securityContext": {"appArmorProfile": {"type": ""}}}),
            "spec.containers[0].securityContext.appArmorProfile.type: Required value: type is required when \
             appArmorProfile is set",
        ),
        (
            json!({"livenessProbe": {}}),
            "spec.containers[0].livenessProbe: Required value: must specify a handler type",
        ),
        (
            json!({"livenessProbe": {"tcpSocket": {"port": 1}, "exec": {"command": ["x"]}}}),
            "spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
        ),
        (
            json!({"livenessProbe": {"tcpSocket": {"port": 1}, "successThreshold": 2}}),
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
        ),
        (
            json!({"readinessProbe": {"tcpSocket": {"port": 1}, "periodSeconds": -1}}),
            "spec.containers[0].readinessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            json!({"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}),
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        ),
        (
            json!({"resources": {"requests": {"memory": "-1"}}}),
            "spec.containers[0].resources.requests[memory]: Invalid value: \"-1\": must be greater than or equal to 0",
        ),
        (
            json!({"resources": {"limits": {"gpu": "1"}}}),
            "spec.containers[0].resources.limits[gpu]: Invalid value: \"gpu\": must be a standard resource for containers",
        ),
        (
            json!({"resources": {"limits": {"cpu": "lots"}}}),
            "spec.containers[0].resources.limits[cpu]: Invalid value: \"lots\": quantities must match the regular \
             expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (
            json!({"resources": {"requests": {"x.io/gpu": "1"}}}),
            "spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources",
        ),
        (
            json!({"securityContext": {"runAsUser": -1}}),
            "spec.containers[0].securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
        ),
        (
            json!({"securityContext": {"privileged": true, "allowPrivilegeEscalation": false}}),
            "spec.containers[0].securityContext: Invalid value: {\"allowPrivilegeEscalation\":false,\"privileged\":true}: \
             cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
        ),
        (
            json!({"securityContext": {"seccompProfile": {"type": "Localhost"}}}),
            "spec.containers[0].securityContext.seccompProfile.localhostProfile: Required value: must be set when \
             seccomp type is Localhost",
        ),
    ] {
        let found = with_container(more.clone());
        assert!(found.iter().any(|e| e == want), "{more}\n  want {want}\n  got  {found:#?}");
    }
}

#[test]
fn names_of_containers_and_volumes_are_unique() {
    assert_eq!(
        wrong(json!({"containers": [container(json!({})), container(json!({}))]})),
        ["spec.containers[1].name: Duplicate value: \"a\""]
    );
    assert_eq!(
        wrong(json!({"containers": [container(json!({}))], "initContainers": [container(json!({}))]})),
        ["spec.initContainers[0].name: Duplicate value: \"a\""]
    );
    assert_eq!(
        with(json!({"volumes": [{"name": "v"}, {"name": "v"}]})),
        ["spec.volumes[1].name: Duplicate value: \"v\""]
    );
    assert_eq!(wrong(json!({"containers": []})), ["spec.containers: Required value"]);
    assert_eq!(
        with(
            json!({"initContainers": [container(json!({"name": "i", "readinessProbe": {"tcpSocket": {"port": 1}}}))]})
        ),
        ["spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without \
          restartPolicy=Always"]
    );
}

#[test]
fn volumes_are_checked() {
    for (volume, want) in [
        (
            json!({"emptyDir": {}, "hostPath": {"path": "/"}}),
            "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
        ),
        (json!({"hostPath": {"path": ""}}), "spec.volumes[0].hostPath.path: Required value"),
        (
            json!({"hostPath": {"path": "/a/../b"}}),
            "spec.volumes[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
        ),
        (json!({"secret": {}}), "spec.volumes[0].secret.secretName: Required value"),
        (
            json!({"configMap": {"name": "c", "defaultMode": 512}}),
            "spec.volumes[0].configMap.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both \
             inclusive",
        ),
        (
            json!({"configMap": {"name": "c", "items": [{"key": "k", "path": "/x"}]}}),
            "spec.volumes[0].configMap.items[0].path: Invalid value: \"/x\": must be a relative path",
        ),
        (
            json!({"projected": {"sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 10}}]}}),
            "spec.volumes[0].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 10: may not \
             specify a duration less than 10 minutes",
        ),
        (
            json!({"projected": {"sources": [{}]}}),
            "spec.volumes[0].projected.sources[0]: Required value: specify one source type",
        ),
        (
            json!({"persistentVolumeClaim": {"claimName": ""}}),
            "spec.volumes[0].persistentVolumeClaim.claimName: Required value",
        ),
    ] {
        let mut volume = volume;
        volume["name"] = json!("v");
        let found = with(json!({"volumes": [volume]}));
        assert!(found.iter().any(|e| e == want), "{volume}\n  want {want}\n  got  {found:#?}");
    }
}

#[test]
fn the_rest_of_the_spec_is_checked() {
    for (more, want) in [
        (
            json!({"restartPolicy": "Maybe"}),
            "spec.restartPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"OnFailure\", \"Never\"",
        ),
        (
            json!({"dnsPolicy": "None"}),
            "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None",
        ),
        (
            json!({"hostNetwork": true, "securityContext": {"sysctls": [{"name": "net.core.somaxconn", "value": "1"}]}}),
            "spec.securityContext.sysctls[0].name: Invalid value: \"net.core.somaxconn\": may not be specified when \
             'hostNetwork' is true",
        ),
        (
            json!({"volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}),
            "spec.volumes[0].projected.sources[0].serviceAccountToken: Forbidden: must not be specified when \
             serviceAccountName is not set",
        ),
        (json!({"nodeName": "N"}), "spec.nodeName: Invalid value: \"N\": a lowercase RFC 1123 subdomain"),
        (json!({"hostname": "a.b"}), "spec.hostname: Invalid value: \"a.b\": must not contain dots"),
        (
            json!({"nodeSelector": {"a b": "x"}}),
            "spec.nodeSelector: Invalid value: \"a b\": name part must consist",
        ),
        (
            json!({"activeDeadlineSeconds": 0}),
            "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
        ),
        (
            json!({"tolerations": [{"key": ""}]}),
            "spec.tolerations[0].operator: Invalid value: \"\": operator must be Exists when `key` is empty, which means \
             \"match all values and all keys\"",
        ),
        (
            json!({"tolerations": [{"key": "k", "operator": "Exists", "tolerationSeconds": 1}]}),
            "spec.tolerations[0].effect: Invalid value: \"\": effect must be 'NoExecute' when `tolerationSeconds` is set",
        ),
        (
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}}),
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: \
             must have at least one node selector term",
        ),
        (
            json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": ""}]}}}),
            "spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Required value: can \
             not be empty",
        ),
        (
            json!({"topologySpreadConstraints": [{"maxSkew": 0, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule"}]}),
            "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
        ),
        (
            json!({"hostPID": true, "shareProcessNamespace": true}),
            "spec.securityContext.shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID cannot both be enabled",
        ),
        (
            json!({"hostNetwork": true, "containers": [container(json!({"ports": [{"containerPort": 1, "hostPort": 2}]}))]}),
            "spec.containers[0].ports[0].hostPort: Invalid value: 2: must match `containerPort` when `hostNetwork` is true",
        ),
        (
            json!({"hostAliases": [{"ip": "x"}]}),
            "spec.hostAliases[0].ip: Invalid value: \"x\": must be a valid IP address",
        ),
    ] {
        let found = with(more.clone());
        assert!(found.iter().any(|e| e.starts_with(want)), "{more}\n  want {want}\n  got  {found:#?}");
    }
}

#[test]
fn a_template_leaves_ports_of_the_host_to_its_pods() {
    let wrong = |port: Value| {
        let spec =
            json!({"hostNetwork": true, "containers": [{"name": "a", "image": " x", "ports": [port]}]});
        let spec: PodSpec = serde_json::from_value(spec).unwrap();
        let mut errors = FieldErrors::new();
        validate_host_network(&spec, false, &Path::new("spec.template.spec"), &mut errors);
        errors.into_vec().into_iter().map(|e| e.path).collect::<Vec<_>>()
    };
    assert_eq!(wrong(json!({"containerPort": 80})), Vec::<String>::new());
    assert_eq!(
        wrong(json!({"containerPort": 80, "hostPort": 81})),
        ["spec.template.spec.containers[0].ports[0].hostPort"]
    );
}
