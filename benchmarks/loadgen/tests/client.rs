//! The load generator against servers that echo well and badly.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use loadgen::client::Client;
use loadgen::phase::{Limit, Phase};
use loadgen::reconnect::Reconnecting;
use loadgen::stream::Connector;
use loadgen::target::Target;

const NO_THINK: Duration = Duration::ZERO;

/// Starts a server that treats every connection's reads with `reply`.
fn serve(reply: fn(&mut TcpStream, &mut [u8], usize) -> Result<()>) -> Result<Connector> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let target = Target::Tcp(listener.local_addr()?);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || handle(stream, reply));
        }
    });
    Ok(Connector::new(target, None))
}

fn handle(
    mut stream: TcpStream,
    reply: fn(&mut TcpStream, &mut [u8], usize) -> Result<()>,
) -> Result<()> {
    let mut buffer = vec![0; 10_000];
    let mut position = 0;
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        reply(&mut stream, &mut buffer[..count], position)?;
        position += count;
    }
}

fn run(server: &Connector, size: u64, depth: usize) -> Result<Phase> {
    let mut client = Client::connect(server, 3, size, depth, NO_THINK)?;
    client.run(Limit::Messages(20))?;
    client.run(Limit::Messages(500))
}

fn error_of(result: Result<Phase>) -> String {
    result.map_or_else(|error| format!("{error:#}"), |_| "no error".to_owned())
}

#[test]
fn a_good_echo_is_counted() -> Result<()> {
    let server = serve(|stream, bytes, _| Ok(stream.write_all(bytes)?))?;
    for (size, depth) in [(1, 1), (64, 1), (1024, 16), (100 * 1024, 4)] {
        let phase = run(&server, size, depth)?;
        assert_eq!(phase.messages, 500);
        assert_eq!(phase.latency.len(), 500);
        assert!(phase.latency.max() >= phase.latency.value_at_quantile(0.5));
    }
    Ok(())
}

#[test]
fn a_time_limit_ends_the_phase_with_all_messages_back() -> Result<()> {
    let server = serve(|stream, bytes, _| Ok(stream.write_all(bytes)?))?;
    let mut client = Client::connect(&server, 2, 1024, 4, NO_THINK)?;
    let limit = Duration::from_millis(50);
    let phase = client.run(Limit::Time(limit))?;
    assert!(phase.elapsed >= limit);
    assert!(phase.messages > 0);
    assert_eq!(client.run(Limit::Messages(10))?.messages, 10);
    Ok(())
}

#[test]
fn a_pause_separates_messages() -> Result<()> {
    let server = serve(|stream, bytes, _| Ok(stream.write_all(bytes)?))?;
    let think = Duration::from_millis(2);
    let phase = Client::connect(&server, 1, 1024, 1, think)?.run(Limit::Messages(10))?;
    assert!(phase.elapsed >= 9 * think);
    Ok(())
}

#[test]
fn a_changed_byte_is_an_error() -> Result<()> {
    let server = serve(|stream, bytes, position| {
        if position > 5000 {
            bytes[0] ^= 1;
        }
        Ok(stream.write_all(bytes)?)
    })?;
    let error = error_of(run(&server, 1024, 1));
    assert!(error.contains("echoed wrong bytes"), "{error}");
    Ok(())
}

#[test]
fn a_lost_piece_is_an_error() -> Result<()> {
    let server = serve(|stream, bytes, position| {
        let skip = usize::from(position > 5000);
        Ok(stream.write_all(&bytes[skip..])?)
    })?;
    let error = error_of(run(&server, 10_000, 4));
    assert!(error.contains("echoed wrong bytes"), "{error}");
    Ok(())
}

#[test]
fn a_closed_connection_is_an_error() -> Result<()> {
    let server = serve(|stream, bytes, position| {
        stream.write_all(bytes)?;
        anyhow::ensure!(position < 5000);
        Ok(())
    })?;
    let error = error_of(run(&server, 1024, 1));
    let ends = ["closed", "reset", "pipe"];
    assert!(ends.iter().any(|end| error.contains(end)), "{error}");
    Ok(())
}

#[test]
fn short_connections_notice_a_bad_echo() -> Result<()> {
    let changes = serve(|stream, bytes, _| {
        bytes[0] ^= 1;
        Ok(stream.write_all(bytes)?)
    })?;
    let closes = serve(|_, _, _| anyhow::bail!("enough"))?;
    let repeats = serve(|stream, bytes, _| {
        stream.write_all(bytes)?;
        Ok(stream.write_all(bytes)?)
    })?;
    for (server, expected) in [
        (changes, "wrong bytes"),
        (closes, "closed without an echo"),
        (repeats, " bytes"),
    ] {
        let mut client = Reconnecting::new(server, 1, 1024)?;
        let error = error_of(client.run(Limit::Messages(10)));
        assert!(error.contains(expected), "{expected}: {error}");
    }
    Ok(())
}
