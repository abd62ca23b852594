//! Datagrams: as many as have come are answered together; those that must wait for others, by themselves.

use super::{
    Service,
    batch::{BATCH, Batch},
};
use crate::responder::{Door, Origin, Step};
use std::{os::fd::AsFd, sync::Arc, time::Instant};
use tokio::{io::Interest, net::UdpSocket};

/// Answers until the socket is gone.
pub(super) async fn serve(socket: UdpSocket, door: Door, service: Arc<Service>) {
    let (socket, mut batch) = (Arc::new(socket), Batch::new());
    loop {
        let received = socket.async_io(Interest::READABLE, || batch.receive(socket.as_fd())).await;
        match received {
            Ok(count) => {
                answer(&socket, door, &service, &mut batch, count);
                // Others of this thread have their turn after a full batch.
                if count == BATCH {
                    tokio::task::yield_now().await;
                }
            }
            // What an earlier answer met on its way; nothing about the socket.
            Err(error) => tracing::debug!(%error, "a datagram was not received"),
        }
    }
}

fn answer(socket: &Arc<UdpSocket>, door: Door, service: &Arc<Service>, batch: &mut Batch, count: usize) {
    for index in 0..count {
        let Some(from) = batch.peer(index).filter(|peer| peer.port() != 0) else { continue };
        let origin = Origin { door, from, tcp: false, at: Instant::now() };
        let mut out = batch.buffer();
        match service.responder.respond(batch.packet(index), &origin, None, &mut out) {
            Step::Reply => batch.replies.push((index, out)),
            Step::Drop => batch.give_back(out),
            Step::Ask { name, kind } => {
                batch.give_back(out);
                let (socket, service) = (socket.clone(), service.clone());
                let packet = batch.packet(index).to_vec();
                tokio::task::spawn_local(async move {
                    if let Some(reply) = service.ask(&packet, &origin, &name, kind).await
                        && let Err(error) = socket.send_to(&reply, from).await
                    {
                        tracing::debug!(%error, "a DNS answer could not be sent");
                    }
                });
            }
        }
    }
    batch.send(socket.as_fd());
}
