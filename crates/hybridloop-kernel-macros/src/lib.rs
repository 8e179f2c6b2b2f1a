#![doc = include_str!("../README.md")]

use proc_macro::TokenStream;
use proc_macro2::{Ident, Literal, TokenStream as Tokens, TokenTree};
use quote::{format_ident, quote, ToTokens};
use syn::parse::Parser;
use syn::punctuated::Punctuated;
use syn::{Attribute, Error, Expr, ExprLit, FnArg, ItemFn, Lit, Meta, Pat, ReturnType, Type};

/// Makes a kernel from a function.
///
/// `#[kernel(name = "my.kernel")]`; without a name it is `crate.function`. With `emit_waits`, as in `#[kernel(emit_waits)]`,
/// `Ctx::emit` waits while too many values wait for the iterator over the job. The parameters are, in this order: a `&Ctx` if it
/// is needed, then arguments of types that implement `FromArg`. `#[default(3)]` in front of a parameter makes it optional, and
/// so does the type `Option<T>`. It returns a type that implements `IntoResult`, or `Pending`, or a `Result` of one with an error
/// that converts into `hybridloop_kernel::Error`. The function's documentation becomes the kernel's.
#[proc_macro_attribute]
pub fn kernel(attribute: TokenStream, item: TokenStream) -> TokenStream {
    let item = syn::parse_macro_input!(item as ItemFn);
    expand(attribute.into(), item)
        .unwrap_or_else(Error::into_compile_error)
        .into()
}

fn string(value: &Expr) -> Option<String> {
    match value {
        Expr::Lit(ExprLit {
            lit: Lit::Str(text),
            ..
        }) => Some(text.value()),
        _ => None,
    }
}

/// The name and the flags of a kernel.
fn options(attribute: Tokens, function: &Ident) -> syn::Result<(Tokens, Tokens)> {
    let parser = Punctuated::<Meta, syn::Token![,]>::parse_terminated;
    let text = function.to_string();
    let mut name = quote!(concat!(env!("CARGO_PKG_NAME"), ".", #text, "\0"));
    let mut flags = quote!(0);
    for meta in parser.parse2(attribute)? {
        let value = match &meta {
            Meta::NameValue(given) if given.path.is_ident("name") => string(&given.value),
            Meta::Path(path) if path.is_ident("emit_waits") => {
                flags = quote!(::hybridloop_kernel::abi::EMIT_WAITS);
                continue;
            }
            _ => None,
        };
        match value.filter(|name| !name.contains('\0') && !name.is_empty()) {
            Some(value) => name = quote!(concat!(#value, "\0")),
            None => {
                let text = "expected name = \"…\" or emit_waits";
                return Err(Error::new_spanned(meta, text));
            }
        }
    }
    Ok((name, flags))
}

fn doc(attributes: &[Attribute]) -> String {
    let mut lines = Vec::new();
    for attribute in attributes {
        if let Meta::NameValue(meta) = &attribute.meta {
            if meta.path.is_ident("doc") {
                let line = string(&meta.value).unwrap_or_default();
                lines.push(line.strip_prefix(' ').unwrap_or(&line).to_owned());
            }
        }
    }
    lines.join("\n").replace('\0', " ")
}

/// The type with `'static` for every lifetime, for use in a constant.
fn with_static(tokens: Tokens) -> Tokens {
    let mut is_lifetime = false;
    tokens
        .into_iter()
        .map(|tree| match tree {
            TokenTree::Group(group) => {
                let mut inner =
                    proc_macro2::Group::new(group.delimiter(), with_static(group.stream()));
                inner.set_span(group.span());
                TokenTree::Group(inner)
            }
            TokenTree::Punct(punct) => {
                is_lifetime = punct.as_char() == '\'';
                TokenTree::Punct(punct)
            }
            TokenTree::Ident(ident) if std::mem::take(&mut is_lifetime) => {
                TokenTree::Ident(Ident::new("static", ident.span()))
            }
            other => other,
        })
        .collect()
}

fn is_ctx(ty: &Type) -> bool {
    let Type::Reference(reference) = ty else {
        return false;
    };
    match &*reference.elem {
        Type::Path(path) => path.path.segments.last().is_some_and(|s| s.ident == "Ctx"),
        _ => false,
    }
}

fn is_result(ty: &Type) -> bool {
    match ty {
        Type::Path(path) => path
            .path
            .segments
            .last()
            .is_some_and(|segment| segment.ident == "Result"),
        _ => false,
    }
}

/// Removes `#[default(…)]` from a parameter.
fn default(attributes: &mut Vec<Attribute>) -> syn::Result<Option<String>> {
    let Some(at) = attributes.iter().position(|a| a.path().is_ident("default")) else {
        return Ok(None);
    };
    let attribute = attributes.remove(at);
    let literal = attribute.parse_args::<Expr>()?.into_token_stream();
    Ok(Some(literal.to_string().replace(' ', "")))
}

/// The code for the parameters.
#[derive(Default)]
struct Parameters {
    /// Parts of the signature.
    parts: Vec<Tokens>,
    /// Statements that convert arguments.
    convert: Vec<Tokens>,
    /// What is passed to the function.
    pass: Vec<Tokens>,
    count: usize,
}

impl Parameters {
    fn of(item: &mut ItemFn) -> syn::Result<Self> {
        let mut all = Self::default();
        let total = item.sig.inputs.len();
        for (position, input) in item.sig.inputs.iter_mut().enumerate() {
            let FnArg::Typed(input) = input else {
                return Err(Error::new_spanned(input, "a kernel has no self"));
            };
            if is_ctx(&input.ty) {
                if position != 0 {
                    return Err(Error::new_spanned(input, "the context comes first"));
                }
                all.pass.push(quote!(call.ctx()));
                continue;
            }
            let Pat::Ident(pattern) = &*input.pat else {
                return Err(Error::new_spanned(&input.pat, "expected a name"));
            };
            let name = pattern.ident.to_string();
            let name = name.trim_start_matches("r#").trim_start_matches('_');
            let mut named = format!(" {name}");
            if let Some(default) = default(&mut input.attrs)? {
                named.push_str(" = ");
                named.push_str(&default);
            }
            if position + 1 < total {
                named.push_str(", ");
            }
            all.add(input.ty.to_token_stream(), name, &named);
        }
        Ok(all)
    }

    fn add(&mut self, ty: Tokens, name: &str, named: &str) {
        let ty = with_static(ty);
        self.parts.push(quote!(
            <#ty as ::hybridloop_kernel::FromArg<'static>>::SIGNATURE,
            <#ty as ::hybridloop_kernel::FromArg<'static>>::SUFFIX,
            #named
        ));
        let variable = format_ident!("arg{}", self.count);
        let index = Literal::usize_unsuffixed(self.count);
        self.convert.push(quote!(
            // SAFETY: the macro converts each index once.
            let #variable = unsafe { call.arg(#index, #name) }?;
        ));
        self.pass.push(variable.into_token_stream());
        self.count += 1;
    }
}

fn expand(attribute: Tokens, mut item: ItemFn) -> syn::Result<Tokens> {
    let function = item.sig.ident.clone();
    if item.sig.asyncness.is_some() || item.sig.generics.type_params().next().is_some() {
        let text = "a kernel is a plain function without type parameters";
        return Err(Error::new_spanned(&item.sig, text));
    }
    let (kernel_name, own_flags) = options(attribute, &function)?;
    let doc = doc(&item.attrs);

    let krate = quote!(::hybridloop_kernel);
    let Parameters {
        parts,
        convert,
        pass,
        count,
    } = Parameters::of(&mut item)?;
    let (returns, flags, result) = match &item.sig.output {
        ReturnType::Default => (quote!("none"), quote!(0), quote!(#function(#(#pass),*))),
        ReturnType::Type(_, ty) => {
            let is_result = is_result(ty);
            let ty = with_static(ty.to_token_stream());
            if is_result {
                (
                    quote!(<#ty as #krate::Returns>::SIGNATURE),
                    quote!(<#ty as #krate::Returns>::FLAGS),
                    quote!(#function(#(#pass),*)?),
                )
            } else {
                (
                    quote!(<#ty as #krate::Output<'static>>::SIGNATURE),
                    quote!(<#ty as #krate::Output<'static>>::FLAGS),
                    quote!(#function(#(#pass),*)),
                )
            }
        }
    };
    let visibility = &item.vis;
    Ok(quote! {
        #item

        #[doc(hidden)]
        #[allow(non_camel_case_types, missing_docs)]
        #visibility enum #function {}

        #[automatically_derived]
        impl #krate::Export for #function {
            const KERNEL: #krate::abi::Kernel = {
                const PARTS: &[&str] = &[#returns, "(", #(#parts,)* ")"];
                const SIGNATURE: &[u8; #krate::__private::signature_len(PARTS)] =
                    &#krate::__private::signature(PARTS);
                unsafe extern "C" fn run(
                    host: *const #krate::abi::Host,
                    ctx: *mut #krate::abi::RawCtx,
                    args: *const #krate::abi::Val,
                    n: usize,
                    out: *mut #krate::abi::Val,
                    _user: *mut ::core::ffi::c_void,
                ) -> i32 {
                    let body = |call: &#krate::__private::Call<'_>| {
                        call.expect(#count)?;
                        #(#convert)*
                        #krate::Output::into_output(#result, call.ctx())
                    };
                    // SAFETY: the arguments are those that the host has passed.
                    unsafe { #krate::__private::call(host, ctx, args, n, out, body) }
                }
                #krate::abi::Kernel {
                    size: #krate::abi::size::<#krate::abi::Kernel>(),
                    flags: #flags | #own_flags,
                    name: #kernel_name.as_ptr().cast(),
                    sig: SIGNATURE.as_ptr().cast(),
                    doc: concat!(#doc, "\0").as_ptr().cast(),
                    func: Some(run),
                    user: ::core::ptr::null_mut(),
                    drop: None,
                }
            };
        }
    })
}
