//! Kernels by name.

pub mod kernel;
pub mod loader;
pub mod signature;
mod trampoline;
mod user_data;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::error::RegistryError;
use crate::registry::kernel::Kernel;

/// Kernels by name.
#[derive(Debug, Default)]
pub struct Registry(RwLock<BTreeMap<String, Arc<Kernel>>>);

impl Registry {
    /// A registry without kernels.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a kernel.
    ///
    /// # Errors
    /// [`RegistryError::Exists`] unless it may `replace` a kernel with its name.
    pub fn add(&self, kernel: Arc<Kernel>, replace: bool) -> Result<(), RegistryError> {
        self.add_all(vec![kernel], replace)
    }

    /// Adds all kernels, or none.
    ///
    /// # Errors
    /// [`RegistryError::Exists`] if two have the same name, or unless they may `replace` kernels with their names.
    pub fn add_all(&self, kernels: Vec<Arc<Kernel>>, replace: bool) -> Result<(), RegistryError> {
        let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if !replace {
            if let Some(kernel) = kernels
                .iter()
                .find(|kernel| map.contains_key(kernel.name()))
            {
                return Err(RegistryError::Exists(kernel.name().to_owned()));
            }
        }
        let mut names: Vec<&str> = kernels.iter().map(|kernel| kernel.name()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(RegistryError::Exists(twice[0].to_owned()));
        }
        let old: Vec<_> = kernels
            .into_iter()
            .inspect(|kernel| kernel.mark_registered())
            .filter_map(|kernel| map.insert(kernel.name().to_owned(), kernel))
            .collect();
        drop(map);
        drop(old);
        Ok(())
    }

    /// The kernel with this name.
    pub fn get(&self, name: &str) -> Option<Arc<Kernel>> {
        let map = self.0.read().unwrap_or_else(PoisonError::into_inner);
        map.get(name).cloned()
    }

    /// All kernels, sorted by name.
    pub fn all(&self) -> Vec<Arc<Kernel>> {
        let map = self.0.read().unwrap_or_else(PoisonError::into_inner);
        map.values().cloned().collect()
    }
}
