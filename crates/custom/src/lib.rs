//! Custom resources: the kind CustomResourceDefinition, and everything that is pure about the objects that it defines:
//! structural schemas, pruning, defaulting, validation, CEL rules, printing. Nothing here does I/O or reads a clock.

pub mod conversion;
pub mod definition;
pub mod fit;
pub mod json_path;
pub mod lists;
pub mod names;
pub mod patterns;
mod place;
pub mod rules;
pub mod schema;
pub mod structural;
pub mod value;
pub mod version;

pub use version::{Served, build};

#[cfg(test)]
mod tests;
