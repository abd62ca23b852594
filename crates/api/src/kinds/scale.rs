//! Scale (autoscaling/v1): the view that `…/scale` gives of other kinds. It has no path of its own and is never stored, so it is not in
//! the table.

use super::base;
use crate::{Kind, Rules, print};
use jiff::Timestamp;
use serde_json::Value;

/// The description of Scale.
pub fn kind() -> Kind {
    let columns = vec![
        print::name_column(),
        print::int_column("Desired", "How many there should be."),
        print::int_column("Available", "How many there are."),
        print::age_column(),
    ];
    Kind { columns, ..base("autoscaling", "v1", "Scale", "scales", Scale) }
}

struct Scale;

impl Rules for Scale {
    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            print::name(object),
            print::number(object, "/spec/replicas"),
            print::number(object, "/status/replicas"),
            print::age(object, now),
        ]
    }
}
