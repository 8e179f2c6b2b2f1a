//! TLS 1.3 over a non-blocking TCP stream, and the settings of both ends.

use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use mio::net::TcpStream;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::TLS13;
use rustls::{
    ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection,
};

/// The file names in a folder of a certificate and its key.
pub const CERTIFICATE: &str = "certificate.pem";
/// See [`CERTIFICATE`].
pub const KEY: &str = "key.pem";

const SERVER_NAME: &str = "localhost";

/// One read takes several records: rustls by itself reads 4 KiB at a time.
const READ_SIZE: usize = 64 * 1024;

/// Writes a self-signed certificate for 127.0.0.1 and its key into a folder.
///
/// # Errors
///
/// When they can't be made or written.
pub fn make_certificate(folder: &Path) -> Result<()> {
    let names = [SERVER_NAME.to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names)?;
    std::fs::write(folder.join(KEY), made.signing_key.serialize_pem())?;
    std::fs::write(folder.join(CERTIFICATE), made.cert.pem())?;
    Ok(())
}

fn read_certificate(folder: &Path) -> Result<CertificateDer<'static>> {
    let path = folder.join(CERTIFICATE);
    CertificateDer::from_pem_file(&path).with_context(|| format!("certificate {}", path.display()))
}

/// Returns the settings of a client that trusts the certificate in a folder and makes a full
/// handshake for every connection.
///
/// # Errors
///
/// When the certificate can't be read.
pub fn client_config(folder: &Path) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(read_certificate(folder)?)?;
    let mut config = ClientConfig::builder_with_protocol_versions(&[&TLS13])
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Returns the settings of a server with the certificate and key in a folder.
///
/// # Errors
///
/// When they can't be read or do not fit.
pub fn server_config(folder: &Path) -> Result<Arc<ServerConfig>> {
    let path = folder.join(KEY);
    let key = PrivateKeyDer::from_pem_file(&path)
        .with_context(|| format!("private key {}", path.display()))?;
    let config = ServerConfig::builder_with_protocol_versions(&[&TLS13])
        .with_no_client_auth()
        .with_single_cert(vec![read_certificate(folder)?], key)?;
    Ok(Arc::new(config))
}

/// A TLS connection. It shakes hands by and by, as it is read from, written to and flushed.
pub struct TlsStream {
    connection: Connection,
    socket: BufReader<TcpStream>,
}

impl TlsStream {
    /// Makes the client's end.
    ///
    /// # Errors
    ///
    /// When rustls does not take the settings.
    pub fn client(socket: TcpStream, config: Arc<ClientConfig>) -> Result<Self> {
        let connection = ClientConnection::new(config, ServerName::try_from(SERVER_NAME)?)?;
        Ok(Self::new(socket, connection.into()))
    }

    /// Makes the server's end.
    ///
    /// # Errors
    ///
    /// When rustls does not take the settings.
    pub fn server(socket: TcpStream, config: Arc<ServerConfig>) -> Result<Self> {
        Ok(Self::new(socket, ServerConnection::new(config)?.into()))
    }

    fn new(socket: TcpStream, mut connection: Connection) -> Self {
        // A write takes all it is given.
        connection.set_buffer_limit(None);
        let socket = BufReader::with_capacity(READ_SIZE, socket);
        Self { connection, socket }
    }

    /// The TCP stream below.
    pub fn socket(&mut self) -> &mut TcpStream {
        self.socket.get_mut()
    }

    /// Whether there are records that the socket has not taken yet.
    #[must_use]
    pub fn holds_back(&self) -> bool {
        self.connection.wants_write()
    }

    /// Says that no more will be sent.
    ///
    /// # Errors
    ///
    /// Those of the socket.
    pub fn finish(&mut self) -> io::Result<()> {
        self.connection.send_close_notify();
        self.flush()?;
        self.socket.get_ref().shutdown(Shutdown::Write)
    }
}

impl Read for TlsStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.connection.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                result => return result,
            }
            self.connection.read_tls(&mut self.socket)?;
            self.connection
                .process_new_packets()
                .map_err(io::Error::other)?;
            // Its part of the handshake, and what waited for that.
            match self.flush() {
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
    }
}

impl Write for TlsStream {
    /// Takes all bytes, or none while the socket has not taken those of an earlier write.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.flush()?;
        let count = self.connection.writer().write(bytes)?;
        match self.flush() {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(count),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(self.socket.get_mut())?;
        }
        Ok(())
    }
}
