//! Any text is a signature or refused, and what is printed of a signature is read as the same.
#![no_main]

use hybridloop_kernels::{Arg, Param, Signature};
use libfuzzer_sys::fuzz_target;

fn literal(default: &Arg) -> Option<String> {
    Some(match default {
        Arg::Bool(value) => value.to_string(),
        Arg::Int(value) => value.to_string(),
        Arg::UInt(value) => value.to_string(),
        Arg::Float(value) => format!("{value:?}"),
        Arg::Str(text) => format!("\"{text}\""),
        Arg::Key(key) => format!("\"{}\"", std::str::from_utf8(key.as_bytes()).ok()?),
        Arg::None => "none".into(),
        _ => return None,
    })
}

fn parameter(param: &Param) -> Option<String> {
    let mut text = format!(
        "{}{}{} {}",
        if param.out { "out " } else { "" },
        param.ty,
        if param.optional { "?" } else { "" },
        param.name
    );
    if let Some(default) = &param.default {
        text += &format!(" = {}", literal(default)?);
    }
    Some(text)
}

fuzz_target!(|text: &str| {
    let Ok(signature) = Signature::parse(text) else {
        return;
    };
    let params: Option<Vec<String>> = signature.params.iter().map(parameter).collect();
    let Some(params) = params else {
        return;
    };
    let printed = format!("{}({})", signature.result, params.join(", "));
    match Signature::parse(&printed) {
        Ok(again) => assert_eq!(format!("{again:?}"), format!("{signature:?}"), "{printed}"),
        Err(error) => panic!("{printed}: {error}"),
    }
});
