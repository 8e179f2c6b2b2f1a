//! The load generator against the reference server, over everything that both speak.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use loadgen::client::Client;
use loadgen::phase::Limit;
use loadgen::reconnect::Reconnecting;
use loadgen::stream::Connector;
use loadgen::target::Target;
use loadgen::tls::{client_config, make_certificate};

/// A folder of its own, removed in the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("loadgen-test-{}-{count}", std::process::id()));
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// The reference server; it ends with the value.
struct Server {
    process: Child,
    target: Target,
}

impl Server {
    fn start(options: &[&Path]) -> Result<Self> {
        let mut process = Command::new(env!("CARGO_BIN_EXE_epoll-echo"))
            .args(options)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(process.stdout.take().context("stdout")?).read_line(&mut line)?;
        let address: serde_json::Value = serde_json::from_str(&line)?;
        let target = address["address"].as_str().context("address")?.parse()?;
        Ok(Self { process, target })
    }

    fn connector(&self) -> Connector {
        Connector::new(self.target.clone(), None)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn echo(connector: &Connector, connections: usize, sizes: &[u64], depth: usize) -> Result<()> {
    for &size in sizes {
        let mut client = Client::connect(connector, connections, size, depth, Duration::ZERO)?;
        assert_eq!(client.run(Limit::Messages(7))?.messages, 7);
        let phase = client.run(Limit::Messages(300))?;
        assert_eq!((phase.messages, phase.latency.len()), (300, 300));
    }
    Ok(())
}

fn reconnect(connector: &Connector, size: u64) -> Result<()> {
    let mut client = Reconnecting::new(connector.clone(), 5, size)?;
    assert_eq!(client.run(Limit::Messages(50))?.messages, 50);
    let limit = Duration::from_millis(20);
    let phase = client.run(Limit::Time(limit))?;
    assert!(phase.messages > 0 && phase.elapsed >= limit);
    Ok(())
}

#[test]
fn tcp() -> Result<()> {
    let server = Server::start(&[])?;
    assert!(matches!(server.target, Target::Tcp(_)));
    echo(&server.connector(), 5, &[1, 1024, 300_000], 4)?;
    reconnect(&server.connector(), 1024)
}

#[test]
fn unix_sockets() -> Result<()> {
    let folder = Folder::new()?;
    let path = folder.0.join("socket");
    let server = Server::start(&["--path".as_ref(), &path])?;
    assert_eq!(server.target, Target::Unix(path));
    echo(&server.connector(), 5, &[1, 1024, 300_000], 4)?;
    reconnect(&server.connector(), 1024)
}

#[test]
fn datagrams() -> Result<()> {
    let server = Server::start(&["--udp".as_ref()])?;
    assert!(matches!(server.target, Target::Udp(_)));
    let connector = server.connector();
    echo(&connector, 5, &[1, 1024], 1)?;
    echo(&connector, 1, &[65_507], 1)?;
    assert!(Client::connect(&connector, 1, 65_508, 1, Duration::ZERO).is_err());
    assert!(Client::connect(&connector, 1, 1024, 2, Duration::ZERO).is_err());
    assert!(Reconnecting::new(connector, 1, 1024).is_err());
    Ok(())
}

#[test]
fn tls() -> Result<()> {
    let folder = Folder::new()?;
    make_certificate(&folder.0)?;
    let server = Server::start(&["--certificate".as_ref(), &folder.0])?;
    assert!(matches!(server.target, Target::Tls(_)));
    let connector = Connector::new(server.target.clone(), Some(client_config(&folder.0)?));
    echo(&connector, 5, &[1, 1024, 300_000], 4)?;
    reconnect(&connector, 1024)
}

#[test]
fn a_certificate_that_is_not_trusted_is_an_error() -> Result<()> {
    let (folder, other) = (Folder::new()?, Folder::new()?);
    make_certificate(&folder.0)?;
    make_certificate(&other.0)?;
    let server = Server::start(&["--certificate".as_ref(), &folder.0])?;
    let connector = Connector::new(server.target.clone(), Some(client_config(&other.0)?));
    let result = Reconnecting::new(connector, 1, 64)?.run(Limit::Messages(1));
    let error = result.map_or_else(|error| format!("{error:#}"), |_| "no error".to_owned());
    assert!(error.contains("invalid peer certificate"), "{error}");
    Ok(())
}

#[test]
fn tls_without_a_certificate_is_an_error() -> Result<()> {
    let connector = Connector::new("tls:127.0.0.1:1".parse()?, None);
    assert!(connector.connect().is_err());
    Ok(())
}
