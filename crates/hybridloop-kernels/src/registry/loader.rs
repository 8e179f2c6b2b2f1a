//! Shared libraries with kernels.

use std::ffi::OsStr;
use std::mem::ManuallyDrop;
use std::sync::Arc;

use hybridloop_kernel::abi;
use libloading::Library;

use crate::error::RegistryError;
use crate::registry::Kernel;

/// What the system says, which libloading keeps to itself unless it is asked.
fn reason(error: &libloading::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => source.to_string(),
        None => error.to_string(),
    }
}

/// Opens a library and reads its kernels. It is never closed: code of it may be running at any time.
///
/// # Errors
/// [`RegistryError::Library`], [`RegistryError::Symbol`], [`RegistryError::Abi`], [`RegistryError::Module`], or what is wrong
/// with one of its kernels.
///
/// # Safety
/// Loading runs the library's initialisers, and its kernels are as safe as they are written.
pub unsafe fn load(path: impl AsRef<OsStr>) -> Result<Vec<Arc<Kernel>>, RegistryError> {
    let path = path.as_ref();
    let name = path.to_string_lossy();
    // SAFETY: as the caller promises.
    let library = unsafe { Library::new(path) }.map_err(|error| {
        RegistryError::Library(format!("cannot load {name}: {}", reason(&error)))
    })?;
    let library = ManuallyDrop::new(library);
    // SAFETY: the symbol has one type in every version.
    let export = unsafe { library.get::<abi::ModuleFn>(abi::MODULE_SYMBOL) }.map_err(|_| {
        RegistryError::Symbol(format!("{name} does not export {}()", abi::MODULE_SYMBOL))
    })?;
    // SAFETY: as the caller promises.
    unsafe { read(export(abi::ABI), &name) }
}

/// The address of a function in a library, which is never closed; of the process itself without a path.
///
/// # Errors
/// [`RegistryError::Library`], [`RegistryError::Symbol`]
///
/// # Safety
/// As for [`load`].
pub unsafe fn symbol(
    path: Option<&OsStr>,
    symbol: &str,
) -> Result<*const std::ffi::c_void, RegistryError> {
    let name = path.map_or("this process".into(), OsStr::to_string_lossy);
    let library = match path {
        // SAFETY: as the caller promises.
        Some(path) => unsafe { Library::new(path) }.map_err(|error| {
            RegistryError::Library(format!("cannot load {name}: {}", reason(&error)))
        })?,
        None => libloading::os::unix::Library::this().into(),
    };
    let library = ManuallyDrop::new(library);
    // SAFETY: only the address is asked for.
    let found = unsafe { library.get::<*const std::ffi::c_void>(symbol) };
    let address = match found {
        // SAFETY: only the address is asked for.
        Ok(found) => unsafe { found.try_as_raw_ptr() },
        Err(_) => None,
    };
    match address {
        Some(address) if !address.is_null() => Ok(address.cast_const()),
        _ => Err(RegistryError::Symbol(format!(
            "{name} has no symbol {symbol}"
        ))),
    }
}

/// # Safety
/// What a library's `hybridloop_module` returns, or null.
pub(crate) unsafe fn read(
    module: *const abi::Module,
    name: &str,
) -> Result<Vec<Arc<Kernel>>, RegistryError> {
    if module.is_null() {
        return Err(RegistryError::Module(format!(
            "{name} does not serve kernel interface {}",
            abi::ABI
        )));
    }
    // SAFETY: size, magic and version have their places in every version.
    let (size, magic, theirs) = unsafe { ((*module).size, (*module).magic, (*module).abi) };
    if magic != abi::MAGIC {
        return Err(RegistryError::Module(format!(
            "{name} exports something that is not a module of kernels"
        )));
    }
    if theirs != abi::ABI {
        return Err(RegistryError::Abi {
            library: name.to_owned(),
            theirs,
            ours: abi::ABI,
        });
    }
    if size < abi::size::<abi::Module>() {
        return Err(RegistryError::Module(format!(
            "the module of {name} has {size} bytes, which is too few"
        )));
    }
    // SAFETY: of this version and large enough.
    let module = unsafe { module.read() };
    let mut kernels = Vec::new();
    let mut entry = module.kernels;
    for _ in 0..module.n {
        // SAFETY: that many entries follow one another, each of the size that the first one tells; they live for ever.
        unsafe {
            kernels.push(Kernel::from_entry(entry, None)?);
            entry = entry.byte_add((*module.kernels).size as usize);
        }
    }
    Ok(kernels)
}
