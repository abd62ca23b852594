//! ServiceAccount: the identity of what runs in pods.

use super::{base, texts};
use crate::{Kind, Rules, print};
use jiff::Timestamp;
use serde_json::Value;

/// The description of ServiceAccount.
pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["sa"]),
        columns: vec![print::name_column(), print::age_column()],
        ..base("", "v1", "ServiceAccount", "serviceaccounts", ServiceAccount)
    }
}

struct ServiceAccount;

impl Rules for ServiceAccount {
    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![print::name(object), print::age(object, now)]
    }
}
