//! Echo server on epoll without Python: what the machine and the kernel allow at best.
//!
//! Listens on a free port, prints `{"port": N}`, serves until it is killed.

use std::io::{ErrorKind, Read, Result, Write};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

const LISTENER: Token = Token(usize::MAX);

struct Connection {
    stream: TcpStream,
    /// Received and not yet sent back; reading pauses while there is any.
    pending: Vec<u8>,
}

fn main() -> Result<()> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let mut listener = TcpListener::bind(([127, 0, 0, 1], 0).into())?;
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)?;
    println!("{{\"port\": {}}}", listener.local_addr()?.port());
    let mut connections = Slab::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result?,
        }
        for event in &events {
            let token = event.token();
            if token == LISTENER {
                while let Some(mut stream) = accept(&listener)? {
                    stream.set_nodelay(true)?;
                    let entry = connections.vacant_entry();
                    let interest = Interest::READABLE | Interest::WRITABLE;
                    poll.registry()
                        .register(&mut stream, Token(entry.key()), interest)?;
                    let pending = Vec::new();
                    entry.insert(Connection { stream, pending });
                }
            } else if let Some(connection) = connections.get_mut(token.0) {
                let open = connection.echo(&mut buffer, event.is_read_closed());
                if !matches!(open, Ok(true)) {
                    connections.remove(token.0);
                }
            }
        }
    }
}

fn accept(listener: &TcpListener) -> Result<Option<TcpStream>> {
    match listener.accept() {
        Ok((stream, _)) => Ok(Some(stream)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

impl Connection {
    /// Echoes until the socket is drained or full, with `closed` to the end of the stream; false
    /// at that end.
    fn echo(&mut self, buffer: &mut [u8], closed: bool) -> Result<bool> {
        let pending = std::mem::take(&mut self.pending);
        self.send(&pending)?;
        while self.pending.is_empty() {
            match self.stream.read(buffer) {
                Ok(0) => return Ok(false),
                Ok(count) => {
                    self.send(&buffer[..count])?;
                    // A short read drains the socket: the next bytes raise a new edge.
                    if count < buffer.len() && !closed {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn send(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.pending.extend_from_slice(bytes);
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
