//! Who holds which rules: roles and bindings as the store has them, found by whom they concern, so that a decision looks
//! at nothing else. Fed with every change in the order of the store; decides nothing.

use crate::{Identity, cache::Index};
use orlop_api::rbac::PolicyRule;
use orlop_store::{Change, Entry};
use parking_lot::RwLock;
use serde::Deserialize;
use std::{collections::HashMap, fmt, ops::ControlFlow, sync::Arc};

const PREFIX: &str = "/registry/rbac.authorization.k8s.io/";

/// A role that a binding names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RoleRef {
    /// Whether it is a ClusterRole.
    pub cluster: bool,
    /// Its name.
    pub name: String,
}

/// Somebody whom a binding names.
#[derive(Debug)]
enum Subject {
    User(String),
    Group(String),
    ServiceAccount { namespace: String, name: String },
}

/// A binding, read.
#[derive(Debug)]
pub(crate) struct Binding {
    /// Empty for a ClusterRoleBinding.
    namespace: String,
    name: String,
    role: RoleRef,
    subjects: Vec<Subject>,
}

/// Why somebody holds a rule: a binding, and which of its subjects they are.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    binding: Arc<Binding>,
    subject: usize,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Binding { namespace, name, role, subjects } = &*self.binding;
        if namespace.is_empty() {
            write!(f, "ClusterRoleBinding {name:?}")?;
        } else {
            write!(f, "RoleBinding \"{name}/{namespace}\"")?;
        }
        let kind = if role.cluster { "ClusterRole" } else { "Role" };
        write!(f, " of {kind} {:?} to ", role.name)?;
        match subjects.get(self.subject) {
            Some(Subject::User(name)) => write!(f, "User {name:?}"),
            Some(Subject::Group(name)) => write!(f, "Group {name:?}"),
            Some(Subject::ServiceAccount { namespace, name }) => {
                write!(f, "ServiceAccount \"{name}/{namespace}\"")
            }
            None => Ok(()),
        }
    }
}

/// A place in the bindings' subjects.
type Grants = HashMap<String, Vec<Source>>;

/// The bindings of a namespace (or of the cluster), by subject.
#[derive(Default)]
struct Scope {
    users: Grants,
    groups: Grants,
}

type Rules = Arc<[PolicyRule]>;

#[derive(Default)]
struct State {
    /// By `NAMESPACE/NAME`.
    roles: HashMap<String, Rules>,
    /// By name.
    cluster_roles: HashMap<String, Rules>,
    /// By the key's end: `rolebindings/NAMESPACE/NAME`.
    bindings: HashMap<String, Arc<Binding>>,
    cluster: Scope,
    /// By namespace.
    namespaces: HashMap<String, Scope>,
}

/// Roles and bindings by subject.
#[derive(Default)]
pub(crate) struct RbacIndex {
    state: RwLock<State>,
}

#[derive(Deserialize)]
struct RoleObject {
    #[serde(default)]
    rules: Option<Vec<PolicyRule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BindingObject {
    role_ref: RoleRefObject,
    #[serde(default)]
    subjects: Option<Vec<SubjectObject>>,
}

#[derive(Deserialize)]
struct RoleRefObject {
    kind: String,
    name: String,
}

#[derive(Deserialize)]
struct SubjectObject {
    kind: String,
    name: String,
    #[serde(default)]
    namespace: Option<String>,
}

impl Binding {
    fn read(namespace: &str, name: &str, value: &[u8]) -> Option<Self> {
        let object: BindingObject = serde_json::from_slice(value).ok()?;
        let subject = |s: SubjectObject| match s.kind.as_str() {
            "User" => Some(Subject::User(s.name)),
            "Group" => Some(Subject::Group(s.name)),
            "ServiceAccount" => {
                let place = s.namespace.filter(|n| !n.is_empty()).unwrap_or_else(|| namespace.to_string());
                (!place.is_empty()).then_some(Subject::ServiceAccount { namespace: place, name: s.name })
            }
            _ => None,
        };
        Some(Self {
            namespace: namespace.to_string(),
            name: name.to_string(),
            role: RoleRef { cluster: object.role_ref.kind == "ClusterRole", name: object.role_ref.name },
            subjects: object.subjects.unwrap_or_default().into_iter().filter_map(subject).collect(),
        })
    }
}

impl State {
    fn scope(&mut self, namespace: &str) -> &mut Scope {
        if namespace.is_empty() {
            &mut self.cluster
        } else {
            self.namespaces.entry(namespace.to_string()).or_default()
        }
    }

    fn unbind(&mut self, key: &str) {
        let Some(binding) = self.bindings.remove(key) else { return };
        let scope = self.scope(&binding.namespace);
        let not_it = |source: &Source| !Arc::ptr_eq(&source.binding, &binding);
        for subject in &binding.subjects {
            let (grants, name) = scope.of(subject);
            if let Some(sources) = grants.get_mut(&name) {
                sources.retain(not_it);
                if sources.is_empty() {
                    grants.remove(&name);
                }
            }
        }
        if scope.users.is_empty() && scope.groups.is_empty() {
            self.namespaces.remove(&binding.namespace);
        }
    }

    fn bind(&mut self, key: &str, binding: Binding) {
        let binding = Arc::new(binding);
        let scope = self.scope(&binding.namespace);
        for (at, subject) in binding.subjects.iter().enumerate() {
            let (grants, name) = scope.of(subject);
            grants.entry(name).or_default().push(Source { binding: binding.clone(), subject: at });
        }
        self.bindings.insert(key.to_string(), binding);
    }

    /// Takes in one object; `value` is `None` where it is gone.
    fn take(&mut self, key: &str, value: Option<&[u8]>) {
        let Some(end) = key.strip_prefix(PREFIX) else { return };
        let Some((plural, suffix)) = end.split_once('/') else { return };
        let rules = || -> Option<Rules> {
            let object: RoleObject = serde_json::from_slice(value?).ok()?;
            Some(object.rules.unwrap_or_default().into())
        };
        match plural {
            "roles" | "clusterroles" => {
                let rules = rules();
                let roles = if plural == "roles" { &mut self.roles } else { &mut self.cluster_roles };
                match rules {
                    Some(rules) => drop(roles.insert(suffix.to_string(), rules)),
                    None => drop(roles.remove(suffix)),
                }
            }
            "rolebindings" | "clusterrolebindings" => {
                self.unbind(end);
                let (namespace, name) = suffix.split_once('/').unwrap_or(("", suffix));
                if let Some(binding) = value.and_then(|v| Binding::read(namespace, name, v)) {
                    self.bind(end, binding);
                }
            }
            _ => {}
        }
    }

    fn rules(&self, role: &RoleRef, namespace: &str) -> Option<&Rules> {
        if role.cluster {
            self.cluster_roles.get(&role.name)
        } else {
            self.roles.get(&format!("{namespace}/{}", role.name))
        }
    }
}

impl Scope {
    /// Where the bindings of a subject stand, and under which name.
    fn of(&mut self, subject: &Subject) -> (&mut Grants, String) {
        match subject {
            Subject::User(name) => (&mut self.users, name.clone()),
            Subject::Group(name) => (&mut self.groups, name.clone()),
            Subject::ServiceAccount { namespace, name } => {
                (&mut self.users, format!("system:serviceaccount:{namespace}:{name}"))
            }
        }
    }

    fn concerning<'a>(&'a self, who: &'a Identity) -> impl Iterator<Item = &'a Source> {
        let groups = who.groups.iter().filter_map(|group| self.groups.get(group));
        self.users.get(&who.user).into_iter().chain(groups).flatten()
    }
}

/// What a visitor of rules sees: rules with their source, or a role that is named but not there.
pub(crate) type Seen<'a> = Result<(&'a [PolicyRule], &'a Source), &'a RoleRef>;

impl RbacIndex {
    /// Shows all rules that `who` holds in a namespace (or, where that is empty, in the whole cluster), until told to stop.
    pub(crate) fn visit(
        &self,
        who: &Identity,
        namespace: &str,
        mut see: impl FnMut(Seen<'_>) -> ControlFlow<()>,
    ) {
        let state = self.state.read();
        let own = if namespace.is_empty() { None } else { state.namespaces.get(namespace) };
        for scope in std::iter::once(&state.cluster).chain(own) {
            for source in scope.concerning(who) {
                let role = &source.binding.role;
                let seen = match state.rules(role, namespace) {
                    Some(rules) => see(Ok((rules, source))),
                    None => see(Err(role)),
                };
                if seen.is_break() {
                    return;
                }
            }
        }
    }

    /// The rules of a role.
    pub(crate) fn rules_of(&self, role: &RoleRef, namespace: &str) -> Option<Arc<[PolicyRule]>> {
        self.state.read().rules(role, namespace).cloned()
    }
}

impl Index for RbacIndex {
    fn key_prefix(&self) -> &str {
        PREFIX
    }

    fn fill(&self, entries: &[Entry]) {
        let mut state = State::default();
        entries.iter().for_each(|entry| state.take(&entry.key, Some(&entry.value)));
        *self.state.write() = state;
    }

    fn apply(&self, change: &Change) {
        let value = (!change.deleted).then_some(&*change.entry.value);
        self.state.write().take(&change.entry.key, value);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// An index of objects: the end of the key and the object.
    pub(in crate::identity) fn index(objects: &[(&str, Value)]) -> RbacIndex {
        let index = RbacIndex::default();
        objects.iter().for_each(|(end, object)| put(&index, end, Some(object)));
        index
    }

    fn put(index: &RbacIndex, end: &str, object: Option<&Value>) {
        let text = object.map(Value::to_string);
        index.state.write().take(&format!("{PREFIX}{end}"), text.as_deref().map(str::as_bytes));
    }

    fn sources(index: &RbacIndex, who: &Identity, namespace: &str) -> Vec<String> {
        let mut found = Vec::new();
        index.visit(who, namespace, |seen| {
            found.push(match seen {
                Ok((_, source)) => source.to_string(),
                Err(role) => format!("no {}", role.name),
            });
            ControlFlow::Continue(())
        });
        found
    }

    #[test]
    fn a_binding_concerns_its_subjects_in_its_namespace_until_it_changes_or_goes() {
        let role = json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]});
        let binding =
            |subject: Value| json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": [subject]});
        let to_robot = binding(json!({"kind": "ServiceAccount", "name": "robot"}));
        let index = index(&[("roles/n/r", role), ("rolebindings/n/b", to_robot)]);
        let robot = Identity::new("system:serviceaccount:n:robot", &[]);
        let jane = Identity::new("jane", &["dev"]);
        assert_eq!(
            sources(&index, &robot, "n"),
            ["RoleBinding \"b/n\" of Role \"r\" to ServiceAccount \"robot/n\""]
        );
        assert!(sources(&index, &robot, "other").is_empty() && sources(&index, &robot, "").is_empty());

        put(&index, "rolebindings/n/b", Some(&binding(json!({"kind": "Group", "name": "dev"}))));
        assert!(sources(&index, &robot, "n").is_empty());
        assert_eq!(sources(&index, &jane, "n").len(), 1);
        put(&index, "roles/n/r", None);
        assert_eq!(sources(&index, &jane, "n"), ["no r"]);
        put(&index, "rolebindings/n/b", None);
        assert!(sources(&index, &jane, "n").is_empty());
        assert!(index.state.read().namespaces.is_empty(), "nothing is left behind");
    }
}
