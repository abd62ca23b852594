//! What can be done at which path, independent of how a version of OpenAPI writes it down: the operations that the
//! generic registry offers for every kind, and those of the few subresources that are their own.

use orlop_api::Kind;

/// The definition of a request body of `delete`.
pub(super) const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
/// The definition of a patch.
pub(super) const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
/// The definition of a status.
pub(super) const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
/// The definition of discovery.
pub(super) const RESOURCES: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.APIResourceList";
const SCALE: &str = "io.k8s.api.autoscaling.v1.Scale";

/// A parameter in the path or the query.
#[derive(Debug)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) in_path: bool,
    pub(super) ty: &'static str,
    pub(super) description: &'static str,
}

const fn query(name: &'static str, ty: &'static str, description: &'static str) -> Parameter {
    Parameter { name, in_path: false, ty, description }
}

const fn path(name: &'static str, description: &'static str) -> Parameter {
    Parameter { name, in_path: true, ty: "string", description }
}

static NAMESPACE: Parameter = path("namespace", "the namespace that the object lives in");
static NAME: Parameter = path("name", "the name of the object");
static PRETTY: Parameter = query("pretty", "string", "'true' indents the answer for reading");
static DRY_RUN: Parameter = query("dryRun", "string", "'All' goes through everything but stores nothing");
static MANAGER: Parameter = query(
    "fieldManager",
    "string",
    "who becomes the owner of the fields that this request changes, at most 128 characters",
);
static VALIDATION: Parameter = query(
    "fieldValidation",
    "string",
    "what happens to unknown and duplicate fields: 'Ignore' drops them, 'Warn' tells them, 'Strict' refuses them",
);
static FORCE: Parameter =
    query("force", "boolean", "for server-side apply: takes over fields that other managers own");
static GRACE: Parameter =
    query("gracePeriodSeconds", "integer", "how long the object may take to end; 0 removes it at once");
static ORPHAN: Parameter = query("orphanDependents", "boolean", "deprecated: use propagationPolicy");
static PROPAGATION: Parameter = query(
    "propagationPolicy",
    "string",
    "what happens to the objects that this one owns: 'Orphan', 'Background' or 'Foreground'",
);

/// The parameters of what writes.
pub(super) static WRITING: [&Parameter; 3] = [&DRY_RUN, &MANAGER, &VALIDATION];

static LISTING: [Parameter; 11] = [
    query("allowWatchBookmarks", "boolean", "in a watch: events of type BOOKMARK tell how far it has come"),
    query("continue", "string", "the token of the page before"),
    query("fieldSelector", "string", "only objects whose fields match"),
    query("labelSelector", "string", "only objects whose labels match"),
    query("limit", "integer", "at most so many objects in one answer"),
    query("resourceVersion", "string", "from which version of the data the answer may be"),
    query("resourceVersionMatch", "string", "how resourceVersion is meant: 'Exact' or 'NotOlderThan'"),
    query("sendInitialEvents", "boolean", "in a watch: begins with what is there"),
    query("timeoutSeconds", "integer", "ends the request after this time"),
    query("watch", "boolean", "a stream of changes instead of a list"),
    query("shardSelector", "string", "only a part of the objects"),
];

static LOG: [Parameter; 9] = [
    query("container", "string", "which container of the pod"),
    query("follow", "boolean", "goes on while there is more"),
    query("limitBytes", "integer", "ends after so many bytes"),
    query("previous", "boolean", "of the container before its last restart"),
    query("sinceSeconds", "integer", "only lines of the last seconds"),
    query("sinceTime", "string", "only lines since that time"),
    query("stream", "string", "'All', 'Stdout' or 'Stderr'"),
    query("tailLines", "integer", "only so many lines from the end"),
    query("timestamps", "boolean", "each line with its time"),
];

static STREAMS: [Parameter; 6] = [
    query("command", "string", "what to run, once for each word"),
    query("container", "string", "which container of the pod"),
    query("stderr", "boolean", "redirects standard error"),
    query("stdin", "boolean", "redirects standard input"),
    query("stdout", "boolean", "redirects standard output"),
    query("tty", "boolean", "with a terminal"),
];

static PORTS: [Parameter; 1] = [query("ports", "integer", "which ports to forward")];

static PROXY: [Parameter; 1] = [query("path", "string", "the path of the request")];
static REST: Parameter = path("path", "the path of the request");

/// The methods that a proxy passes on.
const METHODS: [&str; 7] = ["get", "put", "post", "delete", "options", "head", "patch"];

/// What a request says.
#[derive(Debug)]
pub(super) enum Body {
    /// An object of that definition.
    Object(String),
    /// A patch, also a strategic one or not.
    Patch { strategic: bool },
    /// `DeleteOptions`, or nothing.
    DeleteOptions,
}

/// What an answer says.
#[derive(Debug)]
pub(super) enum Answer {
    /// An object of that definition.
    Object(String),
    /// A list of that definition, or a watch.
    Stream(String),
    /// Text.
    Text,
}

/// What can be done.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) method: &'static str,
    /// `x-kubernetes-action`; empty where it has none.
    pub(super) action: &'static str,
    pub(super) id: String,
    pub(super) description: String,
    /// Group, version and kind that it is about.
    pub(super) gvk: Option<(String, String, String)>,
    pub(super) parameters: Vec<&'static Parameter>,
    pub(super) body: Option<Body>,
    pub(super) answer: Answer,
    /// HTTP codes of success.
    pub(super) codes: &'static [u16],
}

/// A path and what can be done there.
#[derive(Debug)]
pub(super) struct PathItem {
    pub(super) path: String,
    pub(super) parameters: Vec<&'static Parameter>,
    pub(super) operations: Vec<Operation>,
}

/// A group and version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct GroupVersion {
    pub(super) group: String,
    pub(super) version: String,
}

impl GroupVersion {
    /// That of a kind.
    pub(super) fn of(kind: &Kind) -> Self {
        Self { group: kind.group.to_string(), version: kind.version.to_string() }
    }

    /// `api/v1` or `apis/apps/v1`.
    pub(super) fn path(&self) -> String {
        match self.group.as_str() {
            "" => format!("api/{}", self.version),
            group => format!("apis/{group}/{}", self.version),
        }
    }

    /// `appsV1`-like part of operation identifiers: `Apps`, `RbacAuthorization`, `Core`.
    fn camel(&self) -> String {
        group_camel(&self.group) + &capital(&self.version)
    }

    /// `apps_v1`.
    pub(super) fn tag(&self) -> String {
        let camel = self.camel();
        let group = &camel[..camel.len() - self.version.len()];
        let mut letters = group.chars();
        let first = letters.next().map(|c| c.to_ascii_lowercase()).into_iter();
        format!("{}_{}", first.chain(letters).collect::<String>(), self.version)
    }

    /// Discovery of the group and version.
    pub(super) fn discovery(&self) -> PathItem {
        PathItem {
            path: format!("/{}/", self.path()),
            parameters: Vec::new(),
            operations: vec![Operation {
                method: "get",
                action: "",
                id: format!("get{}APIResources", self.camel()),
                description: "get available resources".to_string(),
                gvk: None,
                parameters: Vec::new(),
                body: None,
                answer: Answer::Object(RESOURCES.to_string()),
                codes: &[200],
            }],
        }
    }
}

/// A group's part of operation identifiers: `Apps`, `RbacAuthorization`, `Core`.
pub(super) fn group_camel(group: &str) -> String {
    let group = group.strip_suffix(".k8s.io").unwrap_or(group);
    let group = if group.is_empty() { "core" } else { group };
    group.split(['.', '-']).map(capital).collect()
}

/// The parameters of a path, in a namespace or not.
pub(super) fn namespace(namespaced: bool) -> Vec<&'static Parameter> {
    namespaced.then_some(&NAMESPACE).into_iter().chain([&PRETTY]).collect()
}

/// A word with a capital letter.
pub(super) fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|c| c.to_ascii_uppercase()).into_iter().chain(letters).collect()
}

/// Writes the paths of one kind.
pub(super) struct KindPaths<'a> {
    kind: &'a Kind,
    gv: GroupVersion,
    definition: &'a str,
    strategic: bool,
}

impl<'a> KindPaths<'a> {
    /// Of a kind whose definition has that name; `strategic` says whether it has strategic merge patch.
    pub(super) fn new(kind: &'a Kind, definition: &'a str, strategic: bool) -> Self {
        Self { kind, gv: GroupVersion::of(kind), definition, strategic }
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<PathItem> {
        let plural = &self.kind.plural;
        let root = format!("/{}", self.gv.path());
        let mut out = Vec::new();
        let collection = if self.kind.namespaced() {
            let mut everywhere = self.list("ForAllNamespaces");
            everywhere.parameters.clear();
            let parameters = LISTING.iter().chain([&PRETTY]).collect();
            out.push(PathItem { path: format!("{root}/{plural}"), parameters, operations: vec![everywhere] });
            format!("{root}/namespaces/{{namespace}}/{plural}")
        } else {
            format!("{root}/{plural}")
        };
        out.push(self.item(&collection, false, vec![self.list(""), self.create(), self.delete_collection()]));
        let one = format!("{collection}/{{name}}");
        let mut object = self.object("", &self.own());
        object.push(self.delete());
        out.push(self.item(&one, true, object));
        if self.kind.has_status {
            out.push(self.item(&format!("{one}/status"), true, self.object("Status", &self.own())));
        }
        if self.kind.scale.is_some() {
            let scale = (SCALE.to_string(), gvk("autoscaling", "v1", "Scale"));
            out.push(self.item(&format!("{one}/scale"), true, self.object("Scale", &scale)));
        }
        out.extend(self.special(&one));
        out
    }

    /// Those of a cluster's kind that is only read.
    pub(super) fn read_only(&self) -> Vec<PathItem> {
        let collection = format!("/{}/{}", self.gv.path(), self.kind.plural);
        let list = Operation { answer: Answer::Object(format!("{}List", self.definition)), ..self.list("") };
        let mut object = self.object("", &self.own());
        object.retain(|operation| operation.method == "get");
        vec![
            self.item(&collection, false, vec![list]),
            self.item(&format!("{collection}/{{name}}"), true, object),
        ]
    }

    /// The subresources that only this kind has.
    fn special(&self, one: &str) -> Vec<PathItem> {
        let part = |name: &str| {
            let operations = self.object(&capital(name), &self.own());
            self.item(&format!("{one}/{name}"), true, operations)
        };
        match (self.gv.group.as_str(), &*self.kind.plural) {
            ("", "pods") => {
                let mut all = self.pod(one);
                all.extend([part("ephemeralcontainers"), part("resize")]);
                all.extend(self.proxy(one));
                all
            }
            ("", "services" | "nodes") => self.proxy(one).into(),
            ("", "namespaces") => {
                let mut finalize = part("finalize");
                finalize.operations.retain(|o| o.method == "put");
                vec![finalize]
            }
            ("", "serviceaccounts") => {
                let about = gvk("authentication.k8s.io", "v1", "TokenRequest");
                let definition = "io.k8s.api.authentication.v1.TokenRequest".to_string();
                let create = self.post("Token", definition, about);
                vec![self.item(&format!("{one}/token"), true, vec![create])]
            }
            ("certificates.k8s.io", "certificatesigningrequests") => vec![part("approval")],
            _ => Vec::new(),
        }
    }

    /// Requests that are passed on.
    fn proxy(&self, one: &str) -> [PathItem; 2] {
        [("", ""), ("WithPath", "/{path}")].map(|(suffix, rest)| {
            let operation = |method: &'static str| Operation {
                answer: Answer::Text,
                gvk: gvk("", "v1", &format!("{}ProxyOptions", self.kind.kind)),
                parameters: PROXY.iter().filter(|_| rest.is_empty()).collect(),
                ..self.operation(
                    method,
                    "connect",
                    self.id("connect", &capital(method), &format!("Proxy{suffix}")),
                    &format!("connect {} requests to proxy of", method.to_uppercase()),
                )
            };
            let mut item =
                self.item(&format!("{one}/proxy{rest}"), true, METHODS.into_iter().map(operation).collect());
            item.parameters.retain(|p| p.name != PRETTY.name);
            item.parameters.extend(Some(&REST).filter(|_| !rest.is_empty()));
            item
        })
    }

    fn own(&self) -> (String, Option<(String, String, String)>) {
        (self.definition.to_string(), gvk(&self.kind.group, &self.kind.version, &self.kind.kind))
    }

    fn item(&self, path: &str, named: bool, operations: Vec<Operation>) -> PathItem {
        let mut parameters = Vec::new();
        if named {
            parameters.push(&NAME);
        }
        if self.kind.namespaced() {
            parameters.push(&NAMESPACE);
        }
        parameters.push(&PRETTY);
        PathItem { path: path.to_string(), parameters, operations }
    }

    /// `readAppsV1NamespacedDeploymentStatus`.
    fn id(&self, verb: &str, middle: &str, suffix: &str) -> String {
        let scope = if self.kind.namespaced() { "Namespaced" } else { "" };
        format!("{verb}{}{middle}{scope}{}{suffix}", self.gv.camel(), self.kind.kind)
    }

    fn operation(&self, method: &'static str, action: &'static str, id: String, what: &str) -> Operation {
        Operation {
            method,
            action,
            id,
            description: format!("{what} {}", self.kind.kind),
            gvk: self.own().1,
            parameters: Vec::new(),
            body: None,
            answer: Answer::Object(self.definition.to_string()),
            codes: &[200],
        }
    }

    fn list(&self, everywhere: &str) -> Operation {
        let id = match everywhere {
            "" => self.id("list", "", ""),
            all => format!("list{}{}{all}", self.gv.camel(), self.kind.kind),
        };
        Operation {
            parameters: LISTING.iter().collect(),
            answer: Answer::Stream(format!("{}List", self.definition)),
            ..self.operation("get", "list", id, "list or watch objects of kind")
        }
    }

    fn create(&self) -> Operation {
        Operation {
            parameters: WRITING.to_vec(),
            body: Some(Body::Object(self.definition.to_string())),
            codes: &[200, 201, 202],
            ..self.operation("post", "post", self.id("create", "", ""), "create a")
        }
    }

    fn delete_collection(&self) -> Operation {
        let deleting = [&DRY_RUN, &GRACE, &ORPHAN, &PROPAGATION];
        Operation {
            parameters: LISTING
                .iter()
                .filter(|p| !p.name.to_lowercase().contains("watch"))
                .chain(deleting)
                .collect(),
            body: Some(Body::DeleteOptions),
            answer: Answer::Object(STATUS.to_string()),
            ..self.operation(
                "delete",
                "deletecollection",
                self.id("delete", "Collection", ""),
                "delete collection of",
            )
        }
    }

    fn delete(&self) -> Operation {
        Operation {
            parameters: vec![&DRY_RUN, &GRACE, &ORPHAN, &PROPAGATION],
            body: Some(Body::DeleteOptions),
            answer: Answer::Object(STATUS.to_string()),
            codes: &[200, 202],
            ..self.operation("delete", "delete", self.id("delete", "", ""), "delete a")
        }
    }

    /// Read, replace and patch, of the object or of a subresource.
    fn object(&self, part: &str, about: &(String, Option<(String, String, String)>)) -> Vec<Operation> {
        let (definition, gvk) = about;
        let what = |verb: &str| match part {
            "" => format!("{verb} the specified"),
            part => format!("{verb} {} of the specified", part.to_lowercase()),
        };
        let operation = |method, action, verb: &str| Operation {
            gvk: gvk.clone(),
            answer: Answer::Object(definition.clone()),
            ..self.operation(method, action, self.id(verb, "", part), &what(verb))
        };
        vec![
            operation("get", "get", "read"),
            Operation {
                parameters: WRITING.to_vec(),
                body: Some(Body::Object(definition.clone())),
                codes: &[200, 201],
                ..operation("put", "put", "replace")
            },
            Operation {
                parameters: vec![&DRY_RUN, &MANAGER, &VALIDATION, &FORCE],
                body: Some(Body::Patch { strategic: self.strategic }),
                codes: &[200, 201],
                ..operation("patch", "patch", "patch")
            },
        ]
    }

    fn post(&self, part: &str, definition: String, about: Option<(String, String, String)>) -> Operation {
        Operation {
            gvk: about,
            parameters: WRITING.to_vec(),
            body: Some(Body::Object(definition.clone())),
            answer: Answer::Object(definition),
            codes: &[200, 201, 202],
            ..self.operation(
                "post",
                "post",
                self.id("create", "", part),
                &format!("create {} of a", part.to_lowercase()),
            )
        }
    }

    /// What can be done with a running pod.
    fn pod(&self, one: &str) -> Vec<PathItem> {
        let log = Operation {
            parameters: LOG.iter().collect(),
            answer: Answer::Text,
            ..self.operation("get", "get", self.id("read", "", "Log"), "read log of the specified")
        };
        let connect = |part: &str, parameters: &'static [Parameter]| {
            let operation = |method, verb: &str| Operation {
                parameters: parameters.iter().collect(),
                answer: Answer::Text,
                gvk: gvk(
                    "",
                    "v1",
                    &format!("Pod{}Options", if part == "Portforward" { "PortForward" } else { part }),
                ),
                ..self.operation(
                    method,
                    "connect",
                    self.id("connect", verb, part),
                    &format!("connect {verb} requests to {} of", part.to_lowercase()),
                )
            };
            let path = format!("{one}/{}", part.to_lowercase());
            self.item(&path, true, vec![operation("get", "Get"), operation("post", "Post")])
        };
        let binding =
            self.post("Binding", "io.k8s.api.core.v1.Binding".to_string(), gvk("", "v1", "Binding"));
        let eviction = self.post(
            "Eviction",
            "io.k8s.api.policy.v1.Eviction".to_string(),
            gvk("policy", "v1", "Eviction"),
        );
        vec![
            self.item(&format!("{one}/log"), true, vec![log]),
            connect("Exec", &STREAMS),
            connect("Attach", &STREAMS[1..]),
            connect("Portforward", &PORTS),
            self.item(&format!("{one}/binding"), true, vec![binding]),
            self.item(&format!("{one}/eviction"), true, vec![eviction]),
        ]
    }
}

/// Group, version and kind.
pub(super) fn gvk(group: &str, version: &str, kind: &str) -> Option<(String, String, String)> {
    Some((group.to_string(), version.to_string(), kind.to_string()))
}
