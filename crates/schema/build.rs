//! Makes the two tables that the crate embeds, out of what `k8s-openapi` knows of each type, our own kinds, and our
//! tables of merge keys and protobuf numbers: `types.z` (shapes, for decoding and merging) and `definitions.z` (with descriptions, for OpenAPI).

#[path = "src/types/arena.rs"]
#[allow(
    dead_code,
    reason = "the crate reads what is written here: each side has functions that the other does not call"
)]
mod arena;
#[path = "build/arena_writer.rs"]
mod arena_writer;
#[path = "src/types/builder.rs"]
mod builder;
#[path = "build/merge_table.rs"]
mod merge_table;
#[path = "build/protobuf_table.rs"]
mod protobuf_table;
#[path = "build/roots.rs"]
mod roots;

use k8s_openapi::schemars::SchemaGenerator;
use serde_json::{Map, Value, json};
use std::{fs, io::Write, path::Path};

fn main() {
    let sources = [
        "src/merge_keys.tsv",
        "src/own_kinds.json",
        "src/protobuf_fields.tsv",
        "src/types/arena.rs",
        "src/types/builder.rs",
    ];
    for watched in ["build.rs", "build"].iter().chain(&sources) {
        println!("cargo::rerun-if-changed={watched}");
    }
    let mut generator = SchemaGenerator::default();
    let mut kinds = roots::register(&mut generator);
    let mut definitions = generator.take_definitions(false);
    definitions.values_mut().for_each(metadata_is_optional);
    merge_table::join(include_str!("src/merge_keys.tsv"), &mut definitions);
    definitions.extend(own_definitions());
    kinds.extend(roots::own());

    let out = std::env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    let out = Path::new(&out);
    write(&out.join("definitions.z"), records(definitions.clone(), &kinds).as_bytes());

    protobuf_table::join(include_str!("src/protobuf_fields.tsv"), &mut definitions);
    let mut builder = builder::Builder::new(&definitions);
    for root in &kinds {
        let api_version = match root.group {
            "" => root.version.to_string(),
            group => format!("{group}/{}", root.version),
        };
        builder.kind(&api_version, root.kind, &json!({ "$ref": root.definition }));
    }
    write(&out.join("types.z"), &arena_writer::encode(&builder.finish()));
}

/// The definitions of our own kinds.
fn own_definitions() -> Map<String, Value> {
    serde_json::from_str(include_str!("src/own_kinds.json")).expect("own_kinds.json holds definitions")
}

/// Every object has metadata, and `k8s-openapi` says so; the API does not demand that it is written.
fn metadata_is_optional(definition: &mut Value) {
    let Some(Value::Array(required)) = definition.get_mut("required") else { return };
    required.retain(|field| field != "metadata");
    if required.is_empty() {
        definition.as_object_mut().map(|d| d.remove("required"));
    }
}

/// One definition a line, `NAME<TAB>JSON`, so that a reader can take some without parsing the rest.
fn records(definitions: Map<String, Value>, kinds: &[roots::Root]) -> String {
    let mut lines = String::new();
    for (name, mut schema) in definitions {
        let of_kind = kinds.iter().filter(|k| k.definition == name);
        let gvk: Vec<Value> =
            of_kind.map(|k| json!({"group": k.group, "version": k.version, "kind": k.kind})).collect();
        if !gvk.is_empty() {
            schema["x-kubernetes-group-version-kind"] = json!(gvk);
        }
        lines.push_str(&format!("{name}\t{schema}\n"));
    }
    lines
}

fn write(path: &Path, bytes: &[u8]) {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).expect("writing to memory");
    fs::write(path, encoder.finish().expect("writing to memory")).expect("OUT_DIR is writable");
}
