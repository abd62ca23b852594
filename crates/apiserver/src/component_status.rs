//! componentstatuses (v1, deprecated; `kubectl get cs`): the store and the parts that the process around this server runs beside it, each
//! asked when somebody asks. Judges nobody: each says itself whether it is well.

use crate::{
    ApiServer,
    admission::notes,
    discovery::Described,
    pipeline::Admitted,
    registry::table::{self, IncludeObject, Shape},
    request::{ListOptions, Target, Verb, negotiate},
    response::{self, Response},
};
use bytes::Bytes;
use orlop_api::{
    Status,
    kinds::component_status::{WARNING, kind},
    selector::{FieldSelector, Selector},
};
use orlop_schema::protobuf;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The store, by the name that Kubernetes gives its first one.
const STORE: &str = "etcd-0";

/// Says whether a component is well; if not, why.
type Check = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// The components beside the server.
#[derive(Default)]
pub(crate) struct Components {
    checks: Mutex<BTreeMap<String, Check>>,
}

/// Whether a path is about them.
pub(crate) fn is_meant(target: &Target) -> bool {
    let kind = kind();
    (target.group.as_str(), target.version.as_str(), target.resource.as_str()) == ("", "v1", &*kind.plural)
        && target.namespace.is_empty()
        && target.subresource.is_empty()
}

/// What discovery says of them.
pub(crate) fn described() -> Described {
    let kind = kind();
    Described {
        group: String::new(),
        version: "v1".into(),
        name: kind.plural.to_string(),
        singular: kind.singular.to_string(),
        namespaced: false,
        kind: (String::new(), "v1".into(), kind.kind.to_string()),
        verbs: vec!["get", "list"],
        short_names: kind.short_names.iter().map(ToString::to_string).collect(),
        categories: Vec::new(),
    }
}

fn object(name: &str, outcome: &Result<(), String>) -> Value {
    let condition = match outcome {
        Ok(()) => json!({"type": "Healthy", "status": "True", "message": "ok"}),
        Err(why) => json!({"type": "Healthy", "status": "False", "error": why}),
    };
    json!({
        "apiVersion": "v1", "kind": "ComponentStatus", "metadata": {"name": name}, "conditions": [condition],
    })
}

impl ApiServer {
    /// Shows a part of the control plane among the ComponentStatuses. `check` must not block.
    pub fn show_component(&self, name: &str, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        self.components.checks.lock().insert(name.to_string(), Box::new(check));
    }

    /// How all components are, by name.
    async fn components(&self) -> Vec<(String, Value)> {
        let store = self.config.store.revision().await.map(drop).map_err(|error| error.to_string());
        let checks = self.components.checks.lock();
        let mut outcomes: BTreeMap<String, _> =
            checks.iter().map(|(name, check)| (name.clone(), check())).collect();
        outcomes.insert(STORE.to_string(), store);
        outcomes.into_iter().map(|(name, outcome)| (name.clone(), object(&name, &outcome))).collect()
    }

    /// Answers a question about components.
    pub(crate) async fn component_status(
        &self,
        target: &Target,
        request: &Admitted,
    ) -> Result<Response, Status> {
        let kind = kind();
        let negotiated = negotiate::negotiate(&request.parts.headers, false)?;
        if negotiated.protobuf && !protobuf::speaks(&kind.api_version(), &kind.kind) {
            return Err(negotiate::not_acceptable());
        }
        let include = IncludeObject::parse(request.query.get("includeObject"));
        let shape = Shape { form: negotiated.form, meta: negotiated.meta, include, now: self.registry.now() };
        let bytes = |object: &Value| Bytes::from(object.to_string());
        let body = match request.info.verb {
            Verb::Get => {
                let all = self.components().await;
                let found = all.iter().find(|(name, _)| *name == target.name);
                let missing = || Status::new(500, "", format!("Component not found: {}", target.name));
                table::one(&kind, &bytes(&found.ok_or_else(missing)?.1), shape)
            }
            Verb::List => {
                let selected = Selected::read(&ListOptions::parse(&request.query, false)?)?;
                let all = self.components().await;
                let all: Vec<Bytes> = all
                    .iter()
                    .filter(|(name, _)| selected.has(name))
                    .map(|(_, object)| bytes(object))
                    .collect();
                table::list(&kind, &all, &json!({}), shape)
            }
            _ => {
                let message = "the server does not allow this method on the requested resource";
                return Err(Status::method_not_allowed(message));
            }
        };
        notes::annotate("k8s.io/deprecated", "true");
        let mut answer = response::encoded(200, body, negotiated);
        response::warn(&mut answer, WARNING);
        Ok(answer)
    }
}

/// Which of them are asked for.
struct Selected {
    labels: Selector,
    fields: FieldSelector,
}

impl Selected {
    fn read(options: &ListOptions) -> Result<Self, Status> {
        let labels = Selector::parse(options.label_selector.as_deref().unwrap_or_default())
            .map_err(|e| Status::bad_request(format!("unable to parse requirement: {e}")))?;
        let fields = FieldSelector::parse(options.field_selector.as_deref().unwrap_or_default())
            .map_err(|e| Status::bad_request(e.to_string()))?;
        fields.check(&kind()).map_err(|e| Status::bad_request(e.to_string()))?;
        Ok(Self { labels, fields })
    }

    /// Components have a name and no labels.
    fn has(&self, name: &str) -> bool {
        let field = |path: &str| if path == "metadata.name" { name.to_string() } else { String::new() };
        self.fields.matches_with(field) && self.labels.matches_with(|_| None)
    }
}
