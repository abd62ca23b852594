//! A SPDY client as small as can be, over an upgraded connection or in the messages of a WebSocket.

use super::*;
use crate::streaming::spdy::{Decoder, Encoder, Frame, Headers};
use bytes::BytesMut;
use std::collections::HashSet;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

enum Wire {
    Raw(Box<TlsStream<TcpStream>>),
    Tunnel(Box<Socket>),
}

pub struct SpdyClient {
    wire: Wire,
    encoder: Encoder,
    decoder: Decoder,
    buffer: BytesMut,
    next: u32,
    seen: HashMap<u32, Vec<u8>>,
    finished: HashSet<u32>,
    pub refused: HashSet<u32>,
    pub accepted: HashSet<u32>,
    pub pongs: HashSet<u32>,
}

impl SpdyClient {
    fn new(wire: Wire) -> Self {
        Self {
            wire,
            encoder: Encoder::new().expect("an encoder"),
            decoder: Decoder::new(),
            buffer: BytesMut::new(),
            next: 1,
            seen: HashMap::new(),
            finished: HashSet::new(),
            refused: HashSet::new(),
            accepted: HashSet::new(),
            pongs: HashSet::new(),
        }
    }

    pub fn tunnel(socket: Socket) -> Self {
        Self::new(Wire::Tunnel(Box::new(socket)))
    }

    /// Upgrades as client-go does.
    pub async fn upgrade(mut stream: TlsStream<TcpStream>, path: &str, protocol: &str) -> Self {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: node-1\r\nContent-Length: 0\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: {protocol}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.expect("sent");
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(patient(stream.read_u8()).await.expect("an answer"));
        }
        let answer = String::from_utf8(answer).expect("text").to_ascii_lowercase();
        assert!(answer.starts_with("http/1.1 101"), "{answer}");
        assert!(answer.contains("upgrade: spdy/3.1\r\n"), "{answer}");
        assert!(answer.contains(&format!("x-stream-protocol-version: {protocol}\r\n")), "{answer}");
        Self::new(Wire::Raw(Box::new(stream)))
    }

    pub async fn send(&mut self, frame: Frame) {
        let bytes = self.encoder.encode(&frame).expect("encoded");
        match &mut self.wire {
            Wire::Raw(stream) => stream.write_all(&bytes).await.expect("sent"),
            Wire::Tunnel(socket) => socket.send(Message::Binary(bytes)).await.expect("sent"),
        }
    }

    pub async fn open(&mut self, headers: &[(&str, &str)]) -> u32 {
        let id = self.next;
        self.next += 2;
        let headers = Headers(headers.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect());
        self.send(Frame::SynStream { id, priority: 0, fin: false, unidirectional: false, headers }).await;
        id
    }

    pub async fn data(&mut self, id: u32, bytes: &[u8], fin: bool) {
        self.send(Frame::Data { id, fin, bytes: Bytes::copy_from_slice(bytes) }).await;
    }

    pub fn text(&self, id: u32) -> String {
        String::from_utf8(self.seen.get(&id).cloned().unwrap_or_default()).expect("text")
    }

    pub fn length(&self, id: u32) -> usize {
        self.seen.get(&id).map_or(0, Vec::len)
    }

    pub async fn until_finished(&mut self, ids: &[u32]) {
        let ids = ids.to_vec();
        self.until(move |client| ids.iter().all(|id| client.finished.contains(id))).await;
    }

    /// Reads frames until something holds.
    pub async fn until(&mut self, holds: impl Fn(&Self) -> bool) {
        while !holds(self) {
            match self.decoder.decode(&mut self.buffer).expect("a frame") {
                Some(frame) => self.take(frame),
                None => self.read().await,
            }
        }
    }

    async fn read(&mut self) {
        match &mut self.wire {
            Wire::Raw(stream) => {
                let read = patient(stream.read_buf(&mut self.buffer)).await.expect("read");
                assert!(read > 0, "the connection ended");
            }
            Wire::Tunnel(socket) => match patient(socket.next()).await {
                Some(Ok(Message::Binary(bytes))) => self.buffer.extend_from_slice(&bytes),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("the connection ended: {other:?}"),
            },
        }
    }

    fn take(&mut self, frame: Frame) {
        match frame {
            Frame::Data { id, fin, bytes } => {
                self.seen.entry(id).or_default().extend(&bytes);
                if fin {
                    self.finished.insert(id);
                }
            }
            Frame::RstStream { id, .. } => {
                self.refused.insert(id);
            }
            Frame::SynReply { id, .. } => {
                self.accepted.insert(id);
            }
            Frame::Ping { id } => {
                self.pongs.insert(id);
            }
            _ => {}
        }
    }
}
