//! Loading kernels from shared libraries.

use std::ffi::OsStr;
use std::mem::ManuallyDrop;
use std::sync::Arc;

use hybridloop_kernel::abi;
use libloading::Library;

use crate::error::RegistryError;
use crate::registry::kernel::Kernel;

/// The message of the system, which libloading reports as the source of its error.
fn reason(error: &libloading::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => source.to_string(),
        None => error.to_string(),
    }
}

/// Opens a library and reads its kernels. The library is never closed, because its code may run at any time.
///
/// # Errors
/// [`RegistryError::Library`], [`RegistryError::Symbol`], [`RegistryError::Abi`], [`RegistryError::Module`], or the error of
/// one of its kernels.
///
/// # Safety
/// The initialisers of the library are sound to run now, and its table of kernels is valid as `hybridloop.h` describes it.
pub unsafe fn load(path: impl AsRef<OsStr>) -> Result<Vec<Arc<Kernel>>, RegistryError> {
    let path = path.as_ref();
    let name = path.to_string_lossy();
    // SAFETY: the caller of `load` vouches for the library's initialisers.
    let library = unsafe { Library::new(path) }.map_err(|error| {
        RegistryError::Library(format!("cannot load {name}: {}", reason(&error)))
    })?;
    let library = ManuallyDrop::new(library);
    // SAFETY: the symbol has the same type in every version of the interface.
    let export = unsafe { library.get::<abi::ModuleFn>(abi::MODULE_SYMBOL) }.map_err(|_| {
        RegistryError::Symbol(format!(
            "{name} does not export {}(), which names its kernels",
            abi::MODULE_SYMBOL
        ))
    })?;
    // SAFETY: the caller of `load` vouches for the table, and the library is never closed.
    unsafe { read(export(abi::ABI), &name) }
}

/// The address of a symbol in a library, which is never closed, or without a path in the process itself.
///
/// # Errors
/// [`RegistryError::Library`], [`RegistryError::Symbol`]
///
/// # Safety
/// The initialisers of the library are sound to run now.
pub unsafe fn find_symbol(
    path: Option<&OsStr>,
    symbol: &str,
) -> Result<*const std::ffi::c_void, RegistryError> {
    let name = path.map_or("this process".into(), OsStr::to_string_lossy);
    let library = match path {
        // SAFETY: the caller of `find_symbol` vouches for the library's initialisers.
        Some(path) => unsafe { Library::new(path) }.map_err(|error| {
            RegistryError::Library(format!("cannot load {name}: {}", reason(&error)))
        })?,
        None => libloading::os::unix::Library::this().into(),
    };
    let library = ManuallyDrop::new(library);
    // SAFETY: the symbol is not used as the type that is given here; only its address is.
    let found = unsafe { library.get::<*const std::ffi::c_void>(symbol) };
    let address = match found {
        // SAFETY: the library stays open, so the address stays valid.
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

/// Reads the table of a module.
///
/// # Safety
/// `module` is null, or the result of a library's `hybridloop_module`, valid as `hybridloop.h` describes it for ever.
unsafe fn read(module: *const abi::Module, name: &str) -> Result<Vec<Arc<Kernel>>, RegistryError> {
    if module.is_null() {
        return Err(RegistryError::Module(format!(
            "{name} does not serve kernel interface {}",
            abi::ABI
        )));
    }
    // SAFETY: size, magic and version have the same offsets in every version of the interface.
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
    // SAFETY: the module has this version and all its fields.
    let module = unsafe { module.read() };
    if module.n > 0 && module.kernels.is_null() {
        return Err(RegistryError::Module(format!(
            "the module of {name} says that it has {} kernels, but has no table of them",
            module.n
        )));
    }
    let mut kernels = Vec::new();
    let mut entry = module.kernels;
    for _ in 0..module.n {
        // SAFETY: the module has `n` entries in a row, each with the size in the first one, and they live for ever.
        unsafe {
            kernels.push(Kernel::from_entry(entry, None)?);
            entry = entry.byte_add((*module.kernels).size as usize);
        }
    }
    Ok(kernels)
}
