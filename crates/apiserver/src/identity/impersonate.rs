//! Acting as somebody else (Kubernetes documentation, "User impersonation"): what the headers ask for, which rights that
//! takes, and who comes out. Pure; whether the rights are there is asked of the authorizers by the caller.

use super::{AUTHENTICATED, Attributes, Identity, UNAUTHENTICATED};
use http::HeaderMap;
use orlop_api::Status;
use percent_encoding::percent_decode_str;
use std::collections::BTreeMap;

const ANONYMOUS: &str = "system:anonymous";
const EXTRA: &str = "impersonate-extra-";
const GROUP: &str = "authentication.k8s.io";

/// Whom a client wants to act as.
#[derive(Debug, PartialEq)]
pub(crate) struct Wanted {
    user: String,
    uid: String,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

/// Namespace and name of the service account that a user name stands for.
pub(crate) fn service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

impl Wanted {
    /// What the headers ask for, if anything.
    pub(crate) fn read(headers: &HeaderMap) -> Result<Option<Self>, Status> {
        let all = |name: &str| -> Vec<String> {
            headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).map(str::to_string).collect()
        };
        let one = |name: &str| all(name).into_iter().next().unwrap_or_default();
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in headers {
            let Some(key) = name.as_str().strip_prefix(EXTRA) else { continue };
            let key = percent_decode_str(key).decode_utf8_lossy().into_owned();
            extra.entry(key).or_default().extend(value.to_str().ok().map(str::to_string));
        }
        let wanted = Self {
            user: one("impersonate-user"),
            uid: one("impersonate-uid"),
            groups: all("impersonate-group"),
            extra,
        };
        if !wanted.user.is_empty() {
            return Ok(Some(wanted));
        }
        if wanted.uid.is_empty() && wanted.groups.is_empty() && wanted.extra.is_empty() {
            return Ok(None);
        }
        Err(Status::internal(format!(
            "requested groups {:?}, uid {:?} and extra {:?} without impersonating a user",
            wanted.groups, wanted.uid, wanted.extra
        )))
    }

    /// What the client must be allowed to do, all of it.
    pub(crate) fn rights(&self) -> Vec<Attributes<'_>> {
        let base = Attributes { verb: "impersonate", ..Attributes::default() };
        let mut rights = vec![match service_account(&self.user) {
            Some((namespace, name)) => {
                Attributes { resource: "serviceaccounts", namespace, name, ..base.clone() }
            }
            None => Attributes { resource: "users", name: &self.user, ..base.clone() },
        }];
        rights.extend(self.groups.iter().map(|name| Attributes { resource: "groups", name, ..base.clone() }));
        for (key, values) in &self.extra {
            let of = |name| Attributes {
                group: GROUP,
                resource: "userextras",
                subresource: key,
                name,
                ..base.clone()
            };
            rights.extend(values.iter().map(|value| of(value)));
        }
        if !self.uid.is_empty() {
            rights.push(Attributes { group: GROUP, resource: "uids", name: &self.uid, ..base });
        }
        rights
    }

    /// Who the client acts as.
    pub(crate) fn identity(self) -> Identity {
        let mut groups = self.groups;
        if groups.is_empty()
            && let Some((namespace, _)) = service_account(&self.user)
        {
            groups = vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")];
        }
        let known = groups.iter().any(|g| g == AUTHENTICATED || g == UNAUTHENTICATED);
        if self.user == ANONYMOUS {
            if !groups.iter().any(|g| g == UNAUTHENTICATED) {
                groups.push(UNAUTHENTICATED.into());
            }
        } else if !known {
            groups.push(AUTHENTICATED.into());
        }
        Identity { user: self.user, uid: self.uid, groups, extra: self.extra, fence: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&'static str, &str)]) -> Result<Option<Wanted>, Status> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        Wanted::read(&headers)
    }

    fn asked(wanted: &Wanted) -> Vec<String> {
        let show = |a: Attributes<'_>| [a.group, a.resource, a.subresource, a.namespace, a.name].join("|");
        wanted.rights().into_iter().map(show).collect()
    }

    #[test]
    fn each_part_of_an_identity_takes_a_right_of_its_own() {
        let wanted = read(&[
            ("impersonate-user", "jane"),
            ("impersonate-group", "dev"),
            ("impersonate-group", "ops"),
            ("impersonate-uid", "7"),
            ("impersonate-extra-example.com%2fscopes", "view"),
        ]);
        let wanted = wanted.unwrap().unwrap();
        assert_eq!(
            asked(&wanted),
            [
                "|users|||jane",
                "|groups|||dev",
                "|groups|||ops",
                "authentication.k8s.io|userextras|example.com/scopes||view",
                "authentication.k8s.io|uids|||7",
            ]
        );
        let who = wanted.identity();
        assert_eq!(who.groups, ["dev", "ops", AUTHENTICATED]);
        assert_eq!((who.uid.as_str(), &who.extra["example.com/scopes"]), ("7", &vec!["view".to_string()]));
    }

    #[test]
    fn a_service_account_is_asked_for_where_it_lives_and_brings_its_groups() {
        let wanted = read(&[("impersonate-user", "system:serviceaccount:n:robot")]).unwrap().unwrap();
        assert_eq!(asked(&wanted), ["|serviceaccounts||n|robot"]);
        assert_eq!(
            wanted.identity().groups,
            ["system:serviceaccounts", "system:serviceaccounts:n", AUTHENTICATED]
        );
    }

    #[test]
    fn nobody_becomes_known_by_acting_as_anonymous() {
        let wanted = read(&[("impersonate-user", ANONYMOUS)]).unwrap().unwrap();
        assert_eq!(wanted.identity().groups, [UNAUTHENTICATED]);
    }

    #[test]
    fn groups_without_a_user_are_refused() {
        assert_eq!(read(&[]).unwrap(), None);
        assert_eq!(read(&[("impersonate-group", "system:masters")]).unwrap_err().code, 500);
        assert_eq!(read(&[("impersonate-uid", "1")]).unwrap_err().code, 500);
    }
}
