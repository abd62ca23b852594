//! The roles and bindings that every cluster has. At each start what is missing in them is added; what others added stays, and
//! an object annotated `rbac.authorization.kubernetes.io/autoupdate: "false"` is left alone.

use crate::{
    ApiServer, Error, Identity,
    identity::{CONTROLLERS, MASTERS},
    registry::{Part, WriteContext, schema::Body},
    request::{DeleteOptions, WriteOptions},
};
use futures::TryStreamExt;
use orlop_api::{
    Status,
    object::{list, text},
    rbac::{GROUP, PolicyRule, uncovered},
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

const TABLE: &str = include_str!("default_roles.txt");
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
/// What those may do who report events.
const EVENTS: &str = "create patch update | core events.k8s.io | events";
const READ: [&str; 3] = ["get", "list", "watch"];
const WRITE: [&str; 5] = ["create", "delete", "deletecollection", "patch", "update"];

/// A role of the table, with its binding where it has one.
#[derive(Debug, Default, PartialEq)]
struct Entry {
    /// Empty for a ClusterRole.
    namespace: String,
    name: String,
    /// The role that takes this one's rules in.
    into: Option<String>,
    /// Whose rules it takes in.
    from: Option<String>,
    rules: Vec<PolicyRule>,
    /// Kind and name; `None` where there is no binding.
    subjects: Option<Vec<(String, String)>>,
    /// What the binding is called, where it is not called as the role is.
    bound_as: Option<String>,
}

fn rule(line: &str) -> Option<PolicyRule> {
    let line = if line.trim() == "events" { EVENTS } else { line };
    let mut fields = line.split('|').map(str::split_whitespace);
    let owned = |words: std::str::SplitWhitespace<'_>| words.map(str::to_string).collect::<Vec<_>>();
    let mut verbs: Vec<String> = Vec::new();
    for word in fields.next()? {
        match word {
            "read" => verbs.extend(READ.map(String::from)),
            "write" => verbs.extend(WRITE.map(String::from)),
            verb => verbs.push(verb.to_string()),
        }
    }
    verbs.sort_unstable();
    let groups = owned(fields.next()?);
    let objects = owned(fields.next()?);
    if groups == ["path"] {
        return Some(PolicyRule { verbs, non_resource_urls: objects, ..PolicyRule::default() });
    }
    let groups = groups.into_iter().map(|g| if g == "core" { String::new() } else { g });
    Some(PolicyRule {
        verbs,
        api_groups: groups.collect(),
        resources: objects,
        resource_names: fields.next().map(owned).unwrap_or_default(),
        ..PolicyRule::default()
    })
}

/// Reads the table; a line that cannot be read is the error.
fn parse(table: &str) -> Result<Vec<Entry>, String> {
    let mut entries: Vec<Entry> = Vec::new();
    for line in table.lines().filter(|l| !l.trim().is_empty() && !l.starts_with('#')) {
        let wrong = || line.to_string();
        let words: Vec<&str> = line.split_whitespace().collect();
        match (line.starts_with(' '), words.as_slice()) {
            (false, ["role", name, more @ ..]) => {
                let option = |key: &str| more.iter().find_map(|w| w.strip_prefix(key)).map(str::to_string);
                let (into, from) = (option("into="), option("from="));
                entries.push(Entry { name: name.to_string(), into, from, ..Entry::default() });
            }
            (false, ["controller", name]) => {
                let account = ("ServiceAccount".to_string(), name.to_string());
                let subjects = vec![account, ("Group".into(), CONTROLLERS.into())];
                entries.push(Entry {
                    name: format!("system:controller:{name}"),
                    subjects: Some(subjects),
                    ..Entry::default()
                });
            }
            (false, ["in", namespace, name]) => {
                let (namespace, name) = (namespace.to_string(), name.to_string());
                entries.push(Entry { namespace, name, ..Entry::default() });
            }
            (true, ["to", "nobody"]) => {
                entries.last_mut().ok_or_else(wrong)?.subjects = Some(Vec::new());
            }
            (true, ["as", name]) => {
                entries.last_mut().ok_or_else(wrong)?.bound_as = Some(name.to_string());
            }
            (true, ["to", kind, name]) => {
                let entry = entries.last_mut().ok_or_else(wrong)?;
                let subject = (kind.to_string(), name.to_string());
                entry.subjects.get_or_insert_default().push(subject);
            }
            (true, _) => {
                let rule = rule(line).ok_or_else(wrong)?;
                entries.last_mut().ok_or_else(wrong)?.rules.push(rule);
            }
            _ => return Err(wrong()),
        }
    }
    Ok(entries)
}

impl Entry {
    fn metadata(&self) -> Value {
        let mut metadata = json!({
            "name": self.name,
            "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
            "annotations": {AUTOUPDATE: "true"},
        });
        if !self.namespace.is_empty() {
            metadata["namespace"] = json!(self.namespace);
        }
        if let Some(into) = &self.into {
            metadata["labels"][format!("{GROUP}/aggregate-to-{into}")] = json!("true");
        }
        metadata
    }

    fn kind(&self, cluster: &'static str, namespaced: &'static str) -> &'static str {
        if self.namespace.is_empty() { cluster } else { namespaced }
    }

    fn role(&self) -> Value {
        let mut role = json!({
            "apiVersion": format!("{GROUP}/v1"), "kind": self.kind("ClusterRole", "Role"), "metadata": self.metadata(),
        });
        match &self.from {
            Some(from) => {
                let labels = json!({format!("{GROUP}/aggregate-to-{from}"): "true"});
                role["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": labels}]});
            }
            None => role["rules"] = json!(self.rules),
        }
        role
    }

    fn binding(&self) -> Option<Value> {
        let subject = |(kind, name): &(String, String)| {
            if kind == "ServiceAccount" {
                json!({"kind": kind, "name": name, "namespace": "kube-system"})
            } else {
                json!({"apiGroup": GROUP, "kind": kind, "name": name})
            }
        };
        let subjects: Vec<Value> = self.subjects.as_ref()?.iter().map(subject).collect();
        let mut metadata = self.metadata();
        metadata["labels"] = json!({"kubernetes.io/bootstrapping": "rbac-defaults"});
        if let Some(name) = &self.bound_as {
            metadata["name"] = json!(name);
        }
        let mut binding = json!({
            "apiVersion": format!("{GROUP}/v1"), "kind": self.kind("ClusterRoleBinding", "RoleBinding"),
            "metadata": metadata,
            "roleRef": {"apiGroup": GROUP, "kind": self.kind("ClusterRole", "Role"), "name": self.name},
        });
        if !subjects.is_empty() {
            binding["subjects"] = json!(subjects);
        }
        Some(binding)
    }
}

/// What becomes of an object that is there.
#[derive(Debug, PartialEq)]
enum Step {
    Keep,
    Update(Value),
    /// It is bound to another role, which cannot be changed.
    Replace,
}

/// Adds to an existing role or binding what it lacks.
fn amended(existing: &Value, wanted: &Value) -> Step {
    if existing.pointer("/metadata/annotations").and_then(|a| a.get(AUTOUPDATE)) == Some(&json!("false")) {
        return Step::Keep;
    }
    if existing.get("roleRef") != wanted.get("roleRef") {
        return Step::Replace;
    }
    let mut new = existing.clone();
    for field in ["labels", "annotations"] {
        let pairs = wanted.pointer(&format!("/metadata/{field}")).and_then(Value::as_object);
        for (key, value) in pairs.into_iter().flatten() {
            new["metadata"][field][key] = value.clone();
        }
    }
    let add = |new: &mut Value, pointer: (&str, &str)| {
        let full = format!("{}/{}", pointer.0, pointer.1);
        let there = list(existing, &full);
        let more: Vec<Value> = list(wanted, &full).iter().filter(|e| !there.contains(e)).cloned().collect();
        if !more.is_empty()
            && let Some(parent) = new.pointer_mut(pointer.0)
        {
            parent[pointer.1] = json!([there, &more].concat());
        }
    };
    if wanted.get("aggregationRule").is_some() {
        if new.get("aggregationRule").is_none() {
            new["aggregationRule"] = wanted["aggregationRule"].clone();
        }
        add(&mut new, ("/aggregationRule", "clusterRoleSelectors"));
    } else if wanted.get("rules").is_some() {
        let rules = |object: &Value| -> Vec<PolicyRule> {
            list(object, "/rules").iter().filter_map(|r| PolicyRule::deserialize(r).ok()).collect()
        };
        let mut held = rules(existing);
        let lacking = orlop_api::rbac::compact(uncovered(&held, &rules(wanted)));
        if !lacking.is_empty() {
            held.extend(lacking);
            new["rules"] = json!(held);
        }
    }
    add(&mut new, ("", "subjects"));
    if new == *existing { Step::Keep } else { Step::Update(new) }
}

/// The rules that the table gives to a ClusterRole.
pub(crate) fn rules_of(role: &str) -> Vec<PolicyRule> {
    let entry =
        parse(TABLE).unwrap_or_default().into_iter().find(|e| e.namespace.is_empty() && e.name == role);
    entry.map(|e| e.rules).unwrap_or_default()
}

/// Makes what is missing and adds to what lacks something.
pub(crate) async fn reconcile(server: &Arc<ApiServer>) -> Result<(), Error> {
    let entries = parse(TABLE).map_err(|line| Error::Default { what: "roles".into(), why: line })?;
    let objects: Vec<Value> =
        entries.iter().flat_map(|entry| [Some(entry.role()), entry.binding()]).flatten().collect();
    // Together, so that the store can write them together.
    futures::stream::iter(objects.into_iter().map(Ok))
        .try_for_each_concurrent(64, |object| Box::pin(ensure(server, object)))
        .await
}

async fn ensure(server: &Arc<ApiServer>, object: Value) -> Result<(), Error> {
    let kind = text(&object, "/kind");
    let plural = format!("{}s", kind.to_lowercase());
    let Some(resource) = server.registry.find(GROUP, "v1", &plural) else { return Ok(()) };
    let resource = resource.clone();
    let name = text(&object, "/metadata/name").to_string();
    let namespace = text(&object, "/metadata/namespace").to_string();
    let at = (namespace.as_str(), name.as_str());
    let failed = |status: Status| Error::Default { what: format!("{kind} {name:?}"), why: status.message };
    let options = WriteOptions { field_manager: "kube-apiserver".into(), ..WriteOptions::default() };
    let cx = WriteContext { options, who: Arc::new(Identity::new("system:apiserver", &[MASTERS])) };
    let body = |value: Value| Body { value, duplicates: Vec::new() };
    if let Ok(existing) = resource.get(at.0, at.1) {
        match amended(&existing.value(), &object) {
            Step::Keep => return Ok(()),
            Step::Update(new) => {
                let updated = server.registry.update(&resource, Part::Whole, at, body(new), &cx).await;
                return updated.map(drop).map_err(failed);
            }
            Step::Replace => {
                let options = DeleteOptions::default();
                server.registry.delete(&resource, at, &options, &cx.who).await.map_err(failed)?;
            }
        }
    }
    match server.registry.create(&resource, at.0, body(object.clone()), &cx).await {
        Ok(_) | Err(Status { reason: "AlreadyExists", .. }) => Ok(()),
        Err(status) => Err(failed(status)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_can_be_read_and_every_object_of_it_is_valid() {
        let entries = parse(TABLE).unwrap();
        assert!(entries.len() > 70, "{}", entries.len());
        for entry in &entries {
            let found = |kind: &str| {
                orlop_api::kinds::find(GROUP, "v1", &format!("{}s", kind.to_lowercase())).expect("its kind")
            };
            for object in [Some(entry.role()), entry.binding()].into_iter().flatten() {
                let kind = found(text(&object, "/kind"));
                assert_eq!(kind.rules.validate(&object), [], "{object}");
                assert_eq!(orlop_api::metadata::validate_object_meta(&kind, &object), [], "{object}");
                assert!(matches!(amended(&object, &object), Step::Keep), "{object}");
            }
        }
        let admin = entries.iter().find(|e| e.name == "cluster-admin").unwrap();
        assert!(uncovered(&admin.rules, &orlop_api::rbac::full_authority()).is_empty());
        assert!(parse("role x\n  get | core").is_err() && parse("what is this").is_err());
    }

    /// The roles of Kubernetes 1.36 with as many rules as they have there, those for resource.k8s.io left out.
    const RULES: &str = "\
        cluster-admin 2
        admin 0
        edit 0
        view 0
        system:aggregate-to-admin 2
        system:aggregate-to-edit 14
        system:aggregate-to-view 11
        system:auth-delegator 2
        system:basic-user 2
        system:discovery 1
        system:public-info-viewer 1
        system:monitoring 2
        system:service-account-issuer-discovery 1
        system:certificates.k8s.io:certificatesigningrequests:nodeclient 1
        system:certificates.k8s.io:certificatesigningrequests:selfnodeclient 1
        system:certificates.k8s.io:kube-apiserver-client-approver 1
        system:certificates.k8s.io:kube-apiserver-client-kubelet-approver 1
        system:certificates.k8s.io:kubelet-serving-approver 1
        system:certificates.k8s.io:legacy-unknown-approver 1
        system:heapster 2
        system:kube-aggregator 1
        system:kube-controller-manager 11
        system:kube-dns 1
        system:kube-scheduler 20
        system:volume-scheduler 3
        system:kubelet-api-admin 4
        system:node 23
        system:node-bootstrapper 1
        system:node-problem-detector 3
        system:node-proxier 5
        system:persistent-volume-provisioner 5
        system:controller:attachdetach-controller 8
        system:controller:certificate-controller 6
        system:controller:clusterrole-aggregation-controller 1
        system:controller:cronjob-controller 6
        system:controller:daemon-set-controller 8
        system:controller:deployment-controller 6
        system:controller:disruption-controller 9
        system:controller:endpoint-controller 4
        system:controller:endpointslice-controller 4
        system:controller:endpointslicemirroring-controller 5
        system:controller:ephemeral-volume-controller 4
        system:controller:expand-controller 4
        system:controller:generic-garbage-collector 2
        system:controller:horizontal-pod-autoscaler 8
        system:controller:job-controller 5
        system:controller:legacy-service-account-token-cleaner 2
        system:controller:local-volume-provisioner 2
        system:controller:namespace-controller 3
        system:controller:node-controller 5
        system:controller:persistent-volume-binder 9
        system:controller:pod-garbage-collector 3
        system:controller:pv-protection-controller 2
        system:controller:pvc-protection-controller 4
        system:controller:replicaset-controller 5
        system:controller:replication-controller 5
        system:controller:resource-claim-controller 4
        system:controller:resourcequota-controller 3
        system:controller:root-ca-cert-publisher 2
        system:controller:route-controller 3
        system:controller:selinux-warning-controller 5
        system:controller:service-account-controller 2
        system:controller:service-cidrs-controller 5
        system:controller:service-controller 4
        system:controller:statefulset-controller 10
        system:controller:ttl-after-finished-controller 2
        system:controller:ttl-controller 2
        system:controller:validatingadmissionpolicy-status-controller 3
        system:controller:volumeattributesclass-protection-controller 4
        kube-system/extension-apiserver-authentication-reader 1
        kube-system/system::leader-locking-kube-controller-manager 3
        kube-system/system::leader-locking-kube-scheduler 2
        kube-system/system:controller:bootstrap-signer 1
        kube-system/system:controller:cloud-provider 1
        kube-system/system:controller:token-cleaner 2
        kube-public/system:controller:bootstrap-signer 3";

    #[test]
    fn each_role_has_as_many_rules_as_in_kubernetes() {
        let entries = parse(TABLE).unwrap();
        for line in RULES.lines() {
            let (role, count) = line.trim().rsplit_once(' ').unwrap();
            let (namespace, name) = role.split_once('/').unwrap_or(("", role));
            let entry = entries.iter().find(|e| (&*e.namespace, &*e.name) == (namespace, name));
            let rules = &entry.unwrap_or_else(|| panic!("{role} is missing")).rules;
            let counted = rules.iter().filter(|r| !r.api_groups.contains(&"resource.k8s.io".into()));
            assert_eq!(counted.count().to_string(), count, "{role}");
        }
    }

    #[test]
    fn bindings_are_to_whom_kubernetes_binds_them() {
        let binding = |name: &str| {
            let entries = parse(TABLE).unwrap();
            let mut all = entries.iter().filter_map(Entry::binding);
            all.find(|b| b["metadata"]["name"] == name).unwrap_or_else(|| panic!("no {name}"))
        };
        let users = |names: &[&str]| -> Value {
            names.iter().map(|n| json!({"apiGroup": GROUP, "kind": "User", "name": n})).collect()
        };
        let reader = binding("system::extension-apiserver-authentication-reader");
        assert_eq!(reader["roleRef"]["name"], "extension-apiserver-authentication-reader");
        assert_eq!(reader["metadata"]["namespace"], "kube-system");
        assert_eq!(reader["subjects"], users(&["system:kube-controller-manager", "system:kube-scheduler"]));
        assert_eq!(binding("system:node-proxier")["subjects"], users(&["system:kube-proxy"]));
        assert_eq!(binding("system:node").get("subjects"), None);
    }

    #[test]
    fn what_is_missing_is_added_and_what_others_added_stays() {
        let rule = |resource: &str| json!({"verbs": ["get"], "apiGroups": [""], "resources": [resource]});
        let wanted = json!({"metadata": {"labels": {"a": "b"}}, "rules": [rule("pods"), rule("nodes")]});
        let mine = json!({"metadata": {"labels": {"c": "d"}}, "rules": [rule("secrets"), rule("pods")]});
        let Step::Update(new) = amended(&mine, &wanted) else { panic!("nothing is updated") };
        assert_eq!(new["rules"], json!([rule("secrets"), rule("pods"), rule("nodes")]));
        assert_eq!(new["metadata"]["labels"], json!({"a": "b", "c": "d"}));
        let mut kept = mine.clone();
        kept["metadata"]["annotations"] = json!({AUTOUPDATE: "false"});
        assert_eq!(amended(&kept, &wanted), Step::Keep);
        let binding = |role: &str, user: &str| json!({"metadata": {}, "roleRef": {"name": role}, "subjects": [{"name": user}]});
        assert_eq!(amended(&binding("a", "x"), &binding("b", "x")), Step::Replace);
        let Step::Update(new) = amended(&binding("a", "x"), &binding("a", "y")) else { panic!("no update") };
        assert_eq!(new["subjects"], json!([{"name": "x"}, {"name": "y"}]));
    }
}
