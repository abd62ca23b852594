//! Packets to the cluster's DNS, of its own clients and of strangers, and what other servers say. An answer must be a message
//! that somebody else's parser reads, with the question's number, and no longer than the client takes.

use crate::sections::sections;
use hickory_proto::op::{Message, MessageType};
use orlop_dns::{
    DnsIndex, EndpointRecord, Layout, PortRecord, Protocol, Rank, ServiceRecord, ServiceTarget, Zones,
    parsers::{Answering, index_of},
};
use std::sync::{Arc, LazyLock};

static ANSWERING: LazyLock<Answering> = LazyLock::new(|| {
    let cluster = index_of(3).expect("a domain");
    let endpoint = |number: u8| EndpointRecord {
        address: [10, 42, 0, number].into(),
        hostname: (number < 2).then(|| format!("db-{number}")),
        ports: vec![PortRecord { name: "sql".into(), protocol: Protocol::Tcp, port: 5432 }],
        rank: Rank::default(),
        pointer: true,
    };
    let targets = [
        ("db", ServiceTarget::Headless { endpoints: (0..60).map(endpoint).collect() }),
        ("away", ServiceTarget::External { name: "www.example.org".into() }),
        ("near", ServiceTarget::External { name: "db.default.svc.cluster.local".into() }),
        ("loop", ServiceTarget::External { name: "loop.default.svc.cluster.local".into() }),
    ];
    let exported = DnsIndex::with_layout("example.com", Layout::OneNamespace).expect("a domain");
    for (name, target) in targets {
        let record = ServiceRecord { namespace: "default".into(), name: name.into(), target };
        exported.set_service(record.clone());
        cluster.set_service(record);
    }
    let zones = Zones { cluster: Arc::new(cluster), below: None, exported: vec![Arc::new(exported)] };
    Answering::new(zones).expect("it has no sockets")
});

/// A question, and what others say if they are asked.
pub(super) fn run(input: &[u8]) {
    let parts = sections(input, 2);
    let (packet, upstream) = (parts[0], parts.get(1).copied().unwrap_or_default());
    for (stranger, tcp) in [(false, false), (false, true), (true, false), (true, true)] {
        let Some(answer) = ANSWERING.answer(packet, stranger, tcp, upstream) else { continue };
        assert!(answer.len() <= if tcp { 65_535 } else { 1232 }, "{} bytes", answer.len());
        assert_eq!(answer[..2], packet[..2], "the number");
        // Data of others is passed on as it is, whatever they say that it is.
        if upstream.is_empty() {
            let message = Message::from_vec(&answer).expect("an answer can be read");
            assert_eq!(message.metadata.message_type, MessageType::Response);
        }
    }
}
