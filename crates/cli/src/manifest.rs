//! Objects described in files: YAML or JSON, several documents in one, lists, folders, standard input.

use crate::Error;
use serde_json::Value;
use std::{
    io::Read,
    path::{Path, PathBuf},
};

/// Reads all objects of the given files and folders, in order.
pub(crate) fn read_all(files: &[PathBuf], recursive: bool) -> Result<Vec<Value>, Error> {
    let mut objects = Vec::new();
    for file in files {
        let failed = |why: String| Error::Manifest { file: file.clone(), why };
        if file.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map_err(|e| failed(e.to_string()))?;
            objects.extend(parse(&text).map_err(failed)?);
            continue;
        }
        for file in list(file, recursive)? {
            let failed = |why: String| Error::Manifest { file: file.clone(), why };
            let text = std::fs::read_to_string(&file).map_err(|e| failed(e.to_string()))?;
            objects.extend(parse(&text).map_err(failed)?);
        }
    }
    if objects.is_empty() {
        return Err(Error::Usage("no objects passed to apply or delete: the files are empty".into()));
    }
    Ok(objects)
}

/// A file itself; of a folder the files that hold manifests, by name.
fn list(path: &Path, recursive: bool) -> Result<Vec<PathBuf>, Error> {
    let failed = |e: std::io::Error| Error::Manifest { file: path.into(), why: e.to_string() };
    if !std::fs::metadata(path).map_err(failed)?.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut entries = std::fs::read_dir(path)
        .map_err(failed)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?;
    entries.sort();
    let mut files = Vec::new();
    for entry in entries {
        let is_manifest = matches!(entry.extension().and_then(|e| e.to_str()), Some("yaml" | "yml" | "json"));
        if entry.is_dir() && recursive {
            files.extend(list(&entry, true)?);
        } else if is_manifest && entry.is_file() {
            files.push(entry);
        }
    }
    Ok(files)
}

/// The objects in a text. Empty documents are left out, lists are taken apart.
pub(crate) fn parse(text: &str) -> Result<Vec<Value>, String> {
    let documents: Vec<Value> = if text.trim_start().starts_with('{') {
        serde_json::Deserializer::from_str(text)
            .into_iter()
            .collect::<Result<_, _>>()
            .map_err(|e| format!("not valid JSON: {e}"))?
    } else {
        // Comments between separators are documents, too, and empty ones.
        let documents: Vec<Option<Value>> =
            serde_saphyr::from_multiple(text).map_err(|e| format!("not valid YAML: {e}"))?;
        documents.into_iter().flatten().collect()
    };
    let mut objects = Vec::new();
    for document in documents {
        match document {
            Value::Null => {}
            Value::Object(map) if map.get("items").is_some_and(Value::is_array) && is_list(&map) => {
                objects.extend(map["items"].as_array().into_iter().flatten().cloned());
            }
            object => objects.push(object),
        }
    }
    objects.iter().try_for_each(check)?;
    Ok(objects)
}

fn is_list(map: &serde_json::Map<String, Value>) -> bool {
    map.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List"))
}

fn check(object: &Value) -> Result<(), String> {
    for key in ["apiVersion", "kind"] {
        if object[key].as_str().is_none_or(str::is_empty) {
            let name = object["metadata"]["name"].as_str().map(|n| format!(" {n:?}")).unwrap_or_default();
            return Err(format!("an object{name} has no {key}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_lists_and_json_are_read() {
        let yaml = "# only a comment\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  n: 1\n---\n---\n\
                    apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Service, metadata: {name: b}}\n";
        let objects = parse(yaml).unwrap();
        assert_eq!(objects.len(), 2);
        assert_eq!(objects[0]["spec"]["n"], 1);
        assert_eq!(objects[1]["kind"], "Service");
        let json = r#"{"apiVersion":"v1","kind":"Pod"} {"apiVersion":"v1","kind":"Pod"}"#;
        assert_eq!(parse(json).unwrap().len(), 2);
        assert!(parse("").unwrap().is_empty() && parse("---\n").unwrap().is_empty());
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(parse("kind: Pod\nmetadata: {name: x}").unwrap_err().contains("\"x\" has no apiVersion"));
        assert!(parse("apiVersion: v1\n").unwrap_err().contains("no kind"));
        assert!(parse("a: [").unwrap_err().contains("not valid YAML"));
        assert!(parse("{").unwrap_err().contains("not valid JSON"));
        let error = read_all(&["/missing.yaml".into()], false).unwrap_err().to_string();
        assert!(error.starts_with("error: /missing.yaml: No such file"), "{error}");
    }

    #[test]
    fn strings_that_look_like_numbers_stay_strings_and_numbers_numbers() {
        let object =
            &parse("apiVersion: v1\nkind: X\na: \"80\"\nb: 80\nc: 1e3\nd: 0644\ne: 1.5\nf: true\ng: ~\n")
                .unwrap()[0];
        assert_eq!((&object["a"], &object["b"]), (&Value::from("80"), &Value::from(80)));
        assert_eq!(
            (&object["e"], &object["f"], &object["g"]),
            (&Value::from(1.5), &Value::from(true), &Value::Null)
        );
    }

    #[test]
    fn a_folder_gives_its_manifests_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let pod = |name: &str| format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\n");
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        for (file, name) in [("b.yml", "b"), ("a.yaml", "a"), ("notes.txt", "no"), ("sub/c.yaml", "c")] {
            std::fs::write(dir.path().join(file), pod(name)).unwrap();
        }
        let names = |recursive| {
            let objects = read_all(&[dir.path().into()], recursive).unwrap();
            objects.iter().map(|o| o["metadata"]["name"].as_str().unwrap().to_string()).collect::<String>()
        };
        assert_eq!((names(false).as_str(), names(true).as_str()), ("ab", "abc"));
    }
}
