//! Kernels by name.

pub mod loader;
pub mod signature;

use std::any::Any;
use std::collections::BTreeMap;
use std::ffi::{c_void, CStr};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use hybridloop_kernel::abi;
use hybridloop_sync::fork;

use crate::call::trampoline::Trampoline;
use crate::error::RegistryError;
use crate::registry::signature::Signature;

pub(crate) enum Target {
    /// A function that takes the host's table.
    Native {
        func: abi::KernelFn,
        user: *mut c_void,
        /// Given back with the last kernel that has it.
        data: Option<Arc<UserData>>,
    },
    /// A plain C function.
    Plain(Trampoline),
}

/// What an entry says otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub struct Overrides<'a> {
    /// Another name.
    pub name: Option<&'a str>,
    /// The signature of an entry that has none; one that has one knows best what it takes.
    pub signature: Option<&'a str>,
    /// Another documentation.
    pub doc: Option<&'a str>,
}

/// The data of an entry that wants it back. One entry may make several kernels.
pub(crate) struct UserData {
    entry: usize,
    user: *mut c_void,
    drop: unsafe extern "C" fn(*mut c_void),
    /// Whether a kernel of it was ever registered: what was refused may be offered again.
    is_used: AtomicBool,
}

// SAFETY: the data of a kernel, which any thread may run.
unsafe impl Send for UserData {}
// SAFETY: as above.
unsafe impl Sync for UserData {}

/// The data in use, by the address of its entry. Workers may drop the last kernel, so forks are held off while it is locked.
static DATA: Mutex<BTreeMap<usize, Weak<UserData>>> = Mutex::new(BTreeMap::new());

impl UserData {
    fn of(address: *const abi::Kernel, entry: &abi::Kernel) -> Option<Arc<Self>> {
        let drop = entry.drop?;
        let address = address.addr();
        let no_forks = fork::block();
        let mut data = DATA.lock().unwrap_or_else(PoisonError::into_inner);
        let found = data.get(&address).and_then(Weak::upgrade);
        let all = found.unwrap_or_else(|| {
            let new = Arc::new(Self {
                entry: address,
                user: entry.user,
                drop,
                is_used: AtomicBool::new(false),
            });
            data.insert(address, Arc::downgrade(&new));
            new
        });
        std::mem::drop((data, no_forks));
        Some(all)
    }
}

impl Drop for UserData {
    fn drop(&mut self) {
        let no_forks = fork::block();
        let mut data = DATA.lock().unwrap_or_else(PoisonError::into_inner);
        // Another one may have taken the place meanwhile.
        if data
            .get(&self.entry)
            .is_some_and(|found| found.strong_count() == 0)
        {
            data.remove(&self.entry);
        }
        std::mem::drop((data, no_forks));
        if *self.is_used.get_mut() {
            // SAFETY: the entry's own function, once, after the last call.
            unsafe { (self.drop)(self.user) };
        }
    }
}

/// A function that workers can run.
pub struct Kernel {
    name: String,
    doc: String,
    text: Option<String>,
    signature: Option<Signature>,
    pub(crate) target: Target,
    /// What has to live as long as the function may be called.
    _keep: Option<Box<dyn Any + Send + Sync>>,
}

// SAFETY: its function may be called by any thread, which is what a kernel is; `user` is the kernel's own.
unsafe impl Send for Kernel {}
// SAFETY: as above.
unsafe impl Sync for Kernel {}

impl Kernel {
    /// A kernel by its entry, from a module's table or a capsule.
    ///
    /// # Errors
    /// [`RegistryError::Name`], [`RegistryError::Signature`], [`RegistryError::Module`]
    ///
    /// # Safety
    /// The entry is what the header says, and what it points to lives as long as `keep`, or for ever.
    pub unsafe fn from_entry(
        entry: *const abi::Kernel,
        keep: Option<Box<dyn Any + Send + Sync>>,
    ) -> Result<Arc<Self>, RegistryError> {
        // SAFETY: as the caller promises.
        unsafe { Self::from_entry_as(entry, &Overrides::default(), keep) }
    }

    /// As [`Kernel::from_entry`], with what the entry says otherwise.
    ///
    /// # Errors
    /// As for [`Kernel::from_entry`]; [`RegistryError::Signature`] if there would be two.
    ///
    /// # Safety
    /// As for [`Kernel::from_entry`].
    pub unsafe fn from_entry_as(
        address: *const abi::Kernel,
        overrides: &Overrides<'_>,
        keep: Option<Box<dyn Any + Send + Sync>>,
    ) -> Result<Arc<Self>, RegistryError> {
        // SAFETY: as the caller promises; the size comes first in every version.
        let size = unsafe { (*address).size };
        if size < abi::size::<abi::Kernel>() {
            return Err(RegistryError::Module(format!(
                "the entry of a kernel has {size} bytes, which is too few"
            )));
        }
        // SAFETY: large enough; C strings that live as long as the entry.
        let (entry, name, text, doc) = unsafe {
            let entry = address.read();
            let texts = (string(entry.name), string(entry.sig), string(entry.doc));
            (entry, texts.0, texts.1, texts.2)
        };
        let name = check_name(overrides.name.unwrap_or(&name.unwrap_or_default()))?;
        let text = match (text, overrides.signature) {
            (Some(text), Some(signature)) if text != signature => {
                return Err(RegistryError::Signature {
                    signature: signature.to_owned(),
                    reason: format!("kernel '{name}' says itself that it is {text:?}"),
                });
            }
            (text, signature) => text.or_else(|| signature.map(str::to_owned)),
        };
        let Some(func) = entry.func else {
            return Err(RegistryError::Module(format!(
                "kernel '{name}' has no function"
            )));
        };
        let signature = text.as_deref().map(parse).transpose()?;
        // What a library says once is true for ever, because it is never unloaded.
        let data = keep.as_ref().and_then(|_| UserData::of(address, &entry));
        let doc = overrides.doc.map(str::to_owned).or(doc);
        Ok(Arc::new(Self {
            name,
            doc: doc.unwrap_or_default(),
            text,
            signature,
            target: Target::Native {
                func,
                user: entry.user,
                data,
            },
            _keep: keep,
        }))
    }

    /// A kernel of a plain C function, by its address.
    ///
    /// # Errors
    /// [`RegistryError::Name`], [`RegistryError::Signature`]
    ///
    /// # Safety
    /// At the address is a function of that signature that any thread may call, and it stays there as long as `keep`, or for
    /// ever.
    pub unsafe fn from_address(
        name: &str,
        address: *const c_void,
        signature: &str,
        doc: &str,
        keep: Option<Box<dyn Any + Send + Sync>>,
    ) -> Result<Arc<Self>, RegistryError> {
        // SAFETY: as the caller promises.
        unsafe { Self::from_address_with(name, address, None, signature, doc, keep) }
    }

    /// As [`Kernel::from_address`], for a function whose last parameter, a `void*`, gets `data` in every call.
    ///
    /// # Errors
    /// As for [`Kernel::from_address`].
    ///
    /// # Safety
    /// As for [`Kernel::from_address`]; and what the function does with `data` is sound in any thread, as long as `keep` lives.
    pub unsafe fn from_address_with(
        name: &str,
        address: *const c_void,
        data: Option<*const c_void>,
        signature: &str,
        doc: &str,
        keep: Option<Box<dyn Any + Send + Sync>>,
    ) -> Result<Arc<Self>, RegistryError> {
        let name = check_name(name)?;
        let mut parsed = parse(signature)?;
        let mut text = signature.to_owned();
        let error = |reason| RegistryError::Signature {
            signature: signature.to_owned(),
            reason,
        };
        if address.is_null() {
            return Err(RegistryError::Symbol(format!(
                "kernel '{name}': the address is null"
            )));
        }
        if data.is_some() {
            (parsed, text) = parsed.without_data(signature).map_err(error)?;
        }
        let trampoline = Trampoline::new(address, &parsed, data).map_err(error)?;
        Ok(Arc::new(Self {
            name,
            doc: doc.to_owned(),
            text: Some(text),
            signature: Some(parsed),
            target: Target::Plain(trampoline),
            _keep: keep,
        }))
    }

    fn use_data(&self) {
        if let Target::Native {
            data: Some(data), ..
        } = &self.target
        {
            data.is_used.store(true, Ordering::Relaxed);
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its documentation; empty if it has none.
    pub fn doc(&self) -> &str {
        &self.doc
    }

    /// Its signature as it was written; `None` if it checks its arguments itself.
    pub fn signature_text(&self) -> Option<&str> {
        self.text.as_deref()
    }

    /// Its signature.
    pub fn signature(&self) -> Option<&Signature> {
        self.signature.as_ref()
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kernel('{}')", self.name)
    }
}

fn check_name(name: &str) -> Result<String, RegistryError> {
    if name.is_empty()
        || name.len() > 255
        || name.chars().any(|c| c.is_whitespace() || c.is_control())
    {
        let reason = format!("{name:?} is empty, longer than 255 bytes, or has spaces");
        return Err(RegistryError::Name(reason));
    }
    Ok(name.to_owned())
}

fn parse(text: &str) -> Result<Signature, RegistryError> {
    Signature::parse(text).map_err(|reason| RegistryError::Signature {
        signature: text.to_owned(),
        reason,
    })
}

/// # Safety
/// A C string, or null.
unsafe fn string(pointer: *const std::ffi::c_char) -> Option<String> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: as the caller promises.
    let text = unsafe { CStr::from_ptr(pointer) };
    Some(text.to_string_lossy().into_owned())
}

/// See the [module's documentation](self).
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
    /// [`RegistryError::Exists`] unless it may `replace` another of that name.
    pub fn add(&self, kernel: Arc<Kernel>, replace: bool) -> Result<(), RegistryError> {
        self.add_all(vec![kernel], replace)
    }

    /// Adds all of them, or none.
    ///
    /// # Errors
    /// As for [`Registry::add`].
    pub fn add_all(&self, kernels: Vec<Arc<Kernel>>, replace: bool) -> Result<(), RegistryError> {
        let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if !replace {
            if let Some(kernel) = kernels.iter().find(|kernel| map.contains_key(&kernel.name)) {
                return Err(RegistryError::Exists(kernel.name.clone()));
            }
        }
        let mut names: Vec<&str> = kernels.iter().map(|kernel| kernel.name()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(RegistryError::Exists(twice[0].to_owned()));
        }
        let old: Vec<_> = kernels
            .into_iter()
            .inspect(|kernel| kernel.use_data())
            .filter_map(|kernel| map.insert(kernel.name.clone(), kernel))
            .collect();
        drop(map);
        drop(old);
        Ok(())
    }

    /// The kernel of that name.
    pub fn get(&self, name: &str) -> Option<Arc<Kernel>> {
        let map = self.0.read().unwrap_or_else(PoisonError::into_inner);
        map.get(name).cloned()
    }

    /// All kernels, by name.
    pub fn all(&self) -> Vec<Arc<Kernel>> {
        let map = self.0.read().unwrap_or_else(PoisonError::into_inner);
        map.values().cloned().collect()
    }
}
