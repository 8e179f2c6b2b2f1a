//! Writes a self-signed certificate for 127.0.0.1 and its key into the folder it is given.

use std::path::Path;

use anyhow::{Context, Result};

fn main() -> Result<()> {
    let folder = std::env::args_os()
        .nth(1)
        .context("usage: certificate FOLDER")?;
    loadgen::tls::make_certificate(Path::new(&folder))
}
