//! Kernels: functions that workers can run, and how to call them.

use std::any::Any;
use std::ffi::{c_void, CStr};
use std::fmt;
use std::sync::Arc;

use hybridloop_kernel::abi;

use crate::error::RegistryError;
use crate::registry::signature::Signature;
use crate::registry::trampoline::Trampoline;
use crate::registry::user_data::UserData;

/// How a kernel is called.
pub(crate) enum Target {
    /// A function with the signature of `hybridloop.h`, which gets the functions of the host.
    Native {
        func: abi::KernelFn,
        user: *mut c_void,
        /// Drops `user` with the last kernel that has it.
        data: Option<Arc<UserData>>,
    },
    /// A plain C function.
    Plain(Trampoline),
}

/// What replaces a part of an entry.
#[derive(Clone, Copy, Debug, Default)]
pub struct Overrides<'a> {
    /// Another name.
    pub name: Option<&'a str>,
    /// The signature for an entry that has none. It must not contradict the entry.
    pub signature: Option<&'a str>,
    /// Another documentation.
    pub doc: Option<&'a str>,
}

/// A function that workers can run.
pub struct Kernel {
    name: String,
    doc: String,
    text: Option<String>,
    signature: Option<Signature>,
    pub(crate) target: Target,
    /// Flags of the interface.
    flags: u32,
    /// Keeps the function alive.
    _owner: Option<Box<dyn Any + Send + Sync>>,
}

// SAFETY: the callers of the unsafe constructors uphold that any thread may call the function with its user data.
unsafe impl Send for Kernel {}
// SAFETY: a kernel does not change, and the interface allows several calls of its function at the same time.
unsafe impl Sync for Kernel {}

impl Kernel {
    /// A kernel from an entry in the table of a module or in a capsule.
    ///
    /// # Errors
    /// [`RegistryError::Name`], [`RegistryError::Signature`], [`RegistryError::Module`]
    ///
    /// # Safety
    /// The entry is valid as `hybridloop.h` describes it, and what it points to lives as long as `owner`, or for ever.
    pub unsafe fn from_entry(
        entry: *const abi::Kernel,
        owner: Option<Box<dyn Any + Send + Sync>>,
    ) -> Result<Arc<Self>, RegistryError> {
        // SAFETY: this function has the same contract.
        unsafe { Self::from_entry_as(entry, &Overrides::default(), owner) }
    }

    /// A kernel from an entry with other names or documentation.
    ///
    /// # Errors
    /// [`RegistryError::Name`], [`RegistryError::Module`]; [`RegistryError::Signature`] also if the signatures differ.
    ///
    /// # Safety
    /// The entry is valid as `hybridloop.h` describes it, and what it points to lives as long as `owner`, or for ever.
    pub unsafe fn from_entry_as(
        address: *const abi::Kernel,
        overrides: &Overrides<'_>,
        owner: Option<Box<dyn Any + Send + Sync>>,
    ) -> Result<Arc<Self>, RegistryError> {
        // SAFETY: the caller passes a valid entry; the size is its first field in every version.
        let size = unsafe { (*address).size };
        if size < abi::size::<abi::Kernel>() {
            return Err(RegistryError::Module(format!(
                "the entry of a kernel has {size} bytes, which is too few"
            )));
        }
        // SAFETY: the entry has all the fields of this version; its strings are null or C strings that live as long as it.
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
        // The entry of a library, which has no owner, lives for ever, because libraries are never unloaded.
        let data = owner.as_ref().and_then(|_| UserData::of(address, &entry));
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
            flags: entry.flags,
            _owner: owner,
        }))
    }

    /// A kernel from the address of a plain C function.
    ///
    /// # Errors
    /// [`RegistryError::Name`], [`RegistryError::Signature`]
    ///
    /// # Safety
    /// At the address is a function with this signature that any thread may call. It lives as long as `owner`, or for ever.
    pub unsafe fn from_address(
        name: &str,
        address: *const c_void,
        signature: &str,
        doc: &str,
        owner: Option<Box<dyn Any + Send + Sync>>,
    ) -> Result<Arc<Self>, RegistryError> {
        // SAFETY: without data, `from_address_with_data` has the same contract.
        unsafe { Self::from_address_with_data(name, address, None, signature, doc, owner) }
    }

    /// A kernel from a plain C function whose last parameter, a `void*`, gets `data` in every call.
    ///
    /// # Errors
    /// [`RegistryError::Name`], [`RegistryError::Signature`]
    ///
    /// # Safety
    /// At the address is a function with this signature that any thread may call with `data`. Function and data live as long as
    /// `owner`, or for ever.
    pub unsafe fn from_address_with_data(
        name: &str,
        address: *const c_void,
        data: Option<*const c_void>,
        signature: &str,
        doc: &str,
        owner: Option<Box<dyn Any + Send + Sync>>,
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
            flags: 0,
            _owner: owner,
        }))
    }

    /// Notes that a registry has the kernel.
    pub(super) fn mark_registered(&self) {
        if let Target::Native {
            data: Some(data), ..
        } = &self.target
        {
            data.mark_registered();
        }
    }

    /// Whether its calls may go on when the function has returned.
    pub(crate) fn is_async(&self) -> bool {
        self.flags & abi::ASYNC != 0
    }

    /// Whether its calls wait when they have emitted many values.
    pub(crate) fn emit_waits(&self) -> bool {
        self.flags & abi::EMIT_WAITS != 0
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its documentation, which may be empty.
    pub fn doc(&self) -> &str {
        &self.doc
    }

    /// The text of its signature; `None` if the kernel checks its arguments itself.
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
/// `pointer` is null or points to a C string.
unsafe fn string(pointer: *const std::ffi::c_char) -> Option<String> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: the pointer is not null, so the caller passes a C string.
    let text = unsafe { CStr::from_ptr(pointer) };
    Some(text.to_string_lossy().into_owned())
}
