//! Echo server on epoll without Python: what the machine and the kernel allow at best.
//!
//! Listens on a free port or on a path, prints `{"address": "tcp:127.0.0.1:N"}`, serves until it
//! is killed.

use std::io::{ErrorKind, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use clap::Parser;
use mio::event::Source;
use mio::net::{TcpListener, UdpSocket, UnixListener};
use mio::{Events, Interest, Poll, Registry, Token};
use rustls::ServerConfig;
use slab::Slab;
use socket2::SockRef;

use loadgen::stream::Stream;
use loadgen::tls::{server_config, TlsStream};

const LISTENER: Token = Token(usize::MAX);
const BUFFER_SIZE: usize = 256 * 1024;
/// Room for a datagram of each of many clients.
const DATAGRAM_BUFFER: usize = 1024 * 1024;

#[derive(Parser)]
#[command(about)]
struct Arguments {
    /// Listen on a Unix socket
    #[arg(long)]
    path: Option<PathBuf>,
    /// Echo datagrams
    #[arg(long, conflicts_with_all = ["path", "certificate"])]
    udp: bool,
    /// Speak TLS with the certificate.pem and key.pem of a folder
    #[arg(long, value_name = "FOLDER", conflicts_with = "path")]
    certificate: Option<PathBuf>,
}

enum Listener {
    Tcp(TcpListener),
    Tls(TcpListener, Arc<ServerConfig>),
    Unix(UnixListener),
}

struct Connection {
    stream: Stream,
    /// Received and not yet sent back; reading pauses while there is any.
    pending: Vec<u8>,
    /// Whether it is registered for writing too. A Unix socket tells whenever its peer has read.
    writes: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if arguments.udp {
        return serve_datagrams();
    }
    let listener = if let Some(path) = arguments.path {
        let listener = UnixListener::bind(&path)?;
        println!("{{\"address\": \"unix:{}\"}}", path.display());
        Listener::Unix(listener)
    } else {
        let listener = TcpListener::bind(([127, 0, 0, 1], 0).into())?;
        let address = listener.local_addr()?;
        let (scheme, listener) = match arguments.certificate {
            Some(folder) => ("tls", Listener::Tls(listener, server_config(&folder)?)),
            None => ("tcp", Listener::Tcp(listener)),
        };
        println!("{{\"address\": \"{scheme}:{address}\"}}");
        listener
    };
    serve_streams(listener)
}

fn serve_streams(mut listener: Listener) -> Result<()> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let registry = poll.registry().try_clone()?;
    registry.register(listener.source(), LISTENER, Interest::READABLE)?;
    let mut connections = Slab::new();
    let mut buffer = vec![0; BUFFER_SIZE];
    loop {
        wait(&mut poll, &mut events)?;
        for event in &events {
            let token = event.token();
            if token == LISTENER {
                while let Some(mut stream) = listener.accept()? {
                    let entry = connections.vacant_entry();
                    registry.register(&mut stream, Token(entry.key()), Interest::READABLE)?;
                    entry.insert(Connection {
                        stream,
                        pending: Vec::new(),
                        writes: false,
                    });
                }
            } else if let Some(connection) = connections.get_mut(token.0) {
                let open = connection.echo(&mut buffer, event.is_read_closed());
                if matches!(open, Ok(true)) {
                    connection.watch(&registry, token)?;
                } else {
                    connections.remove(token.0);
                }
            }
        }
    }
}

fn serve_datagrams() -> Result<()> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1);
    let mut socket = UdpSocket::bind(([127, 0, 0, 1], 0).into())?;
    SockRef::from(&socket).set_recv_buffer_size(DATAGRAM_BUFFER)?;
    poll.registry()
        .register(&mut socket, LISTENER, Interest::READABLE)?;
    println!("{{\"address\": \"udp:{}\"}}", socket.local_addr()?);
    let mut buffer = vec![0; BUFFER_SIZE];
    loop {
        wait(&mut poll, &mut events)?;
        loop {
            match socket.recv_from(&mut buffer) {
                // A datagram that can't be sent is lost, as datagrams may be.
                Ok((count, from)) => drop(socket.send_to(&buffer[..count], from)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // The port of an earlier datagram's sender is closed.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn wait(poll: &mut Poll, events: &mut Events) -> Result<()> {
    loop {
        match poll.poll(events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return Ok(result?),
        }
    }
}

impl Listener {
    fn source(&mut self) -> &mut dyn Source {
        match self {
            Self::Tcp(listener) | Self::Tls(listener, _) => listener,
            Self::Unix(listener) => listener,
        }
    }

    fn accept(&self) -> Result<Option<Stream>> {
        let accepted = match self {
            Self::Tcp(listener) | Self::Tls(listener, _) => {
                listener.accept().map(|(socket, _)| Stream::Tcp(socket))
            }
            Self::Unix(listener) => listener.accept().map(|(socket, _)| Stream::Unix(socket)),
        };
        let stream = match accepted {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            result => result?,
        };
        let Stream::Tcp(socket) = stream else {
            return Ok(Some(stream));
        };
        socket.set_nodelay(true)?;
        Ok(Some(match self {
            Self::Tls(_, config) => {
                Stream::Tls(Box::new(TlsStream::server(socket, config.clone())?))
            }
            _ => Stream::Tcp(socket),
        }))
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
                    if count < buffer.len() && self.stream.short_read_drains() && !closed {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    fn watch(&mut self, registry: &Registry, token: Token) -> Result<()> {
        let writes = !self.pending.is_empty() || self.stream.holds_back();
        if writes != self.writes {
            let interest = if writes {
                Interest::READABLE | Interest::WRITABLE
            } else {
                Interest::READABLE
            };
            registry.reregister(&mut self.stream, token, interest)?;
            self.writes = writes;
        }
        Ok(())
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
                Err(error) => return Err(error.into()),
            }
        }
        match self.stream.flush() {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error.into()),
            _ => Ok(()),
        }
    }
}
