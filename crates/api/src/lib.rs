//! Orlop's table of kinds and the pure rules of each: defaults, validation, printing, selectors,
//! quantities, names. Nothing here does I/O, reads a clock or draws a random number: those are handed in.
#![cfg_attr(test, recursion_limit = "256")]

pub mod balancer;
pub mod condition;
pub mod cron;
pub mod duration;
pub mod endpoint_notes;
pub mod field_error;
pub mod field_path;
pub mod int_or_string;
pub mod kind;
pub mod kinds;
pub mod local_volume;
pub mod metadata;
pub mod name;

pub mod node_affinity;
pub mod object;
pub mod orlop_v1;
pub mod pod_resources;
pub mod pod_spec;
pub mod print;
pub mod qos;
pub mod quantity;
pub mod quota;
pub mod rbac;
pub mod removed_node;
pub mod selector;
pub mod status;
pub mod taint;

pub use field_error::{FieldError, FieldErrorKind};
pub use field_path::{FieldErrors, Path};
pub use kind::{Column, Conversion, Deletion, Kind, NameRule, Rules, ScalePaths, Scope, StoredAs};
pub use status::Status;
