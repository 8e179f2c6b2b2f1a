//! One connection, whatever it runs over.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result};
use mio::event::Source;
use mio::net::{TcpStream, UdpSocket, UnixStream};
use mio::{Interest, Registry, Token};
use rustls::ClientConfig;

use crate::target::Target;
use crate::tls::TlsStream;

/// A non-blocking connection.
pub enum Stream {
    /// TCP with `TCP_NODELAY`.
    Tcp(TcpStream),
    /// TLS over TCP.
    Tls(Box<TlsStream>),
    /// A connected UDP socket: each write is a datagram, each read takes one.
    Udp(UdpSocket),
    /// A Unix stream socket.
    Unix(UnixStream),
}

/// Makes connections to one server.
#[derive(Clone)]
pub struct Connector {
    target: Target,
    tls: Option<Arc<ClientConfig>>,
}

impl Connector {
    /// `tls` is needed for TLS alone.
    #[must_use]
    pub fn new(target: Target, tls: Option<Arc<ClientConfig>>) -> Self {
        Self { target, tls }
    }

    /// Whether messages keep their borders.
    #[must_use]
    pub fn is_datagram(&self) -> bool {
        matches!(self.target, Target::Udp(_))
    }

    /// Connects; a TLS handshake follows with the first reads and writes.
    ///
    /// # Errors
    ///
    /// When the server can't be reached.
    pub fn connect(&self) -> Result<Stream> {
        let stream = match &self.target {
            Target::Tcp(address) => Stream::Tcp(connect_tcp(*address)?),
            Target::Tls(address) => {
                let config = self.tls.clone().context("TLS needs a certificate")?;
                let socket = connect_tcp(*address)?;
                Stream::Tls(Box::new(TlsStream::client(socket, config)?))
            }
            Target::Udp(address) => {
                let socket = std::net::UdpSocket::bind(("127.0.0.1", 0))?;
                socket.connect(address)?;
                socket.set_nonblocking(true)?;
                Stream::Udp(UdpSocket::from_std(socket))
            }
            Target::Unix(path) => {
                let socket = std::os::unix::net::UnixStream::connect(path)?;
                socket.set_nonblocking(true)?;
                Stream::Unix(UnixStream::from_std(socket))
            }
        };
        Ok(stream)
    }
}

fn connect_tcp(address: SocketAddr) -> Result<TcpStream> {
    let socket = std::net::TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    socket.set_nonblocking(true)?;
    Ok(TcpStream::from_std(socket))
}

impl Stream {
    /// Whether a read that does not fill its buffer has left nothing behind, so that the next
    /// bytes raise a new edge.
    #[must_use]
    pub fn short_read_drains(&self) -> bool {
        !matches!(self, Self::Tls(_))
    }

    /// Whether it has taken bytes that its socket has not taken yet.
    #[must_use]
    pub fn holds_back(&self) -> bool {
        matches!(self, Self::Tls(stream) if stream.holds_back())
    }

    /// Says that no more will be sent; what the server sends can still be read.
    ///
    /// # Errors
    ///
    /// Those of the socket.
    pub fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.shutdown(Shutdown::Write),
            Self::Tls(stream) => stream.finish(),
            Self::Udp(_) => Ok(()),
            Self::Unix(socket) => socket.shutdown(Shutdown::Write),
        }
    }

    fn source(&mut self) -> &mut dyn Source {
        match self {
            Self::Tcp(socket) => socket,
            Self::Tls(stream) => stream.socket(),
            Self::Udp(socket) => socket,
            Self::Unix(socket) => socket,
        }
    }
}

impl Source for Stream {
    fn register(&mut self, registry: &Registry, token: Token, of: Interest) -> io::Result<()> {
        self.source().register(registry, token, of)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, of: Interest) -> io::Result<()> {
        self.source().reregister(registry, token, of)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.source().deregister(registry)
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
            Self::Udp(socket) => socket.recv(buffer),
            Self::Unix(socket) => socket.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
            Self::Udp(socket) => socket.send(bytes),
            Self::Unix(socket) => socket.write(bytes),
        }
    }

    /// Only TLS holds bytes back.
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Tls(stream) => stream.flush(),
            _ => Ok(()),
        }
    }
}
