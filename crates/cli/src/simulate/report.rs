//! What people read of a simulation, and what programs do. It decides nothing.

use super::{
    outcome::{Load, NodeUse, Outcome},
    timeline::{What, counted, lines},
};
use crate::table;
use orlop_api::quantity::Quantity;
use serde_json::{Value, json};
use std::{fmt::Write as _, time::Duration};

/// More lines of the timeline than this are for programs.
const SHOWN: usize = 60;
/// And of nodes.
const NODES: usize = 20;

/// `0s`, `12s`, `3m20s`.
pub(crate) fn time(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, 0) => format!("{m}m"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, _) => format!("{h}h{m}m"),
    }
}

fn cpu(milli: i64) -> String {
    Quantity::from_milli(milli).to_string()
}

/// Bytes as people write them: never longer than they need to be.
fn memory(bytes: i64) -> String {
    const UNITS: [(&str, i64); 3] = [("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];
    match UNITS.iter().find(|(_, size)| bytes >= *size) {
        Some((unit, size)) => {
            let tenths = bytes * 10 / size;
            let rest =
                if tenths % 10 == 0 || tenths >= 1000 { String::new() } else { format!(".{}", tenths % 10) };
            format!("{}{rest}{unit}", tenths / 10)
        }
        None => bytes.to_string(),
    }
}

/// `3.5 -> 4 of 8 (50%)`.
fn change(before: i64, after: i64, offered: i64, told: fn(i64) -> String) -> String {
    let share = if offered > 0 { format!(" ({}%)", after * 100 / offered) } else { String::new() };
    let now = if before == after { told(after) } else { format!("{} -> {}", told(before), told(after)) };
    format!("{now} of {}{share}", told(offered))
}

/// What a person reads.
pub(crate) fn text(outcome: &Outcome) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let timeline = lines(&outcome.events);
    if !timeline.is_empty() {
        let rows = timeline.iter().take(SHOWN);
        let rows = rows
            .map(|(second, who, what)| vec![time(Duration::from_secs(*second)), who.clone(), what.clone()]);
        out += &table::plain(&["TIME", "WHO", "WHAT"], rows.collect());
        if timeline.len() > SHOWN {
            let _ = writeln!(out, "… and {} lines more (-o json has all)", timeline.len() - SHOWN);
        }
        out.push('\n');
    }
    if !outcome.placed.is_empty() {
        let rows = outcome.placed.iter().map(|(who, nodes)| {
            let all: usize = nodes.values().sum();
            vec![who.clone(), all.to_string(), counted(nodes)]
        });
        out += &table::plain(&["PODS OF", "PLACED", "ON"], rows.collect());
        out.push('\n');
    }
    let changed: Vec<&NodeUse> =
        outcome.nodes.iter().filter(|n| n.before != n.after || outcome.nodes.len() <= 10).collect();
    if !outcome.events.is_empty() && !changed.is_empty() {
        let rows = changed.iter().take(NODES).map(|node| {
            let NodeUse { name, before, after, offers } = node;
            let whole = |n: i64| n.to_string();
            vec![
                name.clone(),
                change(before.pods, after.pods, offers.pods, whole),
                change(before.cpu, after.cpu, offers.cpu, cpu),
                change(before.memory, after.memory, offers.memory, memory),
            ]
        });
        out += &table::plain(&["NODE", "PODS", "CPU", "MEMORY"], rows.collect());
        if changed.len() > NODES {
            let _ = writeln!(out, "… and {} nodes more (-o json has all)", changed.len() - NODES);
        }
        out.push('\n');
    }
    for waiting in &outcome.waiting {
        let (first, more) = (waiting.pods.first().map_or("", String::as_str), waiting.pods.len() - 1);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let _ = writeln!(out, "{} stays without a node: {first}{more}\n  {}", waiting.who, waiting.why);
        if let Some((node, changes)) = &waiting.nearest {
            let _ = writeln!(out, "  {node} is nearest to taking it. For that,");
            changes.iter().for_each(|change| {
                let _ = writeln!(out, "  - {change}");
            });
        }
    }
    for undone in &outcome.undone {
        let before = if undone.before { ", as before" } else { "" };
        let _ = writeln!(out, "{} is not as it is wanted{before}\n  {}", undone.who, undone.why);
    }
    for drain in &outcome.drains {
        let node = &drain.node;
        match drain.done {
            Some(at) => {
                let _ = writeln!(out, "{node} is drained after {}: {} pods evicted", time(at), drain.evicted);
            }
            None => {
                let _ = writeln!(out, "{node} is not drained: {} pods evicted", drain.evicted);
            }
        }
        for (pod, why) in &drain.refused {
            let _ = writeln!(out, "  {pod} stays: {why}");
        }
        for (pod, why) in &drain.lost {
            let _ = writeln!(out, "  {pod} is lost: {why}");
        }
    }
    out += &end(outcome);
    out.push('\n');
    // What strangers named must not steer the terminal.
    out.replace(|c: char| c.is_control() && c != '\n', "?")
}

/// The last line.
fn end(outcome: &Outcome) -> String {
    let waiting: usize = outcome.waiting.iter().map(|w| w.pods.len()).sum();
    let many =
        |n: usize, one: &str, more: &str| if n == 1 { format!("1 {one}") } else { format!("{n} {more}") };
    let mut left = Vec::new();
    if waiting > 0 {
        left.push(many(waiting, "pod stays without a node", "pods stay without a node"));
    }
    let undone = outcome.undone.iter().filter(|u| !u.before).count();
    if undone > 0 {
        left.push(many(undone, "workload is not as it is wanted", "workloads are not as they are wanted"));
    }
    let blocked = outcome.drains.iter().filter(|d| d.done.is_none()).count();
    if blocked > 0 {
        left.push(many(blocked, "node is not drained", "nodes are not drained"));
    }
    if let Some(longest) = outcome.busy {
        left.push(format!("after {} things still change", time(longest)));
    }
    match (left.is_empty(), outcome.last()) {
        (true, None) => "Nothing happens.".into(),
        (true, Some(at)) => format!("All is settled after {}.", time(at)),
        (false, None) => format!("Nothing happens; {}.", left.join(", ")),
        (false, Some(at)) => format!("The last change is after {}; {}.", time(at), left.join(", ")),
    }
}

fn load(load: Load) -> Value {
    json!({"pods": load.pods, "cpu": cpu(load.cpu), "memory": Quantity::from_bytes(load.memory).to_string()})
}

/// What a program reads.
pub(crate) fn machine(outcome: &Outcome) -> Value {
    let seconds = |time: Duration| (time.as_secs_f64() * 1000.0).round() / 1000.0;
    let events = outcome.events.iter().map(|event| match &event.what {
        What::Itself(what) => json!({"seconds": seconds(event.at), "object": event.who, "what": what}),
        What::Pod { pod, did, node } => {
            let mut told =
                json!({"seconds": seconds(event.at), "object": event.who, "pod": pod, "what": did});
            if !node.is_empty() {
                told["node"] = node.as_str().into();
            }
            told
        }
    });
    let nodes = outcome.nodes.iter().map(|n| {
        json!({"name": n.name, "before": load(n.before), "after": load(n.after), "allocatable": load(n.offers)})
    });
    let waiting = outcome.waiting.iter().map(|w| {
        let nearest = w.nearest.as_ref().map(|(node, changes)| json!({"node": node, "changes": changes}));
        json!({"object": w.who, "pods": w.pods, "reason": w.why, "nearest": nearest})
    });
    let undone =
        outcome.undone.iter().map(|u| json!({"object": u.who, "reason": u.why, "asBefore": u.before}));
    let drains = outcome.drains.iter().map(|d| {
        json!({"node": d.node, "evicted": d.evicted, "refused": d.refused, "lost": d.lost,
            "drainedAfterSeconds": d.done.map(seconds)})
    });
    json!({
        "settled": outcome.code() == 0,
        "seconds": outcome.last().map(seconds).unwrap_or_default(),
        "stillBusy": outcome.busy.is_some(),
        "timeline": events.collect::<Vec<_>>(),
        "placed": outcome.placed,
        "nodes": nodes.collect::<Vec<_>>(),
        "pending": waiting.collect::<Vec<_>>(),
        "undone": undone.collect::<Vec<_>>(),
        "drains": drains.collect::<Vec<_>>(),
        "refused": outcome.refused,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::{drain::Drain, outcome::Waiting, timeline::Event};
    use std::collections::BTreeMap;

    fn some() -> Outcome {
        let event =
            |second, what| Event { at: Duration::from_secs(second), who: "Deployment a/web".into(), what };
        let pod = |did| What::Pod { pod: "web-1".into(), did, node: "n1".into() };
        Outcome {
            events: vec![
                event(0, pod("bound")),
                event(3, pod("ready")),
                event(72, What::Itself("rolled out".into())),
            ],
            nodes: vec![NodeUse {
                name: "n1".into(),
                before: Load { pods: 1, cpu: 500, memory: 1 << 30 },
                after: Load { pods: 2, cpu: 1000, memory: 1 << 30 },
                offers: Load { pods: 110, cpu: 4000, memory: 8 << 30 },
            }],
            placed: BTreeMap::from([("Deployment a/web".into(), BTreeMap::from([("n1".into(), 1)]))]),
            ..Outcome::default()
        }
    }

    #[test]
    fn a_person_reads_what_happened_and_where_it_led() {
        let want = "TIME    WHO                WHAT\n\
                    0s      Deployment a/web   1 pod bound to n1\n\
                    3s      Deployment a/web   1 pod ready\n\
                    1m12s   Deployment a/web   rolled out\n\n\
                    PODS OF            PLACED   ON\n\
                    Deployment a/web   1        n1\n\n\
                    NODE   PODS                 CPU                     MEMORY\n\
                    n1     1 -> 2 of 110 (1%)   500m -> 1 of 4 (25%)    1Gi of 8Gi (12%)\n\n\
                    All is settled after 1m12s.\n";
        let squeeze = |text: &str| text.split(' ').filter(|p| !p.is_empty()).collect::<Vec<_>>().join(" ");
        assert_eq!(squeeze(&text(&some())), squeeze(want));
        assert_eq!(text(&Outcome::default()), "Nothing happens.\n");
    }

    #[test]
    fn a_person_reads_what_stays_undone_and_what_would_help() {
        let waiting = Waiting {
            who: "Deployment a/web".into(),
            pods: vec!["web-1".into(), "web-2".into()],
            why: "0/1 nodes are available: 1 Insufficient cpu.".into(),
            nearest: Some(("n1".into(), vec!["ask for 300m less cpu".into()])),
        };
        let refused = BTreeMap::from([("a/db-0".to_string(), "Cannot evict pod".to_string())]);
        let drain = Drain {
            node: "n1".into(),
            evicted: 2,
            refused,
            lost: BTreeMap::from([("a/lone".into(), "nobody makes it".into())]),
            done: None,
        };
        let outcome = Outcome { waiting: vec![waiting], drains: vec![drain], ..Outcome::default() };
        assert_eq!(
            text(&outcome),
            "Deployment a/web stays without a node: web-1 and 1 more\n  0/1 nodes are available: 1 Insufficient cpu.\n  \
             n1 is nearest to taking it. For that,\n  - ask for 300m less cpu\n\
             n1 is not drained: 2 pods evicted\n  a/db-0 stays: Cannot evict pod\n  \
             a/lone is lost: nobody makes it\n\
             Nothing happens; 2 pods stay without a node, 1 node is not drained.\n"
        );
        let machine = machine(&outcome);
        assert_eq!(
            (&machine["settled"], &machine["pending"][0]["nearest"]["node"]),
            (&json!(false), &json!("n1"))
        );
    }

    #[test]
    fn amounts_are_short() {
        assert_eq!(
            [0, 900, 1536, 3 << 20, (3 << 30) + (512 << 20)].map(memory),
            ["0", "900", "1.5Ki", "3Mi", "3.5Gi"]
        );
        assert_eq!([5, 60, 3605].map(|s| time(Duration::from_secs(s))), ["5s", "1m", "1h0m"]);
    }
}
