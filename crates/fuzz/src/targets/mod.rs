//! The targets, by what they read.

mod bodies;
mod cel;
mod custom;
mod dns;
mod images;
mod patches;
mod requests;
mod scalars;
mod store;
mod streams;

use crate::Target;

/// All targets.
pub const ALL: &[Target] = &[
    Target { name: "bodies", run: bodies::run, tries: 1500 },
    Target { name: "json_patch", run: patches::json_patch, tries: 1500 },
    Target { name: "strategic_merge", run: patches::strategic_merge, tries: 1000 },
    Target { name: "apply", run: patches::apply, tries: 500 },
    Target { name: "selectors", run: scalars::selectors, tries: 5000 },
    Target { name: "scalars", run: scalars::scalars, tries: 5000 },
    Target { name: "custom_resources", run: custom::run, tries: 400 },
    Target { name: "cel", run: cel::run, tries: 2000 },
    Target { name: "spdy", run: streams::spdy, tries: 3000 },
    Target { name: "channels", run: streams::channels, tries: 3000 },
    Target { name: "log_lines", run: streams::log_lines, tries: 3000 },
    Target { name: "store_log", run: store::run, tries: 60 },
    Target { name: "archives", run: images::archives, tries: 500 },
    Target { name: "image_documents", run: images::documents, tries: 3000 },
    Target { name: "certificates", run: images::certificates, tries: 1000 },
    Target { name: "dns", run: dns::run, tries: 20000 },
    Target { name: "requests", run: requests::run, tries: 150 },
];
