use super::*;

fn at<'a>(ty: &'a TypeRef, path: &str) -> Type<'a> {
    path.split('.').fold(ty.as_type(), |ty, step| match (step, ty.shape()) {
        ("[]", Shape::List { item, .. }) => item,
        _ => ty.child(step).unwrap_or_else(|| panic!("{step} of {path}")),
    })
}

#[test]
fn every_kind_of_the_api_has_a_type_with_its_metadata() {
    assert!(Types::kinds().count() > 95);
    for (api_version, kind) in Types::kinds() {
        let ty = Types::of(api_version, kind).unwrap();
        assert!(ty.as_type().child("kind").is_some(), "{api_version} {kind}");
        assert!(ty.is_built_in());
    }
    assert!(Types::of("apps/v1", "Pod").is_none());
    assert!(Types::of("v1", "Deployment").is_none());
}

#[test]
fn types_are_named_as_go_names_them() {
    let ty = Types::of("apps/v1", "Deployment").unwrap();
    for (path, name) in [
        ("spec", "v1.DeploymentSpec"),
        ("spec.replicas", "int32"),
        ("spec.template.spec.containers", "[]v1.Container"),
        ("spec.template.spec.nodeSelector", "map[string]string"),
        ("spec.template.spec.containers.[].resources.limits", "map[string]resource.Quantity"),
        ("metadata.creationTimestamp", "v1.Time"),
        ("metadata.managedFields.[].fieldsV1", "interface {}"),
        ("spec.strategy.rollingUpdate.maxSurge", "intstr.IntOrString"),
    ] {
        assert_eq!(at(&ty, path).go_name(), name, "{path}");
    }
}

#[test]
fn the_merge_table_is_joined() {
    let ty = Types::of("v1", "Pod").unwrap();
    let Shape::List { list: List::Map(keys), item } = at(&ty, "spec.containers.[].ports").shape() else {
        panic!("ports are a list with keys");
    };
    assert_eq!(keys.iter().collect::<Vec<_>>(), ["containerPort", "protocol"]);
    let Shape::Struct(port) = item.shape() else { panic!("a port is an object") };
    assert_eq!(port.field("protocol").unwrap().default(), Some(json!("TCP")));
    let Shape::Struct(spec) = at(&ty, "spec").shape() else { panic!("a spec is an object") };
    let volumes = spec.field("volumes").unwrap();
    assert!(volumes.merges() && volumes.retains_keys() && volumes.merge_key() == Some("name"));
    assert!(spec.field("containers").unwrap().required() && !volumes.required());
    assert!(!spec.field("tolerations").unwrap().merges());
    assert!(matches!(at(&ty, "spec.nodeSelector").shape(), Shape::Map { atomic: true, .. }));
    assert!(matches!(at(&ty, "metadata.labels").shape(), Shape::Map { atomic: false, .. }));
    assert!(matches!(at(&ty, "metadata.finalizers").shape(), Shape::List { list: List::Set, .. }));
}

#[test]
fn an_object_type_can_be_atomic_in_one_place_and_granular_in_another() {
    let volume = Types::of("v1", "PersistentVolume").unwrap();
    let event = Types::of("v1", "Event").unwrap();
    let atomic = |ty: Type<'_>| match ty.shape() {
        Shape::Struct(s) => s.atomic,
        _ => panic!("an object"),
    };
    assert!(!atomic(at(&volume, "spec.claimRef")));
    assert!(atomic(at(&event, "involvedObject")));
    assert_eq!(at(&volume, "spec.claimRef").go_name(), at(&event, "involvedObject").go_name());
}

#[test]
fn types_may_contain_themselves() {
    let ty = Types::of("apiextensions.k8s.io/v1", "CustomResourceDefinition").unwrap();
    let schema = at(&ty, "spec.versions.[].schema.openAPIV3Schema");
    let Shape::Map { value, .. } = schema.child("properties").unwrap().shape() else { panic!("a map") };
    assert_eq!(value.go_name(), schema.go_name());
    assert!(matches!(schema.child("items").unwrap().shape(), Shape::Either { item: Some(_), .. }));
}

#[test]
fn a_custom_kind_gets_a_type_from_its_schema() {
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "required": ["size"], "properties": {
            "size": {"type": "integer", "format": "int32", "nullable": true},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "hosts": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["host"],
                "items": {"type": "object", "properties": {"host": {"type": "string"}}}},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "port": {"x-kubernetes-int-or-string": true},
            "inner": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {}},
        }},
    }});
    let ty = Types::custom("example.com/v1", "Widget", &schema);
    assert!(!ty.is_built_in());
    assert_eq!(at(&ty, "metadata").go_name(), "v1.ObjectMeta");
    assert_eq!(at(&ty, "spec.size").go_name(), "int32");
    let Shape::Struct(spec) = at(&ty, "spec").shape() else { panic!("an object") };
    assert!(spec.field("size").unwrap().nullable() && spec.field("size").unwrap().required());
    assert!(matches!(at(&ty, "spec.free").shape(), Shape::Struct(s) if s.open()));
    assert!(matches!(at(&ty, "spec.hosts").shape(), Shape::List { list: List::Map(_), .. }));
    assert!(at(&ty, "spec.inner").child("apiVersion").is_some());
    let any = Types::custom("example.com/v1", "Any", &Value::Null);
    assert!(matches!(any.as_type().shape(), Shape::Struct(s) if s.open()));
}

#[test]
fn a_cut_table_is_refused() {
    let mut bytes = Vec::new();
    flate2::read::ZlibDecoder::new(BUILT_IN).read_to_end(&mut bytes).unwrap();
    assert!(Arena::decode(&bytes).is_some());
    for len in [0, 1, 100, bytes.len() / 2, bytes.len() - 1] {
        assert!(Arena::decode(&bytes[..len]).is_none(), "{len}");
    }
}

#[test]
fn all_built_in_types_take_less_than_half_a_megabyte() {
    let arena = built_in();
    let bytes = arena.pool.len()
        + arena.ends.len() * 4
        + size_of_val(&*arena.nodes)
        + size_of_val(&*arena.defs)
        + size_of_val(&*arena.fields)
        + size_of_val(&*arena.kinds);
    assert!(bytes < 512 * 1024, "{bytes}");
}
