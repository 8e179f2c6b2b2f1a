//! Echo load generator: sends messages, checks every byte that comes back, prints JSON.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{ensure, Result};
use clap::Parser;
use serde::Serialize;

use loadgen::client::Client;
use loadgen::phase::{Limit, Phase};
use loadgen::reconnect::Reconnecting;
use loadgen::stream::Connector;
use loadgen::target::Target;
use loadgen::tls::client_config;

#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// Server: tcp:, tls: or udp: with address and port, or unix: with a path
    target: Target,
    /// Folder with the server's certificate.pem, which tls: trusts
    #[arg(long)]
    certificate: Option<PathBuf>,
    /// Connect, echo one message and close, over and over; a connection counts as a message
    #[arg(long, conflicts_with_all = ["depth", "think_us"])]
    reconnect: bool,
    /// Bytes per message
    #[arg(long, default_value_t = 1024)]
    size: u64,
    /// Connections at a time
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Length of the measured window
    #[arg(long, default_value_t = 1.0, conflicts_with = "messages")]
    seconds: f64,
    /// Messages in the measured window, over all connections
    #[arg(long)]
    messages: Option<u64>,
    /// Messages before the window, over all connections
    #[arg(long, default_value_t = 1000)]
    warmup: u64,
    /// Messages under way per connection
    #[arg(long, default_value_t = 1)]
    depth: usize,
    /// Microseconds to wait between a reply and the next message
    #[arg(long, default_value_t = 0)]
    think_us: u64,
    /// Print "ready" and wait for a line on stdin before the window; keep the connections open
    /// after it until stdin's next line or end
    #[arg(long)]
    barrier: bool,
}

#[derive(Serialize)]
struct Report {
    size: u64,
    connections: usize,
    depth: usize,
    messages: u64,
    seconds: f64,
    messages_per_second: u64,
    latency_ns: Latency,
}

#[derive(Serialize)]
struct Latency {
    p50: u64,
    p99: u64,
    max: u64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(arguments.size > 0, "--size must be at least 1");
    ensure!(arguments.depth > 0, "--depth must be at least 1");
    ensure!(
        arguments.connections > 0,
        "--connections must be at least 1"
    );
    let limit = match arguments.messages {
        Some(count) => Limit::Messages(count),
        None => Limit::Time(Duration::try_from_secs_f64(arguments.seconds)?),
    };
    let tls = arguments.certificate.as_deref().map(client_config);
    let connector = Connector::new(arguments.target, tls.transpose()?);
    let mut run: Box<dyn FnMut(Limit) -> Result<Phase>> = if arguments.reconnect {
        let mut client = Reconnecting::new(connector, arguments.connections, arguments.size)?;
        Box::new(move |limit| client.run(limit))
    } else {
        let mut client = Client::connect(
            &connector,
            arguments.connections,
            arguments.size,
            arguments.depth,
            Duration::from_micros(arguments.think_us),
        )?;
        Box::new(move |limit| client.run(limit))
    };
    run(Limit::Messages(arguments.warmup))?;
    if arguments.barrier {
        println!("ready");
        wait_for_line()?;
    }
    let phase = run(limit)?;
    let nanoseconds = phase.elapsed.as_nanos().max(1);
    let report = Report {
        size: arguments.size,
        connections: arguments.connections,
        depth: arguments.depth,
        messages: phase.messages,
        seconds: phase.elapsed.as_secs_f64(),
        messages_per_second: u64::try_from(
            u128::from(phase.messages) * 1_000_000_000 / nanoseconds,
        )?,
        latency_ns: Latency {
            p50: phase.latency.value_at_quantile(0.50),
            p99: phase.latency.value_at_quantile(0.99),
            max: phase.latency.max(),
        },
    };
    println!("{}", serde_json::to_string(&report)?);
    if arguments.barrier {
        wait_for_line()?;
    }
    Ok(())
}

fn wait_for_line() -> Result<()> {
    std::io::stdout().flush()?;
    std::io::stdin().lock().read_line(&mut String::new())?;
    Ok(())
}
