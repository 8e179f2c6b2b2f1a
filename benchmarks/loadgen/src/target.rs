//! The address of a server and how to speak to it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{bail, Context, Error, Result};

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `tcp:127.0.0.1:8000`
    Tcp(SocketAddr),
    /// `tls:127.0.0.1:8443`
    Tls(SocketAddr),
    /// `udp:127.0.0.1:8000`
    Udp(SocketAddr),
    /// `unix:/path/to/socket`
    Unix(PathBuf),
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (scheme, rest) = text
            .split_once(':')
            .with_context(|| format!("no scheme in {text:?}"))?;
        let address = || {
            rest.parse()
                .with_context(|| format!("{rest:?} is no address with a port"))
        };
        Ok(match scheme {
            "tcp" => Self::Tcp(address()?),
            "tls" => Self::Tls(address()?),
            "udp" => Self::Udp(address()?),
            "unix" if !rest.is_empty() => Self::Unix(rest.into()),
            _ => bail!("{text:?} begins with none of tcp:, tls:, udp:, unix:PATH"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_scheme_is_understood() -> Result<()> {
        let address = SocketAddr::from(([127, 0, 0, 1], 8000));
        assert_eq!(
            "tcp:127.0.0.1:8000".parse::<Target>()?,
            Target::Tcp(address)
        );
        assert_eq!(
            "tls:127.0.0.1:8000".parse::<Target>()?,
            Target::Tls(address)
        );
        assert_eq!(
            "udp:127.0.0.1:8000".parse::<Target>()?,
            Target::Udp(address)
        );
        assert_eq!(
            "unix:/tmp/a:b".parse::<Target>()?,
            Target::Unix("/tmp/a:b".into())
        );
        Ok(())
    }

    #[test]
    fn anything_else_is_an_error() {
        for text in ["127.0.0.1:8000", "tcp:localhost", "unix:", "quic:[::1]:1"] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }
}
