//! Name lookups by the system's resolver, on threads of their own.
//!
//! The functions of the system block, for seconds if a server does not answer. So they run on a small pool of threads that know
//! nothing of event loops: [`spawn`] runs a closure, which passes the result on. The threads start when there is work, end when
//! there is none, and never keep the process from ending.

mod addresses;
mod error;
mod names;
mod pool;

pub use addresses::{Address, AddressInfo, AddressQuery};
pub use error::LookupError;
pub use names::{NameQuery, Names};
pub use pool::spawn;
