//! Which representation a client accepts (RFC 9110, `Accept`; Kubernetes documentation, "API Concepts"). JSON and YAML are
//! spoken, and protobuf to who takes nothing else: a client that lists JSON behind it gets JSON.

use http::{HeaderMap, header};
use orlop_api::Status;
use orlop_schema::protobuf::MEDIA_TYPE;

/// What the answer shows of the objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// All of them.
    Whole,
    /// meta.k8s.io/v1 `Table`: columns and rows.
    Table,
    /// meta.k8s.io/v1 `PartialObjectMetadata`: only `metadata`.
    Metadata,
}

/// The version of `Table` and `PartialObjectMetadata`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum MetaVersion {
    #[default]
    V1,
    V1Beta1,
}

impl MetaVersion {
    /// As `apiVersion`.
    pub(crate) fn api_version(self) -> &'static str {
        match self {
            Self::V1 => "meta.k8s.io/v1",
            Self::V1Beta1 => "meta.k8s.io/v1beta1",
        }
    }
}

/// The representation of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Negotiated {
    pub form: Form,
    /// In which version of meta.k8s.io the form is, where it is not [`Form::Whole`].
    pub meta: MetaVersion,
    pub yaml: bool,
    /// Kubernetes' protobuf: whole objects and lists, and their metadata, but no tables and no watches.
    pub protobuf: bool,
    /// Indent the JSON, for a person.
    pub pretty: bool,
    pub gzip: bool,
}

/// One media range of an `Accept` header.
pub(crate) struct Range<'a> {
    pub media: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
}

impl Range<'_> {
    /// The value of a parameter.
    pub(crate) fn parameter(&self, key: &str) -> Option<&str> {
        self.parameters.iter().find(|(k, _)| *k == key).map(|(_, v)| *v)
    }

    fn quality(&self) -> f32 {
        self.parameter("q").and_then(|q| q.parse().ok()).unwrap_or(1.0)
    }
}

/// The media ranges of an `Accept` header, best first.
pub(crate) fn ranges(accept: &str) -> Vec<Range<'_>> {
    let mut ranges: Vec<Range<'_>> = accept
        .split(',')
        .filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().filter(|m| !m.is_empty())?;
            let parameters = parts
                .filter_map(|p| p.split_once('='))
                .map(|(k, v)| (k.trim(), v.trim().trim_matches('"')))
                .collect();
            Some(Range { media, parameters })
        })
        .collect();
    ranges.sort_by(|a, b| b.quality().total_cmp(&a.quality()));
    ranges
}

pub(crate) fn accept(headers: &HeaderMap) -> &str {
    headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("*/*")
}

fn form(range: &Range<'_>) -> Option<(Form, MetaVersion)> {
    let Some(wanted) = range.parameter("as") else { return Some((Form::Whole, MetaVersion::V1)) };
    let version = match range.parameter("v") {
        Some("v1") => MetaVersion::V1,
        Some("v1beta1") => MetaVersion::V1Beta1,
        _ => return None,
    };
    let form = match wanted {
        "Table" => Form::Table,
        "PartialObjectMetadata" | "PartialObjectMetadataList" => Form::Metadata,
        _ => return None,
    };
    (range.parameter("g") == Some("meta.k8s.io")).then_some((form, version))
}

/// As [`negotiate`], for answers that are no objects with metadata and have no other form than their own.
pub(crate) fn negotiate_whole(headers: &HeaderMap, pretty: bool) -> Result<Negotiated, Status> {
    choose(headers, pretty, |form| form == Form::Whole)
}

/// The best representation that both sides know, or 406.
pub(crate) fn negotiate(headers: &HeaderMap, pretty: bool) -> Result<Negotiated, Status> {
    choose(headers, pretty, |_| true)
}

fn choose(headers: &HeaderMap, pretty: bool, has: impl Fn(Form) -> bool) -> Result<Negotiated, Status> {
    let gzip = headers
        .get(header::ACCEPT_ENCODING)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| v.split(',').any(|e| e.split(';').next().unwrap_or_default().trim() == "gzip"));
    let accept = accept(headers);
    let json =
        Negotiated { form: Form::Whole, meta: MetaVersion::V1, yaml: false, protobuf: false, pretty, gzip };
    let mut last = None;
    for range in ranges(accept) {
        let Some((form, meta)) = form(&range).filter(|(form, _)| has(*form)) else { continue };
        let json = Negotiated { form, meta, ..json };
        match range.media {
            "application/json" | "application/*" | "*/*" => return Ok(json),
            "application/yaml" => return Ok(Negotiated { yaml: true, ..json }),
            MEDIA_TYPE if form != Form::Table => {
                last.get_or_insert(Negotiated { protobuf: true, ..json });
            }
            _ => {}
        }
    }
    match last {
        Some(protobuf) => Ok(protobuf),
        None if accept.trim().is_empty() => Ok(json),
        None => Err(not_acceptable()),
    }
}

/// 406.
pub(crate) fn not_acceptable() -> Status {
    Status::not_acceptable(
        "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_common_representation_is_chosen() {
        type Case = (&'static str, Result<(Form, bool), u16>);
        let cases: &[Case] = &[
            ("", Ok((Form::Whole, false))),
            ("*/*", Ok((Form::Whole, false))),
            ("application/yaml", Ok((Form::Whole, true))),
            ("application/vnd.kubernetes.protobuf, application/json", Ok((Form::Whole, false))),
            ("application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io", Err(406)),
            ("text/html", Err(406)),
            (
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
                Ok((Form::Table, false)),
            ),
            ("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", Ok((Form::Metadata, false))),
            ("application/json;as=Table;v=v1beta1;g=meta.k8s.io", Ok((Form::Table, false))),
            ("application/json;as=Table;v=v2;g=meta.k8s.io", Err(406)),
            ("application/json;as=Other;g=x;v=v1,application/json;q=0.5", Ok((Form::Whole, false))),
            ("application/json;q=0.1,application/yaml;q=0.9", Ok((Form::Whole, true))),
        ];
        for (accept, expected) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            let got = negotiate(&headers, false).map(|n| (n.form, n.yaml)).map_err(|s| s.code);
            assert_eq!(got, *expected, "{accept}");
        }
    }

    #[test]
    fn protobuf_is_for_those_who_take_nothing_else() {
        for (accept, expected) in [
            ("application/vnd.kubernetes.protobuf", true),
            ("application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1", true),
            ("application/vnd.kubernetes.protobuf,text/html", true),
            ("application/vnd.kubernetes.protobuf,application/json;q=0.1", false),
            ("application/vnd.kubernetes.protobuf,*/*", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            assert_eq!(negotiate(&headers, false).unwrap().protobuf, expected, "{accept}");
        }
    }
}
