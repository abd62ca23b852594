//! Server-side apply against a model of it that is too small to be wrong: an object is a map from leaves to values, a
//! manager a set of leaves. Random histories of applies and ordinary writes have the same outcome in both.

use super::*;
use crate::field_set::value_step;
use std::collections::{BTreeMap, BTreeSet};

/// A leaf: a key of `data`, a label, or a finalizer (which has no value but being there).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Leaf {
    Data(String),
    Label(String),
    Finalizer(String),
}

type Said = BTreeMap<Leaf, String>;

impl Leaf {
    fn path(&self) -> [String; 3] {
        match self {
            Leaf::Data(key) => [field_step("data"), field_step(key), String::new()],
            Leaf::Label(key) => [field_step("metadata"), field_step("labels"), field_step(key)],
            Leaf::Finalizer(name) => {
                [field_step("metadata"), field_step("finalizers"), value_step(&json!(name))]
            }
        }
    }

    fn is_in(&self, set: &FieldSet) -> bool {
        let path = self.path();
        let steps: Vec<&str> = path.iter().map(String::as_str).filter(|s| !s.is_empty()).collect();
        set.has(&steps)
    }

    /// As conflicts name it.
    fn shown(&self) -> String {
        match self {
            Leaf::Data(key) => format!(".data.{key}"),
            Leaf::Label(key) => format!(".metadata.labels.{key}"),
            Leaf::Finalizer(name) => format!(".metadata.finalizers[={name:?}]"),
        }
    }
}

fn object(said: &Said) -> Value {
    let mut object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}});
    for (leaf, value) in said {
        match leaf {
            Leaf::Data(key) => object["data"][key] = json!(value),
            Leaf::Label(key) => object["metadata"]["labels"][key] = json!(value),
            Leaf::Finalizer(name) => {
                let list = &mut object["metadata"]["finalizers"];
                match list.as_array_mut() {
                    Some(list) => list.push(json!(name)),
                    None => *list = json!([name]),
                }
            }
        }
    }
    object
}

fn said(object: &Value) -> Said {
    let map = |pointer: &str, leaf: fn(String) -> Leaf| -> Vec<(Leaf, String)> {
        let map = object.pointer(pointer).and_then(Value::as_object).into_iter().flatten();
        map.map(|(k, v)| (leaf(k.clone()), v.as_str().unwrap().to_string())).collect()
    };
    let finalizers = object.pointer("/metadata/finalizers").and_then(Value::as_array).into_iter().flatten();
    let finalizers = finalizers.map(|f| (Leaf::Finalizer(f.as_str().unwrap().to_string()), String::new()));
    map("/data", Leaf::Data)
        .into_iter()
        .chain(map("/metadata/labels", Leaf::Label))
        .chain(finalizers)
        .collect()
}

/// Who writes: a name, and whether by apply.
type Who = (String, bool);

#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    there: Said,
    owners: BTreeMap<Who, BTreeSet<Leaf>>,
}

impl Model {
    /// The conflicts, if there are any and they were not forced.
    fn apply(&mut self, manager: &str, config: &Said, force: bool) -> Result<(), BTreeSet<(String, String)>> {
        let me = (manager.to_string(), true);
        let changed =
            |leaf: &Leaf| config.get(leaf).is_some_and(|v| self.there.get(leaf).is_some_and(|t| t != v));
        let contested: Vec<(Who, Leaf)> = self
            .owners
            .iter()
            .filter(|(who, _)| **who != me)
            .flat_map(|(who, set)| set.iter().filter(|l| changed(l)).map(|l| (who.clone(), l.clone())))
            .collect();
        if !force && !contested.is_empty() {
            let shown = |(name, applies): &Who| {
                if *applies { format!("{name:?}") } else { format!("{name:?} using v1") }
            };
            return Err(contested.iter().map(|(who, leaf)| (shown(who), leaf.shown())).collect());
        }
        for (who, leaf) in contested {
            self.owners.get_mut(&who).unwrap().remove(&leaf);
        }
        let last = self.owners.insert(me, config.keys().cloned().collect()).unwrap_or_default();
        self.there.extend(config.clone());
        for leaf in last {
            if !self.owners.values().any(|set| set.contains(&leaf)) {
                self.there.remove(&leaf);
            }
        }
        self.owners.retain(|_, set| !set.is_empty());
        Ok(())
    }

    fn update(&mut self, manager: &str, new: &Said) {
        let old = std::mem::replace(&mut self.there, new.clone());
        for set in self.owners.values_mut() {
            set.retain(|leaf| new.contains_key(leaf) && new.get(leaf) == old.get(leaf));
        }
        let written = new.iter().filter(|(leaf, value)| old.get(leaf) != Some(value)).map(|(l, _)| l.clone());
        self.owners.entry((manager.to_string(), false)).or_default().extend(written);
        self.owners.retain(|_, set| !set.is_empty());
    }
}

/// What of the model can be seen in an object.
fn seen(object: &Value, leaves: &BTreeSet<Leaf>) -> Model {
    let mut owners: BTreeMap<Who, BTreeSet<Leaf>> = BTreeMap::new();
    for manager in Managers::of(object).unwrap().iter() {
        let set: BTreeSet<Leaf> = leaves.iter().filter(|l| l.is_in(&manager.set)).cloned().collect();
        if !set.is_empty() {
            owners.insert((manager.name.clone(), manager.operation == Operation::Apply), set);
        }
    }
    Model { there: said(object), owners }
}

#[derive(Clone, Debug)]
enum Step {
    Apply { manager: &'static str, config: Said, force: bool },
    Update { manager: &'static str, new: Said },
}

fn leaves() -> BTreeSet<Leaf> {
    let named = |leaf: fn(String) -> Leaf| ["a", "b", "c"].map(|n| leaf(n.to_string()));
    [named(Leaf::Data), named(Leaf::Label), named(Leaf::Finalizer)].into_iter().flatten().collect()
}

fn configs() -> impl Strategy<Value = Said> {
    let all: Vec<Leaf> = leaves().into_iter().collect();
    proptest::collection::btree_map(proptest::sample::select(all), "[01]", 0..6).prop_map(|map| {
        map.into_iter()
            .map(|(leaf, value)| match leaf {
                Leaf::Finalizer(_) => (leaf, String::new()),
                _ => (leaf, value),
            })
            .collect()
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let manager = || proptest::sample::select(vec!["one", "two", "three"]);
    let apply = (manager(), configs(), any::<bool>()).prop_map(|(manager, config, force)| Step::Apply {
        manager,
        config,
        force,
    });
    let update = (manager(), configs()).prop_map(|(manager, new)| Step::Update { manager, new });
    proptest::collection::vec(prop_oneof![3 => apply, 1 => update], 1..8)
}

fn apply_at(
    second: i64,
    live: &Value,
    config: &Said,
    manager: &str,
    force: bool,
) -> Result<Value, ApplyError> {
    let config = object(config);
    let writer = Writer { now: now(second), ..writer(manager) };
    apply(&ty(&config), live, &config, &writer, force)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_history_has_the_outcome_of_the_model(first in configs(), steps in steps()) {
        prop_assume!(!first.is_empty());
        let mut model = Model::default();
        model.apply("creator", &first, false).unwrap();
        let mut live = apply_at(0, &nothing(&object(&first)), &first, "creator", false).unwrap();
        for (second, step) in (1..).zip(&steps) {
            match step {
                Step::Apply { manager, config, force } => {
                    // An object without owners gets one for all of it first, which is not the model's matter.
                    prop_assume!(!model.owners.is_empty());
                    let before = model.clone();
                    let outcome = apply_at(second, &live, config, manager, *force);
                    match (model.apply(manager, config, *force), outcome) {
                        (Ok(()), Ok(object)) => {
                            if model == before {
                                prop_assert_eq!(&object, &live, "nothing changes, no time either: {:?}", step);
                            }
                            live = object;
                        }
                        (Err(expected), Err(ApplyError::Conflict(told))) => {
                            let told: BTreeSet<_> = told.into_iter().map(|c| (c.manager, c.path)).collect();
                            prop_assert_eq!(told, expected, "{:?}", step);
                        }
                        (expected, told) => prop_assert!(false, "{:?}: {:?}, not {:?}", step, told, expected),
                    }
                }
                Step::Update { manager, new } => {
                    let mut written = object(new);
                    written["metadata"]["managedFields"] = live["metadata"]["managedFields"].clone();
                    let writer = Writer { now: now(second), ..writer(manager) };
                    update_managed_fields(&ty(&live), Some(&live), &mut written, &writer);
                    let known = !model.owners.is_empty();
                    model.update(manager, new);
                    prop_assume!(known);
                    live = written;
                }
            }
            prop_assert_eq!(&seen(&live, &leaves()), &model, "after {:?}", step);
        }
    }

    #[test]
    fn managers_of_different_fields_may_come_in_any_order(one in configs(), two in configs()) {
        let two: Said = two.into_iter().filter(|(leaf, _)| !one.contains_key(leaf)).collect();
        prop_assume!(!one.is_empty() && !two.is_empty());
        let start = nothing(&object(&one));
        let forth = apply_at(1, &apply_at(0, &start, &one, "one", false).unwrap(), &two, "two", false).unwrap();
        let back = apply_at(1, &apply_at(0, &start, &two, "two", false).unwrap(), &one, "one", false).unwrap();
        prop_assert_eq!(seen(&forth, &leaves()), seen(&back, &leaves()));
    }
}
