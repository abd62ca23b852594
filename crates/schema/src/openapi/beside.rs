//! What can be done at paths that belong to no kind: questions to the server, discovery of groups, its version, the keys of
//! its tokens. The same on every server, but for the groups.

use super::paths::{
    Answer, Body, GroupVersion, Operation, PathItem, WRITING, capital, group_camel, gvk, namespace,
};
use std::collections::BTreeSet;

/// A path, in which document of OpenAPI v3 it is, and its tag.
pub(super) struct Beside {
    pub(super) document: String,
    pub(super) item: PathItem,
    pub(super) tag: String,
}

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// Objects that are sent and answered but not stored: group and the part of it in operation identifiers, kind, plural name,
/// whether it is namespaced.
const QUESTIONS: [(&str, &str, &str, &str, bool); 7] = [
    ("", "Core", "Binding", "bindings", true),
    ("authentication.k8s.io", "Authentication", "SelfSubjectReview", "selfsubjectreviews", false),
    ("authentication.k8s.io", "Authentication", "TokenReview", "tokenreviews", false),
    ("authorization.k8s.io", "Authorization", "LocalSubjectAccessReview", "localsubjectaccessreviews", true),
    ("authorization.k8s.io", "Authorization", "SelfSubjectAccessReview", "selfsubjectaccessreviews", false),
    ("authorization.k8s.io", "Authorization", "SelfSubjectRulesReview", "selfsubjectrulesreviews", false),
    ("authorization.k8s.io", "Authorization", "SubjectAccessReview", "subjectaccessreviews", false),
];

/// All of them; `groups` are those of the kinds.
pub(super) fn all(groups: &BTreeSet<String>) -> Vec<Beside> {
    let mut out: Vec<Beside> = QUESTIONS.iter().map(question).collect();
    for (group, ..) in &QUESTIONS {
        let gv = GroupVersion { group: group.to_string(), version: "v1".to_string() };
        out.push(Beside { document: gv.path(), item: gv.discovery(), tag: gv.tag() });
    }
    let asked = QUESTIONS.iter().map(|q| q.0.to_string());
    for group in groups.iter().cloned().chain(asked).collect::<BTreeSet<_>>() {
        out.push(discovery(&group));
    }
    let text = || Answer::Text;
    let info = Answer::Object("io.k8s.apimachinery.pkg.version.Info".to_string());
    let list = Answer::Object(format!("{META}.APIGroupList"));
    out.extend([
        read("apis", "/apis/", "getAPIVersions", "get available API versions", list, "apis"),
        read(
            "version",
            "/version/",
            "getCodeVersion",
            "get the version information for this server",
            info,
            "version",
        ),
        read(
            ".well-known/openid-configuration",
            "/.well-known/openid-configuration",
            "getServiceAccountIssuerOpenIDConfiguration",
            "get service account issuer OpenID configuration, also known as the 'OIDC discovery doc'",
            text(),
            "WellKnown",
        ),
        read(
            "openid/v1/jwks",
            "/openid/v1/jwks",
            "getServiceAccountIssuerOpenIDKeyset",
            "get service account issuer OpenID JSON Web Key Set (contains public token verification keys)",
            text(),
            "openid",
        ),
    ]);
    out
}

fn read(document: &str, path: &str, id: &str, description: &str, answer: Answer, tag: &str) -> Beside {
    let operation = Operation {
        method: "get",
        action: "",
        id: id.to_string(),
        description: description.to_string(),
        gvk: None,
        parameters: Vec::new(),
        body: None,
        answer,
        codes: &[200],
    };
    let item = PathItem { path: path.to_string(), parameters: Vec::new(), operations: vec![operation] };
    Beside { document: document.to_string(), item, tag: tag.to_string() }
}

/// What versions a group has.
fn discovery(group: &str) -> Beside {
    if group.is_empty() {
        let answer = Answer::Object(format!("{META}.APIVersions"));
        return read("api", "/api/", "getCoreAPIVersions", "get available API versions", answer, "core");
    }
    let camel = group_camel(group);
    let mut letters = camel.chars();
    let tag: String = letters.next().map(|c| c.to_ascii_lowercase()).into_iter().chain(letters).collect();
    let (document, answer) = (format!("apis/{group}"), Answer::Object(format!("{META}.APIGroup")));
    let id = format!("get{camel}APIGroup");
    read(&document, &format!("/apis/{group}/"), &id, "get information of a group", answer, &tag)
}

fn question((group, part, kind, plural, namespaced): &(&str, &str, &str, &str, bool)) -> Beside {
    let gv = GroupVersion { group: group.to_string(), version: "v1".to_string() };
    let (document, package) = (gv.path(), part.to_lowercase());
    let definition = format!("io.k8s.api.{package}.v1.{kind}");
    let (place, scope) = if *namespaced { ("namespaces/{namespace}/", "Namespaced") } else { ("", "") };
    let operation = Operation {
        method: "post",
        action: "post",
        id: format!("create{}V1{scope}{kind}", capital(part)),
        description: format!("create a {kind}"),
        gvk: gvk(group, "v1", kind),
        parameters: WRITING.to_vec(),
        body: Some(Body::Object(definition.clone())),
        answer: Answer::Object(definition),
        codes: &[200, 201, 202],
    };
    let parameters = namespace(*namespaced);
    let item =
        PathItem { path: format!("/{document}/{place}{plural}"), parameters, operations: vec![operation] };
    Beside { document, item, tag: gv.tag() }
}
