#![doc = include_str!("../README.md")]

use proc_macro::TokenStream;
use proc_macro2::{Ident, TokenStream as Tokens};
use quote::{format_ident, quote};
use syn::{
    parse_quote, Attribute, Error, FnArg, ImplItem, ImplItemFn, ItemFn, ItemImpl, Meta, Pat,
    ReturnType, Signature, Type,
};

/// Makes a function of Python from an `async fn`.
///
/// A parameter of type `Cx`, if there is one, comes first; the others are arguments of types that implement `FromPyObject` and
/// borrow nothing. It returns a type that implements `IntoPyObject`, or a `Result` of one with an error that converts into
/// `PyErr`. `#[pyo3(signature = (…))]` and `#[pyo3(name = "…")]` mean what they mean for `#[pyfunction]`.
#[proc_macro_attribute]
pub fn function(attribute: TokenStream, item: TokenStream) -> TokenStream {
    let item = syn::parse_macro_input!(item as ItemFn);
    nothing(attribute.into())
        .and_then(|()| expand_function(item))
        .unwrap_or_else(Error::into_compile_error)
        .into()
}

/// Makes methods of Python: takes the place of `#[pymethods]` for an `impl` of a frozen class.
///
/// An `async fn` becomes an async method, under the rules of `#[function]`; it begins with `&self` or `slf: Py<Self>`. All else
/// is left to `#[pymethods]`. Add the class with `hybridloop_async::add_class()`.
#[proc_macro_attribute]
pub fn methods(attribute: TokenStream, item: TokenStream) -> TokenStream {
    let item = syn::parse_macro_input!(item as ItemImpl);
    nothing(attribute.into())
        .and_then(|()| expand_methods(item))
        .unwrap_or_else(Error::into_compile_error)
        .into()
}

fn nothing(attribute: Tokens) -> syn::Result<()> {
    if attribute.is_empty() {
        return Ok(());
    }
    Err(Error::new_spanned(
        attribute,
        "the attribute takes no arguments",
    ))
}

fn last_is(ty: &Type, name: &str) -> bool {
    match ty {
        Type::Path(path) => path.path.segments.last().is_some_and(|it| it.ident == name),
        _ => false,
    }
}

/// Takes the attributes that are for PyO3's function: `pyo3`, and a copy of the documentation.
fn take_attributes(attributes: &mut Vec<Attribute>) -> Vec<Attribute> {
    let (for_pyo3, rest) = attributes
        .drain(..)
        .partition(|it| it.path().is_ident("pyo3"));
    *attributes = rest;
    let docs = attributes.iter().filter(|it| it.path().is_ident("doc"));
    Vec::into_iter(for_pyo3).chain(docs.cloned()).collect()
}

/// The name in Python: that of `#[pyo3(name = "…")]`, or the function's.
fn python_name(attributes: &[Attribute], function: &Ident) -> syn::Result<(String, bool)> {
    for attribute in attributes {
        let Meta::List(list) = &attribute.meta else {
            continue;
        };
        let tokens = list.tokens.clone().into_iter().collect::<Vec<_>>();
        for (at, token) in tokens.iter().enumerate() {
            if token.to_string() != "name" || (at > 0 && tokens[at - 1].to_string() != ",") {
                continue;
            }
            if let Some(value) = tokens.get(at + 2) {
                let text: syn::LitStr = syn::parse2(value.clone().into())?;
                return Ok((text.value(), true));
            }
        }
    }
    let name = function.to_string();
    Ok((name.trim_start_matches("r#").to_owned(), false))
}

/// The parameters that come from Python.
struct Parameters {
    has_cx: bool,
    declared: Vec<Tokens>,
    names: Vec<Ident>,
}

fn parameters<'a>(inputs: impl Iterator<Item = &'a mut FnArg>) -> syn::Result<Parameters> {
    let mut all = Parameters {
        has_cx: false,
        declared: Vec::new(),
        names: Vec::new(),
    };
    for (position, input) in inputs.enumerate() {
        let FnArg::Typed(input) = input else {
            return Err(Error::new_spanned(input, "a function has no self"));
        };
        if last_is(&input.ty, "Cx") {
            if position != 0 {
                return Err(Error::new_spanned(input, "the context comes first"));
            }
            all.has_cx = true;
            continue;
        }
        let Pat::Ident(pattern) = &*input.pat else {
            return Err(Error::new_spanned(&input.pat, "expected a name"));
        };
        let (name, ty) = (&pattern.ident, &input.ty);
        let attributes = input.attrs.drain(..).collect::<Vec<_>>();
        all.declared.push(quote!(#(#attributes)* #name: #ty));
        all.names.push(name.clone());
    }
    Ok(all)
}

fn check(signature: &Signature) -> syn::Result<()> {
    if signature.asyncness.is_none() {
        return Err(Error::new_spanned(signature, "expected an async fn"));
    }
    if !signature.generics.params.is_empty() {
        let text = "an async function of Python has no generic parameters, and borrows nothing";
        return Err(Error::new_spanned(&signature.generics, text));
    }
    Ok(())
}

/// Awaits the call, and makes a `Result` of its outcome.
fn outcome(output: &ReturnType, call: Tokens) -> Tokens {
    match output {
        ReturnType::Type(_, ty) if last_is(ty, "Result") || last_is(ty, "PyResult") => {
            quote!(#call.await)
        }
        _ => {
            quote!(::core::result::Result::Ok::<_, ::hybridloop_async::__private::Error>(#call.await))
        }
    }
}

/// A function for `hla_function`, with the variable that keeps PyO3's function.
fn init(target: &Ident, is_method: bool) -> Tokens {
    let slf = if is_method {
        quote!(slf)
    } else {
        quote!(::core::ptr::null_mut())
    };
    quote! {
        static #target: ::hybridloop_async::__private::Target =
            ::hybridloop_async::__private::Target::new();
        #[allow(unused_variables)]
        unsafe extern "C" fn init(
            state: *mut ::core::ffi::c_void,
            slf: *mut ::hybridloop_async::__private::PyObject,
            args: *const *mut ::hybridloop_async::__private::PyObject,
            n: ::hybridloop_async::__private::Py_ssize_t,
            kwnames: *mut ::hybridloop_async::__private::PyObject,
        ) -> ::core::ffi::c_int {
            // SAFETY: the arguments are those that hybridloop has passed.
            unsafe { ::hybridloop_async::__private::init(&#target, state, #slf, args, n, kwnames) }
        }
    }
}

fn c_string(name: &str) -> syn::Result<syn::LitCStr> {
    let span = proc_macro2::Span::call_site();
    let text = std::ffi::CString::new(name).map_err(|error| Error::new(span, error))?;
    Ok(syn::LitCStr::new(&text, span))
}

fn expand_function(mut item: ItemFn) -> syn::Result<Tokens> {
    check(&item.sig)?;
    let attributes = take_attributes(&mut item.attrs);
    let function = item.sig.ident.clone();
    let (name, is_named) = python_name(&attributes, &function)?;
    let named = (!is_named).then(|| quote!(#[pyo3(name = #name)]));
    let c_name = c_string(&name)?;
    let Parameters {
        has_cx,
        declared,
        names,
    } = parameters(item.sig.inputs.iter_mut())?;
    let cx = has_cx.then(|| quote!(::hybridloop_async::Cx::new(),));
    let outcome = outcome(&item.sig.output, quote!(#function(#cx #(#names),*)));
    let visibility = &item.vis;
    let target = format_ident!("TARGET");
    let init = init(&target, false);
    Ok(quote! {
        #item

        #[doc(hidden)]
        #visibility mod #function {
            #[allow(missing_docs)]
            pub enum Function {}
        }

        const _: () = {
            #[::pyo3::pyfunction]
            #named
            #(#attributes)*
            fn call(#(#declared),*) -> ::pyo3::PyResult<()> {
                ::hybridloop_async::__private::deliver(async move { #outcome })
            }
            #init

            #[automatically_derived]
            impl ::hybridloop_async::__private::Function for #function::Function {
                const NAME: &'static ::core::ffi::CStr = #c_name;
                const INIT: ::hybridloop_async::__private::Init = init;
                fn target() -> &'static ::hybridloop_async::__private::Target {
                    &#target
                }
                fn wrap<'py>(
                    module: &::pyo3::Bound<'py, ::pyo3::types::PyModule>,
                ) -> ::pyo3::PyResult<::pyo3::Bound<'py, ::pyo3::PyAny>> {
                    ::pyo3::wrap_pyfunction!(call, module).map(::pyo3::Bound::into_any)
                }
            }
        };
    })
}

/// PyO3's method for an async one, and the entry of the latter in the table.
fn expand_method(class: &Type, item: &mut ImplItemFn) -> syn::Result<(ImplItem, Tokens)> {
    check(&item.sig)?;
    let attributes = take_attributes(&mut item.attrs);
    let method = item.sig.ident.clone();
    let (name, is_named) = python_name(&attributes, &method)?;
    let named = (!is_named).then(|| quote!(#[pyo3(name = #name)]));
    let c_name = c_string(&name)?;
    let borrows = match item.sig.inputs.first() {
        Some(FnArg::Receiver(receiver)) if receiver.mutability.is_none() => true,
        Some(FnArg::Typed(first)) if last_is(&first.ty, "Py") => false,
        _ => {
            let text = "an async method begins with &self or slf: Py<Self>";
            return Err(Error::new_spanned(&item.sig, text));
        }
    };
    let Parameters {
        has_cx,
        declared,
        names,
    } = parameters(item.sig.inputs.iter_mut().skip(1))?;
    let cx = has_cx.then(|| quote!(::hybridloop_async::Cx::new(),));
    let slf = if borrows {
        quote!(slf.get())
    } else {
        quote!(slf)
    };
    let outcome = outcome(
        &item.sig.output,
        quote!(<#class>::#method(#slf, #cx #(#names),*)),
    );
    let hidden = format_ident!("__hybridloop_{}", name);
    let target = format_ident!("TARGET");
    let init = init(&target, true);
    let wrapper = parse_quote! {
        #(#attributes)*
        #named
        fn #hidden(slf: ::pyo3::Py<Self>, #(#declared),*) -> ::pyo3::PyResult<()> {
            ::hybridloop_async::__private::deliver(async move { #outcome })
        }
    };
    let entry = quote!({
        #init
        ::hybridloop_async::__private::Method {
            name: #c_name,
            init,
            target: &#target,
        }
    });
    Ok((wrapper, entry))
}

fn expand_methods(mut item: ItemImpl) -> syn::Result<Tokens> {
    let class = item.self_ty.clone();
    item.attrs.retain(|it| {
        it.path()
            .segments
            .last()
            .is_none_or(|it| it.ident != "pymethods")
    });
    let mut bodies = Vec::new();
    let mut entries = Vec::new();
    for inner in &mut item.items {
        match inner {
            ImplItem::Fn(method) if method.sig.asyncness.is_some() => {
                let (wrapper, entry) = expand_method(&class, method)?;
                bodies.push(std::mem::replace(inner, wrapper));
                entries.push(entry);
            }
            _ => {}
        }
    }
    Ok(quote! {
        impl #class {
            #(#bodies)*
        }

        #[::pyo3::pymethods]
        #item

        #[automatically_derived]
        impl ::hybridloop_async::__private::Methods for #class {
            const METHODS: &'static [::hybridloop_async::__private::Method] = &[#(#entries),*];
        }
    })
}
