//! The rules of pod specs, shared by Pod and everything with a pod template: what is filled in, what is refused,
//! what may change. One module for each part of a spec; none knows which kind it stands in.

pub mod containers;
pub mod defaults;
pub mod env;
pub mod ephemeral;
pub mod image;
pub mod probes;
pub mod resize;
pub mod resources;
pub mod scheduling;
pub mod security;
pub mod template;
pub mod update;
pub mod validate;
pub(crate) mod volume_sources;
pub mod volumes;

/// Largest value of a signed 32-bit number, the type of most numbers in the API.
pub(crate) const MAX_INT32: i64 = i32::MAX as i64;

/// Makes `new` what `old` is, except for who owns which field: the start of what a subresource writes, which puts its own
/// part back.
fn keep_all_but_managed_fields(new: &mut serde_json::Value, old: &serde_json::Value) {
    let managed = new.pointer("/metadata/managedFields").cloned();
    *new = old.clone();
    if let (Some(managed), Some(metadata)) = (managed, crate::object::child(new, "metadata")) {
        metadata["managedFields"] = managed;
    }
}
