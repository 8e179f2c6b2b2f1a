//! Plain C functions, called with their types.
#![cfg(all(not(loom), not(miri)))]
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{buffer, engine, int, plain, result, run};
use hybridloop_kernels::{
    Arg, ArgumentErrorKind, JobOptions, JobResult, Kernel, SubmitError, Value,
};

#[test]
fn plain_functions_are_called_with_their_types() {
    let engine = engine(1);
    let scale = plain(
        "plain_scale",
        "double(const double *values, size_t n, double by, float, int8_t)",
    );
    let values = Arg::Buffer(buffer(&[1.5, 2.5], c"d"));
    let job = run(
        &engine,
        &scale,
        vec![
            values,
            Arg::Int(2),
            Arg::Int(10),
            Arg::Float(0.5),
            Arg::Int(-1),
        ],
    );
    assert!(
        matches!(result(&job), JobResult::Value(Value::Float(value)) if value.to_bits() == 21_f64.to_bits())
    );
    let small = plain("plain_small", "i8(u16, i32)");
    assert_eq!(
        int(&run(
            &engine,
            &small,
            vec![Arg::Int(65535), Arg::Int(65530)]
        )),
        -5
    );
    let fill = plain("plain_fill", "none(out i32* target, usize n, i32 with)");
    let memory: &'static mut [i32] = Box::leak(Box::new([0; 3]));
    let address = memory.as_mut_ptr();
    // SAFETY: the memory is leaked, and only the kernel uses it until the job is done.
    let mut target = unsafe { hybridloop_kernels::Buffer::new(0, address.cast(), 12) };
    (target.format, target.itemsize) = (c"i".into(), 4);
    let args = || vec![Arg::Int(3), Arg::Int(7)];
    let refused = engine.submit(
        &fill,
        args(),
        Some(Arg::Buffer(target.clone())),
        JobOptions::default(),
    );
    assert!(
        matches!(refused, Err(SubmitError::Argument(error)) if error.kind == ArgumentErrorKind::Value)
    );
    target.writable = true;
    let job = engine
        .submit(
            &fill,
            args(),
            Some(Arg::Buffer(target)),
            JobOptions::default(),
        )
        .unwrap();
    assert!(matches!(result(&job), JobResult::Value(Value::None)));
    // SAFETY: the job is done, so nobody writes to the memory.
    assert_eq!(unsafe { *address.cast::<[i32; 3]>() }, [7; 3]);
}

#[test]
fn plain_functions_have_more_parameters_than_registers() {
    let engine = engine(1);
    let types = [
        "i8", "f32", "u16", "f64", "i64", "f32", "i32", "f64", "u8", "f32", "i16", "f64", "u32",
        "f32", "i8", "f64", "i16", "f32", "u8", "f64", "i64", "f32", "u16", "f64",
    ];
    let many = plain("plain_many", &format!("double({})", types.join(", ")));
    // Negative where the type is signed; the fractions are exact in a float.
    let args: Vec<Arg> = types
        .iter()
        .zip(1..)
        .map(|(ty, i)| match &ty[..1] {
            "f" => Arg::Float(f64::from(i) + 0.25),
            "u" => Arg::Int(i.into()),
            _ => Arg::Int((-i).into()),
        })
        .collect();
    let expected: f64 = args
        .iter()
        .zip(1..)
        .map(|(arg, i)| match arg {
            #[allow(clippy::cast_precision_loss, reason = "small")]
            Arg::Int(value) => *value as f64 * f64::from(i),
            Arg::Float(value) => value * f64::from(i),
            _ => unreachable!(),
        })
        .sum();
    let job = run(&engine, &many, args);
    assert!(
        matches!(result(&job), JobResult::Value(Value::Float(value)) if value.to_bits() == expected.to_bits())
    );
}

#[test]
fn plain_functions_give_results_of_every_size() {
    let engine = engine(1);
    let call = |name, signature, arg| run(&engine, &plain(name, signature), vec![arg]);
    assert!(
        matches!(result(&call("plain_float", "f32(f32)", Arg::Float(0.5))), JobResult::Value(Value::Float(value)) if value.to_bits() == 0.25_f64.to_bits())
    );
    for (arg, odd) in [(u64::MAX, true), (1 << 32, false)] {
        assert!(
            matches!(result(&call("plain_is_odd", "bool(u64)", Arg::UInt(arg))), JobResult::Value(Value::Bool(value)) if *value == odd)
        );
        assert!(
            matches!(result(&call("plain_same", "u64(u64)", Arg::UInt(arg))), JobResult::Value(Value::UInt(value)) if *value == arg)
        );
    }
    assert!(
        matches!(result(&call("plain_negative", "i64(i64)", Arg::Int(i64::MAX))), JobResult::Value(Value::Int(value)) if *value == -i64::MAX)
    );
}

#[test]
fn plain_functions_with_too_many_parameters_are_refused() {
    let signature = format!("i64({})", ["i64"; 64].join(", "));
    // SAFETY: the function is not called.
    let refused = unsafe {
        Kernel::from_address(
            "many",
            std::ptr::dangling::<u8>().cast(),
            &signature,
            "",
            None,
        )
    };
    assert!(refused.is_err_and(|error| error
        .to_string()
        .contains("64 parameters are too many for a plain function")));
}
