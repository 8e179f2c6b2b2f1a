//! Arguments that are given by the names of the signature.

use hybridloop_kernels::{Arg, Kernel, Param};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use crate::kernels::arguments::{ArgumentSite, Arguments};
use crate::kernels::buffer_guards::BufferGuards;
use crate::kernels::exceptions::did_you_mean;
use crate::kernels::options::{Named, NAMES};

/// Converts the arguments of a call, of which some are given by name.
///
/// # Errors
/// `TypeError` if they do not fit the parameters, and those of [`convert`](crate::kernels::arguments::convert).
pub fn convert_named<'py>(
    py: Python<'py>,
    kernel: &Kernel,
    positional: impl ExactSizeIterator<Item = Bound<'py, PyAny>>,
    named: &Named<'py>,
    out: Option<&Bound<'py, PyAny>>,
    guards: &mut BufferGuards,
) -> PyResult<Arguments> {
    let fail = |text: String| PyTypeError::new_err(format!("{}() {text}", kernel.name()));
    let Some(signature) = kernel.signature() else {
        let text = "takes no arguments by name, because it has no signature";
        return Err(fail(text.into()));
    };
    let params = &signature.params;
    // `out` is for this parameter.
    let taken = out.and_then(|_| signature.out_index());
    let given = positional.len() + named.len();
    let mut objects = vec![None; params.len()];
    let mut places = (0..params.len()).filter(|index| Some(*index) != taken);
    for object in positional {
        let Some(index) = places.next() else {
            let most = params.len() - usize::from(taken.is_some());
            let plural = if most == 1 { "" } else { "s" };
            return Err(fail(format!(
                "takes at most {most} argument{plural}, got {given}"
            )));
        };
        objects[index] = Some(object);
    }
    for (name, object) in named {
        let name = name.to_str()?;
        let Some(index) = params.iter().position(|param| param.name == name) else {
            let own = params.iter().map(|param| param.name.as_str());
            let names = own.chain(NAMES.iter().filter_map(|name| name.to_str().ok()));
            let hint = did_you_mean(py, name, names.collect());
            return Err(fail(format!(
                "got an unexpected keyword argument '{name}'{hint}"
            )));
        };
        if Some(index) == taken || objects[index].is_some() {
            return Err(fail(format!("got multiple values for argument '{name}'")));
        }
        objects[index] = Some(object.clone());
    }
    let end = objects.iter().rposition(Option::is_some);
    let end = end.map_or(0, |last| last + 1).max(taken.unwrap_or(0));
    let mut args = Vec::with_capacity(end + usize::from(out.is_some()));
    for (index, (param, object)) in params.iter().zip(objects).take(end).enumerate() {
        if Some(index) == taken {
            continue;
        }
        let site = ArgumentSite::new(kernel, index);
        match object {
            Some(object) => args.push(site.convert(&object, guards)?),
            None => args.push(
                default(param)
                    .ok_or_else(|| PyTypeError::new_err(format!("{} is missing", site.name())))?,
            ),
        }
    }
    let out = out.map(|object| ArgumentSite::for_out(kernel).buffer(object, guards));
    Ok(Arguments {
        args,
        out: out.transpose()?,
    })
}

/// The argument for a parameter that may be left out.
fn default(param: &Param) -> Option<Arg> {
    param
        .default
        .clone()
        .or(param.optional.then_some(Arg::None))
}

/// Fails if a parameter gets no argument because an option has its name.
pub fn check_hidden<'a>(
    kernel: &Kernel,
    positional: usize,
    has_out: bool,
    options: impl Iterator<Item = Bound<'a, PyAny>>,
) -> PyResult<()> {
    let Some(signature) = kernel.signature() else {
        return Ok(());
    };
    let taken = signature.out_index().filter(|_| has_out);
    let first = positional + usize::from(taken.is_some_and(|taken| taken <= positional));
    let missing = signature.params.get(first..).unwrap_or_default();
    for option in options {
        let name = option.extract::<&str>()?;
        let is_hidden =
            |param: &&Param| param.name == name && !param.out && default(param).is_none();
        if NAMES.iter().all(|own| own.to_bytes() != name.as_bytes()) {
            continue;
        }
        if missing.iter().any(|param| is_hidden(&param)) {
            return Err(PyTypeError::new_err(format!(
                "{}(): argument '{name}' has to be given by position, because {name}= is an option of every job",
                kernel.name()
            )));
        }
    }
    Ok(())
}
